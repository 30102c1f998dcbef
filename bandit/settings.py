"""Settings of one experiment: every knob with its type, default and limit, in one place.

They arrive as TOML or JSON, are checked here once, and travel as frozen objects afterwards. An unknown key
is refused by name. Each accepted change gets a new version number, stamped on the decisions made under it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from bandit.errors import InvalidSettings
from bandit.settings_words import explain

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]

Seconds = Annotated[float, Meta(gt=0, le=1_000_000_000)]
"""Thirty years at most: a moment plus a longer time is soon none that a computer can tell."""

Reward = Annotated[float, Meta(ge=-1_000_000_000_000, le=1_000_000_000_000)]
"""Weights are single-precision numbers, and squares of rewards must be such, too."""

Rows = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]

NAME_LENGTH_MAX = 256
"""A longer name is not repeated in a refusal."""

IGNORED_MAX = 1000
IGNORED_LENGTH_MAX = 2500
"""Of a path: nine names of `NAME_LENGTH_MAX` characters, and the dots between them."""

NAMED_BY_THE_USER = ("events", "challengers")
"""Tables whose keys are the user's."""

EXPERIMENT_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")
NAME_IN_WORDS = "up to 63 of a to z, 0 to 9, - and _, a letter or digit first"

RESERVED_CHALLENGERS = ("standing", "former")
RESERVED_CHALLENGERS_BEGIN = "offered-"
"""The learner's own names: the champion's continuation, the champion before, and models from outside."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")

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


def parse_settings(raw: Mapping[str, Any]) -> ExperimentSettings:
    """Check a decoded TOML or JSON object; raises `InvalidSettings` that names the key, problem and limit."""
    settings = stored_settings(raw)
    _check_worth(settings.rewards)
    return settings


def stored_settings(raw: Mapping[str, Any]) -> ExperimentSettings:
    """Settings that were accepted before, by this release or an earlier one that had accepted more.

    Raises `InvalidSettings` where they cannot be worked with: an event that is never worth a reward harms nothing else.

    An empty name of a context field is none: TOML has no null, and a file takes back only what it mentions. What is
    ignored has no order, so that another one makes no other model.
    """
    _check_finite(raw, "")
    raw = _with_times(raw)
    try:
        settings = msgspec.convert(raw, ExperimentSettings, strict=True)
    except msgspec.ValidationError as error:
        field, problem, limit = explain(str(error), ExperimentSettings)
        raise InvalidSettings(_with_name(raw, field), problem, limit) from None
    _check_across_fields(settings)
    serving = settings.serving
    fields = {"subject_field": serving.subject_field or None, "segment_field": serving.segment_field or None}
    challengers = {
        name: declared
        if declared.encoding is None
        else msgspec.structs.replace(declared, encoding=_ordered(declared.encoding))
        for name, declared in settings.challengers.items()
    }
    return msgspec.structs.replace(
        settings,
        serving=msgspec.structs.replace(serving, **fields),
        encoding=_ordered(settings.encoding),
        challengers=challengers,
    )


def settings_to_dict(settings: ExperimentSettings) -> dict[str, Any]:
    """The plain JSON object that `parse_settings` turns back into equal settings."""
    builtins: dict[str, Any] = msgspec.to_builtins(settings)
    return builtins


def encoding_to_dict(encoding: Encoding) -> dict[str, Any]:
    """The plain JSON object of an encoding as models state it: without `ignore` where nothing is ignored."""
    plain: dict[str, Any] = msgspec.to_builtins(encoding)
    return plain if encoding.ignore else {key: value for key, value in plain.items() if key != "ignore"}


def merge_settings(settings: ExperimentSettings, changes: Mapping[str, Any]) -> ExperimentSettings:
    """New settings with `changes` (a nested object of some keys) laid over; raises `InvalidSettings`."""
    return _changed(settings, lay_over(settings_to_dict(settings), changes))


def patch_settings(settings: ExperimentSettings, patch: Mapping[str, Any]) -> ExperimentSettings:
    """New settings with a JSON merge patch (RFC 7396) applied; raises `InvalidSettings`.

    Named events and challengers are merged, too, and null removes one. Of any other setting null is its value.
    """
    _check_worth_changes(settings, patch)
    return _changed(settings, _patched(settings_to_dict(settings), patch))


def lay_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested object with another one's keys in place of its own, table by table, as a configuration file means it."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        # maps keyed by the user are replaced whole: TOML has no null, so a merge could never remove an entry
        if isinstance(below, dict) and isinstance(value, Mapping) and key not in NAMED_BY_THE_USER:
            merged[key] = lay_over(below, value)
        else:
            merged[key] = value
    return merged


def differing(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> tuple[str, ...]:
    """The dotted keys at which two plain settings differ; a table that is named by the user counts as one.

    >>> differing({"rewards": {"min": 0, "max": 1}}, {"rewards": {"min": 0, "max": 2}})
    ('rewards.max',)
    """
    keys: list[str] = []
    for key in dict.fromkeys((*one, *other)):
        first, second = one.get(key), other.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping) and key not in NAMED_BY_THE_USER:
            keys += differing(first, second, f"{prefix}{key}.")
        elif not same(first, second):
            keys.append(prefix + key)
    return tuple(keys)


def same(one: Any, other: Any) -> bool:
    """Whether two plain values say the same in JSON, where true is not 1."""
    first, second = (msgspec.json.encode(value, order="deterministic") for value in (one, other))
    return first == second


def check_experiment_name(name: str) -> str:
    """Give `name` back when it may name an experiment; raises `InvalidSettings` otherwise."""
    if not EXPERIMENT_NAME.fullmatch(name):
        printed = _printed(name)
        told = "is not a valid name" if not printed else f"'{printed}' is not a valid name"
        raise InvalidSettings("experiment", told, NAME_IN_WORDS)
    return name


def _changed(before: ExperimentSettings, raw: Mapping[str, Any]) -> ExperimentSettings:
    """The settings of `raw`; what is wrong with the rewards and was accepted before hinders no other change."""
    settings = stored_settings(raw)
    if settings.rewards != before.rewards:
        _check_worth(settings.rewards)
    return settings


def _patched(base: Mapping[str, Any], patch: Mapping[str, Any], *, named: bool = False) -> dict[str, Any]:
    """`base` with a merge patch applied; `named` where the keys are the user's."""
    merged = dict(base)
    for key, value in patch.items():
        below = merged.get(key)
        if named and value is None:
            merged.pop(key, None)
        elif isinstance(below, dict) and isinstance(value, Mapping):
            merged[key] = _patched(below, value, named=not named and key in NAMED_BY_THE_USER)
        else:
            merged[key] = value
    return merged


def _check_worth_changes(settings: ExperimentSettings, patch: Mapping[str, Any]) -> None:
    """Raise `InvalidSettings` for a scale or bounds of an event whose fixed value stays: they would change nothing."""
    rewards = patch.get("rewards")
    events = rewards.get("events") if isinstance(rewards, Mapping) else None
    for name, change in events.items() if isinstance(events, Mapping) else ():
        declared = settings.rewards.events.get(name)
        if declared is None or declared.value is None or not isinstance(change, Mapping) or "value" in change:
            continue
        if change.keys() & {"scale", "min", "max"}:
            raise InvalidSettings(
                _place("rewards.events", name),
                "has a fixed value, which goes before scale, min and max: set value to null, too",
            )


def _printed(name: str) -> str | None:
    """A name that somebody gave as a refusal may repeat it, None where it may not."""
    return name if name.isprintable() and len(name) <= NAME_LENGTH_MAX else None


def _place(table: str, name: str) -> str:
    """The path of an entry of a table that the user names, as far as its name may be repeated."""
    printed = _printed(name)
    return f"{table}[...]" if printed is None else f"{table}.{printed}"


def _with_name(raw: Mapping[str, Any], field: str) -> str:
    """The path of a refused value with the name of the challenger or event that it is of, where msgspec has `[...]`."""
    kinds: tuple[tuple[str, type[_Section]], ...] = (("challengers", Challenger), ("rewards.events", EventReward))
    for path, kind in kinds:
        if not field.startswith(f"{path}[...]"):
            continue
        group: Any = raw
        for key in path.split("."):
            group = group[key]
        for name, value in group.items():
            try:
                msgspec.convert(value, kind, strict=True)
            except msgspec.ValidationError:
                return field.replace(f"{path}[...]", _place(path, name), 1) if isinstance(name, str) else field
    return field


def _ordered(encoding: Encoding) -> Encoding:
    return msgspec.structs.replace(encoding, ignore=sorted(set(encoding.ignore)))


def _with_times(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the midnight of a date in UTC as `learning.only_since`, of the challengers, too."""
    told, challengers = _with_time(raw), raw.get("challengers")
    if isinstance(challengers, Mapping):
        told["challengers"] = {
            name: _with_time(each) if isinstance(each, Mapping) else each for name, each in challengers.items()
        }
    return told


def _with_time(raw: Mapping[str, Any]) -> dict[str, Any]:
    learning = raw.get("learning")
    since = learning.get("only_since") if isinstance(learning, Mapping) else None
    if isinstance(since, str) and _DATE.fullmatch(since):
        with contextlib.suppress(ValueError):  # no day of the calendar: refused as no time
            since = date.fromisoformat(since)
    if not isinstance(since, date) or isinstance(since, datetime):
        return dict(raw)
    return {**raw, "learning": {**raw["learning"], "only_since": datetime.combine(since, time(), UTC)}}


def _check_ignored(encoding: Encoding, key: str) -> None:
    """Raise `InvalidSettings` for paths of features that there cannot be, or too many of them."""
    if len(encoding.ignore) > IGNORED_MAX:
        raise InvalidSettings(key, "names too many features", f"{IGNORED_MAX} paths")
    for position, path in enumerate(encoding.ignore):
        if not path or not path.isprintable():
            raise InvalidSettings(f"{key}[{position}]", "must be the path of a feature: printable text, not empty")
        if len(path) > IGNORED_LENGTH_MAX:
            raise InvalidSettings(f"{key}[{position}]", "is too long", f"{IGNORED_LENGTH_MAX} characters")


def _check_finite(value: Any, path: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidSettings(path, "must be a finite number")
    if isinstance(value, Mapping):
        for key, below in value.items():
            _check_finite(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for position, below in enumerate(value):
            _check_finite(below, f"{path}[{position}]")


def _check_worth(rewards: Rewards) -> None:
    """Raise `InvalidSettings` for an event that could never be reported: every worth it has would be refused."""
    limit = "rewards.min to rewards.max"
    for name, event in rewards.events.items():
        place = _place("rewards.events", name)
        if event.value is not None:
            if not rewards.min <= event.value <= rewards.max:
                raise InvalidSettings(f"{place}.value", "lies outside the reward range", limit)
            continue
        if event.min is not None and event.max is not None and event.min > event.max:
            raise InvalidSettings(f"{place}.min", "must not be above max")
        if event.min is not None and event.min > rewards.max:
            raise InvalidSettings(f"{place}.min", "lies above the reward range", limit)
        if event.max is not None and event.max < rewards.min:
            raise InvalidSettings(f"{place}.max", "lies below the reward range", limit)


def _check_across_fields(settings: ExperimentSettings) -> None:
    rewards = settings.rewards
    if not rewards.min < rewards.max:
        raise InvalidSettings("rewards.min", "must be below rewards.max")
    if not rewards.min <= rewards.default <= rewards.max:
        raise InvalidSettings("rewards.default", "lies outside the reward range", "rewards.min to rewards.max")
    if settings.serving.trial_share > settings.serving.trial_share_max:
        raise InvalidSettings("serving.trial_share", "must not be above serving.trial_share_max")
    retention = settings.retention
    if retention.drop_after_days is not None and not (
        retention.compact_after_days is not None and retention.compact_after_days <= retention.drop_after_days
    ):
        raise InvalidSettings("retention.drop_after_days", "needs an earlier retention.compact_after_days")
    cron = settings.schedule.cron
    if cron is not None and len(cron.split()) != 5:
        raise InvalidSettings("schedule.cron", "needs five fields: minute, hour, day, month, weekday")
    _check_ignored(settings.encoding, "encoding.ignore")
    for name, declared in settings.challengers.items():
        if not EXPERIMENT_NAME.fullmatch(name):
            raise InvalidSettings(_place("challengers", name), "is not a valid name", NAME_IN_WORDS)
        if name in RESERVED_CHALLENGERS or name.startswith(RESERVED_CHALLENGERS_BEGIN):
            reserved = f"any but {', '.join(RESERVED_CHALLENGERS)} and what begins with {RESERVED_CHALLENGERS_BEGIN}"
            raise InvalidSettings(f"challengers.{name}", "is reserved for the learner's own challengers", reserved)
        if declared.encoding is not None:
            _check_ignored(declared.encoding, f"challengers.{name}.encoding.ignore")
    if settings.actions is not None:
        ids = [action.id for action in settings.actions]
        if not ids:
            raise InvalidSettings("actions", "a catalogue needs at least one action")
        first: dict[str, int] = {}
        for position, ident in enumerate(ids):
            if first.setdefault(ident, position) != position:
                told = f"is the id of actions[{first[ident]}], too"
                raise InvalidSettings(f"actions[{position}].id", f"'{ident}' {told}" if _printed(ident) else told)
