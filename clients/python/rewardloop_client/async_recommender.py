"""`Recommender` for asynchronous hosts: the same promises, kept by the event loop instead of a thread.

    async with AsyncRecommender("http://127.0.0.1:8000", "shop") as recommender:
        choice = await recommender.recommend(context, ["a", "b"], default="a")
        show(choice.action)
        recommender.reward(choice, 1.0)

Leaving the block sends what is queued; there is no loop left to do so at the program's exit. It may be made before a
server forks its workers: each of them then has connections and a queue of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rewardloop_client import wire
from rewardloop_client.arguments import listed, offered
from rewardloop_client.async_client import AsyncClient
from rewardloop_client.errors import RewardloopError
from rewardloop_client.forks import begins_anew_when_forked
from rewardloop_client.outages import Outage
from rewardloop_client.recommender import DECISION_TIMEOUT_S, Choice, drawn_event_id
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
from rewardloop_client.types import Offer


class AsyncRecommender:
    """Asks with a deadline and reports in the background; its calls raise for a bug of the host alone, and its own
    cancellation. Options and counters as for `Recommender`; belongs to one event loop in each process.
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
        self._timeout_s = timeout_s
        self._rewards_max = rewards_max
        self._asking = AsyncClient(base_url, experiment, api_key=api_key, retries=0)
        self._reporting = AsyncClient(base_url, experiment, api_key=api_key, retries=0, connections_max=1)
        self._closing = False
        self.begin_anew()
        begins_anew_when_forked(self)

    def begin_anew(self) -> None:
        """In a forked process: an empty queue (the parent sends its own) and no task of the parent's loop."""
        self._queue: deque[dict[str, Any]] = deque()
        self._sending = 0
        self._task: asyncio.Task[None] | None = None
        self._batch_max = BATCH_MAX
        self.counters = RecommenderCounters()
        self._outage, self._activations = Outage.of_decisions(), Outage.of_activations()

    async def __aenter__(self) -> AsyncRecommender:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def recommend(
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
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._asking.recommend(
                    context, offer, event_id=ident, excluded=without, deferred=deferred
                )
        except Exception as error:  # whatever it is, the host's page goes on; it is counted and told
            self.counters.defaults += 1
            self._outage.failed(error)
            return Choice(default, ident, learnable=False)
        self.counters.decisions += 1
        self._outage.worked()
        return Choice.of(found)

    async def recommend_slots(
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
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._asking.recommend_slots(
                    context, len(shown), offer, event_id=ident, excluded=without, deferred=deferred
                )
        except Exception as error:  # as above
            self.counters.defaults += len(shown)
            self._outage.failed(error, len(shown))
            return [Choice(default, f"{ident}:{slot}", learnable=False) for slot, default in enumerate(shown, 1)]
        self.counters.decisions += len(found)
        self._outage.worked()
        return [Choice.of(decision) for decision in found]

    async def activate(self, choice: Choice | str) -> bool:
        """Say that a deferred choice was shown; see `Recommender.activate`."""
        event_id = drawn_event_id(choice)
        if event_id is None:
            return False
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._asking.activate(event_id)
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
        """Queue a reward for a choice or an event_id, as `Recommender.reward` does. Returns at once.

        Called where no event loop runs, it is sent with the next reward, `flush` or `close` that has one.
        """
        event_id = drawn_event_id(choice)
        if event_id is None:
            return
        ident = reward_id or str(uuid.uuid4())
        item = wire.reward_item(event_id, reward, event=event, value=value, reward_id=ident)
        if not sendable(item):
            self.counters.rewards_refused += 1
            return
        if self._closing or self._rewards_max < 1:
            self.counters.rewards_dropped += 1
            return
        if len(self._queue) >= self._rewards_max:
            self._queue.popleft()
            self.counters.rewards_dropped += 1
        self._queue.append(item)
        self._send_soon()

    async def flush(self, timeout_s: float = PATIENCE_S) -> bool:
        """Wait until every queued reward was sent, refused or dropped; whether that happened in time."""
        self._send_soon()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout_s)
        return not self._queue and not self._sending

    async def close(self, timeout_s: float = PATIENCE_S) -> None:
        """Send what is queued, for at most `timeout_s`, and end; what is left then is counted as dropped."""
        self._closing = True
        async with contextlib.AsyncExitStack() as at_last:  # even where the host cancels this
            at_last.push_async_callback(self._reporting.close)
            at_last.push_async_callback(self._asking.close)
            at_last.callback(self._drop)
            at_last.push_async_callback(self._stop)
            await self.flush(timeout_s)

    async def _stop(self) -> None:
        """End the task that sends, if it still does."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def _drop(self) -> None:
        """Count what is left in the queue as dropped."""
        self.counters.rewards_dropped += len(self._queue)
        self._queue.clear()

    def _send_soon(self) -> None:
        """Have a task that sends what is queued, where an event loop runs."""
        if self._queue and (self._task is None or self._task.done()):
            with contextlib.suppress(RuntimeError):
                self._task = asyncio.get_running_loop().create_task(self._report())

    async def _report(self) -> None:
        """Send until the queue is empty; what was neither taken nor refused waits at its front again."""
        pauses = Pauses(self.counters)
        while self._queue:
            if len(self._queue) < self._batch_max and not self._closing:
                await asyncio.sleep(LINGER_S)  # so that rewards travel together
            parts = Parts([self._queue.popleft() for _ in range(min(self._batch_max, len(self._queue)))])
            self._sending = len(parts.left())
            pause_s = 0.0
            try:
                await self._send(parts)
                pauses.over()
            except Exception as error:  # whatever it is, it must not end the reporting
                pause_s = pauses.after(error, len(parts.left()))
            finally:  # also where it is cancelled
                self._batch_max = parts.next_batch_max(self._batch_max)
                self._put_back(parts.left())
            await asyncio.sleep(pause_s)

    def _put_back(self, waiting: list[dict[str, Any]]) -> None:
        """Have rewards wait at the front of the queue, as far as there is room."""
        kept = waiting[max(0, len(waiting) - (self._rewards_max - len(self._queue))) :]
        self.counters.rewards_dropped += len(waiting) - len(kept)
        self._queue.extendleft(reversed(kept))
        self._sending = 0

    async def _send(self, parts: Parts) -> None:
        """Send one batch, in parts where it is refused as a whole; raises what makes the rest worth another try."""
        while part := parts.first():
            refusal: RewardloopError | None = None
            try:
                async with asyncio.timeout(wire.TIMEOUT_S):  # an answer that drips would otherwise take for ever
                    await self._reporting.rewards(part)
            except RewardloopError as error:
                refusal = error
            sent, refused = parts.settle(refusal)
            self.counters.rewards_sent += sent
            self.counters.rewards_refused += refused
            self._sending -= sent + refused
