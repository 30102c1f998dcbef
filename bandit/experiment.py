"""One experiment's directory: where everything is, its versioned settings, catalogues and secret.

`experiment.json` keeps every version of the settings ever in force, because each decision refers to its
own. Changes happen under one lock, by atomic replacement; nothing here is ever silently reset.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import Conflict, CorruptSecret, InvalidSettings, NotFound
from bandit.files import fsync_directory, locked, write_atomically
from bandit.settings import (
    ExperimentSettings,
    check_experiment_name,
    differing,
    same,
    settings_to_dict,
    stored_settings,
)
from bandit.settings.versions import (
    LaidIn,
    Origin,
    SettingsVersion,
    digest_of,
    is_new,
    laid_in_last,
    laid_over,
    remember,
    unlike,
)
from bandit.types import Action

SECRET_BYTES = 32
_FROM_BACKUP = "restore it from a backup"
_SECRET_CURE = (
    "restore it from a backup; without one put what `openssl rand -hex 32` prints into it: "
    "decisions so far cannot be made again then"
)
_SECRET = re.compile(rf"[0-9a-fA-F]{{{2 * SECRET_BYTES}}}")


@dataclass(frozen=True, slots=True)
class ExperimentPaths:
    """Every path below `<data>/experiments/<name>/`."""

    root: Path

    @classmethod
    def of(cls, data_dir: Path, name: str) -> ExperimentPaths:
        """Those of an experiment of a data directory; raises `InvalidSettings` for what is no name of one."""
        return cls(data_dir / "experiments" / check_experiment_name(name))

    @property
    def data_dir(self) -> Path:
        return self.root.parent.parent

    @property
    def settings(self) -> Path:
        return self.root / "experiment.json"

    @property
    def secret(self) -> Path:
        return self.root / "secret"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def catalogues(self) -> Path:
        return self.root / "catalogues"

    @property
    def events(self) -> Path:
        return self.root / "events"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def workers(self) -> Path:
        return self.root / "workers"

    @property
    def warehouse(self) -> Path:
        return self.root / "warehouse.duckdb"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def champion(self) -> Path:
        return self.root / "champion.json"

    @property
    def trial(self) -> Path:
        return self.root / "trial.json"

    @property
    def challengers(self) -> Path:
        return self.root / "challengers"

    @property
    def history(self) -> Path:
        return self.root / "history.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations"


class InForce(NamedTuple):
    """The settings in force at one moment, with their version and that of the declared catalogue (None: none is)."""

    version: int
    settings: ExperimentSettings
    catalogue_version: int | None


class _ExperimentFile(msgspec.Struct):
    name: str
    created_at: datetime
    versions: list[SettingsVersion]


class Experiment:
    """An experiment on disk: read its settings, change them, find its files."""

    def __init__(self, name: str, paths: ExperimentPaths) -> None:
        self.name = name
        self.paths = paths
        self._taking = threading.Lock()
        self._seen = self._state_of_file()  # before reading: a change meanwhile is then read at the next refresh
        self._file = self._read()
        self._checked: dict[int, ExperimentSettings] = {}

    # -- opening -----------------------------------------------------------------------------------------

    @classmethod
    def open(cls, data_dir: Path, name: str) -> Experiment:
        """Open an existing experiment; raises `NotFound` when there is none of that name."""
        paths = ExperimentPaths.of(data_dir, name)
        if not paths.settings.exists():
            raise NotFound(f"experiment '{name}' does not exist in this data directory")
        return cls(name, paths)

    @classmethod
    def create(
        cls,
        data_dir: Path,
        name: str,
        settings: ExperimentSettings,
        *,
        now: datetime,
        secret: bytes | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> Experiment:
        """Make a new experiment with version 1 of its settings; raises `Conflict` when the name is taken.

        `configuration` is what a start laid over the defaults to make these settings. Raises ValueError for a
        `secret` that is not `SECRET_BYTES` long.
        """
        secret = secrets.token_bytes(SECRET_BYTES) if secret is None else secret
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the secret of an experiment has {SECRET_BYTES} bytes")
        paths = ExperimentPaths.of(data_dir, name)
        paths.root.mkdir(parents=True, exist_ok=True)
        with locked(paths.lock):
            if paths.settings.exists():
                raise Conflict(f"experiment '{name}' exists already")
            for folder in (
                paths.events,
                paths.workers,
                paths.models,
                paths.catalogues,
                paths.evaluations,
                paths.challengers,
            ):
                folder.mkdir(exist_ok=True)
            write_atomically(paths.secret, secret.hex().encode(), mode=0o600)
            version = _new_version(paths, None, settings, now)
            if configuration:
                version = msgspec.structs.replace(
                    version, laid_in=digest_of(configuration), configuration=dict(configuration)
                )
            _write(paths, _ExperimentFile(name=name, created_at=now, versions=[version]))
            fsync_directory(paths.root.parent)
        return cls(name, paths)

    @staticmethod
    def names(data_dir: Path) -> list[str]:
        """The experiments of a data directory, sorted."""
        root = data_dir / "experiments"
        if not root.is_dir():
            return []
        return sorted(entry.name for entry in root.iterdir() if (entry / "experiment.json").exists())

    @staticmethod
    def without_settings(data_dir: Path) -> list[str]:
        """What holds a log but no settings: experiments whose `experiment.json` is lost, sorted."""
        root = data_dir / "experiments"
        found = [ExperimentPaths(folder) for folder in root.iterdir()] if root.is_dir() else []
        lost = [paths for paths in found if not paths.settings.exists() and paths.events.is_dir()]
        return sorted(paths.root.name for paths in lost if any(paths.events.iterdir()))

    # -- settings ----------------------------------------------------------------------------------------

    @property
    def in_force(self) -> InForce:
        """The settings now in force with their version, for whoever needs both: they may change between two looks."""
        newest = self._file.versions[-1]
        return InForce(newest.version, self.settings_of(newest.version), newest.catalogue_version)

    @property
    def settings(self) -> ExperimentSettings:
        """The settings now in force."""
        return self.settings_of(self.settings_version)

    @property
    def settings_version(self) -> int:
        """The version number of the settings now in force."""
        return self._file.versions[-1].version

    @property
    def catalogue_version(self) -> int | None:
        """The version of the declared catalogue now in force, None where actions come with each request."""
        return self._file.versions[-1].catalogue_version

    @property
    def created_at(self) -> datetime:
        """When the experiment was made."""
        return self._file.created_at

    def versions(self) -> Sequence[SettingsVersion]:
        """All versions of the settings, oldest first."""
        return tuple(self._file.versions)

    def settings_of(self, version: int) -> ExperimentSettings:
        """The settings that decisions of `version` were made under; raises `NotFound`."""
        known = self._checked.get(version)
        if known is not None:
            return known
        for entry in self._file.versions:
            if entry.version == version:
                return self._checked.setdefault(version, stored_settings(entry.settings))
        raise NotFound(f"experiment '{self.name}' has no settings version {version}")

    def refresh(self) -> bool:
        """Read the file again if it changed; returns whether it did."""
        with self._taking:  # or what another thread has just changed would be undone in memory by what was read before
            seen = self._state_of_file()
            if seen == self._seen:
                return False
            self._take(self._read(), seen)
            return True

    def change(self, settings: ExperimentSettings, *, now: datetime) -> int:
        """Put `settings` in force as a new version (none when they are equal); returns the version number.

        Raises OSError when the disk refuses; the settings stay as they were then.
        """
        return self.update(lambda _: settings, now=now)

    def update(
        self,
        changing: Callable[[ExperimentSettings], ExperimentSettings],
        *,
        now: datetime,
        origin: Origin | None = None,
        key: str | None = None,
    ) -> int:
        """`change` to what `changing` makes of the settings in force; nobody else changes them meanwhile.

        A new version states `origin` and the name of the `key`.
        """
        with locked(self.paths.lock):
            file = self._read()
            before = stored_settings(file.versions[-1].settings)
            settings = changing(before)
            if not same(settings_to_dict(settings), settings_to_dict(before)):
                version = _new_version(self.paths, file.versions[-1], settings, now)
                file.versions.append(msgspec.structs.replace(version, origin=origin, key=key))
                _write(self.paths, file)
            self._take_own(file)
        return self.settings_version

    def laid_over(self, configuration: Mapping[str, Any]) -> ExperimentSettings:
        """The settings that a start with this configuration puts in force; raises `InvalidSettings`."""
        return laid_over(self._file.versions, configuration)

    def lay_in(self, configuration: Mapping[str, Any], *, now: datetime) -> LaidIn:
        """Lay what a start's configuration declares otherwise than the last one did over the settings in force.

        It is remembered with the version that is then in force. Raises `InvalidSettings`, and OSError as `change` does.
        """
        with locked(self.paths.lock):
            file = self._read()
            laid, before = laid_in_last(file.versions), settings_to_dict(stored_settings(file.versions[-1].settings))
            since = differing(settings_to_dict(stored_settings(laid.settings)), before) if laid is not None else ()
            settings = laid_over(file.versions, configuration)
            changed = differing(before, settings_to_dict(settings))
            if changed:
                version = _new_version(self.paths, file.versions[-1], settings, now)
                file.versions.append(msgspec.structs.replace(version, origin="configuration"))
            repeated = bool(configuration) and not is_new(configuration, laid)
            if is_new(configuration, laid):
                remember(file.versions, file.versions[-1], configuration)
                _write(self.paths, file)
            elif repeated and laid is not None and laid.configuration is None:
                remember(file.versions, laid, configuration)
                _write(self.paths, file)
            self._take_own(file)
            return LaidIn(repeated, changed, since, unlike(settings, configuration))

    # -- catalogue and secret ----------------------------------------------------------------------------

    def catalogue(self, version: int | None = None) -> tuple[Action, ...] | None:
        """The actions of a catalogue version (default: the one in force), None where none is declared.

        Raises `NotFound`, or `InvalidSettings` when its file cannot be read.
        """
        version = self.catalogue_version if version is None else version
        if version is None:
            return None
        path = self.paths.catalogues / f"{version}.json"
        if not path.exists():
            raise NotFound(f"experiment '{self.name}' has no catalogue version {version}")
        try:
            actions = decode(path.read_bytes(), list[dict[str, Any]])
            return tuple(Action(action["id"], action["features"]) for action in actions)
        except (Undecodable, KeyError, TypeError) as error:
            raise InvalidSettings(f"catalogues/{path.name}", f"cannot be read ({error!r}); {_FROM_BACKUP}") from None

    @property
    def secret(self) -> bytes:
        """The key of the draws; raises `CorruptSecret` when the file does not hold one as `create` writes it."""
        try:
            text = self.paths.secret.read_bytes().decode("ascii", "replace").strip()
        except OSError as error:
            raise CorruptSecret(f"the file `secret` cannot be read ({error.strerror}); {_SECRET_CURE}") from None
        if not _SECRET.fullmatch(text):
            raise CorruptSecret(
                f"the file `secret` does not hold {2 * SECRET_BYTES} hexadecimal digits; {_SECRET_CURE}"
            )
        return bytes.fromhex(text)

    def _take_own(self, file: _ExperimentFile) -> None:
        """Take what this process has written, or just read, under the lock of the file."""
        with self._taking:
            self._take(file, self._state_of_file())

    def _take(self, file: _ExperimentFile, seen: tuple[int, ...]) -> None:
        self._file, self._checked, self._seen = file, {}, seen

    def _state_of_file(self) -> tuple[int, ...]:
        """What differs once the file has been replaced."""
        stat = self.paths.settings.stat()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _read(self) -> _ExperimentFile:
        try:
            return decode(self.paths.settings.read_bytes(), _ExperimentFile)
        except Undecodable as error:
            raise InvalidSettings("experiment.json", f"cannot be read ({error}); {_FROM_BACKUP}") from None


def _new_version(
    paths: ExperimentPaths,
    previous: SettingsVersion | None,
    settings: ExperimentSettings,
    now: datetime,
) -> SettingsVersion:
    plain = settings_to_dict(settings)
    catalogue_version = previous.catalogue_version if previous else None
    if plain["actions"] is None:
        catalogue_version = None
    elif previous is None or not same(plain["actions"], previous.settings["actions"]):
        taken = [int(path.stem) for path in paths.catalogues.glob("*.json")]
        catalogue_version = max(taken, default=0) + 1
        write_atomically(paths.catalogues / f"{catalogue_version}.json", msgspec.json.encode(plain["actions"]))
    return SettingsVersion(
        version=previous.version + 1 if previous else 1,
        since=now,
        settings=_as_written(plain),
        catalogue_version=catalogue_version,
    )


def _as_written(plain: dict[str, Any]) -> dict[str, Any]:
    """Settings as the file holds them: without `encoding.ignore` where nothing is ignored.

    A worker of the release before it, still running beside a newer learner, would refuse a key that it does not know.
    """
    declared = [challenger for challenger in plain["challengers"].values() if challenger["encoding"] is not None]
    for holder in (plain, *declared):
        if not holder["encoding"]["ignore"]:
            del holder["encoding"]["ignore"]
    return plain


def _write(paths: ExperimentPaths, file: _ExperimentFile) -> None:
    write_atomically(paths.settings, msgspec.json.format(msgspec.json.encode(file), indent=1))
