"""One pass for the numbers that decide: paired lift with its variance, ESS and weights of both policies.

Where every row offers as many actions, chunks of a few thousand rows are worked on in buffers that stay in the cache;
memory does not grow with n. Everything is mergeable, as in `evaluation.moments`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaluation.estimators import Estimate
from evaluation.scored import Floats, ScoredRows

CHUNK_VALUES = 1 << 17
"""Values (rows × actions) at a time: one megabyte of scratch, reused; smaller costs calls, larger leaves the cache."""


@dataclass(frozen=True, slots=True)
class PairedSummary:
    """Lift of candidate over champion; per policy (candidate, champion) ESS, mean and largest weight."""

    lift: Estimate
    ess: tuple[float, float]
    mean_weight: tuple[float, float]
    max_weight: tuple[float, float]


def paired_summary(rows: ScoredRows) -> PairedSummary:
    """The summary of `rows` (independent ones: subjects are not looked at).

    >>> half = np.full((4, 2), 0.5)
    >>> rows = ScoredRows.from_matrices(candidate=half, champion=half, q=half, action=np.array([0, 1, 0, 1]),
    ...     reward=np.ones(4), propensity=np.full(4, 0.5))
    >>> paired_summary(rows).lift.value, paired_summary(rows).ess
    (0.0, (4.0, 4.0))
    """
    width = rows.width
    n = len(rows)
    if n == 0:
        return PairedSummary(Estimate(math.nan, math.nan, 0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    step = max(1, CHUNK_VALUES // (width or 8))
    scratch = np.empty(step * (width or 0))
    mean = squares = 0.0
    seen = 0
    weights = np.zeros((2, 2))
    biggest = np.zeros(2)
    for start in range(0, n, step):
        part = rows.slice(start, min(start + step, n))
        lifts, w_candidate, w_champion = _terms(part, width, scratch)
        m = len(lifts)
        here = float(lifts.mean())
        lifts -= here
        gap = here - mean
        squares += _dot(lifts) + gap * gap * seen * m / (seen + m)
        mean += gap * m / (seen + m)
        seen += m
        for role, w in enumerate((w_candidate, w_champion)):
            weights[role] += (w.sum(), _dot(w))
            biggest[role] = max(biggest[role], w.max())
    se = math.sqrt(squares / (n - 1) / n) if n > 1 else 0.0
    ess = [float(total**2 / square) if square > 0 else 0.0 for total, square in weights]
    return PairedSummary(
        Estimate(mean, se, n),
        (ess[0], ess[1]),
        (float(weights[0, 0]) / n, float(weights[1, 0]) / n),
        (float(biggest[0]), float(biggest[1])),
    )


def _dot(values: Floats) -> float:
    """Sum of squares in one pass; BLAS would start threads for it."""
    return float(np.einsum("i,i->", values, values))


def _terms(part: ScoredRows, width: int | None, scratch: Floats) -> tuple[Floats, Floats, Floats]:
    """Paired lift of each row of a chunk and both policies' weights, each (n,)."""
    if width is None:
        events = part.reduce()
        return events.lift, events.w_candidate, events.w_champion
    at = np.arange(0, len(part) * width, width) + part.action
    over = 1.0 / part.propensity
    w_candidate, w_champion = part.candidate[at] * over, part.champion[at] * over
    change = np.subtract(part.candidate, part.champion, out=scratch[: part.values])
    shape = (len(part), width)
    lifts: Floats = np.einsum("ij,ij->i", change.reshape(shape), part.q.reshape(shape))
    lifts += (w_candidate - w_champion) * (part.reward - part.q[at])
    return lifts, w_candidate, w_champion
