"""Means and covariances that can be merged: what one shard knows, added to what another knows.

Centred second moments are carried (Chan, Golub & LeVeque 1983) rather than sums of squares, so that nothing is
lost to cancellation and merged shards agree with the whole to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean (d,) and centred cross products Σ(u − ū)(u − ū)ᵀ (d, d) of a d-vector per row."""

    n: int
    mean: Floats
    scatter: Floats

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
        """The moments of both sets of rows together."""
        if self.n == 0:
            return other
        if other.n == 0:
            return self
        n = self.n + other.n
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.n / n)
        scatter = self.scatter + other.scatter + np.outer(gap, gap) * (self.n * other.n / n)
        return Moments(n, mean, scatter)

    def variance_of_mean(self, gradient: Floats) -> float:
        """Var of gᵀū by the delta method, ddof 1; 0 for fewer than two rows."""
        if self.n < 2:
            return 0.0
        return max(0.0, float(gradient @ self.scatter @ gradient)) / (self.n - 1) / self.n
