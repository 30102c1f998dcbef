"""How much each stretch of the log may say about the lift.

The logging changes within a champion's tenure: a challenger on trial gets a share of the decisions, and from then on
each row tells many times more about it than one of before. In the plain mean the first few hundred rows would drown
all others for thousands of rows. So the gate weighs stretches of `STRETCH` consecutive rows by what they can tell,
(Σ ½Σ|c − b|) / (Σ Σ_k (c_k − b_k)²/μ_k): how often the policies differ over the variance that the logged distribution
implies, best where every changed choice is worth as much as any other (inverse-variance weighting; adaptive weights
for adaptive logs: Hadad et al. 2021, arXiv 1911.02768; Zhan et al. 2021, arXiv 2106.02029). Actions drawn and rewards
do not enter but by what a learner that is scored row by row has learnt of the earlier rows of the same stretch; for a
version that stands still, the weighted sum of lifts is a martingale where the lift is 0, as the plain one is.

What is weighed so is the worth of a changed choice. A stretch in which the policies hardly differ tells as much of it
as any other, and next to nothing of the lift: so the sum is divided by what makes it a lift per decision of the log
(see `per_decision`), for people to read and for forecasts. It is the plain lift's size only where a changed choice is
worth the same throughout: whether there is a lift is asked of it, not whether it exceeds a margin.
"""

from __future__ import annotations

import numpy as np

from evaluation.caution import logged_distribution
from evaluation.lift import ALIKE, telling
from evaluation.scored import Floats, ScoredRows

STRETCH = 250
"""Rows of a stretch; at the end of the log less than half as many take the weight of the stretch before."""


def stretch_weights(rows: ScoredRows) -> Floats:
    """A weight for each row, shape (n,), the same within a stretch; 1 where nothing could be told anyhow.

    >>> even = np.full((4, 2), 0.5)
    >>> rows = ScoredRows.from_matrices(candidate=np.eye(2)[[0, 1, 0, 1]], champion=even, q=even, pmf=even,
    ...     action=np.array([0, 1, 0, 1]), reward=np.ones(4), propensity=np.full(4, 0.5))
    >>> stretch_weights(rows).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    n = len(rows)
    differing, variance = np.zeros(n), np.zeros(n)
    start = 0
    for chunk in rows.chunks():
        change = chunk.candidate - chunk.champion
        change[abs(change) <= ALIKE] = 0.0
        mu = logged_distribution(chunk)
        stop = start + len(chunk)
        differing[start:stop] = chunk.per_row(abs(change)) / 2
        variance[start:stop] = chunk.per_row(np.divide(change**2, mu, out=np.zeros_like(change), where=mu > 0))
        start = stop
    of_row = np.arange(n) // STRETCH
    told, spread = np.bincount(of_row, differing), np.bincount(of_row, variance)
    weights = np.divide(told, spread, out=np.ones_like(told), where=spread > 0)
    if n > STRETCH and 0 < n % STRETCH < STRETCH / 2:
        weights[-1] = weights[-2]
    return np.asarray(weights[of_row], np.float64)


def per_decision(rows: ScoredRows, weights: Floats) -> float:
    """What to divide `weights`, shape (n,), by for the weighted mean of lifts to be one per decision of the log.

    Σ w d / Σ d, with d = ½Σ|c − b| of each row: the weighted mean is then the worth of a changed choice, Σ w D / Σ w d,
    times how often choices change. Equal weights give the plain lift; rows in which nothing changes do not matter.
    """
    told = telling(rows)
    changed = float(told.sum())
    return float(weights @ told) / changed if changed > 0 else 1.0
