"""Bring the warehouse up to the moment of asking, so that an answer holds everything acknowledged before it."""

from __future__ import annotations

import time

from serving.learner.intake import Intake, take_in
from serving.learner.workspace import Workspace

GRACE_S = 2.0
PAUSE_S = 0.1


def catch_up(workspace: Workspace, *, wait: bool = True) -> Intake:
    """Take in what is on disk; with `wait`, until the log is complete up to now or a live worker should have sealed.

    The wait is bounded by the experiment's `seal_interval_s` and a grace, so a hung worker delays the answer but
    does not prevent it: `Intake.watermark` says how far it reaches.
    """
    started = workspace.clock()
    deadline = time.monotonic() + workspace.experiment.settings.serving.seal_interval_s + GRACE_S
    while True:
        intake = take_in(workspace, Intake())
        reached = intake.watermark is not None and intake.watermark >= started
        if reached or not wait or time.monotonic() > deadline:
            return intake
        time.sleep(PAUSE_S)
