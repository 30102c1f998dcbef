"""The draw of one decision: whose probabilities, mixed how, and which action they gave.

Everything here is a function of the state, the question, the experiment's secret and the event_id. The pmf that
is drawn from is complete (control slice and challenger on trial included) and is the one that gets logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bandit.errors import InvalidRequest, RewardloopError
from bandit.policies import BaselinePolicy, cold_start_policy, control_policy
from bandit.registry import Trial
from bandit.sampling import draw_index, mix, uniform_draw
from bandit.settings import ExperimentSettings
from bandit.types import (
    COLD_START_MODEL_ID,
    MODES_OF_THE_BASELINE,
    SLICE_CONTROL,
    SLICE_POLICY,
    SLICE_TRIAL,
    Action,
    Policy,
)
from serving.api.champion import ServedModel, ServedTrial
from serving.api.counters import Counters
from serving.api.requests import RecommendRequest

log = logging.getLogger("rewardloop.api")

BASELINE_MODEL_ID = "baseline"
"""The model_id of decisions in the modes that always answer the baseline action."""


@dataclass(frozen=True, slots=True)
class State:
    """What decisions are made with; replaced as a whole, so that no decision ever sees half of a change."""

    settings: ExperimentSettings
    settings_version: int
    catalogue: tuple[Action, ...] | None
    catalogue_version: int | None
    listed: Mapping[str, Action]  # the catalogue's actions by id
    model: ServedModel
    trial: ServedTrial | None = None


class Drawn(NamedTuple):
    """What was drawn: the whole pmf over the offered actions, the drawn position, and whose decision it is."""

    pmf: list[float]
    position: int
    model_id: str
    slice: str = SLICE_POLICY
    trial_model_id: str | None = None
    trial_share: float | None = None


def offer(request: RecommendRequest, state: State) -> tuple[tuple[Action, ...], list[str]]:
    """The actions that are left to draw from, and the ids that were taken out; raises `InvalidRequest`.

    An action that the request names without features has those of the catalogue, where it is listed there.
    """
    actions: Sequence[Action] | None = request.actions
    if actions is not None:
        listed = state.listed
        if listed:
            actions = [action if action.features else listed.get(action.id, action) for action in actions]
    else:
        actions = state.catalogue
        if actions is None:
            raise InvalidRequest("actions", "is required: this experiment declares no catalogue")
    if not request.excluded:
        return tuple(actions), []
    excluded = set(request.excluded)
    offered = tuple(action for action in actions if action.id not in excluded)
    if not offered:
        raise InvalidRequest("excluded", "leaves no action to choose from")
    return offered, [action.id for action in actions if action.id in excluded]


def draw(
    state: State,
    context: dict[str, Any],
    offered: tuple[Action, ...],
    *,
    secret: bytes,
    event_id: str,
    counters: Counters,
) -> Drawn:
    """Draw one of `offered`; a model that fails is counted, and the cold start stands in for it."""
    serving = state.settings.serving
    if serving.mode in MODES_OF_THE_BASELINE:
        _watch(state, context, offered, counters)
        return Drawn(BaselinePolicy().pmf(context, offered), 0, BASELINE_MODEL_ID)
    pmf, model_id = _pmf(state, context, offered, counters)
    slice_: str = SLICE_POLICY
    trial: Trial | None = None
    if state.trial is not None and state.trial.policy is not None and model_id == state.model.model_id:
        tried = _asked(state.trial.policy, state.trial.trial.model_id, context, offered)
        if tried is None:
            counters.add("trial_errors")  # it costs nobody an answer
        else:
            trial = state.trial.trial
            pmf, slice_ = mix(pmf, tried, trial.share), SLICE_TRIAL
    tried_as = (trial.model_id, trial.share) if trial is not None else (None, None)
    fraction = serving.control_fraction
    if fraction == 0.0:
        return Drawn(pmf, draw_index(pmf, uniform_draw(secret, event_id)), model_id, slice_, *tried_as)
    control = control_policy(serving).pmf(context, offered)
    pmf = mix(pmf, control, fraction)
    index = draw_index(pmf, uniform_draw(secret, event_id))
    # Given the action, the branch it came from is drawn from its posterior: jointly the same as drawing the
    # branch first, while the action still replays from the logged pmf alone.
    if uniform_draw(secret, f"slice\n{event_id}") < fraction * control[index] / pmf[index]:
        slice_ = SLICE_CONTROL
    return Drawn(pmf, index, model_id, slice_, *tried_as)


def _pmf(
    state: State, context: dict[str, Any], offered: tuple[Action, ...], counters: Counters
) -> tuple[list[float], str]:
    """The pmf of the model that is served and its id; where it fails, which is counted, those of the cold start."""
    model_id = state.model.model_id
    pmf = _asked(state.model.policy, model_id, context, offered)
    if pmf is not None:
        return pmf, model_id
    counters.add("policy_errors")
    return cold_start_policy(state.settings.serving).pmf(context, offered), COLD_START_MODEL_ID


def _asked(policy: Policy, model_id: str, context: dict[str, Any], offered: tuple[Action, ...]) -> list[float] | None:
    """The policy's pmf, None when it fails to give one."""
    try:
        pmf = policy.pmf(context, offered)
        if len(pmf) == len(offered):
            return pmf
        log.error("model %s gave %d probabilities for %d actions", model_id, len(pmf), len(offered))
    except (RewardloopError, RuntimeError, ValueError, ArithmeticError):
        log.exception("model %s failed to predict", model_id)
    return None


def _watch(state: State, context: dict[str, Any], offered: tuple[Action, ...], counters: Counters) -> None:
    """Count how often the policy's favourite would have been the baseline action."""
    if state.model.model_id != COLD_START_MODEL_ID:
        pmf, _ = _pmf(state, context, offered, counters)
        if pmf[0] >= max(pmf):
            counters.add("apprentice_agreements")
