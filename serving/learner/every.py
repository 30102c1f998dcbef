"""When something regular happens next, whatever the clock does meanwhile.

APScheduler asks for each time that was missed, one by one, also where all of them count as one: after a leap of a
year, millions. And it sleeps until a time that a clock set back has moved far away.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from apscheduler.triggers.base import BaseTrigger


class Every(BaseTrigger):  # type: ignore[misc]
    """A trigger whose next time is always after now, and never further away than its interval."""

    def __init__(self, seconds: float) -> None:
        self.interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """An interval after the previous time where that is to come soon, else an interval from now."""
        latest = now + self.interval
        planned = latest if previous is None else previous + self.interval
        return planned if now < planned < latest else latest

    def __str__(self) -> str:
        return f"every {self.interval.total_seconds():g} s"
