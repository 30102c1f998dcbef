"""The whole loop in one process under a simulated clock: the same decide, append, ingest, join, train, evaluate,
promote functions as the service, without sockets, child processes and waiting.

Everything depends on the seed alone: time advances only when told to, the draws' secret and the event_ids derive
from the seed, and training runs inline (with a helper partly in a process of its own, which gives the same). The log is
written but not synced; the directory is one like any other and opens under `rewardloop up`.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bandit.errors import RewardloopError
from bandit.events import Event
from bandit.experiment import Experiment
from bandit.settings import ExperimentSettings
from joiner.history import import_history
from joiner.warehouse import Warehouse
from serving.api.answers import Answer as ServedAnswer
from serving.api.decider import ExperimentServer
from serving.api.requests import RecommendRequest, RewardItem, check_recommend
from serving.learner.cycle import Cycle
from serving.learner.reports import RunReport, to_plain
from serving.learner.training.trainer import HelpedTrainer, InlineTrainer
from serving.learner.workspace import Workspace
from simulator.transport import Answer, Deliveries, Delivery, Question, Settled

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
WRITER_ID = "simulation"
QUESTION_EVERY_S = 0.01
APPEND_EVENTS_MAX = 256
_MARGIN_S = 0.001


class SimulatedClock:
    """A clock that stands still until it is moved; call it for the time."""

    def __init__(self, start: datetime = EPOCH) -> None:
        self._now = start

    def __call__(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds`."""
        self._now += timedelta(seconds=seconds)

    def advance_to(self, moment: datetime) -> None:
        """Move forward to `moment`; does nothing when it has passed."""
        self._now = max(self._now, moment)


def secret_of(seed: int) -> bytes:
    """The secret of a simulated experiment's draws (32 bytes)."""
    return hashlib.sha256(f"rewardloop simulation {seed}".encode()).digest()


def create_experiment(data_dir: Path, name: str, settings: ExperimentSettings, seed: int) -> Experiment:
    """A new experiment whose secret derives from `seed`, made at the simulation's epoch; raises `Conflict`."""
    return Experiment.create(data_dir, name, settings, now=EPOCH, secret=secret_of(seed))


class InProcess:
    """The transport in one process; see `simulator.transport.Transport`.

    With `barrier` each `settle` lets the batch's whole reward window pass, as the published protocol does. Without
    it the traffic never stops: a cycle trains on what has matured so far, and rewards still on their way arrive
    during later batches. With a `helper` the declared challengers learn in a process beside this one, which changes no
    result.
    """

    def __init__(
        self,
        data_dir: Path,
        experiment: Experiment,
        *,
        clock: SimulatedClock | None = None,
        question_every_s: float = QUESTION_EVERY_S,
        barrier: bool = True,
        helper: bool = False,
    ) -> None:
        self.clock = clock or SimulatedClock()
        self.experiment = experiment
        self._question_every_s = question_every_s
        self._barrier = barrier
        self._window_s = experiment.settings.rewards.window_s
        # a batch is too little to share between cores: waking the others takes longer
        warehouse = Warehouse(experiment, threads=1)
        self._workspace = Workspace(experiment, self.clock, durable=False, warehouse=warehouse)
        self.cycle = Cycle(self._workspace, HelpedTrainer() if helper else InlineTrainer())
        self.server = ExperimentServer(data_dir, experiment.name, writer_id=WRITER_ID, clock=self.clock, durable=False)
        self._on_their_way: list[tuple[datetime, int, str, Delivery]] = []
        self._numbers = itertools.count()
        self._unwritten: list[Event] = []
        self.last_report: RunReport | None = None

    def close(self) -> None:
        """Seal the log and close the warehouse."""
        self._flush()
        self.server.close()
        self.cycle.close()

    def warm_start(self, history: Sequence[Mapping[str, Any]]) -> Settled:
        """Import `history` through the real import and train the initial model."""
        lines = [json.dumps(row).encode() for row in history]
        report = import_history(self.experiment, lines, clock=self.clock, durable=False)
        if report.imported != len(history):
            raise RewardloopError(f"of {len(history)} rows of history {report.imported} were imported")
        self.clock.advance(_MARGIN_S)
        return self._run("history")

    def play(self, questions: Sequence[Question], deliveries: Deliveries) -> list[Answer]:
        """Ask one question every `question_every_s`; rewards arrive in between, when they are due."""
        answers = []
        for number, question in enumerate(questions):
            moment = self.clock() + timedelta(seconds=self._question_every_s)
            self._deliver_until(moment)
            self.clock.advance_to(moment)
            answer = self._decide(question)
            answers.append(answer)
            for delivery in deliveries(number, answer):
                due = self.clock() + timedelta(seconds=delivery.delay_s)
                heapq.heappush(self._on_their_way, (due, next(self._numbers), answer.event_id, delivery))
        self._flush()
        return answers

    def settle(self) -> Settled:
        """Let the reward window pass (with a barrier), run the cycle, and serve its champion."""
        if self._barrier:
            moment = self.clock() + timedelta(seconds=self._window_s + _MARGIN_S)
            self._deliver_until(moment)
            self.clock.advance_to(moment)
            self._flush()
        return self._run("rows")

    def _run(self, trigger: str) -> Settled:
        self.server.writer.seal()
        self.server.heartbeat()
        report = self.cycle.run(force=True, trigger=trigger)
        self.last_report = report
        self.server.refresh()
        self.server.heartbeat()
        champion = self.server.registry.champion()
        return Settled.of(to_plain(report), champion.model_id if champion else "")

    def _decide(self, question: Question) -> Answer:
        request = RecommendRequest(
            context=dict(question.context),
            actions=list(question.actions) if question.actions is not None else None,
            event_id=question.event_id,
            deferred=question.deferred,
        )
        check_recommend(request, self.server.limits)
        events, answer = self.server.decide(request)
        assert isinstance(answer, ServedAnswer)
        self._write(events)
        return Answer(answer.event_id, answer.action, answer.probability, answer.model_id)

    def _deliver_until(self, moment: datetime) -> None:
        while self._on_their_way and self._on_their_way[0][0] <= moment:
            due, _, event_id, delivery = heapq.heappop(self._on_their_way)
            self.clock.advance_to(due)
            if delivery.reward is None:
                self._write([self.server.activation_event(event_id)])
                continue
            item = RewardItem(event_id=event_id, reward=delivery.reward, reward_id=delivery.reward_id)
            self._write(self.server.reward_events([item]))

    def _write(self, events: Sequence[Event]) -> None:
        self._unwritten += events
        if len(self._unwritten) >= APPEND_EVENTS_MAX:
            self._flush()

    def _flush(self) -> None:
        if self._unwritten:
            self.server.writer.append(self._unwritten)
            self._unwritten = []


@contextmanager
def in_process(
    data_dir: Path,
    name: str,
    settings: ExperimentSettings,
    seed: int,
    *,
    question_every_s: float = QUESTION_EVERY_S,
    barrier: bool = True,
    helper: bool = False,
) -> Iterator[InProcess]:
    """A fresh experiment in `data_dir` with its transport, closed at the end of the block."""
    experiment = create_experiment(data_dir, name, settings, seed)
    transport = InProcess(data_dir, experiment, question_every_s=question_every_s, barrier=barrier, helper=helper)
    try:
        yield transport
    finally:
        transport.close()
