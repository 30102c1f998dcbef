"""The trial step: give the most promising undecided challenger a declared share of the champion's decisions.

A log can only tell two policies apart where it holds what either would do. A champion that explores little makes a
log that says nothing about the places where a challenger differs from it, and the gate would wait for ever. With a
share s of every pmf given to the challenger, pmf = (1 - s) champion + s challenger: nothing changes where they agree,
and where they differ no weight exceeds 1/s, so the gate's evidence grows exactly where it is missing. What is logged
is the mixture that was drawn from. The trial ends with the verdict, or when the challenger is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence

from bandit.registry import Champion, Trial
from serving.learner.challengers import KIND_LEARNING, KIND_TRIAL, ChallengerState, ChallengerStore
from serving.learner.judging import Look
from serving.learner.promotion import publish_learning
from serving.learner.trainer import Trainer
from serving.learner.workspace import Workspace

REFRESH_GROWTH = 1.25
"""A challenger on trial is replaced by its newer self when that has learnt from so many times as many rows."""


def update_trial(
    workspace: Workspace,
    store: ChallengerStore,
    trainer: Trainer,
    looks: Sequence[Look],
    champion: Champion | None,
    *,
    decided: bool,
) -> None:
    """Start, refresh, keep or end the trial after a run's verdicts; raises what publishing a model raises."""
    serving = workspace.experiment.settings.serving
    if decided or champion is None or serving.trial_share == 0.0 or serving.mode != "online":
        workspace.registry.clear_trial()
        return
    current = workspace.registry.trial()
    learning = [look for look in looks if look.state.kind == KIND_LEARNING]
    if current is not None and any(
        look.state.name == current.challenger and look.verdict.rejected for look in learning
    ):
        workspace.registry.clear_trial()
        current = None
    best = _most_promising(learning, current)
    if best is None or not _is_news(current, best.state):
        return
    files = store.files(best.state)
    manifest = publish_learning(
        workspace, trainer, best.state, files, kind=KIND_TRIAL, parent=champion.model_id, note="on trial, undecided"
    )
    workspace.registry.set_trial(
        Trial(
            model_id=manifest.model_id,
            champion=champion.model_id,
            challenger=best.state.name,
            learnt=best.state.learnt,
            since=workspace.clock(),
        )
    )


def _most_promising(looks: Sequence[Look], current: Trial | None) -> Look | None:
    """The one on trial as long as it is undecided, else the one with the greatest lift above 0."""
    undecided = [look for look in looks if not look.verdict.rejected and look.verdict.lift.value > 0.0]
    on_trial = [look for look in undecided if current is not None and look.state.name == current.challenger]
    return max(on_trial or undecided, key=lambda look: look.verdict.lift.value, default=None)


def _is_news(current: Trial | None, state: ChallengerState) -> bool:
    if current is None or current.challenger != state.name:
        return True
    return state.learnt >= REFRESH_GROWTH * current.learnt
