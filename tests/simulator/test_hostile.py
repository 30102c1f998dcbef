"""Rewards sent against the truth, but within the declared range, never make the loop worse than the baseline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bandit.settings import ExperimentSettings
from benchmarks.study_worlds import Arriving, Hostile
from serving.simulation import Job, run_job, simulated_settings
from simulator.runner import Run, Script
from simulator.tables import LabelledTable


def skewed_table() -> LabelledTable:
    """Three classes told by two numbers; the first is the commonest, so that always taking it earns most of all."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 400))
    label = np.where(x > 1.0, "b", np.where(y > 1.2, "c", "a"))
    return LabelledTable({"x": x.tolist(), "y": y.tolist()}, label.tolist(), name="skewed")


def played(world: LabelledTable, share: float, folder: Path) -> Run:
    hostile = Hostile(world, share)
    settings = simulated_settings(hostile, ExperimentSettings(), {"rewards": {"window_s": 2.0}})
    return run_job(hostile, Job("hostile", settings, Script(1200, 300, 100, 1)), folder, lambda _: None)


def test_what_is_promoted_under_hostile_rewards_is_worth_no_less_than_the_baseline(tmp_path: Path) -> None:
    world = skewed_table()
    run = played(world, 0.02, tmp_path)
    baseline = world.references().fixed
    assert world.references().fixed_action == world.catalogue[0].id
    last = run.expected[-300:]
    assert run.count("promote") >= 1
    assert last.mean() >= baseline - last.std(ddof=1) / np.sqrt(len(last))


def test_hostile_rewards_keep_the_range_and_the_truth() -> None:
    world = Hostile(skewed_table(), 1.0)
    one = world.draw(np.random.default_rng(0), 0)
    assert one.outcomes[one.means.argmax()] == world.reward_range[0]
    assert one.outcomes[one.means.argmin()] == pytest.approx(world.reward_range[1])
    assert ((one.outcomes >= 0) & (one.outcomes <= 1)).all() and one.means.max() == 1.0


def test_the_newcomer_is_better_in_every_group() -> None:
    world, rng = Arriving(at=10), np.random.default_rng(0)
    assert [action.id for action in world.draw(rng, 9).actions] == [f"a{number}" for number in range(5)]
    for _ in range(20):
        means = world.draw(rng, 10).means
        assert means[-1] == pytest.approx(1.2 * means[:-1].max())
