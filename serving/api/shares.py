"""How many connections each worker of a service holds, in memory that its workers share.

Workers accept from one listener, and whoever wakes first takes a connection: the same one again and again. Clients keep
connections for hours, so that this one would answer nearly all. Here each says how many it has, and one that has more
than another leaves the next to that one.
"""

from __future__ import annotations

import mmap
import os
import tempfile

ABSENT = -1
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
        with tempfile.TemporaryFile() as file:
            file.write(ABSENT.to_bytes(_BYTES, "little", signed=True) * workers)
            file.flush()
            return cls(os.dup(file.fileno()))

    def tell(self, worker: int, connections: int) -> None:
        """Say how many connections a worker has."""
        self._counts[worker] = connections

    def absent(self, worker: int) -> None:
        """Say that a worker is not there: nobody leaves it anything."""
        self._counts[worker] = ABSENT

    def has_more(self, worker: int) -> bool:
        """Whether a worker has more connections than another one that is there."""
        own = self._counts[worker]
        return any(ABSENT < count < own for count in self._counts)

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.descriptor)
