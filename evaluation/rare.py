"""How far an interval must reach when hardly any of a policy's own draws went otherwise than usual.

A log with many rewards may hold none among the few draws that one policy would have made. Then all its residuals are
alike, their spread is next to nothing, and an interval made of it says that a reward is next to impossible. The same
happens where a reward model is rarely wrong. What a spread cannot tell, a count can. So the residuals are taken as
jumps of one size s away from the usual one, which is the median by the policy's weights w. With m the distance from it:

    s = Σ m³ / Σ m² over the whole log;  h = (Σ w)²/Σ w² effective draws;  p = Σ w m² / (s² Σ w), the share of jumps;
    reach = s · (upper end of Wilson's interval for a share of p in h draws − p)

So a draw counts by the square of its distance: beside a few very large rewards small ones hardly count, and who drew
none of the large ones gets a wide interval. Where rewards are 0 or 1 and rare, and the model says the same of all, s is
1 and p the share of successes (Wilson 1927, "Probable inference, the law of succession, and statistical
inference"). With subjects, h counts them: their weights are added up first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluation.scored import Floats

FEW_JUMPS = 10.0
"""Effective jumps h·p from which on a spread is believed. Down to none the count gains its say in proportion, so that
one more reward in the log never makes an interval leap."""


def reach_of_few(
    reach: float, z: float, weights: Floats, residuals: Floats, cluster: Sequence[str] | None = None
) -> float:
    """`reach` at critical value `z`, or more where few jumps were seen; weights and residuals of the rows, shape (n,).

    >>> draws, wins = np.ones(60), np.zeros(60)
    >>> reach_of_few(0.01, 2.0, draws, wins), reach_of_few(0.01, 2.0, draws, np.resize([0.0, 1.0], 60))
    (0.01, 0.01)
    >>> log = np.append(wins, [1.0, 1.0])  # two rewards among the draws that the policy would not have made
    >>> reach_of_few(0.01, 2.0, np.append(draws, [0.0, 0.0]), log)
    0.0625
    """
    own = weights > 0
    if not own.any():
        return reach
    weights = weights / weights.max()  # they count by their shares alone, and squares of tiny ones would be 0
    miss = abs(residuals - _middle(residuals[own], weights[own]))
    largest = float(miss.max())
    if largest <= 0:
        return reach
    miss = miss / largest
    squared = miss * miss
    size = float((squared * miss).sum() / squared.sum())
    total = float(weights.sum())
    share = min(1.0, float(weights @ squared) / (size**2 * total))
    draws = _effective(weights, cluster)
    doubt = max(0.0, 1 - share * draws / FEW_JUMPS)
    return reach + doubt * max(0.0, largest * size * _wilson(share, draws, z) - reach)


def _middle(values: Floats, weights: Floats) -> float:
    """The weighted median."""
    order = np.argsort(values)
    below = weights[order].cumsum()
    return float(values[order[np.searchsorted(below, below[-1] / 2)]])


def _effective(weights: Floats, cluster: Sequence[str] | None) -> float:
    if cluster is not None:
        _, of_row = np.unique(np.asarray(cluster, dtype=object).astype(str), return_inverse=True)
        weights = np.bincount(of_row, weights).astype(np.float64)
    return float(weights.sum()) ** 2 / float(weights @ weights)


def _wilson(share: float, draws: float, z: float) -> float:
    """How far above `share` the upper end of its interval lies."""
    square = z * z / draws
    return (share + square / 2 + math.sqrt(square * (share * (1 - share) + square / 4))) / (1 + square) - share
