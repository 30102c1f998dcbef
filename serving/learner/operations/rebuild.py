"""Make the DuckDB file anew from the log."""

from __future__ import annotations

from typing import Any

from bandit.eventlog import survey
from serving.learner.workspace import Workspace


def run(workspace: Workspace) -> dict[str, Any]:
    """Rebuild and join as far as the log is complete; gives counts and the digest of the interactions."""
    found = survey(workspace.experiment.paths, now=workspace.clock())
    report = workspace.rebuild(watermark=found.watermark)
    return {
        "segments": report.segments,
        "events": report.events,
        "interactions": report.interactions,
        "digest": report.digest,
        "quarantined": [path.name for path in report.quarantined],
        "complete_until": found.watermark.isoformat() if found.watermark else None,
    }
