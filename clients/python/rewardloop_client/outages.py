"""What is said while a service does not answer: a line at once, then one for each pause, and one when it is back.

A page that asks a hundred times a second would otherwise write the same line a hundred times a second for as long as an
outage lasts. A service that fails now and then is told of in the same measure. Nothing here raises into the host.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from rewardloop_client import wire
from rewardloop_client.reporting import RETRY_PAUSE_MAX_S

log = logging.getLogger("rewardloop_client")


class Outage:
    """Counts what failed and tells of it, in words for `one` and for their end, at most once a pause; thread-safe.

    Pauses begin with that between two tries to report rewards, double up to the same five seconds, and begin anew after
    five seconds without a failure.
    """

    def __init__(self, one: str, back: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._one, self._back = one, back
        self._clock = clock
        self._lock = threading.RLock()  # a signal handler may ask in the midst of this
        self._untold = 0
        self._away = False
        self._pause_s = wire.RETRY_PAUSE_S
        self._failed_at = self._silent_until = float("-inf")

    @classmethod
    def of_decisions(cls) -> Outage:
        """For questions that are answered by the host's defaults."""
        return cls("the default is shown", "decisions are back")

    @classmethod
    def of_activations(cls) -> Outage:
        """For activations."""
        return cls("an activation was lost", "activations are taken again")

    def failed(self, error: Exception, count: int = 1) -> None:
        """So many failed by `error`."""
        with self._lock:
            now = self._clock()
            if now - self._failed_at > RETRY_PAUSE_MAX_S:
                self._pause_s = wire.RETRY_PAUSE_S
            self._failed_at = now
            again = self._away or self._untold > 0
            self._untold += count
            if now < self._silent_until:
                return
            said = _with(self._one, self._untold) if again else self._one
            self._away, self._untold = True, 0
            self._silent_until = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, RETRY_PAUSE_MAX_S)
        with contextlib.suppress(Exception):  # a host's log handler may fail, too, and it has been counted
            log.warning("%s: %s: %s", said, type(error).__name__, error)

    def worked(self) -> None:
        """One went well; costs next to nothing while all do."""
        if not (self._away or self._untold):
            return
        with self._lock:
            if not (self._away or (self._untold and self._clock() >= self._silent_until)):
                return
            said = _with(self._back, self._untold) if self._untold else self._back
            self._away, self._untold = False, 0
        with contextlib.suppress(Exception):  # as above
            log.warning("%s", said)


def _with(words: str, count: int) -> str:
    return f"{words} ({count} since the last line)"
