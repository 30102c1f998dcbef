"""Replay: draw a logged decision once more, from its model and its record, and compare bit for bit.

A decision is a pure function of the experiment's secret, its event_id, the offered actions, the context, the
settings in force and the model. All of these are kept, so a log that was tampered with, a model that was
misread, or a propensity that was not the one drawn with cannot hide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bandit.events import DecisionEvent
from bandit.policies import BaselinePolicy, cold_start_policy, control_policy
from bandit.sampling import draw_index, mix, uniform_draw
from bandit.settings import ExperimentSettings
from bandit.types import COLD_START_MODEL_ID, IMPORTED_MODEL_ID, MODES_OF_THE_BASELINE, Action, Policy


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a decision comes out as when it is made again."""

    pmf: list[float]
    index: int

    def agrees_with(self, event: DecisionEvent) -> bool:
        """Whether the logged action, probability and pmf are these, bit for bit."""
        return (
            self.index == event.index
            and self.pmf == event.pmf
            and 0 <= event.index < len(self.pmf)
            and self.pmf[event.index] == event.probability
        )


def offered_actions(
    event: DecisionEvent, catalogue: Callable[[int], Sequence[Action] | None]
) -> tuple[Action, ...] | None:
    """The actions that were drawn from, in order; None when the record refers to a catalogue that is not there."""
    if event.actions is not None:
        return tuple(Action(action.id, action.features) for action in event.actions)
    declared = None if event.catalogue_version is None else catalogue(event.catalogue_version)
    if declared is None:
        return None
    excluded = set(event.excluded or ())
    return tuple(action for action in declared if action.id not in excluded)


def replay(
    event: DecisionEvent,
    *,
    actions: Sequence[Action],
    policy: Policy | None,
    settings: ExperimentSettings,
    secret: bytes,
    trial: Policy | None = None,
) -> Replayed | None:
    """Make a live decision again; None when it cannot be: imported, or its model (`policy`, `trial`) is gone.

    `actions` is what `offered_actions` gives, `settings` those of the event's version. `policy` is not needed
    for decisions of the cold start and of the modes that answer the baseline, `trial` (the model
    `event.trial_model_id`) only where a challenger was on trial.
    """
    k = len(actions)
    if event.imported_at is not None or event.model_id == IMPORTED_MODEL_ID or k == 0:
        return None
    if event.mode in MODES_OF_THE_BASELINE:
        return Replayed(BaselinePolicy().pmf(event.context, actions), 0)
    serving = settings.serving
    if event.model_id == COLD_START_MODEL_ID:
        policy = cold_start_policy(serving)
    if policy is None:
        return None
    pmf = policy.pmf(event.context, actions)
    if event.trial_model_id is not None:
        if trial is None or event.trial_share is None:
            return None
        pmf = mix(pmf, trial.pmf(event.context, actions), event.trial_share)
    if serving.control_fraction > 0.0:
        pmf = mix(pmf, control_policy(serving).pmf(event.context, actions), serving.control_fraction)
    return Replayed(pmf, draw_index(pmf, uniform_draw(secret, event.event_id)))
