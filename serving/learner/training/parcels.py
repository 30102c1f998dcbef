"""Answers of a training process that are too large for a pipe: their arrays come through a file, in memory if it fits.

A million scored rows are hundreds of megabytes. Through a pipe they are copied five times, piece by piece; here the
receiver maps what the sender wrote.
"""

from __future__ import annotations

import mmap
import pickle
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bandit.scratch import scratch_folder

LARGE_BYTES = 1024 * 1024
"""Arrays of fewer bytes in all go through the pipe."""


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A pickled answer without its arrays, which lie one after the other in the file at `path`."""

    pickled: bytes
    path: Path
    sizes: list[int]


def send(pipe: Connection, answer: Any, until_read: ExitStack) -> None:
    """Send an answer; close `until_read` when the receiver can be expected to have it, which takes the file away."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    total = sum(part.nbytes for part in raw)
    if total < LARGE_BYTES:
        pipe.send(answer)
        return
    try:
        path = until_read.enter_context(scratch_folder(2 * total)) / "arrays"
        with path.open("wb") as file:
            for part in raw:
                file.write(part)
    except OSError:  # a full disk: the pipe takes longer, but needs no room
        until_read.close()
        pipe.send(answer)
        return
    pipe.send(_Parcel(pickled, path, [part.nbytes for part in raw]))


def receive(pipe: Connection) -> Any:
    """An answer sent by `send`; raises EOFError or OSError when it cannot come any more."""
    said = pipe.recv()
    if not isinstance(said, _Parcel):
        return said
    with said.path.open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    said.path.unlink()  # what is mapped stays until nobody uses it
    ends, buffers = 0, []
    for size in said.sizes:
        buffers.append(mapped[ends : ends + size])
        ends += size
    return pickle.loads(said.pickled, buffers=buffers)
