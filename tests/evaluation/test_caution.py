"""The caution of a bound: at strict levels it leaves room for what few draws could not show."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from evaluation.caution import Caution, caution
from evaluation.lift import paired_lift
from evaluation.scored import ScoredRows

LOGS, ROWS, RARE, MISS = 1500, 600, 0.02, 0.3


def log_of_a_flattering_model(rng: np.random.Generator) -> ScoredRows:
    """Two actions cost 1 in three of ten decisions; the model thinks that the one that is hardly ever drawn is free."""
    champion = np.column_stack([np.full(ROWS, 1 - RARE), np.full(ROWS, RARE)])
    action = (rng.random(ROWS) < RARE).astype(int)
    return ScoredRows.from_matrices(
        candidate=champion[:, ::-1],
        champion=champion,
        q=np.column_stack([np.full(ROWS, -MISS), np.zeros(ROWS)]),
        pmf=champion,
        action=action,
        reward=-(rng.random(ROWS) < MISS).astype(float),
        propensity=champion[np.arange(ROWS), action],
    )


def test_a_strict_bound_is_hardly_ever_above_the_truth_where_a_dozen_draws_tell() -> None:
    rng, level = np.random.default_rng(0), 0.002
    z = NormalDist().inv_cdf(1 - level)
    above, draws = 0, []
    for _ in range(LOGS):
        rows = log_of_a_flattering_model(rng)
        lift = paired_lift(rows)
        care = caution(rows, lift)
        above += lift.value - care.reach(z) > 0  # both actions are worth the same
        draws.append(care.draws)
    assert 10 < np.mean(draws) < 15
    assert above / LOGS <= level + 3 * math.sqrt(level / LOGS)


@pytest.mark.parametrize(("z", "degrees", "quantile"), [(2.3263, 20, 2.528), (3.0902, 30, 3.385), (3.7190, 60, 3.962)])
def test_the_critical_value_rises_with_few_draws_as_students_t_does(z: float, degrees: int, quantile: float) -> None:
    care = Caution(1.0, 0.0, float(degrees), 1.0)
    assert z + care.doubt(z) == pytest.approx(quantile, rel=0.01)
