"""A client application as an integrator would write it: users ask, are shown an action, and react later.

Several users ask at once over one shared client; rewards wait on a heap until they are due and are posted by
their event_id from other threads, so that they arrive late and out of order, as in life; those that are due
together go in one request. With a rate it is a
load generator: questions start on a fixed timetable, whatever the answers take.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence

from rewardloop_client import Action as ClientAction
from rewardloop_client import Client

from simulator.transport import Answer, Deliveries, Delivery, Question

USERS_DEFAULT = 12
REPORTERS_DEFAULT = 2
REPORT_EVERY_S = 0.02
"""How long a reporter rests between two requests, so that the next one carries all that has become due."""
REWARDS_MAX = 100
"""How many rewards one request carries at most."""


class ClientApp:
    """Plays batches of questions through a `Client`.

    `users` threads ask, `reporters` threads post rewards; with one of each everything happens in order.
    `rate_per_s` bounds how many questions start in a second (None: as fast as the answers come).
    """

    def __init__(
        self,
        client: Client,
        *,
        users: int = USERS_DEFAULT,
        reporters: int = REPORTERS_DEFAULT,
        rate_per_s: float | None = None,
    ) -> None:
        self._client = client
        self._users = users
        self._reporters = reporters
        self._rate_per_s = rate_per_s

    def play(
        self,
        questions: Sequence[Question],
        deliveries: Deliveries,
        on_answer: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """Ask all questions and post all their rewards; returns when the last reward is on disk.

        Raises the first error that any user or reporter met (of `rewardloop_client.errors`); an interrupt ends all of
        them after the request that they are at.
        """
        postbox = _Postbox()
        answers: list[Answer | None] = [None] * len(questions)
        numbers = itertools.count()
        started_at = time.monotonic()

        def user() -> None:
            while not postbox.failed and (number := next(numbers)) < len(questions):
                if self._rate_per_s:
                    time.sleep(max(0.0, started_at + number / self._rate_per_s - time.monotonic()))
                answer = self._ask(questions[number])
                answers[number] = answer
                if on_answer:
                    on_answer(number, answer)
                for delivery in deliveries(number, answer):
                    postbox.put(answer.event_id, delivery)

        def reporter() -> None:
            while items := postbox.take():
                for event_id, delivery in items:
                    if delivery.reward is None:
                        self._client.activate(event_id)
                rewards = [_reward(event_id, delivery) for event_id, delivery in items if delivery.reward is not None]
                if rewards:
                    self._client.rewards(rewards)
                time.sleep(REPORT_EVERY_S)

        with postbox.guarded(reporter, self._reporters) as reporters, postbox.guarded(user, self._users) as users:
            try:
                users.join()
                postbox.close()
                reporters.join()
            except BaseException as error:  # such as Ctrl-C: nobody asks or reports any more
                postbox.fail(error)
                raise
        postbox.raise_failure()
        return [answer for answer in answers if answer is not None]

    def _ask(self, question: Question) -> Answer:
        actions = None
        if question.actions is not None:
            actions = [ClientAction(action.id, action.features) for action in question.actions]
        choice = self._client.recommend(
            question.context, actions, event_id=question.event_id, deferred=question.deferred
        )
        return Answer(choice.event_id, choice.action, choice.probability, choice.model_id)


def _reward(event_id: str, delivery: Delivery) -> dict[str, object]:
    item: dict[str, object] = {"event_id": event_id, "reward": delivery.reward}
    return item if delivery.reward_id is None else {**item, "reward_id": delivery.reward_id}


class _Postbox:
    """Deliveries ordered by the moment they are due.

    `take` sleeps until one is and gives all that are; it gives none once the box is closed and empty.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, Delivery]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def put(self, event_id: str, delivery: Delivery) -> None:
        with self._changed:
            item = (time.monotonic() + delivery.delay_s, next(self._numbers), event_id, delivery)
            heapq.heappush(self._heap, item)
            if self._heap[0] is item:  # else whoever waits wakes in time for an earlier one, and looks again
                self._changed.notify()

    def take(self) -> list[tuple[str, Delivery]]:
        with self._changed:
            while not self.failed:
                now = time.monotonic()
                due: list[tuple[str, Delivery]] = []
                while self._heap and self._heap[0][0] <= now and len(due) < REWARDS_MAX:
                    due.append(heapq.heappop(self._heap)[2:])
                if due or (not self._heap and self._closed):
                    return due
                self._changed.wait(self._heap[0][0] - now if self._heap else None)
            return []

    def close(self) -> None:
        """No more deliveries will come; those that wait are still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def guarded(self, work: Callable[[], None], count: int) -> _Crew:
        """A crew of `count` threads doing `work`; the first exception among them stops everybody."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # handed to the caller of `play`, by raise_failure
                self.fail(error)

        return _Crew([threading.Thread(target=run, daemon=True) for _ in range(count)])


class _Crew:
    """Threads that start on entering and are waited for on leaving."""

    def __init__(self, threads: list[threading.Thread]) -> None:
        self._threads = threads

    def __enter__(self) -> _Crew:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
