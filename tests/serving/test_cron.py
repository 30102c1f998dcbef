"""Runs at the times that cron says: an expression takes the place of the interval, and means what crontab says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bandit.errors import InvalidSettings
from bandit.settings import parse_settings
from serving.learner.cron import next_after
from tests.serving.learner_support import world

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_cron_expression_takes_the_place_of_the_interval(tmp_path: Path) -> None:
    assert next_after("30 4 * * *", datetime(2026, 1, 1, 5, 0, tzinfo=UTC)) == datetime(2026, 1, 2, 4, 30, tzinfo=UTC)
    with pytest.raises(InvalidSettings, match="cron"):
        next_after("61 4 * * *", NOW)
    with pytest.raises(InvalidSettings, match="five fields"):
        parse_settings({"schedule": {"cron": "daily"}})
    with world(tmp_path, schedule={"cron": "0 * * * *", "interactions": 1000}) as here:
        here.play(50)
        here.transport.server.writer.seal()
        here.transport.clock.advance(60)
        here.transport.server.heartbeat()
        here.transport.cycle.tick()
        assert here.transport.cycle.due() is None
        here.transport.clock.advance(3600)
        assert here.transport.cycle.due() == "interval"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 3 * * 0", "2026-01-04"),  # Sunday, as crontab counts
        ("0 3 * * 7", "2026-01-04"),
        ("0 3 * * sun", "2026-01-04"),
        ("0 3 * * 1-5", "2026-01-02"),
        ("0 3 * * 6-7", "2026-01-03"),
        ("0 3 * * MON,tue", "2026-01-05"),
        ("0 3 * * */2", "2026-01-03"),  # Sunday, Tuesday, Thursday, Saturday
        ("0 3 * * 5/9", "2026-01-02"),
        ("0 3 15 * 1", "2026-01-05"),  # either the 15th or a Monday
        ("0 3 * 2 *", "2026-02-01"),
    ],
)
def test_cron_fields_mean_what_crontab_says(expression: str, expected: str) -> None:
    thursday = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert next_after(expression, thursday) == datetime.fromisoformat(expected + "T03:00:00+00:00")


@pytest.mark.parametrize("weekday", ["8", "-1", "1-", "x", "1/0", "1/x", ","])
def test_weekdays_that_mean_nothing_are_refused(weekday: str) -> None:
    with pytest.raises(InvalidSettings, match=r"schedule\.cron"):
        next_after(f"0 3 * * {weekday}", NOW)


def test_a_cron_time_with_nothing_to_learn_is_not_made_up_for_at_another_time(tmp_path: Path) -> None:
    with world(tmp_path, schedule={"cron": "0 * * * *", "interactions": 1000}) as here:
        cycle, clock = here.transport.cycle, here.transport.clock
        clock.advance(4000)
        here.transport.server.heartbeat()
        cycle.tick()
        assert cycle.due() is None
        here.play(20)
        here.transport.server.writer.seal()
        clock.advance(60)
        here.transport.server.heartbeat()
        cycle.tick()
        assert cycle.new_rows() == 20 and cycle.due() is None
        clock.advance(3600)
        assert cycle.due() == "interval"
