"""Folders for files that live as long as a step: in memory where there is room, and never left behind for good.

What is written to the disk that decisions are synced to keeps them waiting. A folder is locked by its owner; one whose
owner was killed is removed when the next is made, or `remove_abandoned` looks for it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bandit.errors import Busy
from bandit.files import FileLock

IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 1024**3
PREFIX = ".rewardloop-scratch-"
_LOCK = ".lock"
_YOUNG_S = 60.0
"""A folder this young may have no lock yet."""


@contextmanager
def scratch_folder(room_bytes: int = ROOM_BYTES, *, otherwise: Path | None = None) -> Iterator[Path]:
    """An empty folder of one's own, removed when the block is left; in memory if `room_bytes` are free there.

    If they are not, in `otherwise` (without it, where temporary files belong).

    Raises OSError when none can be made.
    """
    roomy = os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free >= room_bytes
    with folder_in(IN_MEMORY if roomy else otherwise or Path(tempfile.gettempdir())) as folder:
        yield folder


@contextmanager
def folder_in(parent: Path) -> Iterator[Path]:
    """The same in `parent`, whatever room there is; raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_in(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = FileLock(folder / _LOCK)
    lock.acquire(wait=True)  # who looks for abandoned folders may hold it for a moment
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # of which nobody else takes the lock meanwhile
        lock.release()


def remove_abandoned(otherwise: Path) -> None:
    """Remove the folders of owners that were killed, wherever `scratch_folder` makes them."""
    for parent in (IN_MEMORY, Path(tempfile.gettempdir()), otherwise):
        _remove_abandoned_in(parent)


def _remove_abandoned_in(parent: Path) -> None:
    """Remove folders whose owner has died; those of other users are left to them."""
    for folder in parent.glob(f"{PREFIX}*"):
        lock = FileLock(folder / _LOCK)
        try:
            if not lock.path.exists() and time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue
            lock.acquire()
        except (Busy, OSError):  # in use, another user's, or just gone
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
