"""Logs with known truth for the tests of evaluation: who draws what, and what every policy is really worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.scored import ScoredRows


@dataclass(frozen=True)
class World:
    """`types` kinds of context, k actions, Bernoulli rewards with chances `truth` (types, k)."""

    truth: np.ndarray
    mu: np.ndarray
    candidate: np.ndarray
    champion: np.ndarray
    q: np.ndarray

    @property
    def lift(self) -> float:
        """The true lift of the candidate over the champion."""
        return float(((self.candidate - self.champion) * self.truth).sum(axis=1).mean())

    def log(self, rng: np.random.Generator, n: int, *, pmf: bool = True) -> ScoredRows:
        """n rows, contexts uniform over the types, actions drawn from μ."""
        kind = rng.integers(len(self.truth), size=n)
        mu = self.mu[kind]
        action = np.minimum((mu.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), mu.shape[1] - 1)
        at = np.arange(n), action
        return ScoredRows.from_matrices(
            candidate=self.candidate[kind],
            champion=self.champion[kind],
            q=self.q[kind],
            action=action,
            reward=(rng.random(n) < self.truth[kind][at]).astype(float),
            propensity=mu[at],
            pmf=mu if pmf else None,
        )


def softmax(z: np.ndarray) -> np.ndarray:
    weights = np.exp(z - z.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def make_world(
    seed: int, *, k: int = 5, types: int = 40, sharp: float = 4.0, lift: float | None = None, noise: float = 0.1
) -> World:
    """The champion logs; the candidate is sharper on the truth by a blurred view of it.

    With `lift` the truth is changed where the policies differ until the candidate's true lift is just that.
    """
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.2, 0.6, (types, k))
    champion = 0.9 * softmax(sharp * (truth + 0.3 * rng.normal(size=truth.shape))) + 0.1 / k
    candidate = 0.9 * softmax(sharp * (truth + 0.3 * rng.normal(size=truth.shape))) + 0.1 / k
    if lift is not None:
        change = candidate - champion
        truth = truth + (lift - (change * truth).sum(axis=1).mean()) * change / (change**2).sum(axis=1).mean()
        assert truth.min() > 0 and truth.max() < 1
    q = np.clip(truth + noise * rng.normal(size=truth.shape), 0, 1)
    return World(truth, champion, candidate, champion, q)
