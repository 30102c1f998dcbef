"""From the writer's thread back to the event loop: an answer leaves only after its events are synced.

One group commit serves many requests, so the loop is woken once per commit and not once per request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from bandit.eventlog import EventLogWriter
from bandit.events import Event


class HasWriter(Protocol):
    """Whatever owns the writer of the moment: after a lost disk it is another one."""

    writer: EventLogWriter


class CommitWaiter:
    """Submits events to one owner's writer and hands out futures that end with their commit."""

    def __init__(self, owner: HasWriter, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._owner = owner
        self._finished: deque[tuple[asyncio.Future[None], Exception | None]] = deque()
        self._woken = False

    def submit(self, events: Sequence[Event]) -> asyncio.Future[None]:
        """A future that is done when `events` are on disk; raises `DurabilityLost` or `Busy` at once."""
        future: asyncio.Future[None] = self.loop.create_future()

        def done(error: Exception | None) -> None:
            self._finished.append((future, error))
            # Set before the loop is woken and cleared before it drains: no result is ever left behind.
            if not self._woken:
                self._woken = True
                self.loop.call_soon_threadsafe(self._drain)

        self._owner.writer.submit(events, done)
        return future

    def _drain(self) -> None:
        self._woken = False
        finished = self._finished
        while finished:
            future, error = finished.popleft()
            if future.done():  # the client went away and its request was cancelled
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
