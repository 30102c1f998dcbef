"""Intervals for a mean beside that of normal theory, which every estimate has: bootstrap and empirical Bernstein.

The bootstrap makes no symmetry assumption; the empirical Bernstein bound holds at every n for values in a known range,
and is wide: the price of assuming nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Estimate

Floats = NDArray[np.float64]

BOOTSTRAP_RUNS = 1000
BOOTSTRAP_VALUES_MAX = 1 << 22
"""Resampling counts drawn at a time (runs × rows): bounds the memory whatever n is."""


class Bootstrap:
    """The resampled means of one or several numbers per row that come bit by bit; the same however they are cut.

    Each row enters a resample Poisson(1) times, so that it vectorises; means are taken over the rows that did. Assumes
    independent rows.
    """

    def __init__(self, rng: np.random.Generator, *, runs: int = BOOTSTRAP_RUNS, columns: int = 1) -> None:
        self._rng = rng
        self._sums, self._counts = np.zeros((runs, columns)), np.zeros(runs)
        self._step = max(1, BOOTSTRAP_VALUES_MAX // runs)
        self._waiting = np.zeros((columns, 0))

    def add(self, values: Floats) -> None:
        """Take in more rows: shape (n,), or (columns, n)."""
        self._waiting = np.concatenate([self._waiting, np.atleast_2d(values)], axis=1)
        while self._waiting.shape[1] >= self._step:
            self._draw(self._waiting[:, : self._step])
            self._waiting = self._waiting[:, self._step :]

    def means(self) -> Floats:
        """The means of all rows so far in each run, shape (runs, columns), NaN without rows; nothing comes after it."""
        if self._waiting.shape[1]:
            self._draw(self._waiting)
            self._waiting = self._waiting[:, :0]
        if not self._counts.any():
            return np.full_like(self._sums, np.nan)
        return np.asarray(self._sums / np.maximum(self._counts, 1)[:, None], np.float64)

    def _draw(self, part: Floats) -> None:
        times = self._rng.poisson(1.0, (len(self._sums), part.shape[1])).astype(np.float64)
        self._sums += times @ part.T
        self._counts += times.sum(axis=1)


def percentile_interval(resampled: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """Where the middle `level` of resampled values lies (Efron 1979); those that are NaN do not count."""
    known = resampled[np.isfinite(resampled)]
    if len(known) == 0:
        return math.nan, math.nan
    low, high = np.quantile(known, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def bernstein_of(estimate: Estimate, *, low: float, high: float, level: float = 0.95) -> tuple[float, float]:
    """Mean ± √(2 s² ln(4/δ)/n) + 7(high − low) ln(4/δ)/(3(n − 1)), for n values known to lie in [low, high].

    `estimate` has their mean and its standard error s/√n (Maurer & Pontil 2009, arXiv 0907.3740, theorem 4, on both
    sides).
    """
    n = estimate.n
    if n < 2:
        return math.nan, math.nan
    log = math.log(4 / (1 - level))
    reach = math.sqrt(2 * log) * estimate.se + 7 * (high - low) * log / (3 * (n - 1))
    return estimate.value - reach, estimate.value + reach


def lift_range(max_weight: float, reward_low: float, reward_high: float) -> tuple[float, float]:
    """Range of a row's paired lift when q̂ and rewards lie in [low, high] and weights are at most `max_weight`."""
    span = reward_high - reward_low
    return -span * (1 + max_weight), span * (1 + max_weight)
