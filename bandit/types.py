"""The nouns that flow through the loop, from a question to a training row.

A *context* is what is known before choosing: a JSON object of features (numbers, strings, booleans,
lists of strings, nested objects). An *action* is an id with features of its own. A *decision* is the
draw of one action out of a pmf over the offered actions; joined with its reward it is an *interaction*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import msgspec

Features = Mapping[str, Any]
"""A JSON object: feature name → number | string | boolean | list of strings | nested object | null."""

Context = Features

MODE_ONLINE = "online"
MODES_OF_THE_BASELINE = ("apprentice", "logging_only")
"""The modes in which the baseline action is always the answer."""
SLICE_POLICY = "policy"
SLICE_CONTROL = "control"
SLICE_TRIAL = "trial"
ORIGIN_LIVE = "live"
ORIGIN_IMPORT = "import"
COLD_START_MODEL_ID = "cold-start"
IMPORTED_MODEL_ID = "imported"
SLOT_FEATURE = "_slot"
"""The context feature that carries the slot's number (as text: slots are places, not quantities)."""


@dataclass(frozen=True, slots=True)
class Action:
    """One candidate: its id and its own features (often none)."""

    id: str
    features: Features = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a client is answered: the drawn action with the probability it was drawn with."""

    event_id: str
    action: str
    probability: float
    model_id: str
    ranking: tuple[tuple[str, float], ...] = ()


class Interaction(msgspec.Struct, frozen=True, gc=False):
    """A matured decision with its aggregated (or default) reward: one training row, one per event_id.

    `index` is the position of the chosen action in `actions`; `pmf` has one entry per action, or is None
    for imported rows that recorded only the propensity. `rewarded` tells an explicit reward from silence.
    `trial_model_id` names the challenger's model that had `trial_share` of the pmf. `matures_at` is its place in the
    log: a model that learnt up to a cut has learnt the rows that matured until then, whenever they were decided.
    """

    event_id: str
    decided_at: datetime
    model_id: str
    context: Context
    actions: tuple[Action, ...]
    index: int
    propensity: float
    pmf: tuple[float, ...] | None
    reward: float
    rewarded: bool = True
    mode: str = MODE_ONLINE
    slice: str = SLICE_POLICY
    origin: str = ORIGIN_LIVE
    settings_version: int = 1
    slot: int | None = None
    subject: str | None = None
    trial_model_id: str | None = None
    trial_share: float | None = None
    matures_at: datetime | None = None


class Policy(Protocol):
    """Anything that turns a context and k offered actions into a pmf of length k that sums to 1."""

    def pmf(self, context: Context, actions: Sequence[Action]) -> list[float]:
        """Probabilities in the order of `actions`; deterministic, and without side effects."""
        ...
