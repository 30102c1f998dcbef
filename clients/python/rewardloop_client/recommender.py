"""For applications that must go on whatever happens to the service: nothing here raises into the host.

    recommender = Recommender("http://127.0.0.1:8000", "shop")
    choice = recommender.recommend(context, ["a", "b"], default="a")
    show(choice.action)
    recommender.reward(choice, 1.0)

When the service is down, slow or refuses, the caller's default comes back, marked as not learnable, and rewards
for it are dropped. Rewards wait in a bounded queue, travel in batches from a thread of their own (in smaller ones
where the service refuses a batch as a whole), are retried under an id of their own so that none counts twice, and are
flushed at exit. It may be made before a server forks its workers: each of them then has connections, a queue and a
thread of its own.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import httpx

from rewardloop_client import wire
from rewardloop_client.client import Client
from rewardloop_client.deadline import DeadlineTransport
from rewardloop_client.errors import InvalidRequest, NotEncodable, Rejected, RewardloopError, TooManyRequests
from rewardloop_client.forks import begins_anew_when_forked
from rewardloop_client.types import Action, Recommendation

log = logging.getLogger("rewardloop_client")

DECISION_TIMEOUT_S = 0.25
REWARDS_MAX = 10_000
BATCH_MAX = 100
LINGER_S = 0.2
PATIENCE_S = 10.0
RETRY_PAUSE_MAX_S = 5.0
_CONNECT_SHARE = 0.3

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Choice:
    """What to show. `learnable` is false when it is the caller's default and the service knows nothing of it."""

    action: str
    event_id: str
    learnable: bool
    probability: float | None = None
    model_id: str | None = None

    @classmethod
    def of(cls, found: Recommendation) -> Choice:
        """The choice that shows a decision of the service."""
        return cls(found.action, found.event_id, True, found.probability, found.model_id)


@dataclass(slots=True)
class RecommenderCounters:
    """What happened so far, tile by tile where there are slots; a queue that was full shows in `rewards_dropped`."""

    decisions: int = 0
    defaults: int = 0
    rewards_sent: int = 0
    rewards_refused: int = 0
    rewards_dropped: int = 0


class Recommender:
    """Asks with a deadline and reports in the background; thread-safe, and none of its calls raises.

    `timeout_s` bounds one `recommend` as a whole (connecting gets three tenths of it). `rewards_max` bounds
    the queue of rewards; when it is full the oldest makes room. `counters` say what happened.
    """

    def __init__(
        self,
        base_url: str,
        experiment: str = "default",
        *,
        api_key: str | None = None,
        timeout_s: float = DECISION_TIMEOUT_S,
        rewards_max: int = REWARDS_MAX,
    ) -> None:
        connect_s = timeout_s * _CONNECT_SHARE
        deadline = httpx.Timeout(timeout_s - connect_s, connect=connect_s, pool=connect_s)
        self._timeout_s = timeout_s

        def connect() -> tuple[DeadlineTransport, Client]:
            transport = DeadlineTransport(connections_max=wire.CONNECTIONS_MAX)
            return transport, Client(
                base_url, experiment, api_key=api_key, timeout_s=deadline, retries=0, transport=transport
            )

        self._connect = connect
        self._asking: tuple[DeadlineTransport, Client] | None = connect()
        self._reporting = Client(base_url, experiment, api_key=api_key, retries=0, connections_max=1)
        self._rewards_max = rewards_max
        self._closing_at: float | None = None
        self._begin()
        self._start()
        atexit.register(self.close)
        begins_anew_when_forked(self)

    def _begin(self) -> None:
        self._queue: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._sending = 0
        self._batch_max = BATCH_MAX
        self.counters = RecommenderCounters()
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._report, name="rewardloop-rewards", daemon=True)
        self._thread.start()

    def begin_anew(self) -> None:
        """In a forked process: an empty queue (the parent sends its own), no thread and no connection yet."""
        self._asking = None
        self._begin()

    def __enter__(self) -> Recommender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def recommend(
        self,
        context: Mapping[str, Any],
        actions: Sequence[Action | str] | None = None,
        *,
        default: str,
        event_id: str | None = None,
        excluded: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> Choice:
        """What to show: the service's decision, or `default` when none came in time. Never raises."""
        ident = event_id or wire.new_event_id()

        def ask(client: Client) -> Recommendation:
            return client.recommend(context, actions, event_id=ident, excluded=excluded, deferred=deferred)

        try:
            found = self._in_time(ask)
        except Exception as error:  # whatever it is, the host's page goes on; it is counted and said
            self.counters.defaults += 1
            log.warning("the default is shown: %s: %s", type(error).__name__, error)
            return Choice(default, ident, learnable=False)
        self.counters.decisions += 1
        return Choice.of(found)

    def recommend_slots(
        self,
        context: Mapping[str, Any],
        actions: Sequence[Action | str] | None = None,
        *,
        defaults: Sequence[str],
        event_id: str | None = None,
        excluded: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> list[Choice]:
        """What to show in as many tiles as there are `defaults`: distinct actions, or the defaults. Never raises."""
        ident = event_id or wire.new_event_id()

        def ask(client: Client) -> list[Recommendation]:
            return client.recommend_slots(
                context, len(defaults), actions, event_id=ident, excluded=excluded, deferred=deferred
            )

        try:
            found = self._in_time(ask)
        except Exception as error:  # as above
            self.counters.defaults += len(defaults)
            log.warning("the defaults are shown: %s: %s", type(error).__name__, error)
            return [Choice(default, f"{ident}:{slot}", learnable=False) for slot, default in enumerate(defaults, 1)]
        self.counters.decisions += len(found)
        return [Choice.of(decision) for decision in found]

    def activate(self, choice: Choice) -> bool:
        """Say that a deferred choice was shown; whether that is on the service's disk. Never raises.

        Takes at most the timeout. After False it may be called again: activating twice counts once.
        """
        if not choice.learnable:
            return False
        try:
            self._in_time(lambda client: client.activate(choice.event_id))
        except Exception as error:  # as above
            log.warning("an activation was lost: %s: %s", type(error).__name__, error)
            return False
        return True

    def _in_time(self, ask: Callable[[Client], _T]) -> _T:
        """What `ask` gets from the service before the timeout; raises whatever goes wrong."""
        transport, client = self._asking = self._asking or self._connect()
        with transport.within(self._timeout_s):
            return ask(client)

    def reward(
        self,
        choice: Choice,
        reward: float | None = None,
        *,
        event: str | None = None,
        value: float | None = None,
        reward_id: str | None = None,
    ) -> None:
        """Queue a reward for a choice; those for defaults are dropped. Returns at once, never raises."""
        if not choice.learnable:
            return
        ident = reward_id or str(uuid.uuid4())
        item = wire.reward_item(choice.event_id, reward, event=event, value=value, reward_id=ident)
        with self._changed:
            if not sendable(item):
                self.counters.rewards_refused += 1
                return
            if self._closing_at is not None or self._rewards_max < 1:
                self.counters.rewards_dropped += 1
                return
            if len(self._queue) >= self._rewards_max:
                self._queue.popleft()
                self.counters.rewards_dropped += 1
            self._queue.append(item)
            if self._thread is None:
                self._start()
            self._changed.notify()

    def flush(self, timeout_s: float = PATIENCE_S) -> bool:
        """Wait until every queued reward was sent, refused or dropped; whether that happened in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._sending, timeout_s)

    def close(self, timeout_s: float = PATIENCE_S) -> None:
        """Send what is queued, for at most `timeout_s`, and end; what is left then is counted as dropped."""
        atexit.unregister(self.close)
        with self._changed:
            if self._closing_at is None:
                self._closing_at = time.monotonic() + timeout_s
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s + wire.TIMEOUT_S)
        if self._asking is not None:
            self._asking[1].close()
        self._reporting.close()

    # -- the reporting thread ----------------------------------------------------------------------------

    def _report(self) -> None:
        pause_s = wire.RETRY_PAUSE_S
        while (batch := self._take()) is not None:
            waiting = self._send(batch)
            if not waiting:
                pause_s = wire.RETRY_PAUSE_S
                continue
            with self._changed:  # not now: back to the front of the queue, as far as there is room
                kept = waiting[max(0, len(waiting) - (self._rewards_max - len(self._queue))) :]
                self.counters.rewards_dropped += len(waiting) - len(kept)
                self._queue.extendleft(reversed(kept))
                self._sending = 0
                self._pause(pause_s)
            pause_s = min(2 * pause_s, RETRY_PAUSE_MAX_S)

    def _pause(self, pause_s: float) -> None:
        """Wait so many seconds, or until closing begins or its time is over; rewards that arrive shorten nothing."""
        closing_at = self._closing_at
        if closing_at is not None:
            pause_s = min(pause_s, max(0.0, closing_at - time.monotonic()))
        self._changed.wait_for(lambda: self._closing_at != closing_at, pause_s)

    def _take(self) -> list[dict[str, Any]] | None:
        """The next batch, None at the end; lingers a little so that rewards travel together."""
        with self._changed:
            while not self._queue and self._closing_at is None:
                self._changed.wait()
            size = self._batch_max
            if len(self._queue) < size and self._closing_at is None:
                self._changed.wait_for(lambda: len(self._queue) >= size or self._closing_at is not None, LINGER_S)
            if self._late() or not self._queue:
                self.counters.rewards_dropped += len(self._queue)
                self._queue.clear()
                self._changed.notify_all()
                return None
            batch = [self._queue.popleft() for _ in range(min(size, len(self._queue)))]
            self._sending = len(batch)
            return batch

    def _send(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send one batch, in parts where it is refused as a whole; returns what is worth trying again."""
        parts = Parts(batch)
        while (part := parts.first()) and not self._late():
            refused = 0
            try:
                self._reporting.rewards(part)
            except RewardloopError as error:
                if parts.halve(error):
                    continue
                verdict = refused_by(error, len(part))
                if verdict is None:
                    break
                refused = verdict
            parts.settle(refused)
            with self._changed:
                self.counters.rewards_refused += refused
                self.counters.rewards_sent += len(part) - refused
                self._sending -= len(part)
                self._changed.notify_all()
        self._batch_max = parts.next_batch_max(self._batch_max)
        return parts.left()

    def _late(self) -> bool:
        """Whether the time that closing may take is over."""
        return self._closing_at is not None and time.monotonic() >= self._closing_at


class Parts:
    """A batch on its way: its parts in order, the first of them in halves as often as it is refused as a whole."""

    def __init__(self, batch: list[dict[str, Any]]) -> None:
        self._parts = [batch]
        self._smallest = self._whole = len(batch)
        self._at_fault = False

    def first(self) -> list[dict[str, Any]]:
        """What to send next; empty when nothing is left."""
        return self._parts[0] if self._parts else []

    def halve(self, error: RewardloopError) -> bool:
        """Put halves in the place of the first part, where `error` refuses its body and tells of no single reward."""
        part = self._parts[0]
        if len(part) < 2 or not refuses_the_whole(error):
            return False
        middle = (len(part) + 1) // 2
        self._parts[:1] = [part[:middle], part[middle:]]
        self._smallest = min(self._smallest, middle)
        log.info("%d rewards are sent in halves: %s", len(part), error)
        return True

    def settle(self, refused: int) -> None:
        """The first part is done, and so many of its rewards were refused."""
        part = self._parts.pop(0)
        self._at_fault |= bool(refused) and len(part) == 1

    def next_batch_max(self, batch_max: int) -> int:
        """How many rewards to send at once from now on; as before when a reward was at fault, and not the size."""
        return batch_max if self._smallest == self._whole or self._at_fault else self._smallest

    def left(self) -> list[dict[str, Any]]:
        """The rewards that were neither taken nor refused, in order."""
        return [item for part in self._parts for item in part]


def sendable(item: dict[str, Any]) -> bool:
    """Whether a reward can be written as JSON: one that cannot must not hold up those that wait behind it."""
    try:
        wire.encode(item)
    except Exception as error:  # whatever a host's object does when it is read, the host goes on
        log.warning("a reward was refused: %s: %s", type(error).__name__, error)
        return False
    return True


def refuses_the_whole(error: RewardloopError) -> bool:
    """Whether an error refuses a body as it is, such as one too long or too large, and tells of no single reward."""
    return isinstance(error, NotEncodable) or (isinstance(error, InvalidRequest) and error.accepted is None)


def refused_by(error: RewardloopError, rewards: int) -> int | None:
    """How many of a batch's rewards an error refuses for good; None when they are worth another try."""
    if isinstance(error, InvalidRequest) and error.accepted is not None:
        refused = rewards - min(rewards, max(0, error.accepted))  # the service takes the good ones of a list
    elif isinstance(error, NotEncodable):
        refused = rewards  # changed since it was queued
    elif isinstance(error, Rejected) and not isinstance(error, TooManyRequests):
        refused = rewards
    else:
        log.warning("%d rewards wait: %s", rewards, error)
        return None
    log.warning("%d rewards were refused: %s", refused, error)
    return refused
