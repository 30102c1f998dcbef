"""Folders for files that live as long as a step: in memory where there is room, and never left behind for good.

What is written to the disk that decisions are synced to keeps them waiting. A folder is locked by its owner; one whose
owner was killed is removed when the next is made.
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
"""A folder this young may not be locked yet."""


@contextmanager
def scratch_folder(room_bytes: int = ROOM_BYTES, *, otherwise: Path | None = None) -> Iterator[Path]:
    """An empty folder of one's own, removed when the block is left; in memory if `room_bytes` are free there.

    If they are not, in `otherwise` (without it, where temporary files belong).

    Raises OSError when none can be made.
    """
    roomy = os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free >= room_bytes
    parent = IN_MEMORY if roomy else otherwise or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as name:
        lock = FileLock(Path(name) / _LOCK)
        lock.acquire()
        try:
            yield Path(name)
        finally:
            lock.release()


def _remove_abandoned(parent: Path) -> None:
    """Remove folders whose owner has died; those of other users are left to them."""
    for folder in parent.glob(f"{PREFIX}*"):
        lock = FileLock(folder / _LOCK)
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue
            lock.acquire()
        except (Busy, OSError):  # in use, another user's, or just gone
            continue
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
