"""The live lift over the control slice, on worlds whose lift is known."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from bandit.errors import InvalidScores
from evaluation import control_slice
from evaluation.control_slice import control_lift


def simulate(rng: np.random.Generator, n: int, *, fraction: float, baseline: bool) -> tuple[np.ndarray, ...]:
    """One log of a policy over five actions with a control slice, and the true lift of that policy."""
    k = 5
    policy = rng.dirichlet(np.full(k, 0.4), size=n)
    worth = np.clip(0.2 + 0.5 * policy + rng.normal(0, 0.1, (n, k)), 0, 1)
    control = np.eye(k)[np.zeros(n, dtype=int)] if baseline else np.full((n, k), 1 / k)
    logged = (1 - fraction) * policy + fraction * control
    action = (logged.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, k - 1)
    row = np.arange(n)
    reward = (rng.random(n) < worth[row, action]).astype(float)
    truth = ((policy - control) * worth).sum(axis=1).mean()
    return reward, logged[row, action], control[row, action], np.full(n, fraction), np.array(truth)


@pytest.mark.parametrize("baseline", [True, False])
def test_the_interval_holds_the_true_lift_as_often_as_it_says(baseline: bool) -> None:
    rng = np.random.default_rng(5)
    runs, covered, errors = 1000, 0, []
    for _ in range(runs):
        *log, truth = simulate(rng, 2000, fraction=0.1, baseline=baseline)
        lift = control_lift(*log)
        covered += lift.lower <= truth <= lift.upper
        errors.append((lift.lift - float(truth)) / lift.se)
    assert 0.93 <= covered / runs <= 0.97
    assert abs(np.mean(errors)) < 4 / np.sqrt(runs)


def test_a_policy_that_is_the_control_has_no_lift_but_for_noise() -> None:
    rng = np.random.default_rng(1)
    n = 5000
    reward = rng.random(n)
    same = np.full(n, 0.2)
    lift = control_lift(reward, same, same, np.full(n, 0.3))
    assert lift.lift == pytest.approx(0.0, abs=1e-12) and lift.se == pytest.approx(0.0, abs=1e-12)


def test_using_all_rows_narrows_the_interval_against_comparing_the_two_groups() -> None:
    rng = np.random.default_rng(2)
    reward, logged, control, fraction, _ = simulate(rng, 20_000, fraction=0.05, baseline=False)
    lift = control_lift(reward, logged, control, fraction)
    in_control = rng.random(len(reward)) < fraction * control / logged
    groups = np.sqrt(reward[in_control].var() / in_control.sum() + reward[~in_control].var() / (~in_control).sum())
    assert lift.se < groups


def test_rewards_of_one_person_count_as_one_piece_of_evidence() -> None:
    rng = np.random.default_rng(3)
    reward, logged, control, fraction, _ = simulate(rng, 1000, fraction=0.2, baseline=True)
    four = [np.repeat(column, 4) for column in (reward, logged, control, fraction)]
    alone = control_lift(reward, logged, control, fraction)
    grouped = control_lift(*four, cluster=[str(i // 4) for i in range(4000)])
    assert grouped.lift == pytest.approx(alone.lift) and grouped.se == pytest.approx(alone.se, rel=0.01)
    assert control_lift(*four).se < 0.6 * alone.se


def test_too_few_control_decisions_are_said_to_be_too_few() -> None:
    rng = np.random.default_rng(4)
    few = control_lift(*simulate(rng, 40, fraction=0.02, baseline=True)[:4])
    assert not few.trusted and "too few control decisions" in few.sentence()
    many = control_lift(*simulate(rng, 5000, fraction=0.2, baseline=True)[:4])
    assert many.trusted and "per 1,000 decisions over control" in many.sentence()


def test_subjects_of_control_decisions_are_counted_where_there_are_any() -> None:
    """Five thousand rows are enough for the interval, but not where they are those of twenty subjects."""
    log = simulate(np.random.default_rng(6), 5000, fraction=0.2, baseline=True)[:4]
    alone, own = control_lift(*log), control_lift(*log, cluster=range(5000))
    assert alone.trusted and own.trusted
    assert alone.subjects_control is None and own.subjects_control == pytest.approx(own.ess_control)
    of_twenty = control_lift(*log, cluster=[i % 20 for i in range(5000)])
    assert of_twenty.ess_control == alone.ess_control
    assert of_twenty.subjects_control is not None and of_twenty.subjects_control <= 20
    assert not of_twenty.trusted and "too few subjects with control decisions" in of_twenty.sentence()
    of_hundred = control_lift(*log, cluster=[i % 100 for i in range(5000)])
    assert of_hundred.trusted and "too few" not in of_hundred.sentence()


def test_one_subject_tells_no_interval() -> None:
    log = simulate(np.random.default_rng(7), 200, fraction=0.2, baseline=True)[:4]
    lift = control_lift(*log, cluster=["ann"] * 200)
    assert not lift.trusted and "inf" not in lift.sentence()
    assert lift.sentence().endswith(
        "per 1,000 decisions over control; decisions of one visitor, or of one answer, tell no interval"
    )


@pytest.mark.parametrize(
    ("reward", "logged", "control", "fraction"),
    [
        ([1.0], [0.5], [0.5], [0.5]),
        ([1.0, np.nan], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]),
        ([1.0, 0.0], [0.0, 0.5], [0.5, 0.5], [0.5, 0.5]),
        ([1.0, 0.0], [0.1, 0.5], [1.0, 0.5], [0.5, 0.5]),
        ([1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.0, 0.5]),
    ],
)
def test_rows_that_cannot_be_are_refused(
    reward: list[float], logged: list[float], control: list[float], fraction: list[float]
) -> None:
    with pytest.raises(InvalidScores):
        control_lift(*[np.array(column) for column in (reward, logged, control, fraction)])


def test_the_example_in_the_docstring_holds() -> None:
    assert doctest.testmod(control_slice).failed == 0
