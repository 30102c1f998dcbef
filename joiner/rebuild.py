"""The warehouse made anew from the log: the proof that the log is the truth and the DuckDB file a view of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from bandit.eventlog.survey import sealed_segments
from bandit.experiment import Experiment
from joiner.archive import ingest_archives
from joiner.connection import remove_database, remove_write_ahead_logs
from joiner.warehouse import Warehouse


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild read and made; `digest` does not depend on the order of rows."""

    segments: int
    events: int
    interactions: int
    digest: str
    quarantined: Sequence[Path]


def rebuild(experiment: Experiment, *, watermark: datetime | None = None) -> RebuildReport:
    """Make the DuckDB file anew beside the old one and put it in its place; the caller holds the learner's lock.

    Joins up to `watermark` or as far as the old file had joined, whichever is later; without both nothing is joined.
    Raises `Busy` when another process has the old file open, OSError when there is no room; the old one then stays.
    """
    target = experiment.paths.warehouse
    known = [moment for moment in (watermark, _joined_until(experiment)) if moment is not None]
    watermark = max(known, default=None)
    fresh = target.with_name("warehouse.new.duckdb")
    remove_database(fresh)
    try:
        with Warehouse(experiment, path=fresh) as warehouse:
            archived = ingest_archives(warehouse)
            ingested = warehouse.ingest(sealed_segments(experiment.paths.events))
            if watermark is not None:
                warehouse.join(watermark)
            counts = warehouse.counts()
            report = RebuildReport(
                segments=archived + ingested.segments,
                events=_events(warehouse),
                interactions=counts["interactions"] + counts["imported"],
                digest=warehouse.digest(),
                quarantined=ingested.quarantined,
            )
            warehouse.checkpoint()
    except BaseException:
        remove_database(fresh)
        raise
    remove_write_ahead_logs(target)  # they must not meet the new file
    fresh.replace(target)
    return report


def _joined_until(experiment: Experiment) -> datetime | None:
    """How far the present file had joined; None when there is none, or it cannot be read any more."""
    if not experiment.paths.warehouse.exists():
        return None
    try:
        with Warehouse(experiment) as old:
            return old.joined_until()
    except duckdb.Error:
        return None


def _events(warehouse: Warehouse) -> int:
    row = warehouse.cursor().execute("SELECT coalesce(sum(events), 0) FROM segments").fetchone()
    return int(row[0]) if row else 0
