"""When a cron expression next says so: five fields, in UTC, with the meaning that crontab gives them.

APScheduler counts weekdays from Monday = 0, crontab from Sunday = 0 (or 7); it asks for day and weekday both, crontab
for either where both are given. So weekdays are named, and day and weekday looked up apart, before it is asked.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger

from bandit.errors import InvalidSettings
from bandit.settings import ExperimentSettings

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def check_schedule(settings: ExperimentSettings) -> None:
    """Raise `InvalidSettings` when the schedule has a cron expression that means nothing."""
    if settings.schedule.cron is not None:
        next_after(settings.schedule.cron, datetime(2000, 1, 1, tzinfo=UTC))


def next_after(expression: str, moment: datetime) -> datetime:
    """The first time after `moment` that the expression names; raises `InvalidSettings` for one that never does."""
    try:
        minute, hour, day, month, weekday = expression.split()
        weekday = _named(weekday)
        days = [(day, "*"), ("*", weekday)] if day[0] != "*" and weekday[0] != "*" else [(day, weekday)]
        triggers = [
            CronTrigger.from_crontab(f"{minute} {hour} {day} {month} {weekday}", timezone=UTC) for day, weekday in days
        ]
    except ValueError as error:
        raise InvalidSettings("schedule.cron", f"is not a cron expression: {error}") from None
    found = [trigger.get_next_fire_time(None, moment + timedelta(microseconds=1)) for trigger in triggers]
    times: list[datetime] = [time for time in found if time is not None]
    if not times:
        raise InvalidSettings("schedule.cron", "names no time that is still to come")
    return min(times).astimezone(UTC)


def _named(field: str) -> str:
    """A weekday field with every day that it means by name, `*` for all; raises ValueError."""
    if field == "*":
        return field
    days: set[str] = set()
    for part in field.lower().split(","):
        span, stepped, step = part.partition("/")
        first, ranged, last = ("0", "-", "6") if span == "*" else span.partition("-")
        start = _day(first)
        end = _day(last) if ranged else 6 if stepped else start
        if end < start:  # up to Sunday, which is 0 and 7, or on into the next week
            end += 7
        if stepped and not (step.isascii() and step.isdigit() and int(step) > 0):
            raise ValueError("a step is a whole number from 1 on")
        every = int(step) if stepped else 1
        days |= {WEEKDAYS[day % 7] for day in range(start, end + 1, every)}
    return ",".join(name for name in WEEKDAYS if name in days)


def _day(text: str) -> int:
    if text in WEEKDAYS:
        return WEEKDAYS.index(text)
    if not (text.isascii() and text.isdigit() and int(text) <= 7):
        raise ValueError(f"weekdays are 0 to 7 (0 and 7: Sunday) or {', '.join(WEEKDAYS)}")
    return int(text)
