"""A join on demand: which decisions are wanted, and an account of what became of every one of them.

The default is everything. A window bounds the time of the decision, `since` inclusive, `until` exclusive; `last`
counts back from the moment of the join.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bandit.errors import InvalidInput, one_of
from bandit.settings import Mode, Slice
from bandit.types import ORIGIN_IMPORT, ORIGIN_LIVE
from joiner.export import RowFilter
from joiner.warehouse import Warehouse

if TYPE_CHECKING:
    import pandas as pd


_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)\s*$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


@dataclass(frozen=True, slots=True)
class JoinSummary:
    """What a join on demand found, counted in decisions (event_ids) of its window.

    `interactions` = `rewarded` + `defaulted`; `decisions` = `interactions` + `waiting` + `conflicts` +
    `not_activated`. `rewards` counts the reward records of these decisions by what became of them. Windows of
    imported history are those of the recorded times.
    """

    since: datetime | None
    until: datetime
    complete_until: datetime | None
    decisions: int
    interactions: int
    rewarded: int
    defaulted: int
    waiting: int
    first_matures_at: datetime | None
    conflicts: int
    not_activated: int
    rewards: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The summary as a JSON object (times as RFC 3339)."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in plain.items()}


def parse_duration(text: str) -> timedelta:
    """`72h`, `30m`, `7d`, `90s` as a length of time; raises `InvalidInput`."""
    found = _DURATION.match(text)
    if not found:
        raise InvalidInput("last", "is not a length of time", "a number with s, m, h, d or w, for example 72h")
    try:
        return timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
    except OverflowError:
        raise InvalidInput("last", "is too long a time") from None


def parse_moment(text: str, name: str) -> datetime:
    """An RFC 3339 time or a date (its midnight), UTC where no zone is given; raises `InvalidInput`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(name, "is not a time", "RFC 3339, for example 2026-03-01T12:00:00Z") from None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise InvalidInput(name, "is a time that UTC does not have") from None


def window(
    now: datetime,
    *,
    last: str | None = None,
    since: str | None = None,
    until: str | None = None,
    mode: str | None = None,
    slice: str | None = None,
    model_id: str | None = None,
    origin: str | None = None,
) -> RowFilter:
    """The filter that these options mean at `now`; raises `InvalidInput` for what means nothing or excludes another."""
    if last is not None and since is not None:
        raise InvalidInput("last", "cannot be combined with since: both say where the window starts")
    origins = (ORIGIN_LIVE, ORIGIN_IMPORT)
    named = (("mode", mode, get_args(Mode)), ("slice", slice, get_args(Slice)), ("origin", origin, origins))
    for field, value, known in named:
        if value is not None and value not in known:
            raise InvalidInput(field, "is not one of the values there are", one_of(sorted(known)))
    end = parse_moment(until, "until") if until is not None else None
    start = parse_moment(since, "since") if since is not None else None
    if last is not None:
        try:
            start = (end or now) - parse_duration(last)
        except OverflowError:
            raise InvalidInput("last", "reaches back before the year 1") from None
    if start is not None and end is not None and start >= end:
        raise InvalidInput("since", "must be before until")
    return RowFilter(mode, slice, model_id, origin, decided_from=start, decided_until=end)


def join(warehouse: Warehouse, rows: RowFilter) -> pd.DataFrame:
    """The interactions that `rows` selects, one row per event_id, with the columns of the view `interactions`."""
    return warehouse.interactions(rows=rows)


def summarise(warehouse: Warehouse, rows: RowFilter, *, now: datetime) -> JoinSummary:
    """An account of all decisions that `rows` selects."""
    found = warehouse.account(rows)
    return JoinSummary(
        since=rows.decided_from,
        until=rows.decided_until or now,
        complete_until=warehouse.joined_until(),
        decisions=found["decisions"],
        interactions=found["rewarded"] + found["defaulted"],
        rewarded=found["rewarded"],
        defaulted=found["defaulted"],
        waiting=found["waiting"],
        first_matures_at=found["first_matures_at"],
        conflicts=found["conflicts"],
        not_activated=found["not_activated"],
        rewards=found["rewards"],
    )


def write(warehouse: Warehouse, path: Path, rows: RowFilter, summary: JoinSummary, *, form: str) -> int:
    """Write the selected interactions to `path`; a Parquet file states the window in its metadata."""
    metadata = {"experiment": warehouse.experiment.name, "what": "interactions"}
    described = {"mode": rows.mode, "slice": rows.slice, "model_id": rows.model_id, "origin": rows.origin}
    for name, value in (summary.as_dict() | described).items():
        if value is not None:
            metadata[name] = json.dumps(value) if isinstance(value, dict) else str(value)
    return warehouse.export(path, what="interactions", form=form, rows=rows, metadata=metadata)
