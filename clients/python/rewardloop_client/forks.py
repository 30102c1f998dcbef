"""What must not be shared by processes: a client made before a fork has connections, threads and locks.

Two processes on one connection would read each other's answers, and a thread does not live on in the child. So the
child forgets both, without touching the parent's, and whoever was registered here opens its own when it needs them.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something that can begin anew in a process that was forked."""

    def begin_anew(self) -> None:
        """Forget what belongs to the parent; called in the child, before anything else runs there."""


_living: weakref.WeakSet[Forkable] = weakref.WeakSet()


def begins_anew_when_forked(thing: Forkable) -> None:
    """Have `thing.begin_anew()` called in every process that is forked from this one, as long as it lives."""
    _living.add(thing)


def _forked() -> None:
    for thing in list(_living):
        thing.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
