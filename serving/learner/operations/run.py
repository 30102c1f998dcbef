"""One run of the loop while no learner runs: take in what is on disk, train, evaluate, promote if the gate says so."""

from __future__ import annotations

from typing import Any

from serving.learner import reports
from serving.learner.cycle import Cycle
from serving.learner.workspace import Workspace


def run(workspace: Workspace) -> dict[str, Any]:
    """The run's report."""
    with workspace.training() as trainer:
        cycle = Cycle(workspace, trainer)
        cycle.recover()
        return reports.to_plain(cycle.run(force=True))
