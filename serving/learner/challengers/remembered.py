"""What history remembers of challengers whose files are gone: α that was spent in this tenure stays spent.

Files of a challenger may be deleted, or missing from half a disk that was restored. Every verdict in history says what
the challenger it judged had spent by then, and since when its rows counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bandit.registry import UNSET, Champion
from serving.learner.challengers.store import FORMER, KIND_LEARNING, STANDING, ChallengerState, ChallengerStore
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


def mend_retired(workspace: Workspace, store: ChallengerStore, champion: Champion | None) -> None:
    """Where it cannot be read what challengers that left had spent, take it from the verdicts in history instead.

    All that they ever spent in this tenure counts, also what an epoch that is over had given back, so that α is never
    spent twice. History says that it was so.
    """
    damage = store.retired_damage()
    if damage is None:
        return
    champion_id = champion.model_id if champion else None
    spent: dict[str, list[float]] = {}  # by each that bore the name: what is spent grows until another one takes over
    for told in reversed(list(_verdicts(workspace, champion))):
        ones, now = spent.setdefault(told["challenger"], []), float(told["ledger"]["spent"])
        if ones and ones[-1] <= now:
            ones.pop()
        ones.append(now)
    left = {}
    for name, ones in spent.items():
        state = store.load(name)
        present = float(state.gate.get("spent", 0.0)) if state is not None and state.champion == champion_id else 0.0
        gone = sum(ones) - min(ones[-1], present)
        if gone > 0.0 and name not in (STANDING, FORMER):  # these leave only with their champion
            left[name] = gone
    workspace.registry.history.record(
        "restart",
        now=workspace.clock(),
        challenger=None,
        reason=f"{damage}; what challengers that left had spent of α is taken from history: {sum(left.values()):.3g}",
    )
    store.retire_anew(champion_id, left)


def _told(workspace: Workspace, champion: Champion | None) -> dict[str, Mapping[str, Any]]:
    """The last verdict of this tenure on each challenger, out of runs and steps."""
    found: dict[str, Mapping[str, Any]] = {}
    for told in _verdicts(workspace, champion):
        found.setdefault(told["challenger"], told)
    return found


def _verdicts(workspace: Workspace, champion: Champion | None) -> Iterator[Mapping[str, Any]]:
    """All verdicts of this tenure, newest first, out of runs and steps."""
    registry = workspace.registry
    champion_id = champion.model_id if champion else None
    since = champion.since if champion else next((_at(entry) for entry in registry.history.newest(UNSET)), None)
    for entry in registry.history.newest(RUN, EVALUATION):
        if since is not None and _at(entry) < since:
            break
        if entry.get("champion") == champion_id:
            for told in (entry, *entry.get("verdicts", ()), *entry.get("others", ())):
                if told.get("ledger"):
                    yield told


def _at(entry: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["at"])
