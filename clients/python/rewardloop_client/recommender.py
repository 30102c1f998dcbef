"""For applications that must go on whatever happens to the service: no failure of it raises here.

    recommender = Recommender("http://127.0.0.1:8000", "shop")
    choice = recommender.recommend(context, ["a", "b"], default="a")
    show(choice.action)
    recommender.reward(choice, 1.0)

Only what is no address, no list of actions or no choice raises TypeError or ValueError, at once: that is a bug of the
host, which a default would hide. When the service is down, slow or refuses, or a context cannot be written as JSON,
the caller's default comes back, marked as not learnable, and rewards for it are dropped. Rewards wait in a bounded
queue, travel in batches from a thread of their own (in smaller ones where the service refuses a batch as a whole),
are retried under an id of their own so that none counts twice, and are flushed at exit, that of a child of
multiprocessing too. It may be made before a server forks its workers: each of them then has connections, a queue and
a thread of its own.
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
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import httpx

from rewardloop_client import wire
from rewardloop_client.arguments import listed, offered
from rewardloop_client.client import Client
from rewardloop_client.deadline import DeadlineTransport
from rewardloop_client.errors import RewardloopError
from rewardloop_client.forks import at_the_end_of_a_child, begins_anew_when_forked
from rewardloop_client.outages import Outage
from rewardloop_client.reporting import (
    BATCH_MAX,
    LINGER_S,
    PATIENCE_S,
    REWARDS_MAX,
    Parts,
    Pauses,
    RecommenderCounters,
    sendable,
)
from rewardloop_client.types import Offer, Recommendation

log = logging.getLogger("rewardloop_client")

DECISION_TIMEOUT_S = 0.25
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


def drawn_event_id(choice: Choice | str) -> str | None:
    """The event_id of what was drawn, None for a default; raises TypeError for what is no choice and no event_id."""
    if isinstance(choice, str):
        return choice
    if not isinstance(choice, Choice):
        kind = type(choice).__name__
        raise TypeError(f"choice: must be what `recommend` gave, or the event_id of a learnable choice, not {kind}")
    return choice.event_id if choice.learnable else None


class Recommender:
    """Asks with a deadline and reports in the background; thread-safe, and raises for a bug of the host alone.

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
        client = partial(Client, base_url, experiment, api_key=api_key, retries=0)
        self._asking = _Bounded(partial(client, timeout_s=deadline), wire.CONNECTIONS_MAX)
        self._reporting = _Bounded(client, 1)
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
        self._given_up = False
        self._batch_max = BATCH_MAX
        self.counters = RecommenderCounters()
        self._outage, self._activations = Outage.of_decisions(), Outage.of_activations()
        self._thread: threading.Thread | None = None
        self._starting = self._threadless = False
        self._ends_with_child: Callable[[], object] | None = None

    def _start(self) -> None:
        """Have a thread that reports; where there can be none the next reward tries again, and `close` sends itself."""
        if self._starting:  # and this is a signal handler in the midst of it
            return
        self._starting = True
        if self._ends_with_child is None:
            self._ends_with_child = at_the_end_of_a_child(self.close)
        thread = threading.Thread(target=self._report, name="rewardloop-rewards", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except (MemoryError, RuntimeError) as error:  # no room for one more, or the interpreter is about to end
            self.counters.reports_failed += 1
            if not self._threadless:
                log.warning("rewards wait for a thread: %s: %s", type(error).__name__, error)
            self._threadless = True
        finally:
            self._starting = False

    def begin_anew(self) -> None:
        """In a forked process: an empty queue (the parent sends its own), no thread and no connection yet."""
        self._asking.begin_anew()
        self._reporting.begin_anew()
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
        actions: Sequence[Offer] | None = None,
        *,
        default: str,
        event_id: str | None = None,
        excluded: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> Choice:
        """What to show: the service's decision, or `default` when none came in time.

        Raises TypeError or ValueError for actions that are none, and nothing else.
        """
        offer, without = offered(actions), listed(excluded or (), "excluded", "ids")
        ident = event_id or wire.new_event_id()

        def ask(client: Client) -> Recommendation:
            return client.recommend(context, offer, event_id=ident, excluded=without, deferred=deferred)

        try:
            found = self._asking.within(self._timeout_s, ask)
        except Exception as error:  # whatever it is, the host's page goes on; it is counted and told
            self.counters.defaults += 1
            self._outage.failed(error)
            return Choice(default, ident, learnable=False)
        self.counters.decisions += 1
        self._outage.worked()
        return Choice.of(found)

    def recommend_slots(
        self,
        context: Mapping[str, Any],
        actions: Sequence[Offer] | None = None,
        *,
        defaults: Sequence[str],
        event_id: str | None = None,
        excluded: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> list[Choice]:
        """What to show in as many tiles as there are `defaults`: distinct actions, or the defaults.

        Raises as `recommend` does.
        """
        offer, without = offered(actions), listed(excluded or (), "excluded", "ids")
        shown = listed(defaults, "defaults", "ids")
        ident = event_id or wire.new_event_id()

        def ask(client: Client) -> list[Recommendation]:
            return client.recommend_slots(
                context, len(shown), offer, event_id=ident, excluded=without, deferred=deferred
            )

        try:
            found = self._asking.within(self._timeout_s, ask)
        except Exception as error:  # as above
            self.counters.defaults += len(shown)
            self._outage.failed(error, len(shown))
            return [Choice(default, f"{ident}:{slot}", learnable=False) for slot, default in enumerate(shown, 1)]
        self.counters.decisions += len(found)
        self._outage.worked()
        return [Choice.of(decision) for decision in found]

    def activate(self, choice: Choice | str) -> bool:
        """Say that a deferred choice (or the one of an event_id) was shown; whether that is on the service's disk.

        Takes at most the timeout. After False it may be called again: activating twice counts once. Raises TypeError
        for what is neither, and nothing else.
        """
        event_id = drawn_event_id(choice)
        if event_id is None:
            return False
        try:
            self._asking.within(self._timeout_s, lambda client: client.activate(event_id))
        except Exception as error:  # as above
            self._activations.failed(error)
            return False
        self._activations.worked()
        return True

    def reward(
        self,
        choice: Choice | str,
        reward: float | None = None,
        *,
        event: str | None = None,
        value: float | None = None,
        reward_id: str | None = None,
    ) -> None:
        """Queue a reward for a choice, or for the event_id of one; those for defaults are dropped. Returns at once.

        Of an event_id nobody can tell whether a default was shown: keep those of learnable choices only. Raises
        TypeError for what is neither, and nothing else.
        """
        event_id = drawn_event_id(choice)
        if event_id is None:
            return
        ident = reward_id or str(uuid.uuid4())
        item = wire.reward_item(event_id, reward, event=event, value=value, reward_id=ident)
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
        """Send what is queued, for at most `timeout_s`, and end; what is left then is counted as dropped.

        A report that is under way when this begins may take its two seconds beyond.
        """
        atexit.unregister(self.close)
        if self._ends_with_child is not None:
            self._ends_with_child()
        with self._changed:
            if self._closing_at is None:
                self._closing_at = time.monotonic() + timeout_s
            self._changed.notify_all()
        if self._thread is None:
            self._report()
        else:
            self._thread.join(max(0.0, self._closing_at - time.monotonic()) + wire.TIMEOUT_S)
        with self._changed:  # what a thread that hangs still does is not counted any more
            self._given_up = True
            self.counters.rewards_dropped += len(self._queue) + self._sending
            self._queue.clear()
            self._sending = 0
            self._changed.notify_all()
        self._asking.close()
        self._reporting.close()

    # -- the reporting thread ----------------------------------------------------------------------------

    def _report(self) -> None:
        """Send what is queued until closing begins, and what is left then."""
        pauses = Pauses(self.counters)
        while (batch := self._take()) is not None:
            parts = Parts(batch)
            pause_s = 0.0
            try:
                self._send(parts)
                pauses.over()
            except Exception as error:  # whatever it is, it must not end the reporting
                pause_s = pauses.after(error, len(parts.left()))
            self._batch_max = parts.next_batch_max(self._batch_max)
            with self._changed:
                self._put_back(parts.left())
                self._pause(pause_s)

    def _put_back(self, waiting: list[dict[str, Any]]) -> None:
        """Have rewards wait at the front of the queue, as far as there is room."""
        if self._given_up:
            return
        kept = waiting[max(0, len(waiting) - (self._rewards_max - len(self._queue))) :]
        self.counters.rewards_dropped += len(waiting) - len(kept)
        self._queue.extendleft(reversed(kept))
        self._sending = 0

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

    def _send(self, parts: Parts) -> None:
        """Send one batch, in parts where it is refused as a whole; raises what makes the rest worth another try."""
        while (part := parts.first()) and not self._late():
            refusal: RewardloopError | None = None
            try:
                self._reporting.within(self._time_to_report_s(), partial(Client.rewards, items=part))
            except RewardloopError as error:
                refusal = error
            sent, refused = parts.settle(refusal)
            with self._changed:
                if self._given_up:
                    return
                self.counters.rewards_sent += sent
                self.counters.rewards_refused += refused
                self._sending -= sent + refused
                self._changed.notify_all()

    def _time_to_report_s(self) -> float:
        """How long one report may take as a whole."""
        if self._closing_at is None:
            return wire.TIMEOUT_S
        return min(wire.TIMEOUT_S, self._closing_at - time.monotonic())

    def _late(self) -> bool:
        """Whether the time that closing may take is over."""
        return self._time_to_report_s() <= 0


class _Bounded:
    """A client whose calls are over in time as a whole; a forked process has connections of its own."""

    def __init__(self, client: Callable[..., Client], connections_max: int) -> None:
        def connect() -> tuple[DeadlineTransport, Client]:
            transport = DeadlineTransport(connections_max=connections_max)
            return transport, client(transport=transport)

        self._connect = connect
        self._connected: tuple[DeadlineTransport, Client] | None = connect()

    def begin_anew(self) -> None:
        """In a forked process: leave the parent's connections alone and open others when they are needed."""
        self._connected = None

    def within(self, seconds: float, ask: Callable[[Client], _T]) -> _T:
        """What `ask` gets from the service before so many seconds are over; raises whatever goes wrong."""
        transport, client = self._connected = self._connected or self._connect()
        with transport.within(seconds):
            return ask(client)

    def close(self) -> None:
        """Close the connections."""
        if self._connected is not None:
            self._connected[1].close()
