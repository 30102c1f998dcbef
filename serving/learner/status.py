"""The state of one experiment as a JSON object: what the console, `rewardloop status` and scripts read."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from bandit.errors import CorruptModel
from bandit.registry import Champion, ModelRegistry
from serving.learner import reports
from serving.learner.clock_watch import waits_until
from serving.learner.cycle import Cycle
from serving.learner.explain import next_sentence, what_is_set_aside, why_nothing_changed
from serving.learner.initial import short_of_initial


def experiment_status(cycle: Cycle) -> dict[str, Any]:
    """Champion, counts, runs, workers, challengers, and the two sentences; reads, changes nothing.

    Where the champion is not known, `champion_problem` says why.
    """
    workspace, intake = cycle.workspace, cycle.intake
    experiment = workspace.experiment
    settings_version, settings, _ = experiment.in_force
    champion, problem = _champion(workspace.registry)
    waiting, first_matures_at = workspace.warehouse.next_maturity()
    new_rows, next_run_at, now = cycle.new_rows(), cycle.next_run_at(), workspace.clock()
    owed_rows = 0 if new_rows or problem else cycle.owed_rows()
    ready_rows = new_rows if problem else cycle.ready_rows(new_rows)
    next_text = next_sentence(
        now=now,
        running=cycle.running,
        paused=workspace.paused,
        mode=settings.serving.mode,
        new_rows=new_rows,
        ready_rows=ready_rows,
        first_model=problem is None and cycle.first_model_is_due(new_rows),
        rows_wanted=settings.schedule.interactions,
        next_run_at=next_run_at,
        waiting=waiting,
        first_matures_at=first_matures_at,
        has_champion=champion is not None,
        unknown=intake.unknown,
        owed_rows=owed_rows,
        retry_at=cycle.retry_at() if owed_rows else None,
        read_until=intake.watermark if intake.live else None,
        newer_within_s=math.ceil(settings.serving.seal_interval_s + settings.schedule.poll_s),
    )
    why = why_nothing_changed(
        mode=settings.serving.mode,
        running=cycle.running,
        runs=cycle.runs,
        last_run=cycle.last_run,
        champion_since=champion.since if champion else None,
        waiting=waiting,
        new_rows=new_rows,
        champion=champion,
    )
    if problem is None and intake.watermark is not None and settings.serving.mode != "logging_only":
        short = short_of_initial(workspace, intake.watermark)
        next_text += f" {short}." if short else ""
    if problem is not None:
        next_text, why = "No run starts before it is known who is champion.", f"Nothing can change: {problem}."
    return {
        "experiment": experiment.name,
        "at": now,
        "next": next_text,
        "why": why,
        "damage": what_is_set_aside(intake.set_aside),
        "champion": champion.model_id if champion else None,
        "champion_problem": problem,
        "champion_since": champion.since if champion else None,
        "generation": champion.generation if champion else 0,
        "trial": _trial(workspace.registry),
        "cold_start": settings.serving.cold_start,
        "mode": settings.serving.mode,
        "paused": workspace.paused,
        "pinned": workspace.pinned,
        "running": cycle.running,
        "runs": cycle.runs,
        "last_run": reports.to_plain(cycle.last_run) if cycle.last_run else None,
        "last_verdict": cycle.last_verdict,
        "next_run_at": next_run_at,
        "new_interactions": new_rows,
        "run_after_interactions": settings.schedule.interactions,
        "waiting": waiting,
        "first_matures_at": first_matures_at,
        "watermark": intake.watermark,
        "unknown": intake.unknown,
        "counts": workspace.warehouse.counts(),
        "settings_version": settings_version,
        "retention_waits_until": waits_until(experiment, now),
        "segments_quarantined": intake.segments_quarantined,
        "segments_set_aside": len(intake.set_aside),
        "challengers": [
            {
                "name": state.name,
                "kind": state.kind,
                "compared_with": state.champion,
                "candidate": state.candidate or state.model_id,
                "learnt": state.learnt,
                "scored": state.scored,
                "cut": state.cut,
            }
            for state in map(cycle.store.load, cycle.store.names())
            if state is not None
        ],
        "workers": [
            {
                "writer_id": beat.writer_id,
                "kind": beat.kind,
                "pid": beat.pid,
                "model_id": beat.model_id,
                "canary_digest": beat.canary_digest,
                "complete_until": beat.complete_until,
                "settings_version": beat.settings_version,
                "at": beat.at,
                "counters": beat.counters,
            }
            for beat in intake.live
        ],
    }


def _champion(registry: ModelRegistry) -> tuple[Champion | None, str | None]:
    """The champion, or None and why it is not known."""
    try:
        return registry.champion(), None
    except CorruptModel as error:
        return None, str(error)


def _trial(registry: ModelRegistry) -> dict[str, Any] | None:
    """The challenger on trial beside the champion, None without one; what cannot be read says so."""
    try:
        trial = registry.trial()
    except CorruptModel as error:
        return {"problem": str(error)}
    return None if trial is None else msgspec.to_builtins(trial)
