"""How a challenger goes on: a plan says where it starts from, and which rows it learns unscored or scores first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from bandit.experiment import Experiment, InForce
from bandit.scoring import RewardScale
from bandit.settings import ExperimentSettings, encoding_to_dict, settings_to_dict
from evaluation.sequential import AlphaLedger
from serving.learner.challengers.store import KIND_LEARNING, ChallengerState, ChallengerStore, Origin
from serving.learner.workspace import Workspace

MODEL_SECTIONS = ("encoding", "exploration", "learning")
"""The sections of the settings that a manifest states."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a challenger will be advanced.

    It starts from `files` (None: from nothing), learns the rows matured in (`learn_after`, `learn_until`] unscored,
    and scores and learns those in (`score_after`, watermark]. A frozen one only scores. `starts` says that it starts
    anew, from the model `base`; `gate` is the gate's state that a fresh epoch begins with. `settings` are the
    experiment's, with what the challenger declares laid over; `rate` is the learning rate to keep where they leave it
    open.
    """

    state: ChallengerState
    settings: ExperimentSettings
    files: Mapping[str, bytes] | None = None
    learn_after: datetime | None = None
    learn_until: datetime | None = None
    score_after: datetime | None = None
    base: str | None = None
    starts: bool = False
    fresh_epoch: bool = False
    gate: dict[str, Any] | None = None
    rate: float | None = None


def is_damaged(workspace: Workspace, store: ChallengerStore, state: ChallengerState) -> bool:
    """Whether files or scores of a challenger are gone or damaged; history then says that it starts anew."""
    damage = store.damage(state)
    if damage is not None:
        workspace.registry.history.record("restart", now=workspace.clock(), challenger=state.name, reason=damage)
    return damage is not None


def new_state(
    workspace: Workspace, name: str, champion_id: str | None, previous: ChallengerState | None, *, version: int
) -> ChallengerState:
    """The state of a learning challenger that starts now, under this version of the settings."""
    return ChallengerState(
        name=name,
        kind=KIND_LEARNING,
        champion=champion_id,
        settings_version=version,
        born=workspace.clock(),
        # the sequence names files: it goes on, so that a new state never overwrites files the old one points at
        sequence=previous.sequence if previous else 0,
    )


def inherited(state: ChallengerState) -> dict[str, Any] | None:
    """The gate's state for whoever starts anew in this challenger's place: what α it spent stays spent."""
    return AlphaLedger.from_dict(state.gate).rejected(state.judged).to_dict() if state.gate else None


def scored_again(state: ChallengerState) -> dict[str, Any] | None:
    """The gate's state for a challenger whose rows of this epoch are scored once more, because their scores are lost.

    What α it spent stays spent, and each row counts once on the way to the epoch's end.
    """
    return replace(AlphaLedger.from_dict(state.gate), looks=()).to_dict() if state.gate else None


def same_model_settings(experiment: Experiment, version: int, now: InForce) -> bool:
    """Whether the settings that make a model are the same in `version` as those in force `now`."""
    return version == now.version or made_of(experiment.settings_of(version)) == made_of(now.settings)


def made_of(settings: ExperimentSettings) -> tuple[Any, ...]:
    """What of the settings makes a model: when it changes, a challenger learns anew."""
    return settings.encoding, settings.exploration, settings.learning, RewardScale.of(settings.rewards)


def model_time(data: Mapping[str, object], key: str) -> datetime | None:
    """A time out of a manifest's `data`: `cut`, up to which the model has learnt, or `since`, from which on."""
    moment = data.get(key)
    if isinstance(moment, datetime) or moment is None:
        return moment
    return datetime.fromisoformat(str(moment))


def incarnation(origin: Origin | None) -> dict[str, Any] | None:
    """Where a challenger started, as a manifest states it: what starts elsewhere under its name is another learner."""
    if origin is None:
        return None
    plain: dict[str, Any] = msgspec.to_builtins(origin)
    del plain["rules_version"]  # the same learner, whatever version of the rules started it
    return plain


def model_options(settings: ExperimentSettings) -> dict[str, object]:
    """The settings that a manifest states: how the model encodes, explores and learns."""
    plain = settings_to_dict(settings)
    return {section: plain[section] for section in MODEL_SECTIONS} | {"encoding": encoding_to_dict(settings.encoding)}
