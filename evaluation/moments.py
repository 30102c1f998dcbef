"""Means and covariances that can be merged: what one shard knows, added to what another knows.

Centred second moments are carried (Chan, Golub & LeVeque 1983) rather than sums of squares, so that nothing is
lost to cancellation and merged shards agree with the whole to rounding. Where rows hang together, the sums of each
subject are carried beside them: a subject may come back in any shard.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean (d,) and centred cross products Σ(u − ū)(u − ū)ᵀ (d, d) of a d-vector per row.

    `of_mean`, (d, d), is the covariance of the mean where rows have subjects; None where they stand for themselves.
    """

    n: int
    mean: Floats
    scatter: Floats
    of_mean: Floats | None = None

    @classmethod
    def of(cls, columns: Floats) -> Moments:
        """From an array of shape (d, n): one row of it per component."""
        d, n = columns.shape
        if n == 0:
            return cls(0, np.zeros(d), np.zeros((d, d)))
        mean = columns.mean(axis=1)
        centred = columns - mean[:, None]
        return cls(n, mean, centred @ centred.T)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of rows together, as of rows that stand for themselves."""
        if self.n == 0:
            return other
        if other.n == 0:
            return self
        n = self.n + other.n
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.n / n)
        scatter = self.scatter + other.scatter + np.outer(gap, gap) * (self.n * other.n / n)
        return Moments(n, mean, scatter)

    def by_subject(self, subjects: SubjectSums) -> Moments:
        """The same moments, whose mean varies as `subjects`, the sums of these very rows, do.

        Cov ū = G/(G−1) Σ_g (S_g − n_g ū)(S_g − n_g ū)ᵀ/n² (Liang & Zeger 1986); one subject alone says nothing of it.
        """
        rows, groups = subjects.rows, len(subjects.rows)
        if groups < 2:
            return replace(self, of_mean=np.full_like(self.scatter, np.nan))
        centred = subjects.sums[: len(self.mean)] - self.mean[:, None] * rows
        return replace(self, of_mean=centred @ centred.T * (groups / (groups - 1) / self.n**2))

    def variance_of_mean(self, gradient: Floats) -> float:
        """Var of gᵀū by the delta method, ddof 1; 0 for fewer than two rows, NaN for a single subject."""
        if self.of_mean is not None:
            variance = float(gradient @ self.of_mean @ gradient)
            return 0.0 if variance < 0 else variance
        if self.n < 2:
            return 0.0
        spread = float(gradient @ self.scatter @ gradient)
        return 0.0 if spread < 0 else spread / (self.n - 1) / self.n  # NaN stays: beyond all numbers is not certain


class SubjectSums:
    """For each subject the sum of a d-vector over its rows, and their number, in whatever chunks they come.

    >>> subjects = SubjectSums(1)
    >>> subjects.add(np.array([[1.0, 2.0, 3.0]]), ["ann", "bob", "ann"])
    >>> subjects.add(np.array([[4.0]]), ["bob"])
    >>> subjects.sums.tolist(), subjects.rows.tolist()
    ([[4.0, 6.0]], [2.0, 2.0])
    """

    def __init__(self, dimensions: int) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._sums = np.zeros((dimensions + 1, 0))

    def add(self, columns: Floats, cluster: Sequence[Hashable]) -> None:
        """Take in rows, shape (d, n), of the subjects that `cluster` names."""
        numbers = self._numbers
        of_row = np.array([numbers.setdefault(name, len(numbers)) for name in cluster], np.int64)
        missing = len(numbers) - self._sums.shape[1]
        if missing > 0:  # at least as many as there are, so that what is there is seldom copied
            self._sums = np.pad(self._sums, ((0, 0), (0, max(missing, self._sums.shape[1]))))
        here, at = np.unique(of_row, return_inverse=True)
        for sums, column in zip(self._sums, columns, strict=False):
            sums[here] += np.bincount(at, column, len(here))
        self._sums[-1, here] += np.bincount(at, minlength=len(here))

    @property
    def names(self) -> list[Any]:
        """The subjects, in the order of their sums."""
        return list(self._numbers)

    @property
    def sums(self) -> Floats:
        """The sums, shape (d, subjects)."""
        return self._sums[:-1, : len(self._numbers)]

    @property
    def rows(self) -> Floats:
        """How many rows each subject has, shape (subjects,)."""
        return self._sums[-1, : len(self._numbers)]
