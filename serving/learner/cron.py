"""When a cron expression next says so: five fields, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger

from bandit.errors import InvalidSettings
from bandit.settings import ExperimentSettings


def check_schedule(settings: ExperimentSettings) -> None:
    """Raise `InvalidSettings` when the schedule has a cron expression that means nothing."""
    if settings.schedule.cron is not None:
        next_after(settings.schedule.cron, datetime(2000, 1, 1, tzinfo=UTC))


def next_after(expression: str, moment: datetime) -> datetime:
    """The first time after `moment` that the expression names; raises `InvalidSettings` for one that never does."""
    try:
        trigger = CronTrigger.from_crontab(expression, timezone=UTC)
    except ValueError as error:
        raise InvalidSettings("schedule.cron", f"is not a cron expression: {error}") from None
    found: datetime | None = trigger.get_next_fire_time(None, moment + timedelta(microseconds=1))
    if found is None:
        raise InvalidSettings("schedule.cron", "names no time that is still to come")
    return found.astimezone(UTC)
