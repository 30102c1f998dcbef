"""Rewards that lie a little: 0/1 rewards flipped now and then, or numbers with bounded noise on top.

The wrappers know what the noise does to the mean, so that true values stay true.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bandit.types import Action
from simulator.environment import Environment, Round

NOISE_BOUND_SDS = 3.0


@dataclass(frozen=True, slots=True)
class Flipped:
    """A world of rewards in [low, high] in which each is reflected (low + high − r) with probability `share`."""

    inner: Environment
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError("share must lie in [0, 1]")

    @property
    def name(self) -> str:
        return f"{self.inner.name}, {self.share:.0%} of rewards flipped"

    @property
    def catalogue(self) -> tuple[Action, ...] | None:
        return self.inner.catalogue

    @property
    def reward_range(self) -> tuple[float, float]:
        return self.inner.reward_range

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A round whose outcomes are flipped one by one; means are 1 − share parts truth, share parts lie."""
        one = self.inner.draw(rng, step)
        total = sum(self.reward_range)
        flipped = rng.random(len(one.outcomes)) < self.share
        return replace(
            one,
            means=(1 - self.share) * one.means + self.share * (total - one.means),
            outcomes=np.where(flipped, total - one.outcomes, one.outcomes),
        )


@dataclass(frozen=True, slots=True)
class Noisy:
    """A world with noise of standard deviation about `sd` on each reward, cut at ±3 sd so that it has mean 0
    and the reward range stays finite."""

    inner: Environment
    sd: float

    def __post_init__(self) -> None:
        if not self.sd >= 0:
            raise ValueError("sd must not be negative")

    @property
    def name(self) -> str:
        return f"{self.inner.name}, noise {self.sd:g}"

    @property
    def catalogue(self) -> tuple[Action, ...] | None:
        return self.inner.catalogue

    @property
    def reward_range(self) -> tuple[float, float]:
        low, high = self.inner.reward_range
        return low - NOISE_BOUND_SDS * self.sd, high + NOISE_BOUND_SDS * self.sd

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A round with independent noise on each outcome; the means are untouched."""
        one = self.inner.draw(rng, step)
        bound = NOISE_BOUND_SDS * self.sd
        noise = np.clip(rng.normal(0.0, self.sd, len(one.outcomes)), -bound, bound)
        return replace(one, outcomes=one.outcomes + noise)
