"""The simple policies, and the way from a stored model back to the policy that it is.

`load_policy` is what decision workers, trainer and evaluation share: it refuses a model whose canaries give
other probabilities than those recorded when it was trained, so that nothing silently misread is ever served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bandit.canaries import check_canaries
from bandit.decoding import Undecodable, decode
from bandit.encoder import FeatureEncoder
from bandit.errors import CorruptModel
from bandit.registry import StoredModel
from bandit.settings import Exploration, Learning, Rewards, Serving
from bandit.types import Action, Context, Policy
from bandit.vw_policy import VWPolicy

STATE_VERSION = 2


class UniformPolicy:
    """Every offered action with probability 1/k."""

    def pmf(self, context: Context, actions: Sequence[Action]) -> list[float]:
        """1/k each."""
        return [1.0 / len(actions)] * len(actions)


class BaselinePolicy:
    """The first offered action, what the client would have done by itself, but for a share of uniform exploration."""

    def __init__(self, exploration: float = 0.0) -> None:
        """`exploration` in [0, 1] is spread evenly over all k actions; raises ValueError outside."""
        if not 0.0 <= exploration <= 1.0:
            raise ValueError("exploration must lie in [0, 1]")
        self.exploration = exploration

    def pmf(self, context: Context, actions: Sequence[Action]) -> list[float]:
        """(1 − e) + e/k for the first action, e/k for each other."""
        share = self.exploration / len(actions)
        return [1.0 - share * (len(actions) - 1)] + [share] * (len(actions) - 1)


class FixedActionPolicy:
    """Always one action, by id; uniform where it is not offered."""

    def __init__(self, action_id: str) -> None:
        self.action_id = action_id

    def pmf(self, context: Context, actions: Sequence[Action]) -> list[float]:
        """1 for the action of that id."""
        chosen = [1.0 if action.id == self.action_id else 0.0 for action in actions]
        return chosen if any(chosen) else [1.0 / len(actions)] * len(actions)


def cold_start_policy(settings: Serving) -> Policy:
    """What answers where no model can: uniform, or the baseline with its declared share of exploration."""
    if settings.cold_start == "baseline":
        return BaselinePolicy(settings.cold_start_exploration)
    return UniformPolicy()


def control_policy(settings: Serving) -> Policy:
    """What decides in the control slice: the baseline, or uniform chance."""
    return BaselinePolicy() if settings.control_policy == "baseline" else UniformPolicy()


class ModelState(msgspec.Struct, kw_only=True):
    """What a stored model needs beside VW's file and the encoder: its settings and what it has seen."""

    version: int = STATE_VERSION
    exploration: Exploration
    learning: Learning
    rewards: Rewards | None = None
    """Whose scale the model's costs have; None where that was not noted."""
    rows_learnt: int
    best_cost: float = -1.0
    """The cost of the best possible reward."""
    action_counts: dict[str, int] = {}
    updates: int = 0
    """How often rows have been learnt, those read several times as often; 0 where VW counts for itself."""
    offered: int = 0
    """How many actions those rows offered, one after the other."""
    rate: float | None = None
    """The learning rate that was chosen, None where the settings say it or nothing has been learnt."""
    keeps_rate: bool = False
    """Whether that was handed on by another model, and is not chosen anew."""
    refit_at: int = 0
    """The encoder is fitted anew, and everything learnt again, once this many rows have been learnt."""
    reread_rows: int | None = None
    """So many of the first rows were read `learning.passes` times, the others once; None where that was not noted."""


def read_state(files: Mapping[str, bytes]) -> ModelState:
    """The state of a stored model; raises `CorruptModel` when it is missing or of another version."""
    try:
        state = decode(files["state.json"], ModelState)
    except KeyError:
        raise CorruptModel("the model has no state.json") from None
    except Undecodable as error:
        raise CorruptModel(f"state.json cannot be read: {error}") from None
    if state.version != STATE_VERSION:
        raise CorruptModel.of_another_release("state.json", state.version, STATE_VERSION)
    return state


def policy_from_files(files: Mapping[str, bytes]) -> VWPolicy:
    """The policy of a model's files (`policy.vw`, `encoder.json`, `state.json`); raises `CorruptModel`."""
    state = read_state(files)
    for name in ("policy.vw", "encoder.json"):
        if not files.get(name):
            raise CorruptModel(f"the model has no {name}")
    return VWPolicy(
        FeatureEncoder.from_json(files["encoder.json"]),
        state.exploration,
        state.learning,
        rate=state.rate,
        model=files["policy.vw"],
        rows_learnt=state.rows_learnt,
        best_cost=state.best_cost,
        action_counts=state.action_counts,
        updates=state.updates,
        offered=state.offered,
    )


def load_policy(stored: StoredModel) -> VWPolicy:
    """The policy of a stored model, its canaries checked; raises `CorruptModel` when anything differs."""
    policy = policy_from_files(stored.files)
    try:
        check_canaries(policy, stored.manifest.canaries)
    except BaseException:
        policy.close()
        raise
    return policy
