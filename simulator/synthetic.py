"""Synthetic worlds with per-action features: a linear one, and one that no linear model can fit.

Contexts have `context_size` numbers in [−1, 1]; each of the k actions has `action_size` of its own. The chance
of reward 1 is a known function of both. The actions keep their features for ever (a catalogue), or get new ones
in each round (`fresh=True`: offers whose price changes), where only the features can tell good from bad.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from bandit.types import Action
from simulator.environment import Round, Vector

MEAN_MIN, MEAN_MAX = 0.02, 0.98
_SPREAD = 0.25


class SyntheticWorld(ABC):
    """What the synthetic worlds share; `world_seed` fixes the world itself, apart from the draws in it."""

    name = "synthetic"
    reward_range = (0.0, 1.0)

    def __init__(
        self,
        actions: int = 5,
        *,
        context_size: int = 6,
        action_size: int = 4,
        fresh: bool = False,
        world_seed: int = 0,
    ) -> None:
        if actions < 2 or context_size < 1 or action_size < 1:
            raise ValueError("a world needs two actions and at least one number for the context and for each action")
        rng = np.random.default_rng([world_seed, actions, context_size, action_size])
        self._shape = (actions, context_size, action_size)
        self._fresh = fresh
        self._build(rng, context_size, action_size)
        self._features = rng.uniform(-1, 1, (actions, action_size))
        self._actions = _actions(self._features)

    @property
    def catalogue(self) -> tuple[Action, ...] | None:
        """The fixed actions; None when they are fresh in each round."""
        return None if self._fresh else self._actions

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A context (and, in a fresh world, actions) drawn uniformly; rewards are 0 or 1."""
        k, context_size, action_size = self._shape
        x = rng.uniform(-1, 1, context_size)
        z = rng.uniform(-1, 1, (k, action_size)) if self._fresh else self._features
        means = self.means(x, z)
        outcomes = (rng.random(k) < means).astype(np.float64)
        context = {f"u{i}": float(value) for i, value in enumerate(x)}
        return Round(context, _actions(z) if self._fresh else self._actions, means, outcomes)

    @abstractmethod
    def _build(self, rng: np.random.Generator, context_size: int, action_size: int) -> None:
        """Draw the world's own parameters."""

    @abstractmethod
    def means(self, x: Vector, z: Vector) -> Vector:
        """Chance of reward for a context x (d,) and action features z (k, m), shape (k,)."""


class LinearWorld(SyntheticWorld):
    """mean = ½ + xᵀWz + vᵀz, clipped to [0.02, 0.98]: bilinear in context and action features."""

    name = "linear world"

    def _build(self, rng: np.random.Generator, context_size: int, action_size: int) -> None:
        # uniform numbers on [−1, 1] have variance ⅓: these scales give the sum a standard deviation of _SPREAD
        self._cross = rng.standard_normal((context_size, action_size)) * _SPREAD * 3 / np.sqrt(2 * self._cells())
        self._own = rng.standard_normal(action_size) * _SPREAD * np.sqrt(3 / (2 * action_size))

    def _cells(self) -> int:
        _, context_size, action_size = self._shape
        return context_size * action_size

    def means(self, x: Vector, z: Vector) -> Vector:
        """The clipped bilinear form."""
        means: Vector = np.clip(0.5 + z @ (x @ self._cross + self._own), MEAN_MIN, MEAN_MAX)
        return means


class NonLinearWorld(SyntheticWorld):
    """mean = ½ + a random network of tanh units over (x, z), clipped to [0.02, 0.98]."""

    name = "non-linear world"
    _UNITS = 12

    def _build(self, rng: np.random.Generator, context_size: int, action_size: int) -> None:
        size = context_size + action_size
        self._inner = rng.standard_normal((size, self._UNITS)) * 4 / np.sqrt(size)
        self._bias = rng.uniform(-1, 1, self._UNITS)
        self._outer = rng.standard_normal(self._UNITS) * _SPREAD * 1.6 / np.sqrt(self._UNITS)

    def means(self, x: Vector, z: Vector) -> Vector:
        """The network's answer for each action."""
        both = np.concatenate([np.broadcast_to(x, (len(z), len(x))), z], axis=1)
        means: Vector = np.clip(0.5 + np.tanh(both @ self._inner + self._bias) @ self._outer, MEAN_MIN, MEAN_MAX)
        return means


def _actions(features: Vector) -> tuple[Action, ...]:
    return tuple(
        Action(f"a{number}", {f"f{i}": float(value) for i, value in enumerate(row)})
        for number, row in enumerate(features)
    )
