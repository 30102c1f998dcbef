"""How the learner gives way to decisions that want the same processor.

Niceness alone is not enough: where the kernel shares the processor among sessions first (autogroups), it only counts
within one, and the supervisor starts each process in a session of its own. Nor is low priority: a kernel may let its
holder run on to the next tick, so training gives way by itself (`bandit.courtesy`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LEARNER_NICENESS = 5
TRAINER_NICENESS = 10
SESSION_NICENESS = 10
_AUTOGROUP = Path("/proc/self/autogroup")


def lower_learner() -> None:
    """Take second place: this process, and its session where it leads one (a shell's is left alone)."""
    os.nice(LEARNER_NICENESS)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # no autogroups here: niceness counts among all processes
            _AUTOGROUP.write_text(f"{SESSION_NICENESS}\n")


def lower_trainer() -> None:
    """Run only when nobody else wants the processor, where the system knows how to say so; else as a nice process."""
    os.nice(TRAINER_NICENESS)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it: niceness is left
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
