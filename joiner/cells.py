"""The cells of an imported row, each checked by itself: it becomes what the log holds, or the row is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bandit.errors import InvalidHistory
from bandit.eventlog import AHEAD_S_MAX
from bandit.events import ActionRecord

NAME_LENGTH_MAX = 256
DEPTH_MAX = 16
SLOT_MAX = 1_000
"""A hundred times what the decision API allows in one answer (`limits.slots_max`)."""

PMF_TOLERANCE = 1e-4

_LARGEST = 1.7976931348623157e308
_BAD_IN_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BAD_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class RefusedRow(InvalidHistory):
    """One row that is not imported; `reason` is the short name it is counted under."""

    def __init__(self, reason: str, field_name: str, problem: str, limit: str | None = None) -> None:
        self.reason = reason
        super().__init__(field_name, problem, limit)


def too_deep(path: str) -> RefusedRow:
    """The refusal of what is nested so deeply that it cannot even be read."""
    return RefusedRow("nested_too_deeply", path, "is nested too deeply", f"{DEPTH_MAX} levels")


def is_number(raw: Any) -> bool:
    """Whether `raw` is a number (no boolean) that a double holds; whole numbers of any length are looked at, too."""
    return isinstance(raw, int | float) and not isinstance(raw, bool) and abs(raw) <= _LARGEST


def read_reward(raw: Any, low: float, high: float) -> float:
    """A reward within the declared range; raises `RefusedRow`."""
    if not is_number(raw):
        raise RefusedRow("invalid_reward", "reward", "is not a finite number")
    if not low <= raw <= high:
        raise RefusedRow("reward_out_of_range", "reward", "lies outside rewards.min to rewards.max", f"{low} to {high}")
    return float(raw)


def read_rewarded(raw: Any) -> bool:
    """Whether a row's reward was reported; one that says nothing of it was, if it has a reward.

    Raises `RefusedRow`.
    """
    if raw is not None and (not isinstance(raw, int) or raw not in (0, 1)):
        raise RefusedRow("invalid_rewarded", "rewarded", "is not true or false")
    return raw is None or bool(raw)


def read_decided_at(raw: Any, stamp: datetime) -> datetime:
    """When a row was decided; one that says nothing of it was when it is imported.

    One further ahead of its import than two clocks differ has its time in another zone. Raises `RefusedRow`.
    """
    moment = read_time(raw, "decided_at")
    if moment is not None and moment > stamp + timedelta(seconds=AHEAD_S_MAX):
        raise RefusedRow(
            "time_ahead",
            "decided_at",
            "lies ahead of the import; a time without a zone is read as UTC",
            f"{AHEAD_S_MAX:g} s ahead",
        )
    return moment or stamp


def read_slot(raw: Any) -> int | None:
    """The place in an answer of several decisions; None stays None. Raises `RefusedRow`."""
    if raw is not None and (isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= SLOT_MAX):
        raise RefusedRow("invalid_slot", "slot", "is not a place counted from 1", f"1 to {SLOT_MAX}")
    return raw


def read_time(raw: Any, name: str) -> datetime | None:
    """An RFC 3339 time, or a `datetime`; one without a zone is taken as UTC. Raises `RefusedRow`."""
    if raw is None or isinstance(raw, datetime):
        moment = raw
    else:
        try:
            moment = datetime.fromisoformat(raw)
        except (TypeError, ValueError):
            raise RefusedRow("invalid_time", name, "is not an RFC 3339 time") from None
    if moment is None:
        return None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise RefusedRow("invalid_time", name, "is a time that UTC does not have") from None


def read_name(raw: Any, name: str) -> str | None:
    """An id: printable, not empty, at most 256 characters; None stays None. Raises `RefusedRow`."""
    if raw is None:
        return None
    if not isinstance(raw, str) or not raw or len(raw) > NAME_LENGTH_MAX or _BAD_IN_NAME.search(raw):
        raise RefusedRow("invalid_id", name, "is not a printable string", f"1 to {NAME_LENGTH_MAX} characters")
    return raw


def clean_features(raw: Any, path: str) -> dict[str, Any]:
    """A feature object as the log holds it: a list of other things than strings becomes an object by position.

    Raises `RefusedRow` when it is no object, or holds a number that is not finite or a control character.
    """
    if not isinstance(raw, dict):
        raise RefusedRow("invalid_features", path, "is missing or is not an object")
    return {key: _clean(key, value, path, 1) for key, value in raw.items()}


def _clean(name: str, value: Any, path: str, depth: int) -> Any:
    if not name or len(name) > NAME_LENGTH_MAX or _BAD_IN_NAME.search(name):
        raise RefusedRow("invalid_features", path, "has a feature whose name is empty, too long or not printable")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if _BAD_IN_TEXT.search(value):
            raise RefusedRow("invalid_features", path, "has a text with control characters")
        return value
    if isinstance(value, int | float):
        if not is_number(value):
            raise RefusedRow("invalid_features", path, "has a number that is not finite")
        return value
    if depth >= DEPTH_MAX:
        raise RefusedRow("invalid_features", path, "is nested too deeply", f"{DEPTH_MAX} levels")
    if isinstance(value, dict):
        return {key: _clean(key, below, path, depth + 1) for key, below in value.items()}
    if isinstance(value, list):
        if all(isinstance(entry, str) for entry in value):
            return [_clean(name, entry, path, depth + 1) for entry in value]
        return {str(place): _clean(str(place), entry, path, depth + 1) for place, entry in enumerate(value)}
    raise RefusedRow("invalid_features", path, "holds something that JSON does not know")


def read_actions(raw: Any) -> list[ActionRecord]:
    """The offered actions, each an object or its id alone. Raises `RefusedRow`."""
    if not isinstance(raw, list) or not raw:
        raise RefusedRow("invalid_actions", "actions", "is not a list of at least one action")
    records = []
    for entry in raw:
        plain = entry if isinstance(entry, dict) else {"id": entry}
        action_id = read_name(_text(plain.get("id")), "actions.id")
        if action_id is None:
            raise RefusedRow("invalid_actions", "actions", "has an action without an id")
        features = plain.get("features")
        records.append(ActionRecord(action_id, clean_features(features, "actions.features") if features else {}))
    if len({record.id for record in records}) != len(records):
        raise RefusedRow("invalid_actions", "actions", "has two actions of the same id")
    return records


def read_index(raw: Any, ids: Sequence[str]) -> int:
    """Where the chosen action stands among the offered ones. Raises `RefusedRow`."""
    action = _text(raw)
    if not isinstance(action, str):
        raise RefusedRow("invalid_action", "action", "is missing or is not the id of an action")
    try:
        return ids.index(action)
    except ValueError:
        raise RefusedRow("unknown_action", "action", "is not one of the offered actions") from None


def _text(raw: Any) -> Any:
    """Ids that another system kept as whole numbers, as text."""
    return str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw


def read_pmf(raw: Any, k: int) -> list[float] | None:
    """A distribution over k actions; None stays None. Raises `RefusedRow`."""
    if raw is None:
        return None
    if (
        not isinstance(raw, list)
        or len(raw) != k
        or any(isinstance(p, bool) or not isinstance(p, int | float) or not 0.0 <= p <= 1.0 for p in raw)
        or abs(sum(raw) - 1.0) > PMF_TOLERANCE
    ):
        raise RefusedRow("invalid_pmf", "pmf", "is not a distribution over the offered actions")
    return [float(p) for p in raw]
