"""What the apprentice learnt by watching: agreement with the baseline, and the model's guess of its own worth."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from evaluation.apprentice import watched
from evaluation.scored import ScoredRows
from serving.learner.challengers.store import STANDING, ChallengerStore
from serving.learner.workspace import Workspace


def run(workspace: Workspace) -> dict[str, Any]:
    """The report over the standing challenger's rows of this tenure, each scored before it was learnt."""
    store = ChallengerStore(workspace.experiment.paths, durable=workspace.durable)
    state = store.load(STANDING)
    chunks = store.scores(state) if state is not None else []
    report = watched(ScoredRows.concat([ScoredRows.of(chunk) for chunk in chunks])) if chunks else None
    mode = workspace.experiment.settings.serving.mode
    if report is None:
        cure = "" if mode == "apprentice" else "; set serving.mode = apprentice to let it watch"
        return {"mode": mode, "n": 0, "guess": None, "sentence": f"no watched decision has been learnt from yet{cure}"}
    return {"mode": mode} | asdict(report) | {"sentence": report.sentence()}
