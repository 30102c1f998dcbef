"""The first half of a cycle: which segments are sealed, which are new, and what has matured.

Called at every poll; its cost follows what is new, because segments once ingested are remembered by name and the
join is incremental. What is remembered belongs to one database: another one in its place, which may hold less, is
asked what it holds, and gets the rest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime

from bandit.eventlog import Heartbeat, set_aside, survey
from bandit.eventlog.segment import SEALED_SUFFIX
from bandit.eventlog.survey import sealed_segments
from joiner.warehouse import Warehouse
from serving.learner.workspace import Workspace, tell_damaged

log = logging.getLogger("rewardloop.learner")


@dataclass(slots=True)
class Intake:
    """What the last poll found; `watermark` is the newest one known (it never goes back).

    `ingested` are the file names of the segments that `warehouse` is known to hold.
    `unknown` says what keeps the watermark from moving on; `silent` are the living writers among it that hang.
    `set_aside`: the files in quarantine that may hold events which nothing is learnt from, whoever put them there.
    `unreadable`: the segments that were set aside since the learner started because DuckDB cannot read what they hold,
    by name, with the reason.
    """

    watermark: datetime | None = None
    live: list[Heartbeat] = field(default_factory=list)
    warehouse: Warehouse | None = None
    ingested: set[str] = field(default_factory=set)
    segments_recovered: int = 0
    segments_quarantined: int = 0
    set_aside: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    at: datetime | None = None


def take_in(workspace: Workspace, intake: Intake) -> Intake:
    """Survey the log, ingest new sealed segments, join what matured; updates `intake` and returns it.

    Raises what the joiner raises; a corrupt or unreadable segment is quarantined and counted there, not raised.
    """
    with workspace.lock:  # from the look on: what another thread has just set aside is not to be found gone
        now = workspace.clock()
        found = survey(workspace.experiment.paths, now=now, known=intake.ingested)
        for recovered in found.recovered:
            tell_damaged(recovered.quarantined)
        new, warehouse = found.segments, workspace.warehouse
        if intake.warehouse is not warehouse:
            intake.warehouse = warehouse
            intake.ingested = {f"{name}{SEALED_SUFFIX}" for name in warehouse.segment_names()}
            new = sealed_segments(workspace.experiment.paths.events, but=intake.ingested)
        if new:
            report = warehouse.ingest(new)
            intake.ingested.update(segment.name for segment in new)
            tell_damaged(report.quarantined)
            for name, why in report.unreadable.items():
                log.error("segment %s is set aside in events/quarantine, it holds what cannot be read: %s", name, why)
            intake.unreadable |= report.unreadable
        if found.watermark is not None and (intake.watermark is None or found.watermark > intake.watermark):
            intake.watermark = found.watermark
        if intake.watermark is not None:  # also when it stands still: a database made anew has joined nothing yet
            warehouse.join(intake.watermark)
    intake.live = found.live
    intake.segments_recovered += len(found.recovered)
    intake.segments_quarantined = len(found.quarantined)
    intake.set_aside = set_aside(workspace.experiment.paths)
    intake.unknown, intake.silent = [*found.unknown, *found.silent], found.silent
    intake.at = now
    return intake
