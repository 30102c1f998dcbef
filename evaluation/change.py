"""Has what a policy earns fallen, and since when?

One cut through the rows of a tenure, the one that parts them most (binary segmentation; Page 1954, "Continuous
inspection schemes"; Bifet and Gavaldà 2007, "Learning from time-changing data with adaptive windowing"). Nothing is
promoted or undone on it: it only says from where on the log is worth learning from anew, so a false alarm costs little.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evaluation.scored import Floats, ScoredRows

ROWS_MIN = 50
"""Neither stretch may be shorter."""


@dataclass(frozen=True, slots=True)
class Fall:
    """From row `at` on the mean is `after`, where it was `before`."""

    at: int
    before: float
    after: float


def champion_values(rows: ScoredRows) -> Floats:
    """What each row says of the champion's value, shape (n,): its doubly-robust terms, whoever made the decision."""
    events = rows.reduce()
    return events.dm_champion + events.w_champion * events.residual


def find_fall(values: Floats, *, alpha: float = 0.001) -> Fall | None:
    """The most telling place from which the mean of `values`, shape (n,), is lower; None where none is convincing.

    With equal means an alarm comes with a chance of less than about `alpha`, whichever of the n places it is (a z-test
    at each, Bonferroni). The SE is the larger of the pooled one, which knows how little a short stretch of rare rewards
    says, and the two stretches' own, which a few huge rewards in one of them do not deceive.
    """
    n = len(values)
    if n < 2 * ROWS_MIN:
        return None
    first = np.arange(ROWS_MIN, n - ROWS_MIN + 1, dtype=np.float64)
    last = n - first
    centred = values - values.mean()
    sums, squares = np.cumsum(centred), np.cumsum(centred * centred)
    places = first.astype(np.int64) - 1
    before, after = sums[places] / first, (sums[-1] - sums[places]) / last
    spread_before = np.maximum(squares[places] - first * before**2, 0.0)
    spread_after = np.maximum(squares[-1] - squares[places] - last * after**2, 0.0)
    pooled = (spread_before + spread_after) / n * (1 / first + 1 / last)
    own = spread_before / first**2 + spread_after / last**2
    fallen = before - after
    best = int(np.argmax(fallen / np.sqrt(np.maximum(pooled, own) + 1e-300)))
    z = NormalDist().inv_cdf(1 - alpha / len(first))
    if not fallen[best] > z * np.sqrt(max(pooled[best], own[best])) + 1e-12:
        return None
    at = int(first[best])
    return Fall(at, float(values[:at].mean()), float(values[at:].mean()))
