"""Deciding and taking rewards, apart from HTTP: the same functions answer a socket and a simulation.

An `ExperimentServer` holds one experiment in one process: settings, catalogue, the verified champion, the
event log writer and the memory of retries. `decide` is pure apart from the log's time stamp: the draw
depends on the experiment's secret, the event_id and the pmf alone, and the pmf that is drawn from is the
one that is logged.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from bandit.errors import Busy, DurabilityLost, InvalidRequest
from bandit.eventlog import EventLogWriter, Heartbeat, beat, try_disk
from bandit.events import ActionRecord, ActivationEvent, DecisionEvent, RewardEvent
from bandit.experiment import Experiment
from bandit.features import check_event_id
from bandit.files import NO_WRITE
from bandit.registry import ModelRegistry
from bandit.settings import Limits
from bandit.types import SLICE_CONTROL, SLOT_FEATURE, Action, Policy
from serving.api.answers import Answer, AnyAnswer, SlotsAnswer, decode_answer, encode_answer, rank
from serving.api.backoff import Backoff
from serving.api.champion import choose_model, choose_trial, wanted_trial
from serving.api.counters import Counters
from serving.api.drawing import State, draw, offer
from serving.api.identity import body_digest, uuid7
from serving.api.known_actions import KnownActions
from serving.api.memory import RetryMemory
from serving.api.requests import RecommendRequest, RewardItem, parse_recommend, slot_event_id
from serving.api.rewards import reward_event

log = logging.getLogger("rewardloop.api")


class ExperimentServer:
    """One experiment in one worker."""

    def __init__(
        self,
        data_dir: Path,
        name: str,
        *,
        writer_id: str,
        clock: Callable[[], datetime],
        durable: bool = True,
        reused: bool = True,
    ) -> None:
        """Open the experiment and its log; `reused` tells whether another process may take the writer_id later.

        Raises `NotFound`, `Busy` (the writer_id is in use), `OSError`.
        """
        self.name = name
        self.writer_id = writer_id
        self.experiment = Experiment.open(data_dir, name)
        self.registry = ModelRegistry(self.experiment.paths, durable=durable)
        self.counters = Counters()
        self.memory = RetryMemory()
        self._clock = clock
        self._secret = self.experiment.secret
        self._durable = durable
        self._reused = reused
        self._revivals = 0
        self._beating = threading.Lock()
        self._refusal: str | None = None
        self._retry = Backoff()
        self._state = self._load(None)
        self._known = KnownActions(self.limits)
        self.writer = self._open_log(writer_id)

    # -- deciding ----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What decisions are made with now."""
        return self._state

    @property
    def limits(self) -> Limits:
        """What one request may hold."""
        return self._state.settings.limits

    def parse(self, body: bytes | msgspec.Raw) -> RecommendRequest:
        """A checked request out of JSON bytes; raises `InvalidRequest` that names the field."""
        limits = self._state.settings.limits
        if self._known.limits is not limits:
            self._known = KnownActions(limits)
        return parse_recommend(body, limits, self._known)

    def decide(self, request: RecommendRequest, digest: str | None = None) -> tuple[list[DecisionEvent], AnyAnswer]:
        """Draw for a checked request; the caller appends the events before it gives the answer away.

        `digest` is the request's body digest where the caller knows it already.
        Raises `InvalidRequest` when no action, or fewer than the slots asked for, are left to draw from.
        """
        state = self._state
        offered, excluded = offer(request, state)
        if digest is None and request.event_id is not None:
            digest = body_digest(request)
        slots = request.slots or 1
        if slots > len(offered):
            raise InvalidRequest("slots", "asks for more actions than are offered", f"{len(offered)} actions")
        stamp = self.writer.stamp()
        event_id = request.event_id or uuid7(stamp)
        if slots == 1:
            event, answer = self._decision(
                state, request, stamp, event_id=event_id, offered=offered, excluded=excluded, digest=digest
            )
            return [event], answer
        events, answers = [], []
        for slot in range(1, slots + 1):
            event, answer = self._decision(
                state,
                request,
                stamp if slot == 1 else self.writer.stamp(),
                event_id=slot_event_id(event_id, slot),
                offered=offered,
                excluded=excluded,
                digest=digest,
                slot=slot,
            )
            events.append(event)
            answers.append(answer)
            offered = tuple(action for action in offered if action.id != event.action)
            excluded = [*excluded, event.action]
        return events, SlotsAnswer(answers)

    def recall(self, event_id: str, digest: str, slots: int | None) -> bytes | None:
        """The encoded answer this question got before, None when the id is new; raises `Conflict`."""
        answer = self.memory.recall(event_id, digest, slots or 1)
        if answer is not None:
            self.counters.add("retries")
        return answer

    def recommend(self, request: RecommendRequest) -> AnyAnswer:
        """Decide, make it durable and answer, in one blocking call; a retry gets its first answer again.

        Raises `InvalidRequest`, `Conflict`, `DurabilityLost`, `Busy`.
        """
        digest = None
        if request.event_id is not None:
            digest = body_digest(request)
            known = self.recall(request.event_id, digest, request.slots)
            if known is not None:
                return decode_answer(known)
        events, answer = self.decide(request, digest)
        self.writer.append(events)
        self.count_decisions(events)
        if request.event_id is not None and digest is not None:
            self.memory.remember(request.event_id, digest, encode_answer(answer), request.slots or 1)
        return answer

    def count_decisions(self, events: Sequence[DecisionEvent]) -> None:
        """Count decisions that became durable."""
        counters = self.counters
        counters.add("decisions", len(events))
        state = self._state
        if state.model.fallback is not None:
            counters.add("fallback_decisions", len(events))
        if state.settings.serving.control_fraction > 0.0:
            counters.add("control_decisions", sum(event.slice == SLICE_CONTROL for event in events))

    # -- rewards and activations -------------------------------------------------------------------------

    def reward_events(self, items: Sequence[RewardItem]) -> list[RewardEvent]:
        """The events that log `items`; raises `InvalidRequest` for the first that is refused."""
        rules = self._state.settings.rewards
        return [reward_event(item, rules, self.writer.stamp) for item in items]

    def reward(self, items: Sequence[RewardItem]) -> None:
        """Make rewards durable in one blocking call; raises `InvalidRequest`, `DurabilityLost`, `Busy`."""
        events = self.reward_events(items)
        self.writer.append(events)
        self.counters.add("rewards", len(events))

    def activation_event(self, event_id: str) -> ActivationEvent:
        """The event that logs that a deferred decision was shown; raises `InvalidRequest`."""
        check_event_id(event_id, "event_id", self.limits)
        return ActivationEvent(event_id=event_id, received_at=self.writer.stamp())

    # -- keeping up --------------------------------------------------------------------------------------

    def prepare(self) -> State | None:
        """Look for new settings or another champion and load them; None when nothing changed.

        A champion or challenger on trial that could not be loaded is tried again, ever more rarely: what kept it from
        that may have passed.

        May run in another thread than the deciding one: nothing is swapped before `install`.
        """
        changed = self.experiment.refresh()
        state = self._state
        known = state.trial.trial if state.trial else None
        if (
            not changed
            and self.registry.champion() == state.model.champion
            and wanted_trial(self.registry, state.settings.serving, state.model) == known
            and not self._retry.due(self._clock())
        ):
            return None
        return self._load(self._state)

    def install(self, state: State) -> None:
        """Put a prepared state in force, by replacing one reference, and give the old model back."""
        before, self._state = self._state, state
        old = before.model
        if state.model.model_id != old.model_id:
            self.counters.add("model_swaps")
            log.info("experiment %s now serves %s (%s)", self.name, state.model.model_id, state.model.status)
        trial = before.trial.policy if before.trial else None
        in_use = (state.model.policy, state.trial.policy if state.trial else None)
        for policy in (old.policy, trial):
            if policy is not None and policy not in in_use:
                _close(policy)

    def refresh(self) -> bool:
        """Follow settings and champion pointer, blocking; returns whether anything changed."""
        state = self.prepare()
        if state is None:
            return False
        self.install(state)
        return True

    def revive(self) -> bool:
        """After durability was lost, try to go on with a new log; returns whether that worked.

        It takes a trial write beside the log: a new log writes nothing yet, and would only seem to work. The lost
        writer's segment is recovered from what is on disk, as if its process had died.
        """
        if not self.writer.failed:
            return False
        lost = self.writer
        try:
            try_disk(self.experiment.paths.events, self.writer_id, durable=self._durable)
            self.writer = self._open_log(f"{self.writer_id}-{self._revivals + 1}")
        except (DurabilityLost, Busy, OSError) as error:
            log.error("experiment %s still cannot write its log: %s", self.name, error)
            return False
        self._revivals += 1
        lost.close()
        log.warning("experiment %s writes its log again", self.name)
        return True

    @property
    def not_durable(self) -> str | None:
        """Why nothing can be acknowledged, as far as is known, None where all is well.

        Known is what the log or the last heartbeat met with: a worker that nobody asks writes nothing else.
        """
        if self.writer.failed:
            return "the event log cannot be written; nothing is acknowledged until it can"
        if self._refusal is not None:
            return f"the disk takes no heartbeat ({self._refusal}); nothing may be acknowledged until it does"
        return None

    def heartbeat(self) -> Heartbeat:
        """Write this worker's sign of life and return it; raises `OSError`."""
        with self._beating:
            heartbeat = self._sign_of_life(written=True)
            try:
                beat(self.experiment.paths, heartbeat)
            except OSError as error:
                self._refusal = os.strerror(error.errno) if error.errno in NO_WRITE else None
                raise
            self._refusal = None
        return heartbeat

    def told(self) -> Heartbeat:
        """This worker's sign of life, written if the disk takes it, else as it is in memory, and then not ready."""
        if not self.writer.failed:
            try:
                return self.heartbeat()
            except OSError:
                self.counters.add("poll_errors")
        with self._beating:
            return self._sign_of_life(written=False)

    def close(self) -> None:
        """Seal the log, say so in a last heartbeat and release the model."""
        try:
            if not self.writer.failed:
                self.writer.seal()
                self.heartbeat()
        finally:
            self.writer.close()
            _close(self._state.model.policy)
            if self._state.trial is not None and self._state.trial.policy is not None:
                _close(self._state.trial.policy)

    # -- helpers -----------------------------------------------------------------------------------------

    def _beat_after_seal(self) -> None:
        self.heartbeat()

    def _sign_of_life(self, *, written: bool) -> Heartbeat:
        """The heartbeat to be written, which whoever reads it knows was possible, or that of a disk that takes none."""
        return self.writer.heartbeat(follow=written, **self._what_is_served(ready=written))

    def _what_is_served(self, *, ready: bool) -> dict[str, Any]:
        """What a heartbeat tells beside the log's own; the first one, too, or it would seem to serve nothing."""
        state = self._state
        champion = state.model.champion
        return {
            "settings_version": state.settings_version,
            "model_id": state.model.model_id,
            "generation": champion.generation if champion is not None else 0,
            "unusable": state.model.unusable,
            "canary_digest": state.model.canary_digest,
            "manifest_digest": state.model.manifest_digest,
            "counters": self._flat_counters(state, ready=ready),
        }

    def _flat_counters(self, state: State, *, ready: bool) -> dict[str, float]:
        flat = self.counters.flat()
        flat["memory_ids"] = len(self.memory)
        flat["ready"] = float(ready)
        flat["fallback"] = float(state.model.fallback is not None)
        flat["trial"] = float(state.trial is not None and state.trial.policy is not None)
        if state.trial is not None:
            flat["trial_share"], flat["trial_learnt"] = state.trial.trial.share, float(state.trial.trial.learnt)
        if state.model.champion is not None:
            flat["champion_since_s"] = state.model.champion.since.timestamp()
        return flat

    def _open_log(self, writer_id: str) -> EventLogWriter:
        serving = self._state.settings.serving
        return EventLogWriter(
            self.experiment.paths,
            writer_id,
            clock=self._clock,
            seal_interval_s=serving.seal_interval_s,
            segment_bytes_max=serving.segment_bytes_max,
            durable=self._durable,
            on_seal=self._beat_after_seal,
            reused=self._reused,
            first=self._what_is_served(ready=True),  # a disk that takes none lets no log be opened
        )

    def _load(self, current: State | None) -> State:
        version, settings, declared = self.experiment.in_force
        catalogue = self.experiment.catalogue(declared) if declared is not None else None
        model = choose_model(self.registry, settings.serving, serving=current.model if current else None)
        trial = choose_trial(self.registry, settings.serving, model, serving=current.trial if current else None)
        if model.fallback is not None or (trial is not None and trial.problem is not None):
            self._retry.failed((model.champion, trial.trial if trial else None), self._clock())
        else:
            self._retry.worked()
        return State(
            settings=settings,
            settings_version=version,
            catalogue=catalogue,
            catalogue_version=declared,
            listed={action.id: action for action in catalogue or ()},
            model=model,
            trial=trial,
        )

    def _decision(
        self,
        state: State,
        request: RecommendRequest,
        decided_at: datetime,
        *,
        event_id: str,
        offered: tuple[Action, ...],
        excluded: Sequence[str],
        digest: str | None,
        slot: int | None = None,
    ) -> tuple[DecisionEvent, Answer]:
        context = request.context if slot is None else {**request.context, SLOT_FEATURE: str(slot)}
        drawn = draw(state, context, offered, secret=self._secret, event_id=event_id, counters=self.counters)
        pmf, index = drawn.pmf, drawn.position
        from_catalogue = request.actions is None
        event = DecisionEvent(
            event_id=event_id,
            decided_at=decided_at,
            model_id=drawn.model_id,
            trial_model_id=drawn.trial_model_id,
            trial_share=drawn.trial_share,
            context=context,
            action=offered[index].id,
            index=index,
            probability=pmf[index],
            pmf=pmf,
            actions=None if from_catalogue else [_record(action) for action in offered],
            catalogue_version=state.catalogue_version if from_catalogue else None,
            excluded=list(excluded) if excluded and from_catalogue else None,
            settings_version=state.settings_version,
            mode=state.settings.serving.mode,
            slice=drawn.slice,
            deferred=request.deferred,
            slot=slot,
            body_digest=digest,
        )
        return event, Answer(event_id, offered[index].id, pmf[index], drawn.model_id, rank(offered, pmf, index))


def _record(action: Action) -> ActionRecord:
    # features came out of JSON as a dict, and nothing ever changes them
    return ActionRecord(action.id, cast(dict[str, Any], action.features))


def _close(policy: Policy) -> None:
    close = getattr(policy, "close", None)
    if close is not None:
        close()
