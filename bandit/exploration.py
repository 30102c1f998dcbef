"""From predicted costs to a pmf: SquareCB that knows how much there is left to win, and the probability floor.

SquareCB (Foster and Rakhlin 2020) gives each action but the best one 1/(k + γ·gap). The gap alone does not say
where asking pays: an action 0.3 worse than a best one of 0.95 cannot be 0.1 better, the same action beside a
best one of 0.4 can. So γ is divided by the headroom, the distance between the best prediction and the best
reward that is possible, as far as so many rows can tell it from 0. Exploration then gathers where the model
earns little, which is also where a later challenger will differ and the log has to support it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HEADROOM_ROWS = 2.0
"""The headroom is never taken for less than this divided by √rows (nor ever for more than 1)."""


def squarecb(costs: Sequence[float], gamma: float, best: float | None = None) -> list[float]:
    """The pmf of SquareCB over k predicted costs; the first of the cheapest actions gets what is left.

    `best` is the smallest cost, where the caller has it at hand. Raises ValueError when a cost is no number.

    >>> squarecb([0.0, 1.0], 2.0)
    [0.75, 0.25]
    """
    if best is None:
        best = min(costs)
    position = costs.index(best)
    base = len(costs) - gamma * best
    pmf = [1.0 / (base + gamma * cost) for cost in costs]
    pmf[position] = 0.0
    left = pmf[position] = 1.0 - sum(pmf)
    if not 0.0 < left <= 1.0:
        raise ValueError("costs must be finite")
    return pmf


def squarecb_rows(
    costs: NDArray[np.float64], sizes: NDArray[np.int64], gammas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`squarecb` of several rows at once, to the bit: row i has the next `sizes[i]` of `costs`, and `gammas[i]`.

    >>> squarecb_rows(np.array([0.0, 1.0, 0.5]), np.array([2, 1]), np.array([2.0, 2.0])).tolist()
    [0.75, 0.25, 1.0]
    """
    ends = np.cumsum(sizes)
    best = np.minimum.reduceat(costs, ends - sizes)
    with np.errstate(invalid="ignore"):  # what is no number is refused below
        pmf = 1.0 / (np.repeat(sizes - gammas * best, sizes) + np.repeat(gammas, sizes) * costs)
    (cheapest,) = np.nonzero(costs == np.repeat(best, sizes))
    _, firsts = np.unique(np.searchsorted(ends, cheapest, side="right"), return_index=True)
    positions = cheapest[firsts]
    if len(positions) < len(sizes):
        raise ValueError("costs must be finite")
    pmf[positions] = 0.0
    numbers, stops = pmf.tolist(), ends.tolist()
    # `squarecb` adds by `sum`; numpy would add in another order, and round to other sums
    left = [1.0 - sum(numbers[start:stop]) for start, stop in zip([0, *stops], stops, strict=False)]
    if not all(0.0 < rest <= 1.0 for rest in left):
        raise ValueError("costs must be finite")
    pmf[positions] = left
    return pmf


def headroom(best_prediction: float, best_cost: float, rows: int) -> float:
    """How much better than the best prediction an action may be, in units of the reward range, in (0, 1]."""
    left = max(best_prediction - best_cost, 0.0) + HEADROOM_ROWS / math.sqrt(max(rows, 1))
    return min(left, 1.0)


def headroom_rows(
    best_predictions: NDArray[np.float64], best_cost: float, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`headroom` for several rows at once, to the bit; `rows` are positive."""
    return np.minimum(np.maximum(best_predictions - best_cost, 0.0) + HEADROOM_ROWS / np.sqrt(rows), 1.0)


def with_floor(pmf: list[float], floor: float) -> list[float]:
    """Mix with uniform so that no probability is below `floor` (below 1/k, where k actions leave less room).

    >>> with_floor([1.0, 0.0], 0.1)
    [0.9, 0.1]
    """
    if floor <= 0.0:
        return pmf
    k = len(pmf)
    if floor * k >= 1.0:
        return [1.0 / k] * k
    keep = 1.0 - floor * k
    mixed = [floor + keep * probability for probability in pmf]
    total = sum(mixed)  # positive and finite, as the pmf is
    return mixed if total == 1.0 else [probability / total for probability in mixed]


def scaled(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum; raises ValueError unless they are finite, not negative and not all 0."""
    total = sum(weights)
    if not (0.0 < total < math.inf and min(weights) >= 0.0):
        raise ValueError("weights must be finite, not negative, and not all zero")
    return list(weights) if total == 1.0 else [weight / total for weight in weights]
