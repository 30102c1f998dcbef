"""Replaying a log: what it says about a policy is what the world that wrote the log would have said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bandit.settings import ExperimentSettings
from bandit.types import Action, Features
from joiner.warehouse import Warehouse
from serving.in_process import in_process
from serving.simulation import simulated_settings
from simulator.channel import Lost
from simulator.environment import true_value
from simulator.replay import (
    NO_ACTIONS,
    NO_PROBABILITY,
    NO_REWARD,
    PROPENSITY_MIN,
    TOO_RARE,
    UnusableLog,
    logged_world,
    read_logged_world,
)
from simulator.runner import Script, play, uniform_history
from simulator.synthetic import LinearWorld


def logged_by(world: LinearWorld, rows: int, skew: float, seed: int = 0) -> list[dict]:
    """Rows logged by a policy that gives its first action the share `skew` and the others the rest."""
    rng = np.random.default_rng(seed)
    history = []
    for _ in range(rows):
        one = world.draw(rng, 0)
        k = len(one.actions)
        pmf = np.full(k, (1 - skew) / (k - 1))
        pmf[0] = skew
        index = int(rng.choice(k, p=pmf))
        history.append(
            {
                "context": dict(one.context),
                "actions": [{"id": action.id, "features": dict(action.features)} for action in one.actions],
                "action": one.actions[index].id,
                "probability": float(pmf[index]),
                "reward": float(one.outcomes[index]),
            }
        )
    return history


def by_context(context: Features, actions: Sequence[Action]) -> list[float]:
    favourite = 1 if context["u0"] > 0 else 2
    return [0.8 * (position == favourite) + 0.2 / len(actions) for position in range(len(actions))]


@pytest.mark.parametrize("skew", [0.25, 0.6])
def test_replay_values_a_policy_as_the_world_that_wrote_the_log(skew: float) -> None:
    world = LinearWorld(4)
    log = logged_world(logged_by(world, 6000, skew))
    truth = true_value(world, by_context, rng=np.random.default_rng(1), draws=20_000)
    estimate = log.value(by_context)
    assert abs(estimate.mean - truth.mean) < 3 * np.hypot(estimate.se, truth.se)


def test_accepted_events_average_to_that_value_though_the_log_was_skewed() -> None:
    log, rng = logged_world(logged_by(LinearWorld(4), 3000, 0.6)), np.random.default_rng(2)
    earned = []
    for step in range(20_000):
        one = log.draw(rng, step)
        reward = one.outcomes[rng.choice(4, p=by_context(one.context, one.actions))]
        if not np.isnan(reward):
            earned.append(reward)
    error = np.std(earned) / np.sqrt(len(earned))
    assert abs(np.mean(earned) - log.value(by_context).mean) < 3 * error


def test_what_the_log_hardly_ever_chose_is_left_out_and_the_value_is_that_of_the_rest() -> None:
    shares, rewards = (PROPENSITY_MIN / 2, 0.4, 0.6 - PROPENSITY_MIN / 2), (1.0, 0.2, 0.6)
    rng = np.random.default_rng(3)
    rows = [
        {"context": {}, "actions": ["a", "b", "c"], "action": "abc"[index], "probability": shares[index],
         "reward": rewards[index]}
        for index in rng.choice(3, size=4000, p=shares)
    ]  # fmt: skip
    log = logged_world(rows)
    rare = sum(row["action"] == "a" for row in rows)
    assert rare > 0 and log.source.left_out == {TOO_RARE: rare} and len(log) == 4000 - rare
    value = log.value(lambda _context, actions: [1 / len(actions)] * len(actions))
    assert abs(value.mean - (0.2 + 0.6) / 2) < 3 * value.se
    with pytest.raises(UnusableLog, match="too rare to replay by"):
        logged_world([row for row in rows if row["action"] == "a"])


def test_the_loop_learns_from_accepted_events_alone(tmp_path: Path) -> None:
    world = logged_world(uniform_history(LinearWorld(3, fresh=True), 2000, seed=0))
    settings = simulated_settings(world, ExperimentSettings(), {"rewards": {"window_s": 1.0}})
    with in_process(tmp_path, "replay", settings, 0) as loop:
        run = play(world, loop, Script(900, 300, 0, seed=0))
        experiment = loop.experiment
    assert run.asked == 900 and 250 < run.played < 350
    assert len(run.rewards) == run.played and not np.isnan(run.rewards).any()
    with Warehouse(experiment, read_only=True) as warehouse:
        counts = warehouse.counts()
    assert counts["decisions"] == 900
    assert counts["interactions"] == run.played
    assert counts["not_activated"] == 900 - run.played


def test_a_file_is_read_and_rows_without_support_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"context": {}, "action": "a", "probability": 0.5, "reward": 1},
        {"context": {}, "action": "b", "probability": 0.5},
        {"context": {}, "action": "b", "reward": 1},
        {"context": {}, "action": "b", "probability": 0, "reward": 1},
        {"context": {}, "actions": [{"name": "b"}], "action": "b", "probability": 0.5, "reward": 1},
        {"context": {}, "action": "b", "probability": 0.5, "reward": float("nan")},
    ]
    path = tmp_path / "log.ndjson"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    world = read_logged_world(path)
    assert len(world) == 2
    assert world.source.rows == 2
    assert world.source.left_out == {NO_PROBABILITY: 2, NO_ACTIONS: 1, NO_REWARD: 1}
    assert world.catalogue == (Action("a"), Action("b"))
    path.write_text("not json")
    with pytest.raises(UnusableLog):
        read_logged_world(path)
    with pytest.raises(UnusableLog):
        logged_world([rows[2]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"reward": 10**400},
        {"reward": float("inf")},
        {"reward": "1"},
        {"reward": ""},
        {"reward": []},
        {"reward": False},
        {"reward": True},
        {"probability": True},
        {"probability": 10**400},
        {"probability": None},
        {"actions": [{"id": "a", "features": "red"}, {"id": "b"}]},
        {"actions": ["a", "b", "a"]},
        {"actions": ["b", "c"]},
        {"actions": "ab"},
        {"actions": []},
        {"actions": [True, "a"]},
        {"action": True},
    ],
)
def test_a_row_that_cannot_be_used_is_left_out_and_the_others_stay(wrong: dict) -> None:
    right = {"context": {}, "actions": ["a", "b"], "action": "a", "probability": 0.5, "reward": 1.0}
    log = logged_world([right, right | wrong, right])
    assert [row.reward for row in log.logged()] == [1.0, 1.0]


def test_ids_may_be_whole_numbers_as_in_an_import_and_a_row_without_reward_earned_nothing() -> None:
    row = {"context": {}, "actions": [10, {"id": 2}], "action": 2, "probability": 0.5, "reward": None}
    log = logged_world([row, row | {"actions": ["10", "2"], "action": "2", "reward": 1}])
    assert [(row.index, row.reward) for row in log.logged()] == [(1, 0.0), (1, 1.0)]
    assert log.catalogue == (Action("10"), Action("2"))
    assert logged_world([row | {"actions": None}, row | {"actions": None, "action": "a"}]).catalogue == (
        Action("2"),
        Action("a"),
    )


def test_a_file_nested_beyond_reading_is_refused_as_one_that_is_no_ndjson(tmp_path: Path) -> None:
    (tmp_path / "log.ndjson").write_text('{"context":' + '{"a":' * 5000 + "1" + "}" * 5000 + "}")
    with pytest.raises(UnusableLog, match="cannot be read as NDJSON"):
        read_logged_world(tmp_path / "log.ndjson")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"context": {}}\n\n{"context": {\n', r"log\.ndjson, line 3, cannot be read as NDJSON \(Expecting property"),
        (b'{"context": {}}\n\xff\xfe\n', r"log\.ndjson, line 2, cannot be read as NDJSON \(not UTF-8 text\)"),
        (None, r"log\.ndjson cannot be read \(No such file"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "log.ndjson").write_bytes(content)
    with pytest.raises(UnusableLog, match=words):
        read_logged_world(tmp_path / "log.ndjson")


def test_a_log_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    row = {"context": {}, "actions": ["a", "b"], "action": "a", "probability": 0.5, "reward": 1}
    (tmp_path / "log.ndjson").write_bytes(b"\xef\xbb\xbf" + json.dumps(row).encode())
    assert len(read_logged_world(tmp_path / "log.ndjson")) == 1


def test_lost_rewards_leave_a_replayed_decision_one_that_counts(tmp_path: Path) -> None:
    world = logged_world(uniform_history(LinearWorld(3, fresh=True), 500, seed=0))
    settings = simulated_settings(world, ExperimentSettings(), {"rewards": {"window_s": 1.0}})
    with in_process(tmp_path, "replay", settings, 0) as loop:
        run = play(world, loop, Script(300, 150, 0, seed=0), channel=Lost(0.5))
        experiment = loop.experiment
    with Warehouse(experiment, read_only=True) as warehouse:
        counts = warehouse.counts()
    assert counts["interactions"] == run.played and counts["not_activated"] == 300 - run.played
    assert 0 < counts["defaulted"] < run.played


def test_the_share_of_draws_that_count_is_what_uniform_choice_meets() -> None:
    log, rng = logged_world(logged_by(LinearWorld(4), 2000, 0.6)), np.random.default_rng(4)
    drawn = [log.draw(rng, step).outcomes[rng.integers(4)] for step in range(20_000)]
    assert np.mean(~np.isnan(drawn)) == pytest.approx(log.acceptance(), rel=0.06)
