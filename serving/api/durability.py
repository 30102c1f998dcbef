"""From the event loop to the writer's thread and back: an answer leaves only after its events are synced.

What the requests of one turn of the loop have to log is handed over together, as one commit that wakes the loop once:
each hand-over between the two threads costs more than deciding does, since only one of them may run Python.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from bandit.errors import Busy, Conflict, DurabilityLost
from bandit.eventlog import EventLogWriter
from bandit.events import Event

log = logging.getLogger("rewardloop.api")

GATHERED_MAX = 24
"""So many requests are not kept waiting for more: while their commit runs, the next group gathers."""


class HasWriter(Protocol):
    """Whatever owns the writer of the moment: after a lost disk it is another one."""

    writer: EventLogWriter


class Commit:
    """Events of several requests on their way to the disk together. Await it, or name what is to be called then.

    Awaiting raises `DurabilityLost` or `Busy` where they did not get there; `error` is that, once `settled`.
    """

    __slots__ = ("_callbacks", "error", "events", "requests", "settled")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.requests = 0
        self.settled = False
        self.error: Exception | None = None
        self._callbacks: list[Callable[[], None]] = []

    def then(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop when the commit is settled, or now when it is."""
        if self.settled:
            callback()
        else:
            self._callbacks.append(callback)

    def __await__(self) -> Generator[Any, None, None]:
        """Wait for the disk."""
        if not self.settled:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake() -> None:
                if not future.done():  # else whoever waited was cancelled
                    future.set_result(None)

            self._callbacks.append(wake)
            yield from future
        if self.error is not None:
            raise self.error

    def settle(self, error: Exception | None) -> None:
        """Say how it ended, and tell everybody who waits."""
        self.settled = True
        self.error = error
        self.events = []
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # the others must still be told
                log.exception("an answer could not be given")


class CommitWaiter:
    """Gathers events for one owner's writer into commits."""

    def __init__(self, owner: HasWriter, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._owner = owner
        self._gathering: Commit | None = None
        self._finished: deque[tuple[Commit, Exception | None]] = deque()
        self._woken = False

    def submit(self, events: Sequence[Event]) -> Commit:
        """The commit that takes `events` to the disk."""
        commit = self._gathering
        if commit is None:
            commit = self._gathering = Commit()
            self.loop.call_soon(self._look, commit, 1)
        commit.events += events
        commit.requests += 1
        if commit.requests >= GATHERED_MAX:
            self._hand_over(commit)
        return commit

    def _look(self, commit: Commit, seen: int) -> None:
        """Hand over unless more has come since; then there may be more yet, and the loop takes another turn."""
        if commit is not self._gathering:
            return
        if commit.requests > seen:
            self.loop.call_soon(self._look, commit, commit.requests)
        else:
            self._hand_over(commit)

    def _hand_over(self, commit: Commit) -> None:
        self._gathering = None

        def done(error: Exception | None) -> None:
            self._finished.append((commit, error))
            # Set before the loop is woken and cleared before it drains: no result is ever left behind.
            if not self._woken:
                self._woken = True
                self.loop.call_soon_threadsafe(self._drain)

        try:
            self._owner.writer.submit(commit.events, done)
        except Conflict:
            # the process stood still between stamping and submitting; the same request works a moment later
            commit.settle(Busy("the server stood still for a moment; try again"))
        except (Busy, DurabilityLost) as error:
            commit.settle(error)

    def _drain(self) -> None:
        self._woken = False
        finished = self._finished
        while finished:
            commit, error = finished.popleft()
            commit.settle(error)
