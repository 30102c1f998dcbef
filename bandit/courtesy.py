"""Giving way to whoever waits for the processor, in loops that would otherwise keep it until the next clock tick.

Some kernels take the processor from a process of low priority only at the tick, which is up to 4 ms later. A decision
waits for the processor several times, so training offers it every millisecond; more often, learners that share a core
would push each other out of its cache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

INTERVAL_S = 0.001
EVERY = 50
"""So many rows of some µs each are handled between two looks at the clock."""

_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
_monotonic = time.monotonic
_given_at = 0.0


def give_way() -> None:
    """Let another process go first, if one waits and the last offer is a millisecond old; costs a tenth of a µs."""
    global _given_at
    now = _monotonic()
    if now - _given_at >= INTERVAL_S:
        _given_at = now
        _yield()


def courteously(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, giving way now and then."""
    for number, item in enumerate(items):
        if number % EVERY == 0:
            give_way()
        yield item
