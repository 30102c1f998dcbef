"""Which models are kept: every champion, whatever is in the field or was on trial, and the newest others.

A model that had a part in decisions must stay, or those decisions could not be replayed. The registry marks it when it
gets that part; older directories tell by its kind alone what was on trial.
"""

from __future__ import annotations

import logging

from serving.learner.challengers.store import KIND_TRIAL, ChallengerStore
from serving.learner.workspace import Workspace

log = logging.getLogger("rewardloop.learner")

KEPT_MAX = 20
"""How many models that never became champion are kept."""


def remove_old_models(workspace: Workspace, store: ChallengerStore) -> list[str]:
    """Remove the oldest models beyond `KEPT_MAX` that never had a part in decisions; gives their ids."""
    registry = workspace.registry

    def needed() -> set[str]:
        found = {manifest.model_id for manifest in registry.manifests() if manifest.kind == KIND_TRIAL}
        for state in map(store.load, store.names()):
            found |= {state.model_id or "", state.candidate or ""} if state is not None else set()
        return found

    try:
        return registry.remove_unused(needed, kept=KEPT_MAX)
    except OSError as error:  # whatever has just been promoted stands all the same; they go with the next removal
        log.error("experiment %s: old models could not be removed: %s", workspace.experiment.name, error)
        return []
