"""The state of an experiment while no learner runs: what is on disk, joined up to now."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from bandit.errors import CorruptModel
from serving.learner.cycle import Cycle
from serving.learner.status import experiment_status
from serving.learner.workspace import Workspace


def run(workspace: Workspace) -> dict[str, Any]:
    """Take in what is new on disk and give the status; trains nothing."""
    with workspace.training() as trainer:
        cycle = Cycle(workspace, trainer)
        with suppress(CorruptModel):  # who is champion is looked at last; the status says why that is not known
            cycle.tick()
        status: dict[str, Any] = msgspec.to_builtins(experiment_status(cycle))
    return status
