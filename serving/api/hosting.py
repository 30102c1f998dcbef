"""The experiments of one worker process: opened, followed and closed together.

Settings, champion pointers and new experiments are looked for in another thread, and swapped in on the event
loop between two requests: no request ever waits for a file or sees half of a change.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bandit.errors import DurabilityLost, NotFound, RewardloopError
from bandit.eventlog import Heartbeat, live_heartbeats
from bandit.events import DecisionEvent, Event
from bandit.experiment import Experiment
from serving.api.answers import encode_answer
from serving.api.decider import ExperimentServer
from serving.api.durability import Commit, CommitWaiter
from serving.api.identity import body_digest
from serving.api.problems import ApiProblem
from serving.api.requests import RecommendRequest

log = logging.getLogger("rewardloop.api")

LOOK_S_MAX = 1.0
BEAT_S = 1.0
REVIVE_S = 1.0


@dataclass(slots=True)
class Hosted:
    """One experiment with what HTTP adds to it: waiting for commits, and retries of what is not yet on disk."""

    server: ExperimentServer
    waiter: CommitWaiter
    pending: dict[str, Commit] = field(default_factory=dict)
    beaten_s: float = 0.0
    revived_s: float = 0.0

    def submit(self, events: Sequence[Event]) -> Commit:
        """The commit that takes `events` to the disk."""
        return self.waiter.submit(events)

    async def decide(self, request: RecommendRequest) -> bytes:
        """The encoded answer of one question, once it is on disk (a retry gets the first answer)."""
        started = self.begin(request)
        if started.commit is not None:
            await started.commit
        return self.finish(started)

    def begin(self, request: RecommendRequest) -> Started:
        """Decide and queue for the disk without waiting; raises what deciding raises."""
        server = self.server
        event_id = request.event_id
        if event_id is None:
            events, answer = server.decide(request)
            return Started(encode_answer(answer), self.waiter.submit(events), events)
        digest = body_digest(request)
        known = server.recall(event_id, digest, request.slots)
        if known is not None:
            return Started(known, self.pending.get(event_id), ())
        events, answer = server.decide(request, digest)
        encoded = encode_answer(answer)
        commit = self.waiter.submit(events)
        server.memory.remember(event_id, digest, encoded, request.slots or 1)
        self.pending[event_id] = commit
        commit.then(lambda: self._settle(event_id, commit))
        return Started(encoded, commit, events)

    def finish(self, started: Started) -> bytes:
        """Count, and give the answer; call it when the commit is settled. Raises `DurabilityLost` or `Busy`."""
        if started.commit is not None and started.commit.error is not None:
            raise started.commit.error
        self.server.count_decisions(started.events)
        return started.answer

    def _settle(self, event_id: str, commit: Commit) -> None:
        self.pending.pop(event_id, None)
        if commit.error is not None:
            self.server.memory.forget(event_id)


class Started(NamedTuple):
    """An answer that may be given once its commit is settled; a retry has no events, and no commit once on disk."""

    answer: bytes
    commit: Commit | None
    events: Sequence[DecisionEvent]


class Hosting:
    """All experiments of a data directory, in one worker."""

    def __init__(
        self,
        data_dir: Path,
        *,
        writer_id: str,
        clock: Callable[[], datetime],
        durable: bool = True,
        also: Callable[[], None] | None = None,
    ) -> None:
        """`also` is called in each look, in another thread: for what concerns no single experiment."""
        self.data_dir = data_dir
        self.writer_id = writer_id
        self.clock = clock
        self.hosted: dict[str, Hosted] = {}
        self.unopened: dict[str, Exception] = {}
        self._durable = durable
        self._also = also
        self._task: asyncio.Task[None] | None = None

    def get(self, name: str) -> Hosted:
        """One experiment; raises `NotFound`, or `ApiProblem` (503) when it is there but cannot be opened."""
        hosted = self.hosted.get(name)
        if hosted is None:
            if name in self.unopened:
                raise ApiProblem("unavailable", "This experiment cannot be opened; the server's log says why.")
            raise NotFound("experiment: there is none of that name here")
        return hosted

    async def start(self) -> None:
        """Open what is there and begin to follow it."""
        await self.look()
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """Stop following, then seal and close every log."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for hosted in self.hosted.values():
            try:
                await asyncio.to_thread(hosted.server.close)
            except Exception as error:  # whatever it was: the others are sealed all the same
                _tell(error, "experiment %s could not be closed well: %s", hosted.server.name)

    async def look(self) -> None:
        """One round: open new experiments, follow settings and champions, revive lost logs, beat when due."""
        if self._also is not None:
            await asyncio.to_thread(self._also)
        names = await asyncio.to_thread(Experiment.names, self.data_dir)
        for name in names:
            if name not in self.hosted:
                await self._open(name)
        for hosted in list(self.hosted.values()):
            try:
                await self._look_at(hosted)
            except Exception as error:  # whatever it was: the others are followed all the same
                hosted.server.counters.add("poll_errors")
                _tell(error, "experiment %s: a look at it failed: %s", hosted.server.name)

    async def heartbeats(self) -> dict[str, Sequence[Heartbeat]]:
        """This worker's heartbeat and those of all live writers, by experiment, whatever the disk does."""
        return await asyncio.to_thread(self._heartbeats)

    def _heartbeats(self) -> dict[str, Sequence[Heartbeat]]:
        found: dict[str, Sequence[Heartbeat]] = {}
        for name, hosted in list(self.hosted.items()):
            own = hosted.server.told()
            try:
                living = live_heartbeats(hosted.server.experiment.paths)
            except OSError:  # nothing is known of the others then
                hosted.server.counters.add("poll_errors")
                living = []
            beats = {beat.writer_id: beat for beat in (*living, own)}
            found[name] = [beats[writer_id] for writer_id in sorted(beats)]
        return found

    async def _follow(self) -> None:
        while True:
            polls = [hosted.server.state.settings.schedule.poll_s for hosted in self.hosted.values()]
            await asyncio.sleep(min([LOOK_S_MAX, *polls]))
            try:
                await self.look()
            except Exception:
                # the round is tried again; a worker that stopped looking would serve an old model for ever
                log.exception("a look at the data directory failed")
                for hosted in self.hosted.values():
                    hosted.server.counters.add("poll_errors")

    async def _open(self, name: str) -> None:
        def make() -> ExperimentServer:
            return ExperimentServer(
                self.data_dir,
                name,
                writer_id=self.writer_id,
                clock=self.clock,
                durable=self._durable,
                reused=False,
            )

        try:
            server = await asyncio.to_thread(make)
        except Exception as error:  # whatever it was: the others are opened all the same
            if str(self.unopened.get(name)) != str(error):  # said once, not at every look
                _tell(error, "experiment %s cannot be opened: %s", name)
            self.unopened[name] = error
            return
        self.unopened.pop(name, None)
        self.hosted[name] = Hosted(server, CommitWaiter(server, asyncio.get_running_loop()))

    async def _look_at(self, hosted: Hosted) -> None:
        server = hosted.server
        now_s = time.monotonic()
        if server.writer.failed and now_s - hosted.revived_s >= REVIVE_S:
            hosted.revived_s = now_s
            await asyncio.to_thread(server.revive)
        try:
            state = await asyncio.to_thread(server.prepare)
        except Exception as error:  # whatever it was: the heartbeat tells that this worker lives
            server.counters.add("poll_errors")
            _tell(error, "experiment %s: settings or pointer cannot be read: %s", server.name)
            state = None
        if state is not None:
            server.install(state)
        if (state is not None or now_s - hosted.beaten_s >= BEAT_S) and not server.writer.failed:
            hosted.beaten_s = now_s
            try:
                await asyncio.to_thread(server.heartbeat)
            except OSError as error:
                server.counters.add("poll_errors")
                log.error("experiment %s: the heartbeat cannot be written: %s", server.name, error.strerror)


def _tell(error: Exception, message: str, name: str) -> None:
    """Log an error of one experiment; one that nobody foresaw, with where it came from."""
    foreseen = isinstance(error, (RewardloopError, OSError, msgspec.MsgspecError))
    log.error(message, name, error, exc_info=None if foreseen else error)


def readiness(hosting: Hosting) -> tuple[bool, dict[str, Any]]:
    """Whether every experiment can answer durably, and what each one serves and why."""
    experiments: dict[str, Any] = {}
    ready = not hosting.unopened
    for name, hosted in sorted(hosting.hosted.items()):
        model = hosted.server.state.model
        lost = hosted.server.not_durable
        ready = ready and lost is None
        experiments[name] = {
            "ready": lost is None,
            "serving": model.status,
            "model_id": model.model_id,
            "champion": model.champion.model_id if model.champion else None,
            "mode": hosted.server.state.settings.serving.mode,
            "settings_version": hosted.server.state.settings_version,
        }
        if model.fallback is not None:
            experiments[name]["fallback"] = model.fallback
        if lost is not None:
            experiments[name]["reason"] = lost
    for name, error in sorted(hosting.unopened.items()):
        # a lost disk is told with paths, which are nobody's business here
        tells = isinstance(error, RewardloopError) and not isinstance(error, DurabilityLost)
        why = error if tells else "the server's log says why"
        experiments[name] = {"ready": False, "reason": f"the experiment cannot be opened: {why}"}
    return ready, {"ready": ready, "experiments": experiments}
