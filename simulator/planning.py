"""How long a lift takes to detect, and what exploring for it costs: arithmetic first, then a simulated log.

The world behind it: rewards are 0 or 1; the champion's favourite action earns `value` on average, any other half of
that; the challenger has another favourite on a share `differing` of the contexts, where it earns as much more as
makes its overall lift `lift` × the champion's value. Both explore uniformly with probability `exploration`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from simulator.environment import Vector


class ImpossiblePlan(ValueError):
    """Assumptions that contradict each other; the message says which."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is planned for; `lift` is relative to the champion's value as served."""

    actions: int
    lift: float
    value: float = 0.2
    exploration: float = 0.05
    differing: float = 0.3

    def __post_init__(self) -> None:
        if self.value + self.advantage > 1:
            raise ImpossiblePlan("so large a lift would need rewards above 1; lower --lift or raise --differing")

    @property
    def served(self) -> float:
        """The champion's value as served, exploration included."""
        return self.value * (1 - self.exploration * (1 - 1 / self.actions) / 2)

    @property
    def advantage(self) -> float:
        """What the challenger's favourite earns more where the two differ."""
        return self.lift * self.served / (self.differing * (1 - self.exploration))

    @property
    def cost(self) -> float:
        """Reward per decision given up by exploring."""
        return self.value - self.served

    def deviation(self) -> float:
        """Standard deviation of the paired doubly-robust lift of one row, with a perfect reward model.

        Where the policies differ, the log shows the challenger's favourite with probability ε/k at weight
        (1 − ε)k/ε, and the champion's with 1 − ε + ε/k at weight −(1 − ε)/(1 − ε + ε/k).
        """
        rare, common = self.exploration / self.actions, 1 - self.exploration + self.exploration / self.actions
        gap = (1 - self.exploration) ** 2
        new, old = self.value + self.advantage, self.value
        noise = self.differing * gap * (new * (1 - new) / rare + old * (1 - old) / common)
        spread = self.differing * (1 - self.differing) * ((1 - self.exploration) * self.advantage) ** 2
        return math.sqrt(noise + spread)


def exploration_cost(pmf: Sequence[Vector], q: Sequence[Vector], action: Vector, reward: Vector) -> tuple[float, float]:
    """Reward per decision that a log's policy gave up against always taking its own favourite, and its standard error.

    Mean of q(fav) + 1{a = fav}(r − q(a))/π(a) − r over n rows: π is `pmf` (k,) of each row, `q` (k,) its predicted
    rewards; `action` (n,) are positions, `reward` (n,). Doubly robust: right where π or q is.
    """
    missed = np.empty(len(reward))
    for row, (chances, predicted) in enumerate(zip(pmf, q, strict=True)):
        favourite, taken = int(np.argmax(chances)), int(action[row])
        seen = (reward[row] - predicted[taken]) / chances[taken] if taken == favourite else 0.0
        missed[row] = predicted[favourite] + seen - reward[row]
    return float(missed.mean()), float(missed.std(ddof=1) / np.sqrt(len(missed)))


def rows_needed(deviation: float, effect: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Rows until one look at level α detects a lift of `effect` (absolute) with this power.

    n = (z₁₋α + z_power)² s² / effect². Looking again and again costs more; see `simulate_log`.
    """
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(power)
    return max(1, math.ceil((z * deviation / effect) ** 2))


@dataclass(frozen=True, slots=True)
class SimulatedLog:
    """Scored rows of a simulated log: matrices (n, k) and vectors (n,), named as in scored rows."""

    candidate: Vector
    champion: Vector
    q: Vector
    action: npt.NDArray[np.int64]
    reward: Vector
    propensity: Vector


def simulate_log(assumptions: Assumptions, rows: int, rng: np.random.Generator) -> SimulatedLog:
    """`rows` rows logged by the champion, scored for both policies, with a reward model that knows half the truth."""
    k, exploration = assumptions.actions, assumptions.exploration
    floor, top = exploration / k, 1 - exploration + exploration / k
    favourite = rng.integers(k, size=rows)
    differs = rng.random(rows) < assumptions.differing
    rival = np.where(differs, (favourite + 1 + rng.integers(k - 1, size=rows)) % k, favourite)
    every = np.arange(rows)
    means = np.full((rows, k), assumptions.value / 2)
    means[every, rival] = assumptions.value + assumptions.advantage
    means[every, favourite] = assumptions.value
    champion, candidate = np.full((rows, k), floor), np.full((rows, k), floor)
    champion[every, favourite] = top
    candidate[every, rival] = top
    explores = rng.random(rows) < exploration
    action = np.where(explores, rng.integers(k, size=rows), favourite)
    reward = (rng.random(rows) < means[every, action]).astype(np.float64)
    q = (means + assumptions.value) / 2
    return SimulatedLog(candidate, champion, q, action, reward, champion[every, action])
