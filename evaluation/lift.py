"""The paired doubly-robust lift with its standard error, over rows or over subjects.

Per row D = Σ_k (c_k − b_k) q̂_k + (w_c − w_b)(r − q̂_a); the lift is its mean. Where both policies agree D is
exactly 0 and adds no noise (Dudík, Langford & Li 2011; Jeunen & Ustimenko 2024). With subjects the standard error
counts them, not their rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Estimate
from evaluation.scored import ScoredEvents, ScoredRows

ALIKE = 1e-12
"""Policies whose probabilities differ by no more chose alike: what is left between them is rounding."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def paired_lift(rows: ScoredRows, events: ScoredEvents | None = None) -> Estimate:
    """Mean paired DR lift with its standard error, clustered by subject where `rows.cluster` is given.

    >>> same = np.array([[0.5, 0.5], [0.9, 0.1]])
    >>> rows = ScoredRows.from_matrices(candidate=same, champion=same, q=np.ones((2, 2)),
    ...     action=np.array([0, 1]), reward=np.array([1.0, 0.0]), propensity=np.array([0.5, 0.1]))
    >>> paired_lift(rows).value, paired_lift(rows).se
    (0.0, 0.0)
    """
    return mean_lift((events or rows.reduce()).lift, rows.cluster)


def weighted_lift(rows: ScoredRows, events: ScoredEvents, weights: Floats) -> Estimate:
    """The mean of weight × paired DR lift, for `weights` of shape (n,); clustered as `paired_lift` is."""
    return mean_lift(events.lift * weights, rows.cluster)


def mean_lift(lifts: Floats, cluster: Sequence[str] | None) -> Estimate:
    """The mean of paired lifts, shape (n,), its SE over subjects where `cluster` names them."""
    return mean_with_se(lifts) if cluster is None else clustered_mean(lifts, cluster)


def mean_with_se(values: Floats) -> Estimate:
    """Mean and s/√n with ddof 1; NaN value without rows, SE 0 for a single one."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    spread = float(values.std(ddof=1)) if n > 1 else 0.0
    return Estimate(float(values.mean()), spread / math.sqrt(n), n)


def clustered_mean(values: Floats, cluster: Sequence[str]) -> Estimate:
    """Mean over rows with the cluster-robust SE: √(G/(G−1) Σ_g (S_g − n_g·mean)²)/n (Liang & Zeger 1986).

    One subject alone says nothing about how subjects differ: its SE is NaN.
    """
    _, of_row = np.unique(np.asarray(cluster, dtype=object).astype(str), return_inverse=True)
    return mean_over_subjects(values, of_row)


def mean_over_subjects(values: Floats, of_row: Ints) -> Estimate:
    """The same, where subjects are known by the number of each row's; not every number needs to occur."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    present, of_row = np.unique(of_row, return_inverse=True)
    groups = len(present)
    mean = float(values.mean())
    sums = np.bincount(of_row, values - mean, groups)
    if groups < 2:
        return Estimate(mean, math.nan, n)
    return Estimate(mean, math.sqrt(groups / (groups - 1) * float(sums @ sums)) / n, n)


def numbered(cluster: Sequence[str]) -> Ints:
    """The number of each row's subject, in the order in which they came."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in cluster], np.int64)


def effective_subjects(sizes: Floats) -> float:
    """(Σ s_g)²/Σ s_g² of the sizes of each subject: as many subjects of the same size each tell as much.

    >>> effective_subjects(np.array([10.0, 10.0])), effective_subjects(np.array([98.0, 1.0, 1.0])) < 1.05
    (2.0, True)
    """
    squares = float(sizes @ sizes)
    return float(sizes.sum()) ** 2 / squares if squares > 0 else 0.0


def telling(rows: ScoredRows, *, paired: bool = True, weights: Floats | None = None) -> Floats:
    """How much each row can tell of the lift, shape (n,): ½Σ|c − b|, how often the policies choose otherwise there.

    Of a single policy's value (not `paired`) each row can tell as much. With `weights`, shape (n,), times those.
    """
    told = np.ones(len(rows))
    if paired:
        told = rows.per_row(abs(rows.candidate - rows.champion)) / 2
    return told if weights is None else told * weights


def subjects_of(rows: ScoredRows, *, paired: bool = True, weights: Floats | None = None) -> float:
    """The effective number of subjects of `rows`, whose sizes are the sums of what their rows can tell (`telling`).

    A thousand subjects for whom both policies choose alike do not make three others more. Infinite where rows stand
    for themselves.
    """
    if rows.cluster is None:
        return math.inf
    _, of_row = np.unique(np.asarray(rows.cluster, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(of_row, telling(rows, paired=paired, weights=weights))
    return effective_subjects(np.asarray(sizes, np.float64))
