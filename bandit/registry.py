"""The model registry: models as folders that are complete or absent, and one pointer that says which one serves.

A model is written beside its place, synced and renamed into it; its manifest carries the digest of each file
and its own. The pointer moves by compare-and-swap under the experiment's lock and keeps the earlier champions
with it, because falling back must not depend on a second file. `history.jsonl` records what is neither event
nor model.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import Conflict, CorruptLog, CorruptModel, NotFound
from bandit.experiment import ExperimentPaths
from bandit.files import fsync_directory, is_plain_name, locked, write_atomically
from bandit.history import History

MANIFEST = "manifest.json"
CHAMPIONS_KEPT_MAX = 1000

UNSET = "unset"
"""The kind in history of letting go of the champion."""

ROLLED_BACK = "rollback"
"""The kind in history of bringing an earlier champion back."""

REMADE = "pointer"
"""The kind in history of a pointer that was made anew, with the champion that it has."""

CHANGES = ("initial", "promotion", "override", "promotion_by_hand", ROLLED_BACK, UNSET)
"""The entries of history that set a champion, or let go of it."""

_FILE_NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,62}$")
_INCOMING = ".incoming-"
_OUTGOING = ".outgoing-"
_USED = ".used"
"""The mark in a model's folder that it was champion or on trial; no file of a model may have this name."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a stored model; `files` maps each name to its SHA-256, `digest` covers all the rest."""

    model_id: str
    created_at: datetime
    parent: str | None
    kind: str
    files: dict[str, str]
    vw_version: str
    options: dict[str, Any]
    settings_version: int
    data: dict[str, Any]
    canaries: list[dict[str, Any]]
    note: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model whose digests were checked: its manifest and the bytes of its files."""

    manifest: Manifest
    files: dict[str, bytes]


class Champion(msgspec.Struct, frozen=True, kw_only=True):
    """Which model serves since when; `generation` counts the swaps, from 1; `restored`: it came back by rollback."""

    model_id: str
    since: datetime
    generation: int
    reason: str = ""
    restored: bool = False


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger on trial: a stored model that has a declared share in the decisions of `champion`.

    It is void as soon as another champion stands. `challenger` names whose snapshot it is, `learnt` how many rows
    that had learnt, `share` its part of each pmf.
    """

    model_id: str
    champion: str
    challenger: str
    learnt: int
    since: datetime
    share: float


class _Pointer(msgspec.Struct, frozen=True):
    current: Champion | None
    earlier: list[Champion]


class ModelRegistry:
    """The models of one experiment. `durable=False` leaves out syncs: for simulations only."""

    def __init__(self, paths: ExperimentPaths, *, durable: bool = True) -> None:
        self.paths = paths
        self.durable = durable
        self.history = History(paths, durable=durable)

    # -- models ------------------------------------------------------------------------------------------

    def publish(
        self,
        files: Mapping[str, bytes],
        *,
        now: datetime,
        parent: str | None,
        kind: str,
        options: Mapping[str, Any],
        settings_version: int,
        data: Mapping[str, Any],
        canaries: Sequence[Mapping[str, Any]],
        note: str = "",
    ) -> Manifest:
        """Store a model, complete or not at all; it serves nothing until `swap`.

        Publishing the same content in the same second again gives the manifest that is there, of whatever kind.
        Raises ValueError for a file name that is not plain, OSError when the disk does not take it.
        """
        _check_names(files)
        digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
        content = hashlib.sha256(msgspec.json.encode(digests)).hexdigest()
        model_id = f"m{now:%Y%m%dt%H%M%S}-{content[:8]}"
        manifest = _signed(
            Manifest(
                model_id=model_id,
                created_at=now,
                parent=parent,
                kind=kind,
                files=digests,
                vw_version=version("vowpalwabbit"),
                options=_as_read_back(options),
                settings_version=settings_version,
                data=_as_read_back(data),
                canaries=[_as_read_back(canary) for canary in canaries],
                note=note,
            )
        )
        self.paths.models.mkdir(parents=True, exist_ok=True)
        with locked(self.paths.lock):
            self._remove_incoming()
            if (self.paths.models / model_id).exists():
                return self.load(model_id).manifest
            self._store(manifest, files)
        return manifest

    def load(self, model_id: str) -> StoredModel:
        """A model with all digests checked; raises `NotFound`, or `CorruptModel` when a byte differs."""
        manifest = self.manifest(model_id)
        files = {}
        for name, digest in manifest.files.items():
            try:
                content = (self.paths.models / model_id / name).read_bytes()
            except FileNotFoundError:
                raise CorruptModel(f"model {model_id}: {name} is missing") from None
            if hashlib.sha256(content).hexdigest() != digest:
                raise CorruptModel(f"model {model_id}: {name} does not match its digest")
            files[name] = content
        return StoredModel(manifest, files)

    def is_sound(self, model_id: str) -> bool:
        """Whether a model is there with every digest right."""
        try:
            self.load(model_id)
        except (CorruptModel, NotFound):
            return False
        return True

    def manifest(self, model_id: str) -> Manifest:
        """The checked manifest of one model; raises `NotFound` or `CorruptModel`."""
        if not is_plain_name(model_id):
            raise NotFound("there is no model of that id")
        try:
            manifest = decode((self.paths.models / model_id / MANIFEST).read_bytes(), Manifest)
        except FileNotFoundError:
            raise NotFound(f"there is no model {model_id}") from None
        except Undecodable as error:
            raise CorruptModel(f"model {model_id}: its manifest cannot be read ({error})") from None
        if _signed(manifest).digest != manifest.digest or manifest.model_id != model_id:
            raise CorruptModel(f"model {model_id}: its manifest does not match its own digest")
        return manifest

    def model_ids(self) -> list[str]:
        """The ids of all stored models, oldest first, whether sound or not."""
        if not self.paths.models.is_dir():
            return []
        return sorted(entry.name for entry in self.paths.models.iterdir() if is_plain_name(entry.name))

    def used(self) -> set[str]:
        """The ids of all models that have or had a part in decisions: every champion, and whatever was on trial.

        Before models were marked, those on trial were told by their kind alone. Raises `CorruptModel` when the pointer
        is lost or damaged.
        """
        pointer = self._pointer()
        found = {champion.model_id for champion in _past(pointer)}
        with suppress(CorruptModel):  # it ends the trial
            trial = self.trial()
            found |= {trial.model_id} if trial is not None else set()
        return found | {model_id for model_id in self.model_ids() if (self.paths.models / model_id / _USED).exists()}

    def remove_unused(self, needed: Callable[[], Collection[str]], *, kept: int) -> list[str]:
        """Remove the oldest models beyond `kept` that never had a part in decisions and are not `needed`.

        Gives their ids. Which those are is looked up under the lock that the pointer and the trial are changed under,
        and they are put aside there: none of them can be made champion meanwhile. Raises `CorruptModel` when the
        pointer is lost or damaged, OSError when the disk does not let a model go.
        """
        if not self.paths.models.is_dir():
            return []
        self._remove_outgoing()  # from a process that died while removing them
        with locked(self.paths.lock):
            keep = self.used() | set(needed())
            others = [model_id for model_id in self.model_ids() if model_id not in keep]
            gone = others[: max(0, len(others) - kept)]
            for model_id in gone:
                (self.paths.models / model_id).rename(self.paths.models / f"{_OUTGOING}{model_id}")
        self._remove_outgoing()
        return gone

    def remove_unfinished(self) -> None:
        """Remove what processes that died left of models on their way; it may hold canaries."""
        if any(self.paths.models.glob(f"{_INCOMING}*")):
            with locked(self.paths.lock):
                self._remove_incoming()
        self._remove_outgoing()

    def manifests(self) -> list[Manifest]:
        """The manifests of all sound models, oldest first; damaged ones are for `doctor` to name."""
        found = []
        for model_id in self.model_ids():
            try:
                found.append(self.manifest(model_id))
            except (CorruptModel, NotFound):
                continue
        return sorted(found, key=lambda manifest: (manifest.created_at, manifest.model_id))

    def erase_canaries(self, erased: Callable[[Mapping[str, Any]], bool]) -> int:
        """Take the canaries for which `erased` holds out of every sound manifest; gives how many went.

        The manifests get a new digest; the models' files stay as they are.
        """
        gone = 0
        with locked(self.paths.lock):
            for manifest in self.manifests():
                kept = [canary for canary in manifest.canaries if not erased(canary)]
                if len(kept) < len(manifest.canaries):
                    gone += len(manifest.canaries) - len(kept)
                    signed = _signed(msgspec.structs.replace(manifest, canaries=kept))
                    content = msgspec.json.format(msgspec.json.encode(signed), indent=1)
                    place = self.paths.models / manifest.model_id / MANIFEST
                    write_atomically(place, content, sync=self.durable)
        return gone

    # -- the pointer -------------------------------------------------------------------------------------

    def champion(self) -> Champion | None:
        """The serving model, None before the first; raises `CorruptModel` when the pointer is lost or damaged."""
        pointer = self._pointer()
        return pointer.current if pointer else None

    def champions(self) -> list[Champion]:
        """The champions before the present one, newest first; at most `CHAMPIONS_KEPT_MAX` are kept."""
        pointer = self._pointer()
        return pointer.earlier if pointer else []

    def swap(
        self, model_id: str, *, expected: str | None, now: datetime, reason: str, restored: bool = False
    ) -> Champion:
        """Make `model_id` the champion if `expected` (None: none yet) still is; `restored` says that it comes back.

        Raises `Conflict` when another one is, `NotFound` or `CorruptModel` when the new one is not sound: the
        pointer never moves to a model that cannot be loaded.
        """
        with locked(self.paths.lock):
            self.load(model_id)
            pointer = self._pointer()
            current = pointer.current if pointer else None
            if (current.model_id if current else None) != expected:
                raise Conflict(
                    f"the champion is {current.model_id if current else 'not set'} by now, not "
                    f"{expected or 'unset'} as expected; look again and decide anew"
                )
            champion = Champion(
                model_id=model_id,
                since=now,
                generation=_generation(pointer) + 1,
                reason=reason,
                restored=restored,
            )
            self._point(_Pointer(champion, _past(pointer)))
        return champion

    def unset(self, *, expected: str) -> None:
        """Let go of the champion, if `expected` still is: there is none then, as before the first; raises `Conflict`.

        It counts among the earlier ones from then on. A model that cannot be read does not stand in the way.
        """
        with locked(self.paths.lock):
            pointer = self._pointer()
            if pointer is None or pointer.current is None or pointer.current.model_id != expected:
                raise Conflict(f"the champion is not {expected} any more; look again and decide anew")
            self._point(_Pointer(None, _past(pointer)))

    def remake_pointer(self, *, now: datetime) -> Champion | None:
        """Make a pointer that is lost or cannot be read anew as history tells it, and record that; gives the champion.

        A change that its process was killed before recording is not in it. Raises `CorruptLog` when history cannot be
        read, `Conflict` when the pointer is there after all.
        """
        with locked(self.paths.lock):
            try:
                self._pointer()
            except CorruptModel:
                pass  # as expected
            else:
                raise Conflict("the champion's pointer can be read; look again and decide anew")
            champion: Champion | None = None
            earlier: list[Champion] = []
            for entry in self.history.entries():
                if entry.get("kind") in CHANGES:
                    earlier = _past(_Pointer(champion, earlier))
                    champion = _as_recorded(entry, generation=_generation(_Pointer(None, earlier)) + 1)
            self._point(_Pointer(champion, earlier))
        self.history.record(
            REMADE, now=now, model_id=champion and champion.model_id, reason="made anew as history tells it"
        )
        return champion

    # -- the trial ---------------------------------------------------------------------------------------

    def trial(self) -> Trial | None:
        """The challenger on trial beside the present champion, None where there is none.

        Raises `CorruptModel` when the file cannot be read.
        """
        try:
            trial = decode(self.paths.trial.read_bytes(), Trial)
        except FileNotFoundError:
            return None
        except Undecodable as error:
            raise CorruptModel(f"trial.json cannot be read ({error}); the next run starts a trial anew") from None
        champion = self.champion()
        return trial if champion is not None and champion.model_id == trial.champion else None

    def set_trial(self, trial: Trial) -> None:
        """Put a stored model on trial; raises `NotFound` or `CorruptModel` when it is not sound."""
        with locked(self.paths.lock):
            self.load(trial.model_id)
            self._mark_used(trial.model_id)
            content = msgspec.json.format(msgspec.json.encode(trial), indent=1)
            write_atomically(self.paths.trial, content, sync=self.durable)

    def clear_trial(self) -> None:
        """End the trial, if there is one."""
        with locked(self.paths.lock):
            self.paths.trial.unlink(missing_ok=True)

    # -- helpers -----------------------------------------------------------------------------------------

    def _pointer(self) -> _Pointer | None:
        try:
            return decode(self.paths.champion.read_bytes(), _Pointer)
        except FileNotFoundError:
            known = self._champion_by_history()
            if known is None:  # before the first one; where the champion was unset, the file says so
                return None
            problem = f"champion.json is lost, and by history {known} is champion"
        except Undecodable as error:
            known, problem = self._champion_by_history(), f"champion.json cannot be read ({error})"
        cure = f", or make it anew by history with `rewardloop models promote {known}`" if known else ""
        raise CorruptModel(f"{problem}; restore it from a backup{cure}")

    def _champion_by_history(self) -> str | None:
        """Whom the last change in history made champion; None without one, or where history cannot be read."""
        try:
            last: dict[str, Any] = next(self.history.newest(*CHANGES), {})
        except CorruptLog:
            return None
        return last.get("model_id")

    def _mark_used(self, model_id: str) -> None:
        """Mark a stored model before it serves anybody: decisions in which it has a part need it to be replayed."""
        folder = self.paths.models / model_id
        if folder.is_dir() and not (folder / _USED).exists():
            write_atomically(folder / _USED, b"", sync=self.durable)

    def _point(self, pointer: _Pointer) -> None:
        if pointer.current is not None:
            self._mark_used(pointer.current.model_id)
        content = msgspec.json.format(msgspec.json.encode(pointer), indent=1)
        write_atomically(self.paths.champion, content, sync=self.durable)

    def _store(self, manifest: Manifest, files: Mapping[str, bytes]) -> None:
        """Write a model beside its place, then move it there whole."""
        incoming = self.paths.models / f"{_INCOMING}{manifest.model_id}"
        incoming.mkdir()
        try:
            for name, content in files.items():
                self._write_new(incoming / name, content)
            self._write_new(incoming / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            if self.durable:
                fsync_directory(incoming)
            incoming.rename(self.paths.models / manifest.model_id)
        except OSError:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        if self.durable:
            fsync_directory(self.paths.models)

    def _remove_incoming(self) -> None:
        """Remove what a process left that died while publishing; for the holder of the lock."""
        for leftover in self.paths.models.glob(f"{_INCOMING}*"):
            shutil.rmtree(leftover)

    def _remove_outgoing(self) -> None:
        for folder in self.paths.models.glob(f"{_OUTGOING}*"):
            shutil.rmtree(folder, ignore_errors=True)  # another may be at it; what is left goes with the next

    def _write_new(self, path: Path, content: bytes) -> None:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            if self.durable:
                os.fsync(file.fileno())


def _as_read_back(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as JSON gives them back, so that a fresh manifest equals a loaded one."""
    return msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, Any])


def _check_names(files: Mapping[str, bytes]) -> None:
    if not files:
        raise ValueError("a model needs at least one file")
    for name in files:
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError("a model's files have plain lower-case names, and the manifest is not one of them")


def _signed(manifest: Manifest) -> Manifest:
    """The manifest with the digest of everything else in it."""
    unsigned = msgspec.structs.replace(manifest, digest="")
    digest = hashlib.sha256(msgspec.json.encode(unsigned, order="deterministic")).hexdigest()
    return msgspec.structs.replace(unsigned, digest=digest)


def _past(pointer: _Pointer | None) -> list[Champion]:
    """The champions that a new one has before it, newest first."""
    if pointer is None:
        return []
    return [*([pointer.current] if pointer.current else []), *pointer.earlier][:CHAMPIONS_KEPT_MAX]


def _as_recorded(entry: Mapping[str, Any], *, generation: int) -> Champion | None:
    """The champion that an entry of history tells of, None where it was unset."""
    if entry["kind"] == UNSET:
        return None
    return Champion(
        model_id=entry["model_id"],
        since=datetime.fromisoformat(entry.get("since") or entry["at"]),
        generation=generation,
        reason=entry.get("reason") or "",
        restored=entry["kind"] == ROLLED_BACK,
    )


def _generation(pointer: _Pointer | None) -> int:
    past = _past(pointer)
    return past[0].generation if past else 0
