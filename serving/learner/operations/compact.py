"""Retention, as declared: old segments become archives, and archives too old are dropped with their rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from joiner.archive import compact, drop, droppable, dropped
from serving.learner.workspace import Workspace


def run(workspace: Workspace) -> dict[str, Any]:
    """Compact and drop by the clock as it is now: for whoever asks for this operation of the admin API."""
    return retain(workspace, workspace.clock())


def retain(workspace: Workspace, moment: datetime | None) -> dict[str, Any]:
    """Compact and drop by the settings in force, as of `moment`; does nothing where none are declared. Idempotent.

    A drop that was cut short is finished, whatever is declared by now; without a `moment` that is all.
    """
    experiment = workspace.experiment
    experiment.refresh()
    rules = experiment.settings.retention
    answer: dict[str, Any] = {"segments": 0, "archives": 0, "bytes_before": 0, "bytes_after": 0, "dropped": 0}
    with workspace.lock:
        if moment is not None and rules.compact_after_days is not None:
            older_than = moment - timedelta(days=rules.compact_after_days)
            done = compact(workspace.warehouse, older_than=older_than, now=moment)
            answer |= {
                "segments": done.segments,
                "archives": done.archives,
                "bytes_before": done.bytes_before,
                "bytes_after": done.bytes_after,
            }
            if done.segments:
                workspace.registry.history.record("compaction", now=moment, **answer)
        until = None
        if moment is not None and rules.drop_after_days is not None:
            older_than = moment - timedelta(days=rules.drop_after_days)
            if droppable(experiment.paths, older_than=older_than, now=moment):
                until = workspace.warehouse.joined_until()
                workspace.release_warehouse()  # first: what is dropped must leave the database too
                drop(experiment.paths, older_than=older_than, now=moment)
        if gone := dropped(experiment.paths):
            workspace.rebuild(watermark=until or workspace.warehouse.joined_until())
            answer["dropped"] = sum(archive.events for archive in gone)
    return answer
