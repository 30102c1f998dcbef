"""What a learner that was killed left unsaid in history: the run that was under way, and a champion just set.

A run is one line of history also when its process ended in the middle, and every champion has the entry that says how
it came to be. Both are written when the next learner opens the experiment, before anything else happens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.files import write_atomically
from bandit.registry import CHANGES, Champion
from serving.learner import reports
from serving.learner.challengers.former import watch_former
from serving.learner.challengers.store import FORMER, ChallengerStore
from serving.learner.reports import RunReport
from serving.learner.verdicts.certificates import evaluations
from serving.learner.workspace import Workspace


def begin(workspace: Workspace, report: RunReport) -> None:
    """Note that a run is under way."""
    place = _under_way(workspace)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, msgspec.json.encode(report), sync=False)


def end(workspace: Workspace) -> None:
    """The run has its line of history."""
    _under_way(workspace).unlink(missing_ok=True)


def cut_short(workspace: Workspace) -> RunReport | None:
    """The run that was under way when its learner ended, as failed, None where there was none."""
    try:
        report = decode(_under_way(workspace).read_bytes(), RunReport)
    except (FileNotFoundError, Undecodable):
        return None
    report.outcome = reports.FAILED
    report.error = "the learner ended while this run was under way; its rows are taken up by the next"
    report.reason = f"the run failed: {report.error}"
    return report


def record_champion(workspace: Workspace, store: ChallengerStore) -> dict[str, Any] | None:
    """Record how the present champion came to be, where that is missing, and start the watch on it; gives the entry.

    Raises what reading pointer and history raises.
    """
    with workspace.lock:  # somebody who sets another one just now writes its entry himself
        return _record_champion(workspace, store)


def _record_champion(workspace: Workspace, store: ChallengerStore) -> dict[str, Any] | None:
    registry = workspace.registry
    champion = registry.champion()
    if champion is None:
        return None
    known = next(registry.history.newest(*CHANGES), None)
    if known is not None and known.get("model_id") == champion.model_id:
        return None
    earlier = registry.champions()
    previous = earlier[0].model_id if earlier else None
    kind, evaluation_id = _how(workspace, champion)
    entry = {
        "model_id": champion.model_id,
        "previous": previous,
        "reason": champion.reason,
        "evaluation_id": evaluation_id,
        "since": champion.since,
        "recovered": True,
    }
    watched = store.load(FORMER)
    if not champion.restored and (watched is None or watched.champion != champion.model_id):
        watch_former(workspace, store, champion, previous)
    registry.history.record(kind, now=workspace.clock(), **entry)
    return {"kind": kind, **entry}


def _how(workspace: Workspace, champion: Champion) -> tuple[str, str | None]:
    """The kind of the missing entry and the evaluation that it rests on, as far as certificates tell."""
    for each in evaluations(workspace.experiment.paths):
        outcome = each["verdict"]["outcome"]
        if each["candidate"]["model_id"] == champion.model_id and outcome in (reports.PROMOTE, reports.INITIAL):
            kind = "initial" if outcome == reports.INITIAL else "promotion"
            return "rollback" if champion.restored else kind, str(each["id"])
    return "rollback" if champion.restored else "override", None


def _under_way(workspace: Workspace) -> Path:
    return workspace.experiment.paths.challengers / "run.json"
