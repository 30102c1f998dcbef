"""One pass for the numbers that decide: paired lift with its variance, ESS and weights of both policies.

Where every row offers as many actions, chunks of a few thousand rows are worked on in buffers that stay in the cache;
memory does not grow with n. Everything is mergeable, as in `evaluation.moments`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evaluation.estimators import Estimate
from evaluation.scored import Floats, ScoredRows

CHUNK_ROWS = 1 << 15
"""Rows at a time for what there is one number of per row: long enough that calling numpy costs next to nothing."""

RAGGED_VALUES = 1 << 19
"""Values (rows × actions) at a time where rows offer different numbers of actions."""

BLOCK_VALUES = 1 << 17
"""Values at a time within a chunk: a block is still in the cache when its logged actions are looked up."""

WIDE = 32
"""From so many actions on each row is two products of its own; narrower ones are quicker as one product with ones."""

WIDE_BLOCK_VALUES = 1 << 18
"""The same for wide rows, which need no scratch beside them."""


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
    n, width = len(rows), rows.width
    if n == 0:
        return PairedSummary(Estimate(math.nan, math.nan, 0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    terms = (_reduced(chunk) for chunk in rows.chunks(RAGGED_VALUES)) if width is None else _terms(rows, width)
    mean = squares = 0.0
    seen = 0
    totals, of_squares, biggest = np.zeros(2), np.zeros(2), np.zeros(2)
    for lifts, weights in terms:
        m = len(lifts)
        totals += weights.sum(axis=1)
        of_squares += np.einsum("ij,ij->i", weights, weights)
        np.maximum(biggest, weights.max(axis=1), out=biggest)
        here = float(lifts.mean())
        lifts -= here
        gap = here - mean
        squares += float(np.einsum("i,i->", lifts, lifts)) + gap * gap * seen * m / (seen + m)
        mean += gap * m / (seen + m)
        seen += m
    se = math.sqrt(squares / (n - 1) / n) if n > 1 else 0.0
    ess = np.divide(totals**2, of_squares, out=np.zeros(2), where=of_squares > 0).tolist()
    return PairedSummary(
        Estimate(mean, se, n),
        (ess[0], ess[1]),
        (float(totals[0]) / n, float(totals[1]) / n),
        (float(biggest[0]), float(biggest[1])),
    )


def _reduced(chunk: ScoredRows) -> tuple[Floats, Floats]:
    events = chunk.reduce()
    return events.lift, np.array([events.w_candidate, events.w_champion])


def _terms(rows: ScoredRows, width: int) -> Iterator[tuple[Floats, Floats]]:
    """Paired lift of each row of a chunk, (m,), and both policies' weights, (2, m); the buffers are used again."""
    n = len(rows)
    step = min(n, CHUNK_ROWS)
    wide = width >= WIDE
    block = max(1, min(step, (WIDE_BLOCK_VALUES if wide else BLOCK_VALUES) // width))
    scratch, ones = np.empty((0 if wide else block, width)), np.ones(width)
    first = np.arange(block) * width
    at, weights, lifts, missed, change = np.empty_like(first), np.empty((2, step)), *np.empty((3, step))
    for start in range(0, n, step):
        m = min(step, n - start)
        for low in range(0, m, block):
            high = min(low + block, m)
            these = slice((start + low) * width, (start + high) * width)
            candidate, champion, q = rows.candidate[these], rows.champion[these], rows.q[these]
            shape = (high - low, width)
            if not wide:
                between = np.subtract(candidate.reshape(shape), champion.reshape(shape), out=scratch[: high - low])
                between *= q.reshape(shape)
                np.matmul(between, ones, out=lifts[low:high])
            else:
                # the same sums in the same order for both policies: equal ones differ by exactly 0
                np.einsum("ij,ij->i", candidate.reshape(shape), q.reshape(shape), out=lifts[low:high])
                np.einsum("ij,ij->i", champion.reshape(shape), q.reshape(shape), out=change[low:high])
                lifts[low:high] -= change[low:high]
            where = np.add(first[: high - low], rows.action[start + low : start + high], out=at[: high - low])
            # positions were checked when the rows were made; "clip" only spares the copy that checking would need
            candidate.take(where, out=weights[0, low:high], mode="clip")
            champion.take(where, out=weights[1, low:high], mode="clip")
            q.take(where, out=missed[low:high], mode="clip")
        of_rows = slice(start, start + m)
        lift, miss, w = lifts[:m], missed[:m], weights[:, :m]
        w /= rows.propensity[of_rows]
        np.subtract(rows.reward[of_rows], miss, out=miss)
        miss *= np.subtract(w[0], w[1], out=change[:m])
        lift += miss
        yield lift, w
