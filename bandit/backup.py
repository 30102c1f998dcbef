"""Backups: one file that holds a whole data directory, taken while everything runs, and checked on its way back.

What refers is copied before what it refers to: the log, then pointer and history, then evaluations and models, then
settings. All of these only grow or are replaced whole, so a copy taken in that order always fits together. Segments
move into archives, and back again when somebody is erased: both are listed until nothing new appears, and each segment
that was ever seen must have been copied as itself, in an archive, or in quarantine. The DuckDB file is left out (it is
a view of the log); a digest of each file is kept in the last member.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, Any

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import Busy, CorruptLog, InvalidInput, NotFound
from bandit.eventlog.recovery import QUARANTINE
from bandit.eventlog.segment import OPEN_SUFFIX, SEALED_SUFFIX, SegmentInfo, segment_name
from bandit.experiment import Experiment, ExperimentPaths
from bandit.files import FileLock, fsync_directory
from bandit.settings import EXPERIMENT_NAME

FORMAT = 1
CONTENTS = "backup.json"
KEYS, KEYS_LOCK = "keys.json", ".keys.lock"
EXPERIMENTS = "experiments"
PRIVATE = ("secret", KEYS)
NOT_SAVED = ("warehouse.", "scratch", ".")
"""What a backup leaves out of an experiment's folder, by the beginning of the name: views, leftovers, locks."""

RESTORING = ".restoring"
"""The folder of a data directory in which a restore makes what it then moves up, `experiments` last."""

_MANIFEST = "manifest.json"
"""What an archive of segments says of itself: written last, removed first."""

_ON_THE_WAY = (".incoming-", ".outgoing-", ".dropped-")
"""How the names of folders begin that are not there yet, or no more."""

_NO_SEGMENT = (OPEN_SUFFIX, ".tmp")

_CHUNK_BYTES = 1 << 20


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The last member of a backup: what it holds (path → SHA-256), when it was taken, and by which version.

    `segments` are the names of those of each experiment, in whatever form; older versions kept no such list.
    """

    format: int
    created_at: datetime
    rewardloop: str
    experiments: list[str]
    files: dict[str, str]
    segments: dict[str, list[str]] = {}


class _Archived(msgspec.Struct):
    """What the manifest of an archive says of its segments."""

    segments: list[SegmentInfo]


class _Log:
    """Which files of an experiment's log were listed, and which segments were seen and copied, by their names."""

    def __init__(self, paths: ExperimentPaths) -> None:
        self.paths = paths
        self.listed: set[Path] = set()
        self.seen: set[str] = set()
        self.held: set[str] = set()

    def files(self) -> Iterator[Path]:
        """The files to save; whoever cannot find one any more says so (`vanished`)."""
        yield from _files(self.paths.events, OPEN_SUFFIX)
        done = False
        while not done:
            done, as_it_was = True, self._archives()
            for path in (*_files(self.paths.events, but=_NO_SEGMENT), *self._archived_files()):
                if path not in self.listed:
                    done = False
                    self.listed.add(path)
                    self.seen |= _segment_of(path, self.paths)
                    yield path
            # where an archive came or went between the two listings, each may have missed what the other held
            done = done and as_it_was == self._archives()

    def _archived_files(self) -> Iterator[Path]:
        """The files of archives and beside them; a folder without a manifest is what is left of one."""
        for path in _files(self.paths.archive, but=(".tmp",)):
            if path.parent == self.paths.archive or (path.parent / _MANIFEST).exists():
                yield path

    def _archives(self) -> int | None:
        """What differs once an archive has come or gone."""
        try:
            return self.paths.archive.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def copied(self, path: Path, manifest: bytes) -> None:
        """A file is in the backup; `manifest` is the content of an archive's."""
        names = _segment_of(path, self.paths) or _archived(manifest)
        self.seen |= names
        self.held |= names
        if path.parent.name == QUARANTINE:
            self.held.add(path.name.split(".")[0])

    def vanished(self, path: Path) -> None:
        """A file was moved before it could be read: it may come back under the same name."""
        self.listed.discard(path)


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What went into or came out of a backup; `vanished` files were removed while it was taken."""

    path: Path
    experiments: list[str]
    files: int
    bytes: int
    created_at: datetime
    vanished: int = 0


def write_backup(data_dir: Path, out: Path, *, now: datetime) -> BackupReport:
    """Write a backup of `data_dir` to `out` (compressed where it ends in `.gz`), complete or not at all.

    Raises `NotFound` when there is nothing to save, `InvalidInput` when `out` exists, OSError when it cannot be
    written, `Busy` when the log was moved about all the time. The file is readable by its owner alone: it holds the
    secrets of the draws.
    """
    names = [name for name in Experiment.names(data_dir) if EXPERIMENT_NAME.fullmatch(name)]
    if not names:
        raise NotFound(f"no experiment in {data_dir}: there is nothing to back up")
    if out.exists():
        raise InvalidInput("--out", "exists already; choose another file")
    if not out.parent.is_dir():
        raise InvalidInput("--out", "is not in an existing folder")
    partial = out.with_name(f".{out.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    digests: dict[str, str] = {}
    logs = {name: _Log(ExperimentPaths(data_dir / EXPERIMENTS / name)) for name in names}
    size = vanished = 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            mode: Any = "w|gz" if out.name.endswith(".gz") else "w|"
            with tarfile.open(fileobj=file, mode=mode, format=tarfile.PAX_FORMAT) as archive:
                for path, log in _everything(data_dir, logs):
                    name = path.relative_to(data_dir).as_posix()
                    try:
                        if log is not None and path.name == _MANIFEST:
                            manifest = path.read_bytes()
                            digest, length = _add_bytes(archive, name, manifest)
                            log.copied(path, manifest)
                        else:
                            digest, length = _add(archive, path, name)
                            if log is not None:
                                log.copied(path, b"")
                    except FileNotFoundError:  # sealed or replaced meanwhile: what took its place is listed later
                        vanished += 1
                        if log is not None:
                            log.vanished(path)
                        continue
                    digests[name] = digest
                    size += length
                if missing := sorted({f"{name}/{seen}" for name, log in logs.items() for seen in log.seen - log.held}):
                    raise Busy(f"the log was moved about while it was copied (segment {missing[0]}); back up once more")
                contents = Contents(
                    format=FORMAT,
                    created_at=now,
                    rewardloop=version("rewardloop"),
                    experiments=names,
                    files=digests,
                    segments={name: sorted(log.held) for name, log in logs.items()},
                )
                _add_bytes(archive, CONTENTS, msgspec.json.encode(contents))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(out)
        fsync_directory(out.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return BackupReport(out, names, len(digests), size, now, vanished)


def restore_backup(backup: Path, data_dir: Path) -> BackupReport:
    """Bring a backup back into `data_dir`, which must be empty or absent; every byte is checked before it is used.

    All experiments appear at once, at the end. What a restore left that was cut short is removed first. Raises
    `InvalidInput` when `data_dir` is not empty, `CorruptLog` when the backup is damaged, cut short, or does not hold a
    segment that it should, `Busy` while another restore fills `data_dir`.
    """
    place = data_dir.resolve()
    there = place.exists()
    _check_free(place)
    lock = FileLock(place / RESTORING / ".lock")
    try:
        lock.acquire()
    except Busy:
        raise Busy(f"another process is restoring into {data_dir}") from None
    incoming, brought = lock.path.with_name("data"), False
    try:
        _check_free(place)  # another restore may have come to its end just now
        (place / KEYS).unlink(missing_ok=True)
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
        contents, size = _bring(backup, incoming)
        if (incoming / KEYS).exists():  # before what they guard
            (incoming / KEYS).rename(place / KEYS)
            brought = True
            fsync_directory(place)
        _move_in(incoming / EXPERIMENTS, place / EXPERIMENTS)
    except BaseException:
        if brought or is_half_restored(place):
            (place / KEYS).unlink(missing_ok=True)
        shutil.rmtree(lock.path.parent, ignore_errors=True)
        if not there:
            with suppress(OSError):
                place.rmdir()
        raise
    finally:
        lock.release()
    shutil.rmtree(lock.path.parent)
    fsync_directory(place)
    if not there:
        fsync_directory(place.parent)
    return BackupReport(data_dir, contents.experiments, len(contents.files), size, contents.created_at)


def _move_in(experiments: Path, place: Path) -> None:
    """Put the experiments in their place; raises `Busy` where a service has begun some there meanwhile."""
    try:
        experiments.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise Busy(f"experiments were begun in {place.parent} meanwhile; stop what did so, and restore again") from None


def is_half_restored(data_dir: Path) -> bool:
    """Whether a restore into this directory is under way, or was cut short: nothing else belongs there until then."""
    return (data_dir / RESTORING).is_dir() and not (data_dir / EXPERIMENTS).exists()


def _check_free(place: Path) -> None:
    """Refuse what is no folder, or holds more than a restore left and a file system keeps in its own root."""
    if not place.exists():
        return
    left = {RESTORING, KEYS, KEYS_LOCK} if is_half_restored(place) else set()
    if not place.is_dir() or {path.name for path in place.iterdir()} - left - {"lost+found"}:
        raise InvalidInput("--data-dir", "must be an empty or absent folder")


def _everything(data_dir: Path, logs: Mapping[str, _Log]) -> Iterator[tuple[Path, _Log | None]]:
    """The files to save, each listed only when its turn comes; those of the log with what keeps count of it."""
    for log in logs.values():
        yield from ((path, log) for path in log.files())
        yield from ((path, None) for path in _all_but_the_log(log.paths))
    keys = data_dir / KEYS
    if keys.exists():
        yield keys, None


def _all_but_the_log(paths: ExperimentPaths) -> Iterator[Path]:
    """Everything else of an experiment, what refers first."""
    yield from _files(paths.workers, but=(".json", ".tmp"))
    if paths.history.exists():  # before the pointer that it tells of, so that it names none that is not there
        yield paths.history
    others = [path for path in sorted(paths.root.iterdir()) if not path.name.startswith(NOT_SAVED)]
    listed = {paths.settings, paths.history}
    yield from (path for path in others if path.is_file() and path not in listed)  # pointers before models
    for folder in (paths.challengers, paths.evaluations, paths.models):
        yield from _files(folder, but=(".tmp",))
    listed |= {
        paths.events,
        paths.archive,
        paths.workers,
        paths.challengers,
        paths.evaluations,
        paths.models,
        paths.catalogues,
    }
    for folder in others:
        if folder not in listed:
            yield from _files(folder, but=(".tmp",))
    yield paths.settings
    yield from _files(paths.catalogues, but=(".tmp",))


def _segment_of(path: Path, paths: ExperimentPaths) -> set[str]:
    """The name of the sealed segment that a file is, nothing where it is none."""
    return {path.stem} if path.parent == paths.events and path.suffix == SEALED_SUFFIX else set()


def _archived(manifest: bytes) -> set[str]:
    """The names of the segments in an archive; none where its manifest is damaged, as `doctor` says."""
    try:
        infos = decode(manifest, _Archived).segments
    except Undecodable:
        return set()
    return {segment_name(info.writer_id, info.sequence) for info in infos}


def _segments_in(paths: ExperimentPaths) -> set[str]:
    """The names of all sealed segments of a log, as themselves, in archives (whole ones) and in quarantine."""
    found = {path.stem for path in paths.events.glob(f"*{SEALED_SUFFIX}")}
    found |= {path.name.split(".")[0] for path in (paths.events / QUARANTINE).glob("*")}
    for manifest in paths.archive.glob(f"*/{_MANIFEST}"):
        if any(path != manifest for path in manifest.parent.iterdir()):
            found |= _archived(manifest.read_bytes())
    return found


def _files(folder: Path, suffix: str = "", *, but: tuple[str, ...] = ()) -> Iterator[Path]:
    if folder.is_dir():
        for path in sorted(folder.rglob(f"*{suffix}")):
            unfinished = any(part.startswith(_ON_THE_WAY) for part in path.relative_to(folder).parts)
            if not unfinished and not path.name.endswith(but or ("\0",)) and path.is_file():
                yield path


class _Hashing:
    """A reader that hashes what passes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, length: int = -1) -> bytes:
        data = self._file.read(length)
        self.sha256.update(data)
        return data


def _add(archive: tarfile.TarFile, path: Path, name: str) -> tuple[str, int]:
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = stat.st_size, int(stat.st_mtime), stat.st_mode & 0o777
        hashing = _Hashing(file)
        archive.addfile(info, hashing)
    return hashing.sha256.hexdigest(), stat.st_size


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> tuple[str, int]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    archive.addfile(info, io.BytesIO(data))
    return hashlib.sha256(data).hexdigest(), len(data)


def _bring(backup: Path, incoming: Path) -> tuple[Contents, int]:
    """Make a data directory of a backup in the folder `incoming`, on disk when this ends; raises `CorruptLog`."""
    try:
        contents, size = _extract(backup, incoming)
        for name in contents.experiments:
            paths = ExperimentPaths(incoming / EXPERIMENTS / name)
            _tidy(paths)
            if missing := sorted(set(contents.segments.get(name, ())) - _segments_in(paths)):
                raise CorruptLog(f"{backup.name} lacks {len(missing)} segment(s) of the log, first {name}/{missing[0]}")
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise CorruptLog(f"{backup.name} is not a backup: it holds a file in the place of a folder") from None
    for folder in (incoming, *(path for path in incoming.rglob("*") if path.is_dir())):
        fsync_directory(folder)
    return contents, size


def _extract(backup: Path, incoming: Path) -> tuple[Contents, int]:
    digests: dict[str, str] = {}
    contents: Contents | None = None
    size = 0
    try:
        with tarfile.open(backup, mode="r|*") as archive:
            for member in archive:
                plain = member.isreg() and not member.issparse()  # a few bytes of a sparse one can fill the disk
                source = archive.extractfile(member) if plain else None
                if source is None or contents is not None:
                    raise CorruptLog(f"{backup.name} is not a backup: it holds more than plain files and their list")
                if member.name == CONTENTS:
                    contents = decode(source.read(), Contents)
                    continue
                target = incoming / _checked(member.name, backup)
                target.parent.mkdir(parents=True, exist_ok=True)
                digests[member.name] = _write(source, target)
                size += member.size
    except (tarfile.TarError, EOFError, OSError, Undecodable) as error:
        if isinstance(error, OSError) and not isinstance(error, tarfile.TarError) and error.errno:
            raise
        raise CorruptLog(f"{backup.name} cannot be read as a backup: {error or 'it is cut short'}") from None
    if contents is None:
        raise CorruptLog(f"{backup.name} is cut short: its list of contents is missing")
    if contents.format > FORMAT:
        raise CorruptLog(f"{backup.name} was written by a later version ({contents.rewardloop}); update rewardloop")
    different = sorted(
        name for name in contents.files.keys() | digests.keys() if contents.files.get(name) != digests.get(name)
    )
    if different:
        raise CorruptLog(f"{backup.name} is damaged: {len(different)} file(s) differ, first {different[0]}")
    held = {PurePosixPath(name).parts[1] for name in digests if name != KEYS}
    if not held or held != set(contents.experiments):
        raise CorruptLog(f"{backup.name} is not a backup: the experiments that it names are not those that it holds")
    return contents, size


def _checked(name: str, backup: Path) -> PurePosixPath:
    """The place of a member, which is the keys or a file of an experiment."""
    path = PurePosixPath(name)
    folder, experiment = path.parts[:2] if len(path.parts) > 2 else ("", "")
    # earlier releases saved copies beside the experiments, too, of names that none may have: `shop.bak`
    of_an_experiment = folder == EXPERIMENTS and not experiment.startswith(".")
    if name != KEYS and (not of_an_experiment or ".." in path.parts or "\0" in name):
        raise CorruptLog(f"{backup.name} is not a backup: a member is no file of a data directory")
    return path


def _write(source: IO[bytes], target: Path) -> str:
    sha256 = hashlib.sha256()
    mode = 0o600 if target.name in PRIVATE else 0o644
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            sha256.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return sha256.hexdigest()


def _tidy(paths: ExperimentPaths) -> None:
    """Make the folders that were empty, and drop what was copied open and again sealed, or went while it was copied."""
    for folder in (paths.events, paths.workers, paths.models, paths.catalogues, paths.evaluations, paths.challengers):
        folder.mkdir(parents=True, exist_ok=True)
    for segment in paths.events.glob(f"*{OPEN_SUFFIX}"):
        if segment.with_suffix(SEALED_SUFFIX).exists():
            segment.unlink()
    for folder in paths.archive.glob("*"):
        if folder.is_dir() and not (folder / _MANIFEST).exists():
            shutil.rmtree(folder)
