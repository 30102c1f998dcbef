"""Worlds that change: suddenly, little by little, or with the season.

Each wrapper moves between two worlds with the same actions. `Permuted` makes the second one out of the first:
the same contexts, but every action means another one, so that all that was learnt becomes wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bandit.types import Action
from simulator.environment import Environment, Round

Shape = Literal["abrupt", "gradual", "seasonal"]


@dataclass(frozen=True, slots=True)
class Permuted:
    """A world in which each action earns what its neighbour `shift` places on earned in `inner`."""

    inner: Environment
    shift: int = 1

    @property
    def name(self) -> str:
        return f"{self.inner.name}, permuted"

    @property
    def catalogue(self) -> tuple[Action, ...] | None:
        return self.inner.catalogue

    @property
    def reward_range(self) -> tuple[float, float]:
        return self.inner.reward_range

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A round of the inner world with its rewards moved along."""
        one = self.inner.draw(rng, step)
        return replace(one, means=np.roll(one.means, self.shift), outcomes=np.roll(one.outcomes, self.shift))


@dataclass(frozen=True, slots=True)
class Drifting:
    """From `before` to `after`.

    `abrupt`: at step `at`. `gradual`: the chance of meeting the new world grows from 0 at step `at` to 1 at
    `at + length`. `seasonal`: it swings between 0 and 1 with period `length`, starting in the old world.
    """

    before: Environment
    after: Environment
    shape: Shape = "abrupt"
    at: int = 0
    length: int = 1

    def __post_init__(self) -> None:
        if self.before.catalogue != self.after.catalogue:
            raise ValueError("both worlds must offer the same actions")
        if self.length < 1:
            raise ValueError("length must be at least 1 step")

    @property
    def name(self) -> str:
        return f"{self.before.name}, {self.shape} drift"

    @property
    def catalogue(self) -> tuple[Action, ...] | None:
        return self.before.catalogue

    @property
    def reward_range(self) -> tuple[float, float]:
        (low, high), (other_low, other_high) = self.before.reward_range, self.after.reward_range
        return min(low, other_low), max(high, other_high)

    def share_of_new(self, step: int) -> float:
        """The chance that a round at `step` comes from the new world."""
        if self.shape == "abrupt":
            return float(step >= self.at)
        if self.shape == "gradual":
            return min(1.0, max(0.0, (step - self.at) / self.length))
        return 0.5 - 0.5 * math.cos(2 * math.pi * (step - self.at) / self.length)

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A round of one of the two worlds."""
        world = self.after if rng.random() < self.share_of_new(step) else self.before
        return world.draw(rng, step)
