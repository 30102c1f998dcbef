"""Which models are kept: every champion, whatever is in the field or was on trial, and the newest others.

A model that had a part in decisions must stay, or those decisions could not be replayed. The registry marks it when it
gets that part; older directories tell by its kind alone what was on trial.
"""

from __future__ import annotations

import shutil

from serving.learner.challengers import KIND_TRIAL, ChallengerStore
from serving.learner.workspace import Workspace

KEPT_MAX = 20
"""How many models that never became champion are kept."""


def remove_old_models(workspace: Workspace, store: ChallengerStore) -> list[str]:
    """Remove the oldest models beyond `KEPT_MAX` that never had a part in decisions; gives their ids."""
    registry = workspace.registry
    needed = registry.used()
    for state in map(store.load, store.names()):
        needed |= {state.model_id or "", state.candidate or ""} if state is not None else set()
    needed |= {manifest.model_id for manifest in registry.manifests() if manifest.kind == KIND_TRIAL}
    others = [model_id for model_id in registry.model_ids() if model_id not in needed]
    gone = others[: max(0, len(others) - KEPT_MAX)]
    for model_id in gone:
        shutil.rmtree(workspace.experiment.paths.models / model_id, ignore_errors=True)
    return gone
