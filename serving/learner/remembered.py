"""What history remembers of challengers whose files are gone: α that was spent in this tenure stays spent.

Files of a challenger may be deleted, or missing from half a disk that was restored. Every verdict in history says what
the challenger it judged had spent by then, and since when its rows counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bandit.registry import UNSET, Champion
from serving.learner.challengers import FORMER, KIND_LEARNING, ChallengerState, ChallengerStore
from serving.learner.reports import EVALUATION, RUN
from serving.learner.workspace import Workspace


def known_state(
    workspace: Workspace, store: ChallengerStore, name: str, champion: Champion | None
) -> ChallengerState | None:
    """The state of a learning challenger: as stored, else what history remembers of it, which nothing can go on from.

    History then says that it starts anew. None where neither knows it.
    """
    state = store.load(name)
    if state is not None:
        return state
    told = _told(workspace, champion).get(name)
    if told is None or name in store.left(champion.model_id if champion else None):
        return None
    workspace.registry.history.record("restart", now=workspace.clock(), challenger=name, reason="its state is gone")
    scored_after = datetime.fromisoformat(told["scored_after"]) if told["scored_after"] else None
    return ChallengerState(
        name=name,
        kind=KIND_LEARNING,
        champion=champion.model_id if champion else None,
        settings_version=workspace.experiment.settings_version,
        born=workspace.clock(),
        cut=scored_after,
        gate={**told["ledger"], "looks": []},
        scored_after=scored_after,
    )


def spent_by_the_gone(
    workspace: Workspace, store: ChallengerStore, champion: Champion | None, field: Sequence[ChallengerState]
) -> dict[str, float]:
    """The α spent in this tenure that no state in the `field` accounts for, by name: of those that left or were lost.

    What those that left spent in an epoch that is over is not among it.
    """
    champion_id = champion.model_id if champion else None
    known = {state.name: float(state.gate.get("spent", 0.0)) for state in field}
    left, gone = store.left(champion_id), store.retired(champion_id)
    for name, told in _told(workspace, champion).items():
        lost = float(told["ledger"]["spent"]) - left.get(name, 0.0) - known.get(name, 0.0)
        if lost > 0.0 and name != FORMER:
            gone[name] = gone.get(name, 0.0) + lost
    return gone


def _told(workspace: Workspace, champion: Champion | None) -> dict[str, Mapping[str, Any]]:
    """The last verdict of this tenure on each challenger, out of runs and steps."""
    registry = workspace.registry
    champion_id = champion.model_id if champion else None
    since = champion.since if champion else next((_at(entry) for entry in registry.history.newest(UNSET)), None)
    found: dict[str, Mapping[str, Any]] = {}
    for entry in registry.history.newest(RUN, EVALUATION):
        if since is not None and _at(entry) < since:
            break
        if entry.get("champion") == champion_id:
            for told in (entry, *entry.get("verdicts", ()), *entry.get("others", ())):
                if told.get("ledger"):
                    found.setdefault(told["challenger"], told)
    return found


def _at(entry: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["at"])
