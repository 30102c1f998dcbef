"""Rows that are learnt and prove nothing: those that matured before a champion came back, or was set by hand.

Both policies of a comparison must be those of the tenure, so that what matured before it teaches the standing
challenger without being scored. Whoever asks why nothing was weighed is told so.
"""

from __future__ import annotations

from datetime import datetime

from bandit.errors import CorruptModel, NotFound
from bandit.registry import Champion
from joiner.export import learnt_rows
from serving.learner.challengers.plans import model_time
from serving.learner.challengers.store import STANDING, ChallengerStore
from serving.learner.workspace import Workspace


def rows_before_tenure(workspace: Workspace, store: ChallengerStore, champion: Champion | None) -> str | None:
    """How many rows the standing challenger has learnt unscored, while it has scored none, as a clause; else None."""
    state = store.load(STANDING)
    origin = state.origin if state is not None else None
    if champion is None or state is None or origin is None or origin.learn_until is None:
        return None
    if state.scored or state.champion != champion.model_id or origin.base != champion.model_id:
        return None
    wanted = learnt_rows(workspace.experiment.settings.learning)
    rows = workspace.warehouse.count_matured(origin.learn_after, origin.learn_until, wanted)
    if not rows:
        return None
    came = "came back" if champion.restored else "was set"
    which = "interaction that matured" if rows == 1 else "interactions that matured"
    return f"{rows:,} {which} before the champion {came} {'was' if rows == 1 else 'were'} learnt and not weighed"


def why_not_evaluated(workspace: Workspace, matured_at: datetime) -> str | None:
    """Why no evaluation will hold an interaction that matured then, None where a run may still weigh it."""
    registry = workspace.registry
    try:
        present = registry.champion()
        champions = [*([present] if present else []), *registry.champions()]
    except CorruptModel:  # nobody knows which champion came back; log, status and doctor say so
        return None
    state = ChallengerStore(workspace.experiment.paths).load(STANDING)
    # one that still stands beside a champion which came back before the next run goes on with what it had scored
    stands = state is not None and present is not None and state.champion == present.model_id
    if state is not None and stands and (state.scored_after is None or state.scored_after < matured_at):
        return None
    for champion in champions:
        if not champion.restored:
            continue
        try:
            cut = model_time(registry.manifest(champion.model_id).data, "cut")
        except (CorruptModel, NotFound):  # what it has learnt is not known any more
            continue
        if (cut is None or cut < matured_at) and matured_at <= champion.since:
            when = f"{champion.since:%Y-%m-%d %H:%M:%S} UTC"
            return f"none: it matured before {champion.model_id} came back ({when}), so it is learnt and not weighed"
    return None
