"""Replay of a logged data set by rejection sampling: an honest test of a loop on somebody's past.

Rows are drawn from the log with replacement. When the loop chooses the logged action, the row's reward is its
reward and the event counts; otherwise nothing is known about what would have happened, and the event must not
count. Rows logged with an unequal propensity p are first thinned to p_min / p, so that each accepted event is as if
the loop had met the world itself (Li, Chu, Langford, Wang 2011, "Unbiased offline evaluation of
contextual-bandit-based news article recommendation algorithms").

That needs a bound on 1 / p: one row of p = 1e-6 would thin all others until nothing counts. Rows below
`PROPENSITY_MIN` are therefore left out, and counted. What replay converges to is then the mean over those contexts and
actions that the log chose at least that often, weighted as the policy chooses them; of the rest it says nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bandit.types import Action, Features
from simulator.environment import PolicyFunction, Round, Source, Value

PROPENSITY_MIN = 1e-3

TOO_RARE = f"a probability below {PROPENSITY_MIN:g}, too rare to replay by"
NO_PROBABILITY = "no probability between 0 and 1"
NO_DECISION = "no object with a context and an action"
NO_ACTIONS = "actions that are no list of different ones with the chosen one among them"
NO_REWARD = "a reward that is no finite number"


Refusal = Callable[[Features, tuple[Action, ...]], str | None]
"""Why the loop would refuse a context with these actions; None when it would not."""


class UnusableLog(ValueError):
    """A log that cannot be replayed; the message says why."""


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """One logged decision: what was known, what was offered, what was chosen with which probability, and earned."""

    context: Features
    actions: tuple[Action, ...]
    index: int
    propensity: float
    reward: float


class LoggedWorld:
    """A log as a world. A round's `means` and `outcomes` are NaN but for the logged action.

    `outcomes` is NaN throughout where thinning rejects the row whatever the loop chooses. Rewards of other actions
    are never known, so there is no oracle here. `left_out` says how many rows of the log are not among `rows`, by
    reason. Raises `UnusableLog` without rows or support.
    """

    def __init__(
        self, rows: Sequence[LoggedRow], *, name: str = "replayed log", left_out: Mapping[str, int] | None = None
    ) -> None:
        self.source = Source(len(rows), dict(left_out or {}))
        if not rows:
            reasons = "; ".join(f"{count:,} with {reason}" for reason, count in self.source.left_out.items())
            raise UnusableLog("the log holds no usable row" + (f" ({reasons})" if reasons else ""))
        self.name = name
        self._rows = list(rows)
        self._floor = min(row.propensity for row in rows)
        if not PROPENSITY_MIN <= self._floor <= 1:
            raise UnusableLog(f"propensities must lie in [{PROPENSITY_MIN:g}, 1] to be replayed")
        rewards = [row.reward for row in rows]
        self.reward_range = (min(0.0, *rewards), max(1.0, *rewards))
        first = rows[0].actions
        self.catalogue = first if all(row.actions == first for row in rows) else None

    def __len__(self) -> int:
        return len(self._rows)

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A logged row; it is acceptable with probability p_min / p."""
        row = self._rows[int(rng.integers(len(self._rows)))]
        accepted = rng.random() < self._floor / row.propensity
        return _round(row, accepted=accepted)

    def acceptance(self) -> float:
        """The share of draws that count when each action is as likely to be chosen as any other."""
        return float(np.mean([self._floor / row.propensity / len(row.actions) for row in self._rows]))

    def logged(self) -> Iterator[LoggedRow]:
        """Every row once."""
        return iter(self._rows)

    def value(self, pmf: PolicyFunction) -> Value:
        """What replay converges to: Σ wᵢrᵢ / Σ wᵢ with w = π(a|x)/p, and its standard error (delta method)."""
        weights = np.array([pmf(row.context, row.actions)[row.index] / row.propensity for row in self._rows])
        rewards = np.array([row.reward for row in self._rows])
        mean = float(np.sum(weights * rewards) / np.sum(weights))
        residuals = weights * (rewards - mean) / weights.mean()
        return Value(mean, float(residuals.std(ddof=1) / np.sqrt(len(residuals))) if len(residuals) > 1 else 0.0)


def logged_world(rows: Iterable[Any], *, name: str = "replayed log", refusal: Refusal | None = None) -> LoggedWorld:
    """A world from objects as exports and imports have them: context, actions, action, probability, reward.

    Rows that name no actions are offered all actions that any row chose, and those without a reward earned 0; ids may
    be whole numbers. Rows without a usable probability, reward or list of actions are left out, and counted by reason,
    as are those for which `refusal` gives one. Raises `UnusableLog` when nothing is left.
    """
    every = list(rows)
    decisions = [row for row in every if _is_decision(row)]
    left_out: Counter[str] = Counter()
    kept = []
    for row in decisions:
        offered = _offered(row.get("actions")) or (Action(str(row["action"])),)
        reason = refusal(row["context"], offered) if refusal else None
        if reason is None:
            kept.append(row)
        else:
            left_out[reason] += 1
    catalogue = tuple(Action(ident) for ident in sorted({str(row["action"]) for row in kept}))
    found = [_usable(row, catalogue) for row in kept]
    left_out.update(one for one in found if isinstance(one, str))
    if len(decisions) < len(every):
        left_out[NO_DECISION] = len(every) - len(decisions)
    return LoggedWorld([one for one in found if isinstance(one, LoggedRow)], name=name, left_out=left_out)


def read_logged_world(path: Path, refusal: Refusal | None = None) -> LoggedWorld:
    """A world from an NDJSON file; raises `UnusableLog`, which names file and line."""
    try:
        with path.open("rb") as file:
            rows = [
                _decoded(line, f"{path.name}, line {number:,},") for number, line in enumerate(file, 1) if line.strip()
            ]
    except OSError as error:
        raise UnusableLog(f"{path.name} cannot be read ({error.strerror})") from None
    return logged_world(rows, name=path.name, refusal=refusal)


def _decoded(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except (ValueError, RecursionError) as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply, or a number too long"
    raise UnusableLog(
        f"{where} cannot be read as NDJSON ({problem}); expected is one JSON object a line, as `rewardloop export` "
        "writes"
    )


def _is_decision(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("context"), dict) and _id(row.get("action")) is not None


def _usable(row: Mapping[str, Any], catalogue: tuple[Action, ...]) -> LoggedRow | str:
    """The row, or why it cannot be used."""
    actions = catalogue if row.get("actions") is None else _offered(row["actions"])
    chosen, reported = str(row["action"]), row.get("reward")
    index = next((position for position, action in enumerate(actions) if action.id == chosen), None)
    propensity, reward = _number(row.get("probability")), 0.0 if reported is None else _number(reported)
    if index is None:
        return NO_ACTIONS
    if propensity is None or not 0 < propensity <= 1:
        return NO_PROBABILITY
    if propensity < PROPENSITY_MIN:
        return TOO_RARE
    return NO_REWARD if reward is None else LoggedRow(row["context"], actions, index, propensity, reward)


def _id(given: Any) -> str | None:
    """An id, which another system may have kept as a whole number, as text; None for anything else."""
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    return given if isinstance(given, str) else None


def _number(given: Any) -> float | None:
    """A finite number; None for anything else, truth values too."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    try:
        return float(given) if math.isfinite(given) else None
    except OverflowError:  # JSON's whole numbers have no end
        return None


def _offered(named: Any) -> tuple[Action, ...]:
    """The actions that a row names; none when they are not what exports and imports have."""
    actions: dict[str, Action] = {}
    for entry in named if isinstance(named, list) else ():
        named_one: Mapping[str, Any] = entry if isinstance(entry, dict) else {"id": entry}
        ident, features = _id(named_one.get("id")), named_one.get("features") or {}
        if ident is None or ident in actions or not isinstance(features, dict):
            return ()
        actions[ident] = Action(ident, features)
    return tuple(actions.values())


def _round(row: LoggedRow, *, accepted: bool) -> Round:
    means = np.full(len(row.actions), np.nan)
    means[row.index] = row.reward
    outcomes = means if accepted else np.full(len(row.actions), np.nan)
    return Round(row.context, row.actions, means, outcomes)
