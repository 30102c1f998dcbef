"""Plays a world against a loop, batch by batch, and keeps what both said.

The same runner serves the demo over HTTP and the simulations in one process: only the transport differs.
Chance is split by purpose (rounds, history, deliveries of each event), so that neither concurrency nor the
loop's choices change what the world would have brought.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.channel import Channel, Delay, chance_of
from simulator.environment import Environment, Round, Vector
from simulator.transport import Answer, Delivery, Question, Settled, Transport

_ROUNDS, _HISTORY, _DELIVERIES = range(3)


@dataclass(frozen=True, slots=True)
class Script:
    """How long a run is, in which batches, with how much uniformly logged history, and its seed.

    The seed gives the event_ids too; `unique` puts a random tag before them, for a service that lives on.
    """

    interactions: int = 7500
    batch: int = 500
    warm_start: int = 100
    seed: int = 0
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: its interactions [start, stop), the mean reward in them, and the verdict after them."""

    number: int
    start: int
    stop: int
    mean_reward: float
    settled: Settled


@dataclass(slots=True)
class Run:
    """All that came of a run of n interactions; arrays have shape (n,).

    `rewards` are what the chosen actions earned (delivered or not), `expected` their means, `random` and
    `oracle` the means of a uniform and of the best choice in the same rounds (NaN where nobody knows). Of `asked`
    questions n count; they differ only where a log is replayed and the loop chose what the log cannot tell of.
    """

    seed: int
    rewards: Vector
    expected: Vector
    random: Vector
    oracle: Vector
    probabilities: Vector
    actions: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)
    asked: int = 0
    initial: Settled | None = None
    batches: list[Batch] = field(default_factory=list)

    @classmethod
    def empty(cls, seed: int, interactions: int) -> Run:
        """A run in which nothing has happened yet."""

        def unknown() -> Vector:
            return np.full(interactions, np.nan)

        return cls(seed, unknown(), unknown(), unknown(), unknown(), unknown())

    @property
    def played(self) -> int:
        """How many interactions have been played."""
        return len(self.actions)

    def count(self, outcome: str) -> int:
        """How many batches ended with this verdict."""
        return sum(batch.settled.outcome == outcome for batch in self.batches)

    def promotions_at(self) -> list[int]:
        """After how many interactions each promotion happened."""
        return [batch.stop for batch in self.batches if batch.settled.outcome == "promote"]

    def cut(self) -> Run:
        """Drop what was left room for and never played."""
        for name in ("rewards", "expected", "random", "oracle", "probabilities"):
            setattr(self, name, getattr(self, name)[: self.played])
        return self

    def regret(self) -> npt.NDArray[np.float64]:
        """Cumulative expected reward missed against the oracle."""
        return np.cumsum(self.oracle - self.expected)


OnBatch = Callable[[Run, Batch], None]


def play(
    environment: Environment,
    transport: Transport,
    script: Script,
    *,
    channel: Channel | None = None,
    on_start: Callable[[Run], None] | None = None,
    on_batch: OnBatch | None = None,
    before_batch: Callable[[int], None] | None = None,
    check: Callable[[], None] | None = None,
    send_actions: bool = False,
) -> Run:
    """Play `script` in a world against a loop; `on_batch` is told of each batch after its verdict.

    `check` is called for every row of history, round, answer and batch: what it raises ends the run.
    `send_actions` offers the actions with each question even where the world's catalogue is fixed.
    """
    check = check or _go_on
    run = Run.empty(script.seed, script.interactions)
    way = channel or Delay()
    if script.warm_start:
        run.initial = transport.warm_start(uniform_history(environment, script.warm_start, script.seed, check=check))
        check()
    if on_start:
        on_start(run)
    rng = np.random.default_rng([script.seed, _ROUNDS])
    tag = f"{uuid.uuid4().hex[:8]}-" if script.unique else ""
    fixed = environment.catalogue is not None and not send_actions
    for number, first in enumerate(range(0, script.interactions, script.batch), start=1):
        if before_batch:
            before_batch(number)
        rounds = []
        for step in range(first, min(first + script.batch, script.interactions)):
            check()
            rounds.append(environment.draw(rng, step))
        answers = _play_batch(transport, run, rounds, way, check, tag=tag, fixed=fixed)
        start = run.played
        _record(run, rounds, answers)
        rewards = run.rewards[start : run.played]
        mean = float(rewards.mean()) if len(rewards) else float("nan")
        batch = Batch(number, start, run.played, mean, transport.settle())
        run.batches.append(batch)
        if on_batch:
            on_batch(run, batch)
        check()
    return run.cut()


def uniform_history(
    environment: Environment, rows: int, seed: int, *, check: Callable[[], None] | None = None
) -> list[dict[str, Any]]:
    """`rows` interactions logged by uniform choice, as objects of the import format.

    In a replayed log, whose other rewards nobody knows, rows are drawn until enough of them count. `check` is called
    before each draw, and ends it by what it raises.
    """
    check = check or _go_on
    rng = np.random.default_rng([seed, _HISTORY])
    history: list[dict[str, Any]] = []
    while len(history) < rows:
        check()
        one = environment.draw(rng, 0)
        index = int(rng.integers(len(one.actions)))
        if math.isnan(one.outcomes[index]):
            continue
        number = len(history)
        row: dict[str, Any] = {
            "event_id": f"h{seed}-{number:07d}",
            "context": dict(one.context),
            "action": one.actions[index].id,
            "probability": 1.0 / len(one.actions),
            "reward": float(one.outcomes[index]),
        }
        if environment.catalogue is None:
            row["actions"] = [{"id": action.id, "features": dict(action.features)} for action in one.actions]
        history.append(row)
    return history


def event_id(seed: int, number: int) -> str:
    """The id of a run's interaction; ids sort in the order of the interactions."""
    return f"s{seed}-{number:07d}"


def _go_on() -> None:
    """The check of a run that nothing ends."""


def _play_batch(
    transport: Transport,
    run: Run,
    rounds: Sequence[Round],
    way: Channel,
    check: Callable[[], None],
    *,
    tag: str,
    fixed: bool,
) -> list[Answer]:
    first = run.asked
    questions = [
        Question(
            tag + event_id(run.seed, first + offset),
            one.context,
            None if fixed else one.actions,
            deferred=_partly_known(one),
        )
        for offset, one in enumerate(rounds)
    ]

    def deliveries(offset: int, answer: Answer) -> Sequence[Delivery]:
        check()
        one = rounds[offset]
        reward = float(one.outcomes[_position(one, answer.action)])
        if math.isnan(reward):
            return ()
        sent = way.send(reward, chance_of(run.seed, _DELIVERIES, first + offset))
        # the decision counts because its action was the logged one, whatever becomes of its reward
        return [Delivery(0.0, None), *sent] if questions[offset].deferred else sent

    return transport.play(questions, deliveries)


def _record(run: Run, rounds: Sequence[Round], answers: Sequence[Answer]) -> None:
    for one, answer in zip(rounds, answers, strict=True):
        index, at = _position(one, answer.action), run.played
        run.asked += 1
        if math.isnan(one.outcomes[index]):
            continue
        run.rewards[at] = one.outcomes[index]
        run.expected[at] = one.means[index]
        run.random[at] = one.means.mean()
        run.oracle[at] = one.means.max()
        run.probabilities[at] = answer.probability
        run.actions.append(answer.action)
        run.models.append(answer.model_id)
        run.event_ids.append(answer.event_id)


def _partly_known(one: Round) -> bool:
    """Whether some action's reward is not known, so that choosing it must not count."""
    return bool(np.isnan(one.outcomes).any())


def _position(one: Round, action: str) -> int:
    return next(index for index, offered in enumerate(one.actions) if offered.id == action)
