"""Intervals for a mean: normal theory, bootstrap, and empirical Bernstein.

The normal interval is what the gate builds on. The bootstrap makes no symmetry assumption; the empirical Bernstein
bound holds at every n for values in a known range, and is wide: the price of assuming nothing.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evaluation.lift import mean_with_se

Floats = NDArray[np.float64]

BOOTSTRAP_RUNS = 1000
BOOTSTRAP_VALUES_MAX = 1 << 22
"""Resampling counts drawn at a time (runs × rows): bounds the memory whatever n is."""


def normal_interval(values: Floats, *, level: float = 0.95) -> tuple[float, float]:
    """Mean ± z·s/√n; fails for few or very skewed values.

    >>> [round(end, 3) for end in normal_interval(np.array([0.0, 1.0, 0.0, 1.0]))]
    [-0.066, 1.066]
    """
    estimate = mean_with_se(values)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return estimate.value - z * estimate.se, estimate.value + z * estimate.se


def bootstrap_interval(
    values: Floats, rng: np.random.Generator, *, level: float = 0.95, runs: int = BOOTSTRAP_RUNS
) -> tuple[float, float]:
    """Percentile interval of means over resampled rows (Efron 1979), by Poisson counts so that it vectorises.

    Each row enters a resample Poisson(1) times; means are taken over the rows that did. Assumes independent rows.
    """
    n = len(values)
    if n == 0:
        return math.nan, math.nan
    sums, counts = np.zeros(runs), np.zeros(runs)
    step = max(1, BOOTSTRAP_VALUES_MAX // runs)
    for start in range(0, n, step):
        part = values[start : start + step]
        times = rng.poisson(1.0, (runs, len(part)))
        sums += times @ part
        counts += times.sum(axis=1)
    means = sums / np.maximum(counts, 1)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def bernstein_interval(values: Floats, *, low: float, high: float, level: float = 0.95) -> tuple[float, float]:
    """Mean ± √(2 s² ln(4/δ)/n) + 7(high − low) ln(4/δ)/(3(n − 1)), for values known to lie in [low, high].

    Maurer & Pontil 2009, arXiv 0907.3740, theorem 4, on both sides. Raises ValueError when a value lies outside.
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    if float(values.min()) < low or float(values.max()) > high:
        raise ValueError("a value lies outside the declared range")
    log = math.log(4 / (1 - level))
    reach = math.sqrt(2 * float(values.var(ddof=1)) * log / n) + 7 * (high - low) * log / (3 * (n - 1))
    mean = float(values.mean())
    return mean - reach, mean + reach


def lift_range(max_weight: float, reward_low: float, reward_high: float) -> tuple[float, float]:
    """Range of a row's paired lift when q̂ and rewards lie in [low, high] and weights are at most `max_weight`."""
    span = reward_high - reward_low
    return -span * (1 + max_weight), span * (1 + max_weight)
