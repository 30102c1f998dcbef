"""What a world is: it draws rounds, and knows what every action would have earned in each of them.

Because the mean reward of each action is known, the true value of any policy is known too, and a loop's
claims can be held against it. Worlds are pure: all chance comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from bandit.types import Action, Features

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Round:
    """One moment of choice in a world.

    `actions` are the k offered ones; `means` (k,) is the expected reward of each given the context, and
    `outcomes` (k,) the reward that each would bring this time.
    """

    context: Features
    actions: tuple[Action, ...]
    means: Vector
    outcomes: Vector


class Environment(Protocol):
    """A world with known answers."""

    @property
    def name(self) -> str:
        """A few words for titles."""
        ...

    @property
    def catalogue(self) -> tuple[Action, ...] | None:
        """The actions when they are always the same; None where each round brings its own."""
        ...

    @property
    def reward_range(self) -> tuple[float, float]:
        """Least and greatest reward."""
        ...

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """The round at time `step` (0, 1, 2 …; only drifting worlds look at it)."""
        ...


@runtime_checkable
class Enumerable(Protocol):
    """A world of finitely many, equally likely rounds, whose values can be had exactly."""

    def rounds(self) -> Iterator[Round]:
        """Every round once."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """How many rows a world was made of, and how many others were left out, by reason.

    `as_text` names columns taken as text although most of their cells are numbers, with the cells that are none.
    """

    rows: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    as_text: Mapping[str, Sequence[str]] = field(default_factory=dict)


@runtime_checkable
class FromRows(Protocol):
    """A world made of somebody's rows."""

    @property
    def source(self) -> Source:
        """What it was made of."""
        ...


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a policy, per round: exact where `se` is 0, else with its standard error."""

    mean: float
    se: float


PolicyFunction = Callable[[Features, Sequence[Action]], Sequence[float]]


def true_value(
    environment: Environment,
    pmf: PolicyFunction,
    *,
    rng: np.random.Generator | None = None,
    draws: int = 10_000,
    step: int = 0,
) -> Value:
    """The value E[Σ_k π_k(x)·mean_k(x)] of a policy at time `step`.

    Worlds that can enumerate their rounds are summed exactly; of the others `draws` rounds are drawn with
    `rng` (ValueError when it is missing). No reward noise enters either way.
    """
    if isinstance(environment, Enumerable):
        values = [_expected(pmf, one) for one in environment.rounds()]
        return Value(float(np.mean(values)), 0.0)
    if rng is None:
        raise ValueError("this world has no finite list of rounds: a generator is needed")
    values = [_expected(pmf, environment.draw(rng, step)) for _ in range(draws)]
    return Value(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))))


def _expected(pmf: PolicyFunction, one: Round) -> float:
    return float(np.dot(np.asarray(pmf(one.context, one.actions), dtype=np.float64), one.means))


@dataclass(frozen=True, slots=True)
class ReferenceLines:
    """Expected rewards, per round, of those who know nothing, everything, or only the best single action."""

    random: float
    oracle: float
    fixed: float
    fixed_action: str


@runtime_checkable
class Referenced(Protocol):
    """A world that knows its own reference lines."""

    def references(self) -> ReferenceLines:
        """The reference lines, exactly."""
        ...


def reference_lines(
    environment: Environment, *, rng: np.random.Generator | None = None, draws: int = 10_000, step: int = 0
) -> ReferenceLines:
    """The reference lines of a world at time `step`: exact where it can enumerate its rounds, else drawn.

    The single action is the id whose mean over the rounds that offer it, times how often it is offered, is
    greatest (with a fixed catalogue: simply the best mean).
    """
    if isinstance(environment, Referenced):
        return environment.references()
    if isinstance(environment, Enumerable):
        rounds = environment.rounds()
    elif rng is None:
        raise ValueError("this world has no finite list of rounds: a generator is needed")
    else:
        rounds = (environment.draw(rng, step) for _ in range(draws))
    totals: dict[str, float] = {}
    count, random, oracle = 0, 0.0, 0.0
    for one in rounds:
        count += 1
        random += float(one.means.mean())
        oracle += float(one.means.max())
        for action, mean in zip(one.actions, one.means, strict=True):
            totals[action.id] = totals.get(action.id, 0.0) + float(mean)
    best = max(totals, key=lambda name: totals[name])
    return ReferenceLines(random / count, oracle / count, totals[best] / count, best)
