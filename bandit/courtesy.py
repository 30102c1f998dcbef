"""Giving way to whoever waits for the processor, in loops that would otherwise keep it until the next clock tick.

Some kernels take the processor from a process of low priority only when it enters them: at a system call, or at the
tick, which is up to 4 ms later. A decision waits on the processor several times, so training asks often.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

EVERY = 100
"""So many rows of some µs each are handled in one go."""

give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Let another process go first, if one waits; costs a third of a µs if none does."""


def courteously(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, giving way now and then."""
    for number, item in enumerate(items):
        if number % EVERY == 0:
            give_way()
        yield item
