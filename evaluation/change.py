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


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many values with their mean and their spread, the sum of squared deviations."""

    rows: int
    mean: float
    spread: float

    @classmethod
    def last(cls, values: Floats) -> Stretch:
        """That of `values`, shape (n,), since their own fall if there was one."""
        fall = find_fall(values)
        stretch = values if fall is None else values[fall.at :]
        return cls(len(stretch), float(stretch.mean()), float(np.sum((stretch - stretch.mean()) ** 2)))


def champion_values(rows: ScoredRows) -> Floats:
    """What each row says of the champion's value, shape (n,): its doubly-robust terms, whoever made the decision."""
    events = rows.reduce()
    return events.dm_champion + events.w_champion * events.residual


def find_fall_since(before: Stretch, values: Floats, *, alpha: float = 0.001) -> Fall | None:
    """Whether all of `values`, shape (n,), are convincingly lower than those `before`; None where they are not.

    `before` may be what another policy earned, if the one that earned `values` is proven to earn no less in the same
    world: an alarm then comes with a chance of less than `alpha` (a z-test, with the SE of `find_fall`).
    """
    n, m = len(values), before.rows
    if min(n, m) < ROWS_MIN:
        return None
    after = float(values.mean())
    spread = float(np.sum((values - after) ** 2))
    se = max((before.spread + spread) / (m + n) * (1 / m + 1 / n), before.spread / m**2 + spread / n**2) ** 0.5
    fallen = before.mean - after
    return Fall(0, before.mean, after) if fallen > NormalDist().inv_cdf(1 - alpha) * se + 1e-12 else None


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
