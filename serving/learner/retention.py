"""Which models are kept: every champion, whatever is in the field, and the newest others."""

from __future__ import annotations

import shutil

from serving.learner.challengers import ChallengerStore
from serving.learner.workspace import Workspace

KEPT_MAX = 20
"""How many models that never became champion are kept."""


def remove_old_models(workspace: Workspace, store: ChallengerStore) -> list[str]:
    """Remove the oldest models beyond `KEPT_MAX` that were never champion; gives their ids."""
    registry = workspace.registry
    champion = registry.champion()
    needed = {entry.model_id for entry in registry.champions()} | {champion.model_id if champion else ""}
    needed |= {state.model_id for state in map(store.load, store.names()) if state is not None and state.model_id}
    others = [model_id for model_id in registry.model_ids() if model_id not in needed]
    gone = others[: max(0, len(others) - KEPT_MAX)]
    for model_id in gone:
        shutil.rmtree(workspace.experiment.paths.models / model_id, ignore_errors=True)
    return gone
