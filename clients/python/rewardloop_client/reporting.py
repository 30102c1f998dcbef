"""How rewards are reported in the background, apart from who waits: what both recommenders share.

A batch may be refused as a whole, because of its size or of one reward in it, and goes in halves then. What fails for
any other reason is tried again after a pause, counted and told; that must never end the reporting.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any

from rewardloop_client import wire
from rewardloop_client.errors import InvalidRequest, NotEncodable, Rejected, RewardloopError, TooManyRequests

log = logging.getLogger("rewardloop_client")

REWARDS_MAX = 10_000
BATCH_MAX = 100
LINGER_S = 0.2
PATIENCE_S = 10.0
RETRY_PAUSE_MAX_S = 5.0
REASON_MAX = 300
"""Of a service's words for a refusal so many characters go into the host's log."""


@dataclass(slots=True)
class RecommenderCounters:
    """What happened so far, tile by tile where there are slots; a queue that was full shows in `rewards_dropped`.

    `reports_failed` is how often rewards could not be reported and had to wait for another try.
    """

    decisions: int = 0
    defaults: int = 0
    rewards_sent: int = 0
    rewards_refused: int = 0
    rewards_dropped: int = 0
    reports_failed: int = 0


class Parts:
    """A batch on its way: its parts in order, the first of them in halves as often as it is refused as a whole."""

    def __init__(self, batch: list[dict[str, Any]]) -> None:
        self._parts = [batch]
        self._smallest = self._whole = len(batch)
        self._at_fault = False

    def first(self) -> list[dict[str, Any]]:
        """What to send next; empty when nothing is left."""
        return self._parts[0] if self._parts else []

    def settle(self, error: RewardloopError | None) -> tuple[int, int]:
        """How many rewards of the first part were taken, and how many refused; both 0 when it goes on in halves.

        `error` is what sending it raised. It is raised again when it makes the part worth another try.
        """
        part = self._parts[0]
        if error is not None and len(part) > 1 and _refuses_the_whole(error):
            middle = (len(part) + 1) // 2
            self._parts[:1] = [part[:middle], part[middle:]]
            self._smallest = min(self._smallest, middle)
            log.info("%d rewards are sent in halves: %s", len(part), error)
            return 0, 0
        refused = 0 if error is None else _refused_by(error, len(part))
        self._parts.pop(0)
        self._at_fault |= bool(refused) and len(part) == 1
        return len(part) - refused, refused

    def next_batch_max(self, batch_max: int) -> int:
        """How many rewards to send at once from now on; as before when a reward was at fault, and not the size."""
        return batch_max if self._smallest == self._whole or self._at_fault else self._smallest

    def left(self) -> list[dict[str, Any]]:
        """The rewards that were neither taken nor refused, in order."""
        return [item for part in self._parts for item in part]


class Pauses:
    """How long to wait after each failure in a row; counts and tells every one of them."""

    def __init__(self, counters: RecommenderCounters) -> None:
        self._counters = counters
        self._next_s = wire.RETRY_PAUSE_S

    def after(self, error: Exception, rewards: int) -> float:
        """The seconds before so many rewards are tried again that `error` made wait.

        A longer pause that the service asks for is kept, up to the longest that there is.
        """
        self._counters.reports_failed += 1
        with contextlib.suppress(Exception):  # a host's log handler may fail, too, and it has been counted
            log.warning("%d rewards wait: %s: %s", rewards, type(error).__name__, error)
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, RETRY_PAUSE_MAX_S)
        asked_s = error.retry_after_s if isinstance(error, RewardloopError) else None
        return pause_s if asked_s is None else min(max(pause_s, asked_s), RETRY_PAUSE_MAX_S)

    def over(self) -> None:
        """All went well: the next failure is a first one."""
        self._next_s = wire.RETRY_PAUSE_S


def sendable(item: dict[str, Any]) -> bool:
    """Whether a reward can be written as JSON: one that cannot must not hold up those that wait behind it."""
    try:
        wire.encode(item)
    except Exception as error:  # whatever a host's object does when it is read, the host goes on
        log.warning("a reward was refused: %s: %s", type(error).__name__, error)
        return False
    return True


def _refuses_the_whole(error: RewardloopError) -> bool:
    """Whether an error refuses a body as it is, such as one too long or too large, and tells of no single reward."""
    return isinstance(error, NotEncodable) or (isinstance(error, InvalidRequest) and error.accepted is None)


def _refused_by(error: RewardloopError, rewards: int) -> int:
    """How many of so many rewards an error refuses for good; raises it when they are worth another try."""
    if isinstance(error, InvalidRequest) and error.accepted is not None:
        refused = rewards - min(rewards, max(0, error.accepted))  # the service takes the good ones of a list
    elif isinstance(error, NotEncodable):
        refused = rewards  # changed since it was queued
    elif isinstance(error, Rejected) and not isinstance(error, TooManyRequests):
        refused = rewards
    else:
        raise error
    log.warning("%d rewards were refused: %s", refused, _reason(error))
    return refused


def _reason(error: RewardloopError) -> str:
    """Why rewards were refused, in one line of bounded length: the first problem, and how many others there are."""
    reason, more = str(error), ""
    if isinstance(error, Rejected) and error.problems:
        first, *others = dict.fromkeys(error.problems)
        reason = f"{error.status} {error.title}: {first}"
        more = f" (and {len(others)} other problem{'s' * (len(others) > 1)})" if others else ""
    line = " ".join(reason.split())
    return (line if len(line) <= REASON_MAX else f"{line[:REASON_MAX]}…") + more
