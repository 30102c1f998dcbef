"""The join against an oracle in plain Python, and under every kind of shuffling, repetition and re-delivery."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit.events import Event
from bandit.experiment import Experiment
from bandit.settings import Aggregation
from joiner.rebuild import rebuild
from joiner.warehouse import Warehouse
from tests.joiner.logs import activation, at, decision, experiment, reward, write
from tests.joiner.oracle import Place, expected_interactions


def found_interactions(target: Experiment, until: float, steps: Sequence[float] = ()) -> dict[str, tuple[float, int]]:
    """What the warehouse makes of the sealed segments, joined tick by tick."""
    with Warehouse(target) as warehouse:
        segments = write(target, [])
        for number, step in enumerate([*steps, until]):
            share = len(segments) if step == until else (number * len(segments)) // (len(steps) + 1)
            warehouse.ingest(segments[:share])
            warehouse.join(at(step))
        frame = warehouse.interactions()
    return {
        name: (value, count)
        for name, value, count in zip(frame["event_id"], frame["reward"], frame["rewards_counted"], strict=True)
    }


def mixed_events(rng: random.Random, count: int) -> list[Event]:
    """Decisions and rewards of every kind: repeated, contradicting, early, late, unknown, deferred, mismatched."""
    events: list[Event] = []
    for number in range(count):
        name = f"e{rng.randrange(count // 2)}"
        seconds = rng.randrange(0, 300_000_000) / 1e6
        kind = rng.random()
        if kind < 0.45:
            digest = rng.choice([None, None, "d1", "d2"])
            model = rng.choice(["m1", "m1", "m1", "m2"])
            action = rng.choice("aaab")
            events.append(
                decision(name, seconds, action, model_id=model, body_digest=digest, deferred=rng.random() < 0.2)
            )
        elif kind < 0.55:
            events.append(activation(name, seconds))
        else:
            fields: dict[str, Any] = {}
            if rng.random() < 0.4:
                fields["reward_id"] = rng.choice(["1", "2", "3"])
            if rng.random() < 0.3:
                fields["action"] = rng.choice("ab")
            if rng.random() < 0.2:
                fields |= {"event": "watched", "value": rng.choice([1.0, 2.0])}
            target = name if rng.random() < 0.9 else f"unknown-{number}"
            events.append(reward(target, seconds, rng.choice([-0.3, 0.0, 0.1, 0.7, 1.0]), **fields))
    return events


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_an_independent_oracle_agrees_row_for_row_on_ten_thousand_mixed_events(
    tmp_path: Path, aggregation: str
) -> None:
    target = experiment(tmp_path, aggregation=aggregation, default=-0.125)
    rng = random.Random(f"oracle {aggregation}")
    places: list[Place] = []
    events = mixed_events(rng, 10_000)
    for writer in range(8):
        own = events[writer::8]
        write(target, own, writer_id=f"w{writer}")
        places += [Place(event, f"w{writer}", position) for position, event in enumerate(own)]
    expected = expected_interactions(places, target.settings.rewards, at(250))
    assert len(expected) > 1000
    assert found_interactions(target, 250) == expected


def test_ticks_one_after_the_other_give_the_same_rows_as_one_join_and_as_a_rebuild(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    rng = random.Random(5)
    events = sorted(mixed_events(rng, 3000), key=lambda event: getattr(event, "decided_at", None) or event.received_at)  # type: ignore[union-attr]
    for tick in range(12):
        write(target, events[tick * 250 : (tick + 1) * 250])
    with Warehouse(target) as warehouse:
        segments = write(target, [])
        for tick, segment in enumerate(segments, start=1):
            warehouse.ingest([segment])
            warehouse.join(at(tick * 24))
        warehouse.join(at(290))
        incremental, digest = warehouse.interactions(), warehouse.digest()
        counts = warehouse.counts()
    assert len(incremental) > 300
    target.paths.warehouse.unlink()
    report = rebuild(target, watermark=at(290))
    assert (report.segments, report.events, report.digest) == (12, 3000, digest)
    with Warehouse(target) as warehouse:
        assert warehouse.interactions().equals(incremental)
        assert warehouse.counts() == counts


def records_of(name: str) -> st.SearchStrategy[list[Event]]:
    """Decisions and rewards of three events, one record a second: the stamps of a log are distinct."""
    names = st.sampled_from([f"{name}-{event}" for event in "xyz"])
    seconds = st.integers(0, 59).map(float)
    return st.lists(
        st.one_of(
            st.builds(decision, names, seconds, st.sampled_from(["a", "b"])),
            st.builds(
                reward,
                names,
                seconds,
                st.sampled_from([0.0, 0.5, 1.0]),
                reward_id=st.sampled_from([None, "1", "2"]),
            ),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda event: getattr(event, "decided_at", None) or event.received_at,
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cases=st.tuples(*(records_of(f"case{number}") for number in range(20))),
    data=st.data(),
    aggregation=st.sampled_from(get_args(Aggregation)),
)
def test_any_permutation_duplication_and_redelivery_within_the_window_gives_the_same_interactions(
    cases: tuple[list[Event], ...], data: st.DataObject, aggregation: str
) -> None:
    first, second = [], []
    for records in cases:  # opening a warehouse costs more than the rows: so many cases share one log
        again = data.draw(st.permutations(records)) + data.draw(st.lists(st.sampled_from(records), max_size=4))
        cut = data.draw(st.integers(0, len(again)))
        first += again[:cut]
        second += again[cut:]
    with tempfile.TemporaryDirectory() as folder:
        plain = experiment(Path(folder) / "plain", aggregation=aggregation)
        write(plain, [event for records in cases for event in records])
        shuffled = experiment(Path(folder) / "shuffled", aggregation=aggregation)
        write(shuffled, first, writer_id="w0")
        write(shuffled, second, writer_id="w1")
        assert found_interactions(plain, 500) == found_interactions(shuffled, 500, steps=[100, 200])
