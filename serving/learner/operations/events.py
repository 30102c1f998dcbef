"""Where one event is on its way through the loop."""

from __future__ import annotations

from typing import Any

import msgspec

from bandit.errors import NotFound
from joiner.ledger import trace
from serving.learner.catch_up import catch_up
from serving.learner.challengers.unweighed import why_not_evaluated
from serving.learner.workspace import Workspace


def run(workspace: Workspace, event_id: str) -> dict[str, Any]:
    """The ledger of `event_id`, with `not_evaluated`: why no evaluation will hold it, None where one does or may.

    Waits for open segments to seal before it says that there is no such event (`NotFound`).
    """
    catch_up(workspace, wait=False)
    now = workspace.clock()
    try:
        found = trace(workspace.warehouse, workspace.registry, event_id, now=now)
    except NotFound:
        catch_up(workspace)
        found = trace(workspace.warehouse, workspace.registry, event_id, now=now)
    interaction = found["interaction"]
    unweighed = interaction is not None and not found["evaluated_in"]
    found["not_evaluated"] = why_not_evaluated(workspace, interaction["matures_at"]) if unweighed else None
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain
