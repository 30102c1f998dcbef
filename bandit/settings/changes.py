"""How settings change: by a configuration file laid over them, or by a JSON merge patch; and how two differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bandit.errors import InvalidSettings
from bandit.settings.checks import check_worth, place_of, settings_to_dict, stored_settings
from bandit.settings.declared import ExperimentSettings

NAMED_BY_THE_USER = ("events", "challengers")
"""Tables whose keys are the user's."""


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


def added(configuration: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration another one, from before, did not declare, or declared otherwise.

    >>> added({"gate": {"alpha": 0.1, "margin": 0.2}}, {"gate": {"alpha": 0.1}})
    {'gate': {'margin': 0.2}}
    """
    found: dict[str, Any] = {}
    for key, value in configuration.items():
        known = before.get(key)
        if isinstance(value, Mapping) and isinstance(known, Mapping) and key not in NAMED_BY_THE_USER:
            if below := added(value, known):
                found[key] = below
        elif key not in before or not (same(value, known) or _is_same_number(value, known)):
            found[key] = value
    return found


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


def _is_same_number(one: Any, other: Any) -> bool:
    """Whether two values are one number, written otherwise: 5 and 5.0."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return numbers and bool(one == other)


def _changed(before: ExperimentSettings, raw: Mapping[str, Any]) -> ExperimentSettings:
    """The settings of `raw`; what is wrong with the rewards and was accepted before hinders no other change."""
    settings = stored_settings(raw)
    if settings.rewards != before.rewards:
        check_worth(settings.rewards)
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
                place_of("rewards.events", name),
                "has a fixed value, which goes before scale, min and max: set value to null, too",
            )
