"""What-if intervals hold where a policy's own draws hardly ever went otherwise than the reward model said."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from evaluation.caution import caution
from evaluation.estimators import Estimate
from evaluation.ranking import rank
from evaluation.rare import reach_of_few
from evaluation.scored import ScoredRows
from tests.evaluation.worlds import World

K, LOGS = 5, 60
AT_MOST = 0.05 + 2 * math.sqrt(0.05 * 0.95 / LOGS)
"""A joint level of 5%, and two standard errors of such a share among so many logs."""

RARE = np.array([[0.05, 0.075, 0.025, 0.05, 0.05]])
SURE = np.where(np.arange(10)[:, None] % K == np.arange(K), 0.98, 0.02)
ALWAYS = {f"always {action}": np.eye(K)[action] for action in range(K)}


def world(truth: np.ndarray, q: np.ndarray, explored: float, favourites: np.ndarray) -> World:
    """The log has each context's favourite, but in an explored share of its rows any action."""
    mu = explored / K + (1 - explored) * np.eye(K)[favourites]
    return World(truth, mu, mu, mu, np.broadcast_to(q, truth.shape))


RARE_WORLD = world(RARE, np.array(0.05), 0.3, np.array([0]))
SURE_WORLD = world(SURE, SURE, 0.1, SURE.argmax(axis=1))


def logs(place: World, n: int, seed: int) -> dict[str, ScoredRows]:
    """One and the same log, with each constant policy as the candidate."""
    wide = {name: np.broadcast_to(pi, place.q.shape) for name, pi in ALWAYS.items()}
    return {name: replace(place, candidate=pi).log(np.random.default_rng(seed), n) for name, pi in wide.items()}


def weights_and_residuals() -> tuple[np.ndarray, np.ndarray]:
    """Those of a policy with a few rewards among its draws."""
    events = logs(RARE_WORLD, 1000, 4)["always 2"].reduce()
    return events.w_candidate, events.residual


@pytest.mark.parametrize(
    ("place", "n"), [(RARE_WORLD, 1000), (SURE_WORLD, 2000)], ids=["rare rewards", "a model that is rarely wrong"]
)
def test_intervals_hold_for_all_at_once_where_few_of_the_draws_tell(place: World, n: int) -> None:
    worth = {name: float((place.truth @ pi).mean()) for name, pi in ALWAYS.items()}
    found = [[entry for entry in rank(logs(place, n, seed)) if entry.answered] for seed in range(LOGS)]
    missed = [any(not entry.lower <= worth[entry.policy] <= entry.upper for entry in log) for log in found]
    assert np.mean(missed) <= AT_MOST
    assert sum(map(len, found)) == LOGS * K


def test_where_no_draw_brought_a_reward_the_upper_bound_is_not_below_the_exact_one() -> None:
    rows = logs(RARE_WORLD, 1000, 4)["always 2"]
    own = rows.action == 2
    (found,) = rank({"always 2": replace(rows, reward=np.where(own, 0.0, rows.reward))})
    assert found.answered
    # with any larger chance of a reward, so many draws without one come about in less than 2.5% of all logs
    assert found.upper > 1 - 0.025 ** (1 / own.sum())


def test_rare_failures_widen_an_interval_as_rare_successes_do() -> None:
    weights, residuals = weights_and_residuals()
    assert reach_of_few(0.0, 2.0, weights, -residuals) == reach_of_few(0.0, 2.0, weights, residuals) > 0


@pytest.mark.parametrize("base", [0.3, 0.5])
def test_intervals_are_as_they_were_where_rewards_are_not_rare(base: float) -> None:
    found = logs(world(np.full((1, K), base), np.array(base), 0.5, np.array([0])), 1000, 5)
    z = NormalDist().inv_cdf(1 - 0.025 / K)
    for entry in rank(found):
        estimate = Estimate(entry.value, entry.se, entry.n)
        reach = caution(found[entry.policy], estimate, paired=False).reach_beside_a_count(z)
        assert (entry.lower, entry.upper) == (entry.value - reach, entry.value + reach)


def test_as_many_draws_of_fewer_subjects_tell_less() -> None:
    weights, residuals = weights_and_residuals()
    alone, few = [str(i) for i in range(1000)], [str(i // 25) for i in range(1000)]
    by_row, by_one, by_few = (reach_of_few(0.0, 2.0, weights, residuals, subjects) for subjects in (None, alone, few))
    assert by_row == pytest.approx(by_one)
    assert by_few > 1.1 * by_row


def test_weights_count_by_their_shares_alone_however_small_they_are() -> None:
    weights, residuals = weights_and_residuals()
    assert reach_of_few(0.0, 2.0, weights * 1e-170, residuals) == pytest.approx(
        reach_of_few(0.0, 2.0, weights, residuals)
    )
