"""Which policy answers: the champion if it verifies, else the newest earlier one that does, else the cold start.

A model is used only after its digests and canaries were checked (`registry.load`, `load_policy`). Whatever
is served instead of the champion is said aloud: in the state below, from where `/readyz`, the metrics and
each decision's `model_id` take it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bandit.canaries import canary_digest
from bandit.errors import CorruptModel, NotFound, RewardloopError
from bandit.eventlog.heartbeat import DAMAGED, UNREADABLE
from bandit.policies import cold_start_policy, load_policy
from bandit.registry import Champion, ModelRegistry, StoredModel, Trial
from bandit.settings import Serving
from bandit.types import COLD_START_MODEL_ID, Policy

log = logging.getLogger("rewardloop.api")

Loader = Callable[[StoredModel], Policy]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The policy in use, the pointer it was chosen for, and why it is not the champion where it is not.

    `fallback` says so to people, `unusable` to the learner (`DAMAGED`, `UNREADABLE`) where the champion is known.
    """

    policy: Policy
    model_id: str
    champion: Champion | None
    fallback: str | None = None
    canary_digest: str | None = None
    manifest_digest: str | None = None
    unusable: str | None = None

    @property
    def status(self) -> str:
        """`champion`, `fallback` (the champion cannot be used) or `cold-start` (there is none yet)."""
        if self.fallback is not None:
            return "fallback"
        return "cold-start" if self.champion is None else "champion"


def choose_model(
    registry: ModelRegistry, settings: Serving, *, serving: ServedModel | None = None, load: Loader = load_policy
) -> ServedModel:
    """Load what should be served now; raises nothing that a broken model, pointer or history could cause.

    `serving` is what is in use: a policy that is still wanted is taken over instead of being loaded again, and a
    problem that it has told of is not logged again.
    """
    reasons: list[str] = []
    unusable: str | None = None
    told = serving.fallback if serving is not None and serving.fallback is not None else ""
    try:
        champion = registry.champion()
    except (RewardloopError, OSError, ValueError) as error:
        champion = None
        ours = isinstance(error, RewardloopError)  # others name paths
        reasons.append(f"the champion is not known: {error if ours else type(error).__name__}")
    if champion is None and not reasons:
        return ServedModel(cold_start_policy(settings), COLD_START_MODEL_ID, None)
    wanted = [champion.model_id] if champion else []
    for model_id in [*wanted, *_earlier(registry, wanted, reasons)]:
        if serving is not None and serving.model_id == model_id:
            return replace(serving, champion=champion, fallback=_reason(reasons), unusable=unusable)
        try:
            stored = registry.load(model_id)
            policy = load(stored)
        except Exception as error:  # whatever went wrong, this model does not verify
            reasons.append(f"{model_id} cannot be used: {error}")
            if reasons[-1] not in told:
                _tell("model", model_id, error)
            if model_id in wanted:
                unusable = UNREADABLE if isinstance(error, (OSError, MemoryError)) else DAMAGED
            continue
        return ServedModel(
            policy,
            model_id,
            champion,
            fallback=_reason(reasons),
            canary_digest=canary_digest(policy, stored.manifest.canaries),
            manifest_digest=stored.manifest.digest,
            unusable=unusable,
        )
    return ServedModel(
        cold_start_policy(settings), COLD_START_MODEL_ID, champion, fallback=_reason(reasons), unusable=unusable
    )


@dataclass(frozen=True, slots=True)
class ServedTrial:
    """The challenger that has its declared share in the pmf, or why the one on trial has not."""

    trial: Trial
    policy: Policy | None
    problem: str | None = None


def choose_trial(
    registry: ModelRegistry,
    settings: Serving,
    model: ServedModel,
    *,
    serving: ServedTrial | None = None,
    load: Loader = load_policy,
) -> ServedTrial | None:
    """The trial to serve beside `model`: only beside the very champion it was declared for, and only if sound."""
    trial = wanted_trial(registry, settings, model)
    if trial is None:
        return None
    if serving is not None and serving.trial.model_id == trial.model_id and serving.policy is not None:
        return ServedTrial(trial, serving.policy)
    try:
        return ServedTrial(trial, load(registry.load(trial.model_id)))
    except Exception as error:  # as above
        problem = f"{trial.model_id} cannot be used: {error}"
        if serving is None or serving.problem != problem:
            _tell("challenger on trial", trial.model_id, error)
        return ServedTrial(trial, None, problem)


def wanted_trial(registry: ModelRegistry, settings: Serving, model: ServedModel) -> Trial | None:
    """The trial that the settings, the pointer and the served model agree on."""
    if settings.trial_share == 0.0 or settings.mode != "online" or model.status != "champion":
        return None
    try:
        trial = registry.trial()
    except (RewardloopError, OSError, ValueError) as error:
        log.error("the trial cannot be read: %s", error)
        return None
    return trial if trial is not None and trial.champion == model.model_id else None


def _earlier(registry: ModelRegistry, wanted: Sequence[str], reasons: list[str]) -> list[str]:
    try:
        earlier = [champion.model_id for champion in registry.champions()]
    except (RewardloopError, OSError, ValueError) as error:
        if wanted:  # else the pointer has been told of
            reasons.append(f"the history of champions cannot be read ({type(error).__name__})")
        return []
    return list(dict.fromkeys(model_id for model_id in earlier if model_id not in wanted))


def _tell(what: str, model_id: str, error: Exception) -> None:
    """Log why a model is not used; with the place in the code where the error is none of ours."""
    expected = isinstance(error, (CorruptModel, NotFound, OSError))
    log.error("%s %s cannot be used: %s", what, model_id, error, exc_info=None if expected else error)


def _reason(reasons: list[str]) -> str | None:
    return "; ".join(reasons) or None
