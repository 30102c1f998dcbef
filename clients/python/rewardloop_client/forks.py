"""What must not be shared by processes, and how each of them ends: a client has connections, threads and locks.

Two processes on one connection would read each other's answers, and a thread does not live on in the child. So the
child forgets both, without touching the parent's, and whoever was registered here opens its own when it needs them.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol


class Forkable(Protocol):
    """Something that can begin anew in a process that was forked."""

    def begin_anew(self) -> None:
        """Forget what belongs to the parent; called in the child, before anything else runs there."""


_AFTER_ALL_OTHERS = -1000  # whatever else ends with the process may still report something

_living: weakref.WeakSet[Forkable] = weakref.WeakSet()


def begins_anew_when_forked(thing: Forkable) -> None:
    """Have `thing.begin_anew()` called in every process that is forked from this one, as long as it lives."""
    _living.add(thing)


def at_the_end_of_a_child(close: Callable[[], object]) -> Callable[[], object] | None:
    """Have `close()` called when this process ends, if multiprocessing made it; gives what undoes that.

    Those processes (`Process`, `ProcessPoolExecutor`) leave without what atexit would call. They also forget what was
    asked for before they began, so that this is to be called in the process itself, and after its fork.
    """
    process: Any = sys.modules.get("multiprocessing.process")
    util: Any = sys.modules.get("multiprocessing.util")
    if process is None or util is None or process.parent_process() is None:
        return None
    cancel: Callable[[], object] = util.Finalize(None, close, exitpriority=_AFTER_ALL_OTHERS).cancel
    return cancel


def _forked() -> None:
    for thing in list(_living):
        thing.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
