"""Two worlds that only the studies need: one action that arrives late, and rewards sent by somebody hostile.

Both keep the truth apart from what is sent, so that what a policy is really worth stays known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bandit.types import Action
from simulator.environment import Environment, Round

GROUPS = ("north", "south", "east", "west")


@dataclass(frozen=True, slots=True)
class Arriving:
    """`actions` actions from the start, and from step `at` on one more that nobody has seen.

    Readers come from four groups; each action has a chance of reward in each, .6 at most, and the newcomer earns
    `better` times the best of the others in every group, so that its optimal share is 1.
    """

    actions: int = 5
    at: int = 3000
    better: float = 1.2

    name = "an action that arrives"
    catalogue = None
    reward_range = (0.0, 1.0)

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A reader of some group, with the actions there are at `step`."""
        group = int(rng.integers(len(GROUPS)))
        spread = (np.arange(self.actions) + group) % self.actions / (self.actions - 1)
        means = 0.3 + 0.3 * spread
        names = [f"a{number}" for number in range(self.actions)]
        if step >= self.at:
            means, names = np.append(means, means.max() * self.better), [*names, "newcomer"]
        outcomes = (rng.random(len(means)) < means).astype(np.float64)
        return Round({"group": GROUPS[group]}, tuple(Action(name) for name in names), means, outcomes)


@dataclass(frozen=True, slots=True)
class Hostile:
    """A world in which somebody sends a share of the rewards: the most for the worst action, the least for the best.

    What is sent stays in the declared range; `means` stay the truth.
    """

    inner: Environment
    share: float

    @property
    def name(self) -> str:
        return f"{self.inner.name}, {self.share:.0%} hostile"

    @property
    def catalogue(self) -> tuple[Action, ...] | None:
        return self.inner.catalogue

    @property
    def reward_range(self) -> tuple[float, float]:
        return self.inner.reward_range

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A round whose outcomes are, with probability `share`, turned against the truth as far as the range lets."""
        one = self.inner.draw(rng, step)
        if rng.random() >= self.share:
            return one
        low, high = self.reward_range
        order = np.argsort(np.argsort(one.means, kind="stable"), kind="stable")
        return replace(one, outcomes=high - (high - low) * order / max(len(order) - 1, 1))
