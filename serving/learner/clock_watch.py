"""Whether the wall clock can be believed: it is compared with the monotonic one, which nobody sets.

What removes data for good goes by the age of records, and a clock that leapt by days makes all of them old at once. A
clock that has kept pace for hours is believed; after a leap, and after a start, it has to do so again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

LEAP_S_MAX = 60.0
"""A wall clock that moved by so much more, or less, than the monotonic one between two looks has leapt."""

CLOCK = "clock"
"""The kind of history's entries that tell of a leap."""


class ClockWatch:
    """Both clocks as they were at the last look, and since when they have kept pace; looked at from any thread."""

    def __init__(self, clock: Callable[[], datetime], monotonic: Callable[[], float]) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._looking = threading.Lock()
        self._wall, self._at = clock(), monotonic()
        self._steady_since = self._at

    def look(self) -> timedelta | None:
        """How far the wall clock has leapt since the last look (back: less than nothing); None when it kept pace."""
        with self._looking:
            wall, at = self._clock(), self._monotonic()
            leap_s = (wall - self._wall).total_seconds() - (at - self._at)
            self._wall, self._at = wall, at
            if abs(leap_s) <= LEAP_S_MAX:
                return None
            self._steady_since = at
            return timedelta(seconds=round(leap_s))

    def believed(self, steady_s: float) -> datetime | None:
        """The wall clock's time at the last look, if it had kept pace for `steady_s` by then; else None."""
        with self._looking:
            return self._wall if self._at - self._steady_since >= steady_s else None
