"""Models over the command line: the functions of `serving.learner.models`, by the name of the action."""

from __future__ import annotations

from typing import Any

import msgspec

from bandit.errors import InvalidInput
from serving.learner import models
from serving.learner.challengers.store import ChallengerStore
from serving.learner.workspace import Workspace


def run(
    workspace: Workspace, *, action: str, model_id: str | None = None, other: str | None = None, override: bool = False
) -> dict[str, Any]:
    """Do one of list, show, diff, promote, rollback, unset, pin, unpin; raises `InvalidInput` for another."""
    store = ChallengerStore(workspace.experiment.paths, durable=workspace.durable)
    with workspace.training() as trainer:
        if action == "list":
            answer = models.listing(workspace)
        elif action == "rollback":
            answer = models.roll_back(workspace, store, trainer)
        elif action == "unset":
            answer = models.unset(workspace, store)
        elif action == "pin":
            answer = models.pin(workspace)
        elif action == "unpin":
            answer = models.unpin(workspace)
        elif model_id is None:
            raise InvalidInput("model_id", "is missing")
        elif action == "show":
            answer = models.show(workspace, model_id)
        elif action == "diff":
            if other is None:
                raise InvalidInput("other", "is missing")
            answer = models.diff(workspace, trainer, model_id, other)
        elif action == "promote":
            answer = models.promote_by_hand(workspace, store, trainer, model_id, override=override)
        else:
            raise InvalidInput("action", "is not known", "list, show, diff, promote, rollback, unset, pin, unpin")
    plain: dict[str, Any] = msgspec.to_builtins(answer)
    return plain
