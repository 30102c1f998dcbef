"""The learner and its training give way to decisions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
SAY = (
    "import os; from pathlib import Path; from serving.learner.training.priority import lower_learner, lower_trainer\n"
    "lower_learner(); learner = os.nice(0)\n"
    "lower_trainer(); trainer = os.nice(0)\n"
    "group = Path('/proc/self/autogroup')\n"
    "print(learner, trainer, os.sched_getscheduler(0) == os.SCHED_IDLE, group.read_text() if group.exists() else '')"
)


def said(*, own_session: bool) -> list[str]:
    """What a process says of itself after it has given way; in a session of its own, or in this one."""
    run = subprocess.run(
        [sys.executable, "-c", SAY], capture_output=True, text=True, check=True, start_new_session=own_session
    )
    return run.stdout.split()


def test_training_runs_only_when_nobody_else_wants_the_processor() -> None:
    learner, trainer, idle, *_ = said(own_session=True)
    assert (int(learner) >= 5, int(trainer) >= 15, idle) == (True, True, "True")


def test_a_session_that_the_learner_leads_gives_way_as_a_whole_and_a_shell_is_left_alone() -> None:
    before = AUTOGROUP.read_text() if AUTOGROUP.exists() else ""
    *_, of_its_own = said(own_session=True) if before else ["10"]
    assert of_its_own == "10"
    said(own_session=False)
    assert (AUTOGROUP.read_text() if AUTOGROUP.exists() else "") == before
