"""Small worlds with known answers for the tests of learning: rows out of a policy, all seeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from bandit.sampling import draw_index
from bandit.settings import ExperimentSettings, merge_settings
from bandit.types import Action, Interaction, Policy

START = datetime(2026, 1, 1, tzinfo=UTC)
ACTIONS = tuple(Action(f"a{number}") for number in range(4))


def settings(**changes: Any) -> ExperimentSettings:
    """The default settings with changes: `settings(exploration={"algorithm": "bag"})`."""
    return merge_settings(ExperimentSettings(), changes)


def quadrants(rng: np.random.Generator) -> tuple[dict[str, Any], int]:
    """Two numbers whose quadrant is the right one of four actions: an interaction that no linear model sees."""
    x, y = rng.normal(size=2)
    return {"x": float(x), "y": float(y), "noise": float(rng.random())}, int(x > 0) * 2 + int(y > 0)


def rows_of(
    policy: Policy,
    count: int,
    *,
    seed: int,
    world: Callable[[np.random.Generator], tuple[dict[str, Any], int]] = quadrants,
    actions: tuple[Action, ...] = ACTIONS,
    model_id: str = "m",
    first: int = 0,
) -> list[Interaction]:
    """`count` interactions of a policy with a world that rewards one action with 1 and the others with 0."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(first, first + count):
        context, right = world(rng)
        pmf = policy.pmf(context, actions)
        index = draw_index(pmf, float(rng.random()))
        rows.append(
            Interaction(
                event_id=f"e{number}",
                decided_at=START + timedelta(seconds=number),
                model_id=model_id,
                context=context,
                actions=actions,
                index=index,
                propensity=pmf[index],
                pmf=tuple(pmf),
                reward=float(index == right),
            )
        )
    return rows


def greedy_accuracy(
    policy: Policy,
    *,
    seed: int,
    count: int = 1000,
    world: Callable[[np.random.Generator], tuple[dict[str, Any], int]] = quadrants,
    actions: Sequence[Action] = ACTIONS,
) -> float:
    """The share of contexts for which the policy's most probable action is the right one."""
    rng = np.random.default_rng(seed)
    right = 0
    for _ in range(count):
        context, answer = world(rng)
        right += int(np.argmax(policy.pmf(context, actions))) == answer
    return right / count
