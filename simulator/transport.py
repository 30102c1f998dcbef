"""What passes between a simulated world and a loop, and the port that carries it.

A transport plays one batch (asks for each question, reports the rewards that come of it) and then settles:
it waits, or makes its clock jump, until the batch has matured and the learner has spoken its verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bandit.types import Action, Features


@dataclass(frozen=True, slots=True)
class Question:
    """What a client app asks: `actions` is None where the experiment declares a catalogue.

    A `deferred` question counts only once its answer is activated.
    """

    event_id: str
    context: Features
    actions: tuple[Action, ...] | None = None
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the loop decided."""

    event_id: str
    action: str
    probability: float
    model_id: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One report on its way, `delay_s` after the decision: a reward, or, without one, its activation."""

    delay_s: float
    reward: float | None
    reward_id: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What the learner said after a batch.

    `outcome` is "initial", "promote", "hold", "insufficient", "nothing", "failed" or "stopped"; the lift with its lower
    and upper bound, which belong to the `weighed` one, is None where none was worked out. `champion` is the model that
    serves from here on. `evaluation_id` names the stored certificate and report. `heard` is False where nothing but
    decisions is seen: then `outcome` is "promote" when they brought another model, else "unknown".
    """

    outcome: str
    reason: str
    champion: str
    lift: float | None = None
    lower: float | None = None
    upper: float | None = None
    weighed: float | None = None
    evaluation_id: str | None = None
    heard: bool = True

    @classmethod
    def of(cls, report: Mapping[str, Any], champion: str) -> Settled:
        """The part of a run's report (a JSON object) that simulations keep."""
        return cls(
            outcome=report["outcome"],
            reason=report["reason"],
            champion=champion,
            lift=report.get("lift"),
            lower=report.get("lower"),
            upper=report.get("upper"),
            weighed=report.get("weighed"),
            evaluation_id=report.get("evaluation_id"),
        )


Deliveries = Callable[[int, Answer], Sequence[Delivery]]
"""The rewards that come of an answer to the question at a position of the batch; called from any thread."""


class Transport(Protocol):
    """Carries a simulated world's questions and rewards to a loop."""

    def warm_start(self, history: Sequence[Mapping[str, Any]]) -> Settled:
        """Import logged rows (objects of the import format) and train the initial model from them."""
        ...

    def play(self, questions: Sequence[Question], deliveries: Deliveries) -> list[Answer]:
        """Ask every question and report every reward; the answers in the order of the questions."""
        ...

    def settle(self) -> Settled:
        """Wait for the learner's verdict on everything played so far, and for its champion to serve."""
        ...
