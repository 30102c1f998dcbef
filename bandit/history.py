"""The history of an experiment: one JSON line for each thing done to it that is neither event nor model.

A line is appended whole and synced before its caller goes on. What a process that died left unfinished at the end is no
entry, because nobody was told of it, and the next one takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import CorruptLog
from bandit.experiment import ExperimentPaths
from bandit.files import fsync_directory, locked

BLOCK_BYTES = 4096
"""How much is read at a time on the way back to the last whole line."""


class History:
    """The entries of one experiment, in `history.jsonl`. `durable=False` leaves out syncs: for simulations only."""

    def __init__(self, paths: ExperimentPaths, *, durable: bool = True) -> None:
        self._paths = paths
        self._durable = durable

    def record(self, kind: str, *, now: datetime, **fields: Any) -> None:
        """Append one entry: `kind`, `at` and the fields (anything msgspec can encode); raises OSError."""
        line = msgspec.json.encode({"kind": kind, "at": now, **fields}) + b"\n"
        with locked(self._paths.lock):
            descriptor = os.open(self._paths.history, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                size = os.lseek(descriptor, 0, os.SEEK_END)
                whole = _whole_lines(descriptor, size)
                if whole < size:
                    os.ftruncate(descriptor, whole)
                os.lseek(descriptor, whole, os.SEEK_SET)
                left = memoryview(line)
                while left:
                    left = left[os.write(descriptor, left) :]
                if self._durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if self._durable and not size:
                fsync_directory(self._paths.root)

    def entries(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The entries, oldest first, of one kind or of all; `at` is ISO text. Raises `CorruptLog`."""
        return [entry for entry in map(_entry, self._lines()) if kind is None or entry.get("kind") == kind]

    def newest(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """The entries of these kinds, or of all where none is named, newest first, read as far as somebody asks.

        Raises as `entries` does.
        """
        for line in reversed(self._lines()):
            entry = _entry(line)
            if not kinds or entry.get("kind") in kinds:
                yield entry

    def unfinished(self) -> int:
        """How many bytes of an unfinished last line there are: the process that wrote it died meanwhile."""
        return len(self._read().rpartition(b"\n")[2])

    def _lines(self) -> list[bytes]:
        return self._read().split(b"\n")[:-1]

    def _read(self) -> bytes:
        try:
            return self._paths.history.read_bytes()
        except FileNotFoundError:
            return b""


def _entry(line: bytes) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = decode(line, dict[str, Any])
    except Undecodable:
        raise CorruptLog("history.jsonl holds a line that is not JSON; restore the file from a backup") from None
    return entry


def _whole_lines(descriptor: int, size: int) -> int:
    """The length of the file up to the end of its last whole line."""
    end = size
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
