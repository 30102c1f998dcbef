"""How many connections each worker of a service holds, in memory that its workers share.

Workers accept from one listener, and whoever wakes first takes a connection: the same one again and again. Clients keep
connections for hours, so that this one would answer nearly all. Here each says how many it has, and one that has more
than another leaves the next to that one for a moment.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Collection

ABSENT = -1
SLACK = 8
"""An eighth more than another is as many: of many connections that come at once nobody leaves each one to another."""

_BYTES = 4


class ConnectionShares:
    """The counts of all workers; belongs to the process that made it, or that got its `descriptor`."""

    def __init__(self, descriptor: int) -> None:
        """Share the counts behind an inherited descriptor; raises OSError or ValueError where it has none."""
        self.descriptor = descriptor
        self._counts = memoryview(mmap.mmap(descriptor, 0)).cast("i")

    @classmethod
    def among(cls, workers: int) -> ConnectionShares:
        """Counts for so many workers, all of them absent; raises OSError."""
        descriptor = _memory()
        os.write(descriptor, ABSENT.to_bytes(_BYTES, "little", signed=True) * workers)
        return cls(descriptor)

    def tell(self, worker: int, connections: int) -> None:
        """Say how many connections a worker has."""
        self._counts[worker] = connections

    def absent(self, worker: int) -> None:
        """Say that a worker is not there: nobody leaves it anything."""
        self._counts[worker] = ABSENT

    def fewer(self, worker: int) -> dict[int, int]:
        """The workers that are there with clearly fewer connections than this one, and how many each has."""
        own = self._counts[worker]
        return {other: count for other, count in enumerate(self._counts) if ABSENT < count < own - own // SLACK}

    def excess(self, worker: int, beside: Collection[int] = ()) -> int:
        """How many more connections this worker has than its even share, 0 where it is within an eighth.

        Workers named in `beside` do not count.
        """
        there = [count for other, count in enumerate(self._counts) if count > ABSENT and other not in beside]
        own = self._counts[worker]
        more = own - math.ceil(sum(there) / max(len(there), 1))
        return more if more > own // SLACK else 0

    def count(self, worker: int) -> int:
        """How many connections a worker has, `ABSENT` where it is not there."""
        return self._counts[worker]

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.descriptor)


def _memory() -> int:
    """A descriptor of an empty file that is in no folder."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("connections")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
