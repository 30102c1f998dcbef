"""Every setting of an experiment with its type, default and limit, in one place.

Sections are frozen objects that refuse an unknown key. Each accepted change gets a new version number, stamped on the
decisions made under it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]

Seconds = Annotated[float, Meta(gt=0, le=1_000_000_000)]
"""Thirty years at most: a moment plus a longer time is soon none that a computer can tell."""

Reward = Annotated[float, Meta(ge=-1_000_000_000_000, le=1_000_000_000_000)]
"""Weights are single-precision numbers, and squares of rewards must be such, too."""

Rows = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]

Algorithm = Literal["squarecb", "egreedy", "bag", "cover", "softmax", "explore_first", "uniform"]
Aggregation = Literal["first", "last", "sum", "mean", "min", "max"]
Mode = Literal["online", "apprentice", "logging_only", "frozen"]
Slice = Literal["policy", "trial", "control"]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A group of settings: immutable, and refusing unknown keys."""


class EventReward(_Section, frozen=True):
    """What a named event is worth: `value`, or the reported value times `scale`, within [`min`, `max`]."""

    value: float | None = None
    scale: float = 1.0
    min: float | None = None
    max: float | None = None


class Rewards(_Section, frozen=True):
    """How long rewards are waited for, what silence means, and how several become one."""

    window_s: Seconds = 600.0
    default: float = 0.0
    aggregation: Aggregation = "first"
    min: Reward = -1.0
    max: Reward = 1.0
    events: dict[str, EventReward] = {}


class Encoding(_Section, frozen=True):
    """How contexts and actions become features: `bins` (quantile bins) or `zscore` for numbers."""

    numbers: Literal["bins", "zscore"] = "bins"
    bins: Annotated[int, Meta(ge=2, le=256)] = 32
    interactions: Literal["auto", "pairs", "linear"] = "auto"
    refit_rows_max: Annotated[int, Meta(ge=50, le=10_000_000)] = 50_000
    ignore: list[str] = []


class Exploration(_Section, frozen=True):
    """The exploration algorithm and its parameters; those of other algorithms are ignored by it."""

    algorithm: Algorithm = "squarecb"
    epsilon: Fraction = 0.05
    bags: Annotated[int, Meta(ge=2, le=100)] = 5
    cover: Annotated[int, Meta(ge=1, le=100)] = 3
    gamma_scale: Annotated[float, Meta(gt=0, le=1_000_000_000)] = 3.0
    gamma_exponent: Annotated[float, Meta(ge=0, le=1)] = 0.6
    headroom: bool = True
    temperature: Annotated[float, Meta(ge=1e-30)] = 0.1
    explore_first: Rows = 1000
    probability_floor: Annotated[float, Meta(ge=0, le=0.5)] = 0.0


class Learning(_Section, frozen=True):
    """How the policy is fitted by Vowpal Wabbit, and which interactions it is fitted to and evaluated on."""

    learning_rate: Annotated[float, Meta(gt=0, le=1000)] | Literal["auto"] = "auto"
    power_t: Annotated[float, Meta(ge=0, le=1)] = 0.5
    l2: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    bits: Annotated[int, Meta(ge=10, le=28)] = 18
    cb_type: Literal["mtr", "ips", "dr"] = "mtr"
    passes: Annotated[int, Meta(ge=1, le=10)] = 2
    importance_max: Positive = 100.0
    propensity_min: Annotated[float, Meta(gt=0, le=0.1)] = 1e-4
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    only_since: Annotated[datetime, Meta(tz=True)] | None = None
    only_mode: Mode | None = None
    only_slice: Slice | None = None
    only_model: str | None = None


class Training(_Section, frozen=True):
    """What one training job may take, and the database; beyond it the job is ended, and the run tells so."""

    time_s_max: Annotated[float, Meta(ge=1, le=1_000_000)] = 1800.0
    memory_bytes_max: Annotated[int, Meta(ge=512 * 1024 * 1024, le=1024**5)] = 8 * 1024 * 1024 * 1024
    cores: Annotated[int, Meta(ge=1, le=2)] = 1
    database_bytes_max: Annotated[int, Meta(ge=512 * 1024 * 1024, le=1024**5)] = 2_000_000_000


class Schedule(_Section, frozen=True):
    """When the learner trains: after so many seconds or so many newly matured interactions."""

    interval_s: Seconds = 300.0
    interactions: Rows = 500
    cron: str | None = None
    poll_s: Annotated[float, Meta(ge=0.01, le=3600)] = 1.0


class Challenger(_Section, frozen=True):
    """A challenger beside the standing one: it starts anew on the newest window every so many interactions.

    It does so too, on what came after, when what the champion earns falls.

    Sections given here take the place of the experiment's for this challenger.
    """

    window_interactions: Annotated[int, Meta(ge=50, le=1_000_000_000_000)] = 2000
    window_h: Annotated[float, Meta(gt=0, le=100_000)] | None = None
    every_interactions: Annotated[int, Meta(ge=50, le=1_000_000_000_000)] = 1000
    exploration: Exploration | None = None
    learning: Learning | None = None
    encoding: Encoding | None = None


class Gate(_Section, frozen=True):
    """When a challenger may replace the champion; the same names as in `evaluation.gate.GateRules`."""

    enabled: bool = True
    mode: Literal["superiority", "noninferiority"] = "superiority"
    alpha: Annotated[float, Meta(ge=1e-9, lt=0.5)] = 0.05
    margin: NonNegative = 0.0
    looks: Literal["planned", "anytime"] = "planned"
    horizon_rows: Annotated[int, Meta(ge=100, le=1_000_000_000_000)] = 60_000
    detectable_lift: Annotated[float, Meta(ge=1e-6, le=10)] = 0.05
    rows_min: Annotated[int, Meta(ge=2, le=1_000_000_000_000)] = 200
    ess_min: Positive = 10.0


class Rollback(_Section, frozen=True):
    """When a promotion is undone by itself: the champion before proves better, or serving suffers at once."""

    enabled: bool = True
    alpha: Annotated[float, Meta(ge=1e-9, lt=0.5)] = 0.05
    error_rate_max: Fraction = 0.01
    latency_p99_ms_max: Positive = 1000.0
    decisions_min: Rows = 500


class Serving(_Section, frozen=True):
    """How the decision API answers for this experiment."""

    mode: Mode = "online"
    cold_start: Literal["uniform", "baseline"] = "uniform"
    cold_start_exploration: Fraction = 0.1
    control_fraction: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    control_policy: Literal["baseline", "uniform"] = "baseline"
    trial_share: Annotated[float, Meta(ge=0, le=0.5)] = 0.3
    trial_share_max: Annotated[float, Meta(ge=0, le=0.5)] = 0.5
    seal_interval_s: Annotated[float, Meta(gt=0, le=86_400)] = 5.0
    segment_bytes_max: Annotated[int, Meta(ge=4096, le=1024**4)] = 64 * 1024 * 1024
    subject_field: str | None = None
    segment_field: str | None = None


class Retention(_Section, frozen=True):
    """How long the log stays in segments and in archives; None keeps it for ever."""

    compact_after_days: Positive | None = None
    drop_after_days: Positive | None = None


class Limits(_Section, frozen=True):
    """What one request to the decision API may hold; a refusal names the limit it broke."""

    body_bytes_max: Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)] = 256 * 1024
    batch_bytes_max: Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)] = 4 * 1024 * 1024
    batch_items_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    actions_max: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    features_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    depth_max: Annotated[int, Meta(ge=1, le=32)] = 8
    name_length_max: Annotated[int, Meta(ge=1, le=256)] = 256
    text_length_max: Annotated[int, Meta(ge=1, le=65_536)] = 1024
    slots_max: Annotated[int, Meta(ge=1, le=10)] = 10


class CatalogueAction(_Section, frozen=True):
    """One action of a fixed catalogue."""

    id: str
    features: dict[str, Any] = {}


class ExperimentSettings(_Section, frozen=True):
    """Everything that can be declared for one experiment; `actions` declares a fixed catalogue."""

    rewards: Rewards = Rewards()
    encoding: Encoding = Encoding()
    exploration: Exploration = Exploration()
    learning: Learning = Learning()
    training: Training = Training()
    schedule: Schedule = Schedule()
    gate: Gate = Gate()
    rollback: Rollback = Rollback()
    challengers: dict[str, Challenger] = msgspec.field(default_factory=lambda: {"recent": Challenger()})
    serving: Serving = Serving()
    retention: Retention = Retention()
    limits: Limits = Limits()
    actions: list[CatalogueAction] | None = None
