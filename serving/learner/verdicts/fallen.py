"""When what the champion earns has fallen: the declared field starts anew on what came after, and goes on trial.

A learner that keeps its past is slow to forget a world that is gone, and the log of a champion that was sure of itself
says little about the new one. So as soon as the champion's value has convincingly fallen within the rows that a
declared challenger has learnt from, that challenger starts anew from the fall, within the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from bandit.registry import Champion
from evaluation.change import Fall, Stretch, champion_values, find_fall, find_fall_since
from joiner.export import learnt_rows
from serving.learner.challengers.field import settings_of, start_anew
from serving.learner.challengers.plans import Plan
from serving.learner.challengers.remembered import known_state
from serving.learner.challengers.store import STANDING, ChallengerStore
from serving.learner.verdicts.judging import Look
from serving.learner.workspace import Workspace


@dataclass(frozen=True, slots=True)
class FreshStart:
    """How a challenger starts anew after a fall, and how many rows of the champion's tenure came after it."""

    plan: Plan
    fall: Fall
    rows: int

    @property
    def reason(self) -> str:
        """What is said of it."""
        return (
            f"What the champion earns fell from {self.fall.before:.3f} to {self.fall.after:.3f} per decision with the "
            f"last {self.rows:,} interactions: {self.plan.state.name} starts anew and learns those alone."
        )


def plan_after_fall(
    workspace: Workspace, store: ChallengerStore, looks: Sequence[Look], champion: Champion | None
) -> list[FreshStart]:
    """How declared challengers start anew where the value of the champion that was judged fell; mostly, none does.

    The fall is looked for in the rows that the standing challenger was judged on, and before the first of them by what
    the champion before had earned, for challengers that have learnt from its time. `champion` is who stands by now.
    """
    standing = next((look.state for look in looks if look.state.name == STANDING), None)
    if champion is None or standing is None or standing.champion is None or standing.cut is None:
        return []
    rows = next(look.rows for look in looks if look.state is standing)
    values, subjects = champion_values(rows), rows.cluster
    in_force, warehouse, until = workspace.experiment.in_force, workspace.warehouse, standing.cut
    scored = learnt_rows(in_force.settings.learning)
    fresh = []
    for name, declared in sorted(in_force.settings.challengers.items()):
        state = known_state(workspace, store, name, champion)
        remembered = None
        if state is not None and state.since is not None:
            remembered = warehouse.count_matured(state.since, until, scored)
        known = len(values) if remembered is None else min(len(values), remembered)
        start = len(values) - known
        fall = find_fall(values[start:], None if subjects is None else subjects[start:])
        if fall is None and (remembered is None or remembered > len(values)):
            before = _earned_before(workspace, champion)
            fall = find_fall_since(before, values, subjects) if before is not None else None
        if fall is None:
            continue
        since = warehouse.nth_newest_maturity(known - fall.at, until, scored)
        wanted = learnt_rows(settings_of(in_force.settings, declared).learning)
        if since is None or warehouse.count_matured(since, until, wanted) == 0:
            continue
        plan = start_anew(workspace, name, champion, state, in_force=in_force, since=since, learn_until=until)
        plan.state.not_before = since
        fresh.append(FreshStart(plan, fall, known - fall.at))
    return fresh


def _earned_before(workspace: Workspace, champion: Champion) -> Stretch | None:
    """What the champion before earned at last, where the gate has proven that this one earns no less."""
    promotion = next(workspace.registry.history.newest("promotion"), None)
    if promotion is None or promotion["model_id"] != champion.model_id or promotion.get("former") is None:
        return None
    if datetime.fromisoformat(promotion["at"]) < champion.since:  # it came back since
        return None
    return msgspec.convert(promotion["former"], Stretch)
