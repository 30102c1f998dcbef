"""A log that does not fill a disk: the same message is written once, then at most every so many seconds.

A model that fails, fails at every request, and a pointer that cannot be read cannot be read ten times a second.
What is left out is counted and told with the next message of its kind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

AGAIN_S = 10.0
KINDS_MAX = 1000


class SparingFilter(logging.Filter):
    """Lets a message (by its template and arguments) through again only after `again_s`."""

    def __init__(self, again_s: float = AGAIN_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.again_s = again_s
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; one that is tells how many like it were not."""
        kind = (str(record.msg), str(record.args))
        now = self._clock()
        at, left_out = self._told.get(kind, (-self.again_s, 0))
        if now - at < self.again_s:
            self._told[kind] = (at, left_out + 1)
            return False
        if len(self._told) >= KINDS_MAX:
            self._told.clear()
        self._told[kind] = (now, 0)
        if left_out:
            record.msg = f"{record.getMessage()} (and {left_out} times more since it was last told)"
            record.args = ()
        return True
