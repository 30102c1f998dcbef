"""Every way in which decisions and rewards can meet, one sentence each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from bandit.events import Event
from bandit.experiment import Experiment
from bandit.settings import merge_settings
from joiner.export import RowFilter
from joiner.warehouse import Warehouse
from tests.joiner.logs import FAR, START, activation, at, decision, experiment, reward, write


def joined(target: Experiment, events: Sequence[Event], until: float = 1000.0) -> dict[str, float]:
    """event_id → reward after one ingest and one join."""
    segments = write(target, events)
    with Warehouse(target) as warehouse:
        warehouse.ingest(segments)
        warehouse.join(at(until))
        frame = warehouse.interactions()
    return dict(zip(frame["event_id"], frame["reward"], strict=True))


def counted(target: Experiment, events: Sequence[Event], until: float = 1000.0) -> dict[str, int]:
    """The counts after one ingest and one join."""
    joined(target, events, until)
    with Warehouse(target) as warehouse:
        return warehouse.counts()


def test_a_decision_is_no_interaction_while_its_window_is_open(tmp_path: Path) -> None:
    events = [decision("e", 0), reward("e", 1, 1.0)]
    assert joined(experiment(tmp_path), events, until=59.999999) == {}


def test_a_decision_becomes_an_interaction_the_moment_its_window_closes(tmp_path: Path) -> None:
    assert joined(experiment(tmp_path), [decision("e", 0), reward("e", 1, 1.0)], until=60) == {"e": 1.0}


def test_silence_is_worth_the_default_reward(tmp_path: Path) -> None:
    target = experiment(tmp_path, default=-0.5)
    assert joined(target, [decision("e", 0)]) == {"e": -0.5}
    with Warehouse(target) as warehouse:
        assert not warehouse.interactions()["rewarded"].any()
        assert warehouse.counts()["defaulted"] == 1


def test_an_explicit_zero_differs_from_silence(tmp_path: Path) -> None:
    target = experiment(tmp_path, default=-0.5)
    assert joined(target, [decision("e", 0), reward("e", 1, 0.0)]) == {"e": 0.0}
    with Warehouse(target) as warehouse:
        assert warehouse.interactions()["rewarded"].all()


def test_a_reward_before_its_decision_counts(tmp_path: Path) -> None:
    assert joined(experiment(tmp_path), [reward("e", 0, 1.0), decision("e", 30)]) == {"e": 1.0}


def test_a_reward_ingested_ticks_before_its_decision_counts(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    joined(target, [reward("e", 0, 1.0)], until=200)
    assert joined(target, [decision("e", 300)]) == {"e": 1.0}


def test_a_late_reward_is_kept_and_counted_and_changes_nothing(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    events = [decision("e", 0), reward("e", 60, 1.0)]
    assert joined(target, events) == {"e": 0.0}
    with Warehouse(target) as warehouse:
        counts = warehouse.counts()
    assert (counts["late"], counts["rewards"], counts["defaulted"]) == (1, 1, 1)


def test_a_late_reward_in_a_later_segment_changes_nothing_that_was_joined(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    assert joined(target, [decision("e", 0), reward("e", 5, 0.25)], until=60) == {"e": 0.25}
    assert joined(target, [reward("e", 61, 1.0)]) == {"e": 0.25}


def test_a_reward_in_the_last_microsecond_of_the_window_counts(tmp_path: Path) -> None:
    assert joined(experiment(tmp_path), [decision("e", 0), reward("e", 59.999999, 1.0)]) == {"e": 1.0}


def test_a_reward_sent_twice_without_id_is_one_reward(tmp_path: Path) -> None:
    target = experiment(tmp_path, aggregation="sum")
    events = [decision("e", 0), reward("e", 1, 0.5), reward("e", 2, 0.5)]
    counts = counted(target, events)
    assert joined(target, []) == {"e": 0.5}
    assert counts["duplicates"] == 1


def test_other_content_without_id_is_a_further_reward(tmp_path: Path) -> None:
    events = [decision("e", 0), reward("e", 1, 0.5), reward("e", 2, 0.25)]
    assert joined(experiment(tmp_path, aggregation="sum"), events) == {"e": 0.75}


def test_equal_rewards_with_different_ids_are_two(tmp_path: Path) -> None:
    events = [decision("e", 0), reward("e", 1, 0.5, reward_id="1"), reward("e", 2, 0.5, reward_id="2")]
    assert joined(experiment(tmp_path, aggregation="sum"), events) == {"e": 1.0}


def test_of_two_contents_under_one_reward_id_the_first_counts(tmp_path: Path) -> None:
    target = experiment(tmp_path, aggregation="last")
    events = [decision("e", 0), reward("e", 1, 0.5, reward_id="1"), reward("e", 2, 0.25, reward_id="1")]
    counts = counted(target, events)
    assert joined(target, []) == {"e": 0.5}
    assert counts["conflicting_rewards"] == 1


def test_a_retry_of_the_first_reward_does_not_become_the_last(tmp_path: Path) -> None:
    events = [decision("e", 0), reward("e", 1, 0.5), reward("e", 2, 0.25), reward("e", 3, 0.5)]
    assert joined(experiment(tmp_path, aggregation="last"), events) == {"e": 0.25}


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [("first", 0.5), ("last", -0.25), ("sum", 0.75), ("mean", 0.25), ("min", -0.25), ("max", 0.5)],
)
def test_several_rewards_become_one_by_the_declared_aggregation(tmp_path: Path, aggregation: str, value: float) -> None:
    events = [
        reward("e", 3, -0.25, reward_id="3"),
        reward("e", 1, 0.5, reward_id="1"),
        decision("e", 0),
        reward("e", 2, 0.5, reward_id="2"),
    ]
    assert joined(experiment(tmp_path, aggregation=aggregation), events) == {"e": value}


def test_of_rewards_with_one_stamp_the_first_in_its_log_is_first(tmp_path: Path) -> None:
    events = [decision("e", 0), reward("e", 1, 0.25), reward("e", 1, 0.75), reward("e", 1, 0.5)]
    assert joined(experiment(tmp_path / "1"), events) == {"e": 0.25}
    assert joined(experiment(tmp_path / "2", aggregation="last"), events) == {"e": 0.5}


def test_a_reward_for_another_action_is_counted_and_never_learnt(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    counts = counted(target, [decision("e", 0, "a"), reward("e", 1, 1.0, action="b")])
    assert joined(target, []) == {"e": 0.0}
    assert counts["action_mismatch"] == 1


def test_a_reward_that_names_the_decided_action_counts(tmp_path: Path) -> None:
    events = [decision("e", 0, "a"), reward("e", 1, 0.25, action="b"), reward("e", 2, 1.0, action="a")]
    assert joined(experiment(tmp_path), events) == {"e": 1.0}


def test_a_reward_for_an_unknown_event_is_counted_and_joins_nothing(tmp_path: Path) -> None:
    counts = counted(experiment(tmp_path), [reward("nobody", 1, 1.0)])
    assert (counts["unknown"], counts["interactions"], counts["rewards"]) == (1, 0, 1)


def test_a_decision_logged_twice_with_the_same_content_is_one_interaction(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    counts = counted(target, [decision("e", 0), decision("e", 5), reward("e", 6, 1.0)])
    assert joined(target, []) == {"e": 1.0}
    assert (counts["decisions"], counts["duplicates"], counts["conflicts"]) == (1, 1, 0)


def test_contradicting_decisions_are_both_kept_out_and_counted(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    counts = counted(target, [decision("e", 0, "a"), decision("e", 5, "b"), reward("e", 6, 1.0), decision("f", 1)])
    assert joined(target, []) == {"f": 0.0}
    assert (counts["conflicts"], counts["interactions"], counts["waiting"]) == (1, 1, 0)


def test_a_contradiction_stamped_after_the_window_changes_nothing(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    assert joined(target, [decision("e", 0, "a"), reward("e", 6, 1.0), decision("e", 60, "b")]) == {"e": 1.0}


def test_a_repeated_decision_in_a_later_tick_adds_no_second_row(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    assert joined(target, [decision("e", 0), reward("e", 1, 1.0)], until=100) == {"e": 1.0}
    assert joined(target, [decision("e", 200)], until=1000) == {"e": 1.0}


def test_equal_questions_with_different_answers_contradict_each_other(tmp_path: Path) -> None:
    events = [decision("e", 0, body_digest="d"), decision("e", 1, model_id="m2", body_digest="d")]
    assert joined(experiment(tmp_path), events) == {}


def test_a_deferred_decision_counts_once_activated(tmp_path: Path) -> None:
    events = [decision("e", 0, deferred=True), activation("e", 5), reward("e", 6, 1.0)]
    assert joined(experiment(tmp_path), events) == {"e": 1.0}


def test_an_activated_decision_without_reward_gets_the_default(tmp_path: Path) -> None:
    assert joined(experiment(tmp_path), [decision("e", 0, deferred=True), activation("e", 5)]) == {"e": 0.0}


def test_a_decision_never_activated_is_not_learnt_from_though_rewarded(tmp_path: Path) -> None:
    counts = counted(experiment(tmp_path), [decision("e", 0, deferred=True), reward("e", 6, 1.0)])
    assert (counts["not_activated"], counts["interactions"]) == (1, 0)


def test_an_activation_after_the_window_is_too_late(tmp_path: Path) -> None:
    assert joined(experiment(tmp_path), [decision("e", 0, deferred=True), activation("e", 60)]) == {}


def test_each_decision_is_joined_under_its_own_settings(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    target.change(merge_settings(target.settings, {"rewards": {"window_s": 600, "aggregation": "last"}}), now=at(10))
    events = [
        decision("old", 0),
        decision("new", 20, settings_version=2),
        *[reward(name, 30, 0.25) for name in ("old", "new")],
        *[reward(name, 40, 0.75) for name in ("old", "new")],
    ]
    assert joined(target, events, until=100) == {"old": 0.25}
    assert joined(target, [], until=620) == {"old": 0.25, "new": 0.75}


def test_a_watermark_that_goes_back_takes_nothing_away(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    assert joined(target, [decision("e", 0)], until=100) == {"e": 0.0}
    assert joined(target, [], until=1) == {"e": 0.0}


def test_records_that_come_in_behind_the_watermark_are_joined_as_a_rebuild_would(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    assert joined(target, [decision("e", 0)], until=500) == {"e": 0.0}
    segments = write(target, [reward("e", 5, 1.0), decision("f", 6)], writer_id="straggler")
    with Warehouse(target) as warehouse:
        warehouse.ingest(segments)
        assert warehouse.join(at(500)).interactions == 2
        assert dict(warehouse.interactions()[["event_id", "reward"]].to_numpy()) == {"e": 1.0, "f": 0.0}


def test_interactions_come_in_the_order_of_maturity(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    joined(target, [decision(f"e{n}", second) for n, second in enumerate([30, 10, 20, 0, 40])])
    with Warehouse(target) as warehouse:
        assert list(warehouse.interactions()["event_id"]) == ["e3", "e1", "e2", "e0", "e4"]


def test_counting_matured_interactions_follows_the_cut(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    joined(target, [decision(f"e{n}", n) for n in range(10)], until=65)
    with Warehouse(target) as warehouse:
        assert warehouse.count_matured(None, FAR) == 6
        assert warehouse.count_matured(at(60), at(62)) == 2
        assert warehouse.count_matured(at(60), at(62), RowFilter(origin="import")) == 0
        assert warehouse.next_maturity() == (4, at(66))
        assert warehouse.joined_until() == START + timedelta(seconds=65)


def test_the_newest_n_interactions_are_found_by_the_time_before_them(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    joined(target, [decision(f"e{n}", n) for n in range(10)])
    with Warehouse(target) as warehouse:
        after = warehouse.nth_newest_maturity(3, at(65))
        assert after is not None and warehouse.count_matured(after, at(65)) == 3
        assert warehouse.nth_newest_maturity(7, at(65)) is None


def test_ticks_without_a_maturing_decision_move_the_watermark_and_write_nothing(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, [decision("e", 0), decision("f", 500), reward("f", 450, 1.0)]))
        assert warehouse.join(at(60)).interactions == 1
        size = target.paths.warehouse.with_name("warehouse.duckdb.wal").stat().st_size
        for second in range(61, 559):
            assert warehouse.join(at(second)).interactions == 0
        assert warehouse.joined_until() == at(558)
        assert target.paths.warehouse.with_name("warehouse.duckdb.wal").stat().st_size == size
        warehouse.ingest(write(target, [reward("e", 30, 1.0), reward("f", 501, 0.5)], "late"))
        assert warehouse.join(at(560)).interactions == 2
        assert dict(warehouse.interactions()[["event_id", "reward"]].to_numpy()) == {"e": 1.0, "f": 1.0}
