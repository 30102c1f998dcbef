"""What the console draws: the newest interactions in equal stretches, and traffic minute by minute."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from joiner.pulse import reward_curve, traffic
from joiner.warehouse import Warehouse
from tests.joiner import logs
from tests.joiner.logs import START, decision, experiment, reward

WINDOW_S = 10.0


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A decision every ten seconds over ten minutes, the last half of them rewarded with 1 after a second."""
    made = experiment(tmp_path, window_s=WINDOW_S)
    opened = Warehouse(made)
    decided = [decision(f"e{n}", 10.0 * n) for n in range(60)]
    opened.ingest(logs.write(made, [*decided, *(reward(f"e{n}", 10.0 * n + 1, 1.0) for n in range(30, 60))]))
    opened.join(START + timedelta(hours=1))
    return opened


def test_the_curve_cuts_the_newest_interactions_into_equal_stretches_oldest_first(warehouse: Warehouse) -> None:
    with warehouse:
        found = reward_curve(warehouse.cursor(), rows=40, stretches=4)
        every = reward_curve(warehouse.cursor(), rows=1000, stretches=7)
    assert [(stretch.count, stretch.mean) for stretch in found] == [(10, 0.0), (10, 1.0), (10, 1.0), (10, 1.0)]
    assert found[0].start == START + timedelta(seconds=200) and found[0].stop == START + timedelta(seconds=290)
    assert sum(stretch.count for stretch in every) == 60 and len(every) == 7
    assert max(stretch.count for stretch in every) - min(stretch.count for stretch in every) <= 1


def test_few_interactions_make_a_stretch_each_and_none_make_none(tmp_path: Path, warehouse: Warehouse) -> None:
    with warehouse:
        assert [stretch.count for stretch in reward_curve(warehouse.cursor(), rows=3, stretches=100)] == [1, 1, 1]
    with Warehouse(experiment(tmp_path / "empty")) as empty:
        assert reward_curve(empty.cursor(), rows=3, stretches=100) == []
        assert traffic(empty.cursor(), until=START, minutes=2) == [(0, 0), (0, 0)]


def test_traffic_is_counted_in_whole_minutes_back_from_the_moment_asked_for(warehouse: Warehouse) -> None:
    with warehouse:
        found = traffic(warehouse.cursor(), until=START + timedelta(seconds=595), minutes=12)
    assert sum(decisions for decisions, _ in found) == 60
    assert found[-1] == (6, 6) and found[:2] == [(0, 0), (0, 0)]
    assert sum(rewards for _, rewards in found) == 30
