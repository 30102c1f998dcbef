"""Small files that must never be half-written, and locks that die with their holder.

A file is replaced by write-to-temporary, fsync, rename, fsync of the folder. Locks are `flock`s: the
kernel releases them when the process ends, however it ends, so a held lock means a living holder.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bandit.errors import Busy

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The errors of a file that cannot grow: the disk is full, or a quota or the limit of the process is used up."""

NO_WRITE = NO_ROOM | {errno.EROFS, errno.EIO}
"""The errors of a disk that takes nothing at all: it has no room, is read-only, or broken."""

LEFTOVER_S_MIN = 60.0
"""A temporary file that old belongs to nobody: writing one takes milliseconds."""

_TEMPORARY = re.compile(r"\..+\.(\d+)-(\d+)\.tmp")
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,126}")

PIECE_BYTES = 4 * 1024**2
"""A piece of this size is on a common disk within some milliseconds."""


def fsync_directory(directory: Path) -> None:
    """Make renames and creations in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644, sync: bool = True) -> None:
    """Replace `path` by `data`, whole or not at all; raises OSError and leaves the old file on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        fsync_directory(path.parent)


def is_abandoned(temporary: Path) -> bool:
    """Whether a half-written file of `write_atomically` has no writer any more; false for a file of any other name."""
    found = _TEMPORARY.fullmatch(temporary.name)
    if found is None:
        return False
    process, thread = map(int, found.groups())
    if process == os.getpid():
        return thread not in {living.ident for living in threading.enumerate()}
    try:
        os.kill(process, 0)
        return time.time() - temporary.stat().st_mtime > LEFTOVER_S_MIN  # the number may be another process's by now
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    except FileNotFoundError:  # it has just been finished
        return False


def link(path: Path, place: Path) -> None:
    """Let `place` hold what `path` does, whatever is put in its place later; a copy on disks that know no links."""
    try:
        os.link(path, place)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, place)


class SyncedInPieces(io.FileIO):
    """A new file that gets onto the disk as it grows: whoever syncs meanwhile waits for a piece, not for all of it.

    What follows the last full piece is for the writer to sync.
    """

    def __init__(self, path: Path, piece_bytes: int = PIECE_BYTES) -> None:
        super().__init__(path, "w")
        self._piece_bytes = piece_bytes
        self._unsynced = 0

    def write(self, data: Buffer, /) -> int:
        """Write as `FileIO` does, and sync when a piece is full."""
        written = super().write(data)
        self._unsynced += written
        if self._unsynced >= self._piece_bytes:
            os.fdatasync(self.fileno())
            self._unsynced = 0
        return written


class FileLock:
    """An exclusive `flock` on one file, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool = False) -> None:
        """Take the lock; raises `Busy` at once when it is held elsewhere and `wait` is false.

        On a read-only disk its file must be there, else this raises `FileNotFoundError`.
        """
        while self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(descriptor)
                raise Busy(f"{self.path.name} is locked by another process") from None
            if _is_still(self.path, descriptor):
                self._descriptor = descriptor
            else:  # its former holder removed the file meanwhile: a lock on it would be seen by nobody
                os.close(descriptor)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return os.open(self.path, os.O_RDONLY)  # a file that is there already can be locked all the same

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock on `path` (a missing file is not locked)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look do not see each other
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the file that `descriptor` has open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_plain_name(name: str) -> bool:
    """Whether `name` can be the id of something that is kept under its name: ids from outside become no other paths."""
    return _PLAIN_NAME.fullmatch(name) is not None


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock on `path` for the length of a block; raises `Busy` when `wait` is false and it is held."""
    lock = FileLock(path)
    lock.acquire(wait=wait)
    try:
        yield
    finally:
        lock.release()
