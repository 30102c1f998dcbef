"""Settings that arrive as TOML or JSON become checked, frozen objects here, once, and plain objects again.

What is wrong is refused by the name of its key, with the limit.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Any

import msgspec

from bandit.errors import InvalidSettings
from bandit.settings.declared import Challenger, Encoding, EventReward, ExperimentSettings, Rewards
from bandit.settings.words import explain

NAME_LENGTH_MAX = 256
"""A longer name is not repeated in a refusal."""

IGNORED_MAX = 1000
IGNORED_LENGTH_MAX = 2500
"""Of a path: nine names of `NAME_LENGTH_MAX` characters, and the dots between them."""

EXPERIMENT_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")
NAME_IN_WORDS = "up to 63 of a to z, 0 to 9, - and _, a letter or digit first"

RESERVED_CHALLENGERS = ("standing", "former")
RESERVED_CHALLENGERS_BEGIN = "offered-"
"""The learner's own names: the champion's continuation, the champion before, and models from outside."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def parse_settings(raw: Mapping[str, Any]) -> ExperimentSettings:
    """Check a decoded TOML or JSON object; raises `InvalidSettings` that names the key, problem and limit."""
    settings = stored_settings(raw)
    check_worth(settings.rewards)
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


def check_experiment_name(name: str) -> str:
    """Give `name` back when it may name an experiment; raises `InvalidSettings` otherwise."""
    if not EXPERIMENT_NAME.fullmatch(name):
        printed = _printed(name)
        told = "is not a valid name" if not printed else f"'{printed}' is not a valid name"
        raise InvalidSettings("experiment", told, NAME_IN_WORDS)
    return name


def _printed(name: str) -> str | None:
    """A name that somebody gave as a refusal may repeat it, None where it may not."""
    return name if name.isprintable() and len(name) <= NAME_LENGTH_MAX else None


def place_of(table: str, name: str) -> str:
    """The path of an entry of a table that the user names, as far as its name may be repeated."""
    printed = _printed(name)
    return f"{table}[...]" if printed is None else f"{table}.{printed}"


def _with_name(raw: Mapping[str, Any], field: str) -> str:
    """The path of a refused value with the name of the challenger or event that it is of, where msgspec has `[...]`."""
    kinds: tuple[tuple[str, type[msgspec.Struct]], ...] = (("challengers", Challenger), ("rewards.events", EventReward))
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
                return field.replace(f"{path}[...]", place_of(path, name), 1) if isinstance(name, str) else field
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


def check_worth(rewards: Rewards) -> None:
    """Raise `InvalidSettings` for an event that could never be reported: every worth it has would be refused."""
    limit = "rewards.min to rewards.max"
    for name, event in rewards.events.items():
        place = place_of("rewards.events", name)
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
            raise InvalidSettings(place_of("challengers", name), "is not a valid name", NAME_IN_WORDS)
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
