"""The trial step: give the most promising undecided challenger a declared share of the champion's decisions.

A log can only tell two policies apart where it holds what either would do. A champion that explores little makes a
log that says nothing about the places where a challenger differs from it, and the gate would wait for ever. With a
share s of every pmf given to the challenger, pmf = (1 - s) champion + s challenger: nothing changes where they agree,
and where they differ no weight exceeds 1/s, so the gate's evidence grows exactly where it is missing. The share grows
with that evidence, so that waiting for proof costs less and less, and the champion keeps at least half. What is logged
is the mixture that was drawn from, with its share. The trial ends with the verdict, or when the challenger is rejected,
and a pinned champion has none beside it: who pins it means its decisions.
A challenger that has just started anew after a fall of the champion's value comes before all others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import NormalDist

import msgspec

from bandit.errors import CorruptModel, NotFound
from bandit.registry import Champion, ModelRegistry, Trial
from bandit.settings import Serving
from evaluation.gate import Verdict
from serving.learner.challengers.plans import incarnation
from serving.learner.challengers.store import KIND_LEARNING, KIND_TRIAL, STANDING, ChallengerState, ChallengerStore
from serving.learner.training.trainer import Trainer
from serving.learner.verdicts.judging import Look
from serving.learner.verdicts.promotion import publish_learning
from serving.learner.workspace import Workspace

log = logging.getLogger("rewardloop.learner")

REFRESH_GROWTH = 1.05
"""A challenger on trial is replaced by its newer self when that has learnt from so many times as many rows."""

LEAST = 1 / 3
"""The part of the starting share that a challenger keeps as long as it is not rejected, whatever speaks against it."""


def update_trial(
    workspace: Workspace,
    store: ChallengerStore,
    trainer: Trainer,
    looks: Sequence[Look],
    champion: Champion | None,
    *,
    decided: bool,
    fresh: Sequence[ChallengerState] = (),
) -> None:
    """Start, refresh, keep or end the trial after a run's verdicts; raises what publishing a model raises.

    `fresh`: challengers that started anew within this run, after a fall; the first goes on trial, unproven as it is.
    """
    registry, serving = workspace.registry, workspace.experiment.settings.serving
    off = serving.trial_share == 0.0 or serving.mode != "online" or workspace.pinned is not None
    if decided or champion is None or off:
        registry.clear_trial()
        return
    current = _current(workspace)
    learning = [look for look in looks if look.state.kind == KIND_LEARNING]
    if current is not None and any(
        look.state.name == current.challenger and look.verdict.rejected for look in learning
    ):
        registry.clear_trial()
        current = None
    if fresh:
        state, share = fresh[0], serving.trial_share
    else:
        best = _most_promising(learning, current)
        if best is None:
            return
        state, share = best.state, share_for(best.verdict, serving)
        if current is not None and not _is_news(registry, current, state):
            _put_on_trial(workspace, msgspec.structs.replace(current, share=share))
            return
    manifest = publish_learning(
        workspace,
        trainer,
        state,
        store.files(state),
        kind=KIND_TRIAL,
        parent=champion.model_id,
        note="on trial, undecided",
    )
    _put_on_trial(
        workspace,
        Trial(
            model_id=manifest.model_id,
            champion=champion.model_id,
            challenger=state.name,
            learnt=state.learnt,
            since=workspace.clock(),
            share=share,
        ),
    )


def _put_on_trial(workspace: Workspace, trial: Trial) -> None:
    """Put a challenger on trial unless somebody has pinned the champion meanwhile."""
    with workspace.lock:
        if workspace.pinned is None:
            workspace.registry.set_trial(trial)


def _current(workspace: Workspace) -> Trial | None:
    """Who is on trial; a file that cannot be read ends the trial, as workers have, and history says so."""
    try:
        return workspace.registry.trial()
    except CorruptModel as error:
        log.error("experiment %s: %s", workspace.experiment.name, error)
        workspace.registry.history.record("trial", now=workspace.clock(), reason=str(error))
        workspace.registry.clear_trial()
        return None


def share_for(verdict: Verdict, serving: Serving) -> float:
    """The share that the evidence earns a challenger: `trial_share` while nothing is known about it.

    With the chance p = Φ(lift/SE) that it is better, SE being what the gate's bound reckons with, the share grows
    towards `trial_share_max` as p goes from ½ to 1, and falls as p falls, down to a third of `trial_share`: enough to
    find out.
    """
    lean = 2 * NormalDist().cdf(_evidence(verdict)) - 1
    if lean < 0:
        return round(serving.trial_share * max(1 + lean, LEAST), 3)
    return round(serving.trial_share + lean * (serving.trial_share_max - serving.trial_share), 3)


def _evidence(verdict: Verdict) -> float:
    """Lift in units of the SE that the bound reckons with, as the gate weighs the log."""
    reach = verdict.weighed.value - verdict.lower
    return verdict.z * verdict.weighed.value / reach if reach > 0 else 0.0


def _most_promising(looks: Sequence[Look], current: Trial | None) -> Look | None:
    """The undecided one on trial (first, the standing one), or one whose lift is ahead by more than both their SEs.

    Nothing less counts, because a challenger's evidence is in the rows in which it had its share.
    """
    undecided = {look.state.name: look for look in looks if not look.verdict.rejected}
    known = undecided.get(current.challenger if current is not None else STANDING)
    best = max(undecided.values(), key=lambda look: look.verdict.lift.value - look.verdict.lift.se, default=None)
    if best is None or known is None:
        return best
    lift, other = known.verdict.lift, best.verdict.lift
    return best if other.value - other.se > lift.value + lift.se else known


def _is_news(registry: ModelRegistry, current: Trial, state: ChallengerState) -> bool:
    """Whether a challenger should take the place of who is on trial: another one, another learner, or a newer self."""
    if current.challenger != state.name or state.learnt >= REFRESH_GROWTH * current.learnt:
        return True
    try:
        tried = registry.manifest(current.model_id).data
    except (NotFound, CorruptModel):
        return True
    return bool(tried.get("incarnation", incarnation(state.origin)) != incarnation(state.origin))
