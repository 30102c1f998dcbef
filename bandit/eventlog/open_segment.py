"""One segment while it is written: group commits, each synced before it counts as written, and at last the seal.

Only the writer's thread touches it. Any OSError leaves it in an unknown state: it must then be abandoned, and is
recovered from the bytes that are on disk.
"""

from __future__ import annotations

import hashlib
import os
import time
from datetime import datetime
from pathlib import Path

from bandit.eventlog.recovery import QUARANTINE
from bandit.eventlog.segment import (
    OPEN_SUFFIX,
    SEALED_SUFFIX,
    commit_line,
    header_line,
    seal_line,
    segment_name,
)
from bandit.files import fsync_directory

TRIAL_BYTES = 64 * 1024
"""More than most commits: where a lock and a heartbeat still fit, a commit may not."""

_HASHED_AT_ONCE = 2000
"""Above 2047 bytes hashlib gives up the interpreter's lock, and getting it back costs more than hashing."""


class OpenSegment:
    """A new segment file; raises OSError when it cannot be made. `size` and `events` are those on disk.

    `sync_s` is what the last sync took; `durable=False` leaves all syncs out.
    """

    def __init__(self, folder: Path, writer_id: str, sequence: int, *, opened_at: datetime, durable: bool) -> None:
        self.path = folder / f"{segment_name(writer_id, sequence)}{OPEN_SUFFIX}"
        self.size = 0
        self.events = 0
        self.sync_s = 0.0
        self._durable = durable
        self._hasher = hashlib.sha256()
        self._header = header_line(writer_id, sequence, opened_at)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        if durable:
            flags |= os.O_DSYNC  # a write returns when its bytes are on disk: one call, where fdatasync makes it two
        self._descriptor = os.open(self.path, flags, 0o644)

    def commit(self, lines: bytes, events: int) -> None:
        """Append whole lines and their commit line, and sync; the file's name is synced with the first of them."""
        first = self.size == 0
        group = self._header + lines if first else lines
        self._write(group + commit_line(group, events), name=first)
        self.events += events

    def seal(self) -> None:
        """Write the seal, sync, and give the file its final name; the segment is of no use here afterwards."""
        self._write(seal_line(self._hasher, self.events, self.size), name=False)
        self.abandon()
        self.path.rename(self.path.with_suffix(SEALED_SUFFIX))
        if self._durable:
            fsync_directory(self.path.parent)

    def abandon(self) -> None:
        """Close the file as it is; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, data: bytes, *, name: bool) -> None:
        left = memoryview(data)
        for start in range(0, len(data), _HASHED_AT_ONCE):
            self._hasher.update(left[start : start + _HASHED_AT_ONCE])
        started = time.perf_counter()
        _append(self._descriptor, left)
        if name and self._durable:
            fsync_directory(self.path.parent)
        self.sync_s = time.perf_counter() - started
        self.size += len(data)


def _append(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def try_disk(folder: Path, writer_id: str, *, durable: bool) -> None:
    """Write and sync as much as a commit may hold, and give it back; raises OSError where the disk does not take it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{writer_id}.trial"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (os.O_DSYNC if durable else 0)
    descriptor = os.open(path, flags, 0o644)
    try:
        path.unlink()  # nothing is left of it, however the process ends
        _append(descriptor, memoryview(os.urandom(TRIAL_BYTES)))  # random: some file systems store zeros as nothing
        if durable:
            fsync_directory(folder)
    finally:
        os.close(descriptor)


def next_sequence(folder: Path, writer_id: str, memory: Path) -> int:
    """One more than any sequence this writer ever used, also when its segments are gone by now.

    `memory` is the file in which `remember_sequence` keeps the last one.
    """
    found = []
    for place in (folder, folder / QUARANTINE):
        for path in place.glob(f"{writer_id}-[0-9]*.*"):
            number = path.name.removeprefix(f"{writer_id}-").split(".")[0]
            if number.isdigit():
                found.append(int(number))
    remembered = memory.read_text().strip()
    if remembered.isdigit():
        found.append(int(remembered))
    return max(found, default=0) + 1


def remember_sequence(memory: Path, sequence: int) -> None:
    """Keep the sequence about to be used; in place, because `memory` is also the writer's lock."""
    descriptor = os.open(memory, os.O_WRONLY)
    try:
        os.pwrite(descriptor, f"{sequence:012d}\n".encode(), 0)
    finally:
        os.close(descriptor)
