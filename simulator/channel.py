"""The way of a reward from the world to the loop: late, lost, twice, out of order.

A channel turns the reward of one event into deliveries. Channels nest: `Lost(0.1, Twice(0.2, Delay(…)))`.
All chance comes from the generator that is passed in, one per event, so that concurrency changes nothing; making one
takes longer than the rest of a simulated delivery, so it is made when a channel asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from simulator.transport import Delivery

Chance = Callable[[], np.random.Generator]
"""Gives the generator of one event, the same one each time."""


def chance_of(*seed: int) -> Chance:
    """The chance of one event, with a generator of that seed."""
    made: list[np.random.Generator] = []

    def chance() -> np.random.Generator:
        if not made:
            made.append(np.random.default_rng(seed))
        return made[0]

    return chance


class Channel(Protocol):
    """How the reward of one event reaches the loop."""

    def send(self, reward: float, chance: Chance) -> Sequence[Delivery]:
        """The deliveries of one reward; none when it is lost."""
        ...


@dataclass(frozen=True, slots=True)
class Delay:
    """Each reward once, after a random time in seconds: `uniform` in [0, scale_s], `exponential` with mean
    scale_s, `lognormal` with median scale_s (σ = 1), or exactly scale_s (`constant`).

    Events overtake each other as their delays have it, so that rewards arrive out of order.
    """

    scale_s: float = 0.0
    distribution: Literal["constant", "uniform", "exponential", "lognormal"] = "constant"

    def send(self, reward: float, chance: Chance) -> Sequence[Delivery]:
        return [Delivery(self._delay_s(chance), reward)]

    def _delay_s(self, chance: Chance) -> float:
        if self.distribution == "uniform":
            return float(chance().uniform(0.0, self.scale_s))
        if self.distribution == "exponential":
            return float(chance().exponential(self.scale_s))
        if self.distribution == "lognormal":
            return float(self.scale_s * np.exp(chance().standard_normal()))
        return self.scale_s


@dataclass(frozen=True, slots=True)
class Lost:
    """Each delivery of the inner channel is lost with probability `share`."""

    share: float
    inner: Channel = Delay()

    def send(self, reward: float, chance: Chance) -> Sequence[Delivery]:
        return [delivery for delivery in self.inner.send(reward, chance) if chance().random() >= self.share]


@dataclass(frozen=True, slots=True)
class Twice:
    """Each reward is sent a second time, on a way of its own, with probability `share` (a client's retry)."""

    share: float
    inner: Channel = Delay()

    def send(self, reward: float, chance: Chance) -> Sequence[Delivery]:
        first = list(self.inner.send(reward, chance))
        again = list(self.inner.send(reward, chance)) if chance().random() < self.share else []
        return first + again
