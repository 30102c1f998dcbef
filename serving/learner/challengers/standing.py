"""The standing challenger: the champion's plain continuation, which every experiment has."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from bandit.registry import Champion
from serving.learner.challengers.plans import (
    Plan,
    inherited,
    is_damaged,
    model_time,
    new_state,
    same_model_settings,
    scored_again,
)
from serving.learner.challengers.remembered import known_state
from serving.learner.challengers.store import STANDING, ChallengerStore
from serving.learner.workspace import Workspace


def plan_standing(workspace: Workspace, store: ChallengerStore, champion: Champion | None) -> Plan:
    """How the standing challenger goes on; raises `CorruptModel` for a broken champion.

    It resumes where its state agrees with champion and settings. Otherwise it starts again: from the champion (with
    the rows since the champion's cut), from nothing when there is no champion, or from nothing over the whole log
    when settings of the model itself changed (rows up to the old cut, or from before this tenure, are then learnt
    unscored).
    """
    experiment = workspace.experiment
    in_force = experiment.in_force
    settings = in_force.settings
    champion_id = champion.model_id if champion else None
    state = known_state(workspace, store, STANDING, champion)
    fresh = new_state(workspace, STANDING, champion_id, state, version=in_force.version)
    if state is not None and state.champion == champion_id:
        if not same_model_settings(experiment, state.settings_version, in_force):
            plan = Plan(fresh, settings, learn_until=state.cut, score_after=state.cut, starts=True, fresh_epoch=True)
            return replace(plan, gate=inherited(state))
        if state.folder is not None and not is_damaged(workspace, store, state):
            return Plan(state, settings, files=store.files(state), score_after=state.cut)
    # one that starts anew in the same tenure, because its files are damaged or gone, cannot spend its α again
    damaged = state if state is not None and state.champion == champion_id else None
    gate, scored_after = (scored_again(damaged), damaged.scored_after) if damaged is not None else (None, None)
    if champion is None:
        plan = Plan(fresh, settings, learn_until=scored_after, score_after=scored_after, starts=True, fresh_epoch=True)
        return replace(plan, gate=gate)
    stored = workspace.registry.load(champion.model_id)
    cut = model_time(stored.manifest.data, "cut")
    # rows from before this tenure (the champion came back, or was set by hand) taught something, but prove nothing, and
    # neither do those that an epoch used up
    after = _later(champion.since if cut is not None else None, scored_after)
    if not same_model_settings(experiment, stored.manifest.settings_version, in_force):
        until = _later(cut, after)
        return Plan(fresh, settings, learn_until=until, score_after=until, starts=True, fresh_epoch=True, gate=gate)
    fresh.learnt = int(stored.manifest.data.get("rows", 0))
    fresh.since = model_time(stored.manifest.data, "since")
    late = after is not None and (cut is None or cut < after)
    return Plan(
        fresh,
        settings,
        files=stored.files,
        learn_after=cut if late else None,
        learn_until=after if late else None,
        score_after=after if late else cut,
        base=champion.model_id,
        starts=True,
        fresh_epoch=True,
        gate=gate,
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)
