"""Models offered from outside: scored as they are, gated like any other challenger.

An offered model is frozen: it does not learn here. It is scored on rows matured after its own cut and after the
champion's, so neither has learnt from them, and it leaves the field when it is promoted or rejected.
"""

from __future__ import annotations

from datetime import datetime

from bandit.errors import Conflict, NotFound, NotYet, Refused
from bandit.files import locked
from bandit.frozen import REWARD_MODEL
from bandit.registry import Champion
from serving.learner.challengers.plans import Plan, is_damaged, model_time, scored_again
from serving.learner.challengers.remembered import mend_retired
from serving.learner.challengers.store import KIND_FROZEN, ChallengerState, ChallengerStore
from serving.learner.workspace import Workspace

OFFERED_MAX = 4
"""How many offered models may be in the field at once; each has its own share of α."""

PREFIX = "offered-"


def offer(workspace: Workspace, store: ChallengerStore, model_id: str) -> ChallengerState:
    """Let a stored model join the field; raises `NotFound`, `CorruptModel`, `Conflict`, `Refused` or `NotYet`.

    Refused is what has no reward model to be evaluated with; not yet comes any model while the field is full.
    """
    with workspace.lock:  # who else is offered at this moment is counted before it, or after
        with locked(workspace.experiment.paths.lock):  # models are removed under it, but those in the field
            state = store.save(_offered(workspace, store, model_id))
        workspace.registry.history.record("offer", now=workspace.clock(), model_id=model_id)
    return state


def _offered(workspace: Workspace, store: ChallengerStore, model_id: str) -> ChallengerState:
    """The state that an offered model joins the field with; raises as `offer` does."""
    champion = workspace.registry.champion()
    if champion is not None and champion.model_id == model_id:
        raise Conflict("this model is the champion")
    stored = workspace.registry.load(model_id)
    if not stored.files.get(REWARD_MODEL):
        raise Refused(
            f"the model has no {REWARD_MODEL}, so it cannot be compared with the champion; promote it by hand"
        )
    name = PREFIX + model_id
    present = [known for known in store.names() if known.startswith(PREFIX)]
    if name in present:
        raise Conflict("this model is in the field already")
    if len(present) >= OFFERED_MAX:
        raise NotYet(f"{OFFERED_MAX} offered models are in the field; wait for their verdicts, or withdraw one")
    return ChallengerState(
        name=name,
        kind=KIND_FROZEN,
        champion=champion.model_id if champion else None,
        settings_version=workspace.experiment.settings_version,
        born=workspace.clock(),
        cut=_unseen_after(workspace, champion, model_time(stored.manifest.data, "cut")),
        model_id=model_id,
    )


def withdraw(workspace: Workspace, store: ChallengerStore, model_id: str) -> None:
    """Let an offered model leave the field without a verdict; what α it spent stays spent. Raises `NotFound`."""
    state = store.load(PREFIX + model_id)
    if state is None:
        raise NotFound("no offered model of that id is in the field")
    mend_retired(workspace, store, workspace.registry.champion())
    store.retire(state.champion, state.name, float(state.gate.get("spent", 0.0)))
    store.drop(state.name)
    workspace.registry.history.record("withdrawal", now=workspace.clock(), model_id=model_id)


def plan_offered(workspace: Workspace, store: ChallengerStore, champion: Champion | None) -> list[Plan]:
    """How each offered model is scored next; another champion starts its comparison afresh."""
    champion_id = champion.model_id if champion else None
    plans = []
    for name in store.names():
        state = store.load(name)
        if state is None or state.kind != KIND_FROZEN:
            continue
        if state.model_id == champion_id:  # promoted by hand
            store.drop(name)
            continue
        changed = state.champion != champion_id
        if changed:
            state.champion = champion_id
            state.cut = _unseen_after(workspace, champion, state.cut)
        settings, gate = workspace.experiment.settings, None
        if not changed and is_damaged(workspace, store, state):  # scored again, with what is left of its α
            changed, gate = True, scored_again(state)
            state.cut = state.scored_after
        plans.append(Plan(state, settings, score_after=state.cut, fresh_epoch=changed, gate=gate))
    return plans


def _unseen_after(workspace: Workspace, champion: Champion | None, cut: datetime | None) -> datetime | None:
    if champion is None:
        return cut
    champion_cut = model_time(workspace.registry.load(champion.model_id).manifest.data, "cut")
    cuts = [moment for moment in (cut, champion_cut) if moment is not None]
    return max(cuts, default=None)
