"""The former champion stays on watch: if it proves better than its successor on new log, it comes back.

It is one more frozen challenger, scored on rows that neither has learnt from. A confidence sequence, valid however
often one looks, decides: its lower bound above 0 brings the former champion back with a certificate, its upper bound
below 0 ends the watch with the realised lift in history.
"""

from __future__ import annotations

from datetime import datetime

from bandit.registry import Champion
from serving.learner.challengers.plans import Plan, is_damaged, model_time
from serving.learner.challengers.store import FORMER, KIND_GUARD, ChallengerState, ChallengerStore
from serving.learner.workspace import Workspace


def watch_former(workspace: Workspace, store: ChallengerStore, champion: Champion, previous: str | None) -> None:
    """Watch `champion`, which has just taken the place of `previous`."""
    store.drop(FORMER)
    if previous is None or not workspace.experiment.settings.rollback.enabled:
        return
    cut = model_time(workspace.registry.manifest(champion.model_id).data, "cut")
    store.save(
        ChallengerState(
            name=FORMER,
            kind=KIND_GUARD,
            champion=champion.model_id,
            settings_version=workspace.experiment.settings_version,
            born=workspace.clock(),
            cut=_after(cut, champion.since),
            model_id=previous,
        )
    )


def plan_former(workspace: Workspace, store: ChallengerStore, champion: Champion | None) -> list[Plan]:
    """How the former champion is scored next; none without one."""
    state = store.load(FORMER)
    if state is None:
        return []
    settings = workspace.experiment.settings
    if champion is not None and state.champion != champion.model_id:
        # a run saved it that was under way while somebody set another champion: the watch on that one is made good
        earlier = workspace.registry.champions()
        watch_former(workspace, store, champion, earlier[0].model_id if earlier and not champion.restored else None)
        state = store.load(FORMER)
    if champion is None or state is None or not settings.rollback.enabled:
        store.drop(FORMER)
        return []
    if is_damaged(workspace, store, state):
        state.cut = state.scored_after
        return [Plan(state, settings, score_after=state.cut, fresh_epoch=True)]
    return [Plan(state, settings, score_after=state.cut)]


def _after(cut: datetime | None, since: datetime) -> datetime:
    return since if cut is None else max(cut, since)
