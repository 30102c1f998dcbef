"""Whether the wall clock can be believed: it is compared with a clock that nobody sets.

What removes data for good goes by the age of records, and a clock that leapt by days makes all of them old at once. A
clock that has kept pace for hours is believed; after a leap it has to do so again. How long it has kept pace is noted
in `<data>/run/clock.json`, so that a learner that starts again goes on from there:

- In the same boot of the machine the note counts as the last look. Where the two clocks have not moved alike since
  then, that is a leap like any other.
- In another boot nothing can be compared. The hours of earlier boots still count if the wall clock has moved on since
  the note, and by no more than `OFF_MAX`, but an hour of the present boot is asked for: a clock that is wrong from the
  start is mostly set right within minutes, and that is a leap. One that is further ahead has to keep pace for all hours
  anew. Where the system does not tell its boots apart, each start of the learner counts as one.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from bandit.experiment import Experiment
from bandit.files import write_atomically

LEAP_S_MAX = 60.0
"""A wall clock that moved by so much more, or less, than the other one between two looks has leapt."""

STEADY_S = 6 * 3600.0
"""A clock is believed once it has kept pace for so long, in one boot or in several."""

STEADY_HERE_S = 3600.0
"""How much of that has to be in the present boot."""

OFF_MAX = timedelta(days=3)
"""After a longer time without a learner, by the wall clock, the hours of earlier boots count no more."""

NOTE_S = 60.0
"""How often it is noted that the clocks keep pace; a leap is noted at once."""

CLOCK = "clock"
"""The kind of history's entries that tell of a leap."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of the machine: its id ("" where the system has none), and a clock of seconds that nobody sets."""

    id: str
    clock: Callable[[], float]


def this_boot() -> Boot:
    """The boot that this process is in, with a clock that counts suspension where the system has one."""
    try:
        name = _BOOT_ID.read_text().strip()
    except OSError:
        name = ""
    return Boot(name, _since_boot)


class Pace(msgspec.Struct, frozen=True):
    """The clocks at a look: `at` and `since` by the boot's own, `since` when they keep pace; hours of earlier boots."""

    boot: str
    at: Annotated[float, msgspec.Meta(ge=0)]
    wall: Annotated[datetime, msgspec.Meta(tz=True)]
    since: Annotated[float, msgspec.Meta(ge=0)]
    earlier_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    @property
    def here_s(self) -> float:
        """For how long the clocks have kept pace in this boot."""
        return self.at - self.since

    @property
    def steady_s(self) -> float:
        """For how long they have kept pace, with what counts of earlier boots."""
        return self.here_s + self.earlier_s

    @property
    def waits_s(self) -> float:
        """For how long they still have to keep pace until the wall clock is believed; 0 when it is."""
        return max(0.0, STEADY_S - self.steady_s, min(STEADY_HERE_S, STEADY_S) - self.here_s)


def pace_path(data_dir: Path) -> Path:
    """The file in which a learner notes how long its clocks have kept pace."""
    return data_dir / "run" / "clock.json"


def noted_pace(data_dir: Path) -> Pace | None:
    """What was noted last; None where nothing was, or the file is damaged."""
    try:
        pace = msgspec.json.decode(pace_path(data_dir).read_bytes(), type=Pace)
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None
    return pace if pace.since <= pace.at else None


def waits_until(experiment: Experiment, now: datetime) -> datetime | None:
    """Until when retention waits, if the clocks go on as they did up to the last note.

    None when it does not wait, when the experiment declares none, and when no learner has noted anything.
    """
    rules = experiment.settings.retention
    if rules.compact_after_days is None and rules.drop_after_days is None:
        return None
    pace = noted_pace(experiment.paths.data_dir)
    if pace is None:
        return None
    until = pace.wall + timedelta(seconds=round(pace.waits_s))
    return until if until > now else None


class ClockWatch:
    """Both clocks as they were at the last look, and since when they have kept pace; looked at from any thread.

    Only the owner of the data directory may have one: it writes the note.
    """

    def __init__(self, clock: Callable[[], datetime], boot: Boot, data_dir: Path) -> None:
        self._clock, self._boot, self._data_dir = clock, boot, data_dir
        self._looking = threading.Lock()
        self._noted_at: float | None = None
        self._pace = self._begin(noted_pace(data_dir))

    def look(self) -> timedelta | None:
        """How far the wall clock has leapt since the last look (back: less than nothing); None when it kept pace."""
        with self._looking:
            last, wall, at = self._pace, self._clock(), self._boot.clock()
            leap_s = (wall - last.wall).total_seconds() - (at - last.at)
            leapt = abs(leap_s) > LEAP_S_MAX
            since, earlier_s = (at, 0.0) if leapt else (last.since, last.earlier_s)
            self._pace = Pace(boot=self._boot.id, at=at, wall=wall, since=since, earlier_s=earlier_s)
            if leapt or self._noted_at is None or at - self._noted_at >= NOTE_S:
                self._note()
            return timedelta(seconds=round(leap_s)) if leapt else None

    def believed(self) -> datetime | None:
        """The wall clock's time at the last look, if it had kept pace for long enough by then; else None."""
        with self._looking:
            return None if self._pace.waits_s else self._pace.wall

    def _begin(self, noted: Pace | None) -> Pace:
        wall, at = self._clock(), self._boot.clock()
        anew = Pace(boot=self._boot.id, at=at, wall=wall, since=at)
        if noted is None:
            return anew
        if self._boot.id and noted.boot == self._boot.id:
            return noted if noted.at <= at else anew
        if timedelta(0) <= wall - noted.wall <= OFF_MAX:
            return msgspec.structs.replace(anew, earlier_s=min(noted.steady_s, STEADY_S))
        return anew

    def _note(self) -> None:
        self._noted_at = self._pace.at
        with contextlib.suppress(OSError):  # a full disk, say: whoever starts next goes on from an older note
            write_atomically(pace_path(self._data_dir), msgspec.json.encode(self._pace), sync=False)


def _since_boot() -> float:
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
