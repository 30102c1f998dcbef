"""Rows out of the warehouse: training rows, tables for people, and files with the wire's names.

Files are written by DuckDB into a scratch folder, the only place it may write to, and moved from there to where
the caller wants them. No field depends on when a row was ingested.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from bandit.errors import InvalidInput, one_of
from bandit.files import NO_ROOM
from bandit.settings import Learning
from bandit.types import SLICE_CONTROL, SLICE_POLICY
from joiner import wide
from joiner.connection import from_utc, quote, shortages, to_utc
from joiner.views import AS_LOGGED

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which interactions are wanted: of one mode, slice, model or origin; None is all of them.

    `other_slice` is the one slice that is not wanted. `decided_from` and `decided_until` (aware) bound the time of the
    decision, the first inclusive.
    """

    mode: str | None = None
    slice: str | None = None
    model_id: str | None = None
    origin: str | None = None
    decided_from: datetime | None = None
    decided_until: datetime | None = None
    other_slice: str | None = None


EVERYTHING = RowFilter()


def learnt_rows(learning: Learning) -> RowFilter:
    """What settings of learning restrict a model to.

    What the policy decided is all that was not in control: a challenger on trial has its share in each such decision.
    """
    rows = RowFilter(learning.only_mode, learning.only_slice, learning.only_model, decided_from=learning.only_since)
    return replace(rows, slice=None, other_slice=SLICE_CONTROL) if rows.slice == SLICE_POLICY else rows


def lets_through(rows: RowFilter, interaction: Mapping[str, Any]) -> bool:
    """Whether `rows` selects an interaction that has the columns of the view."""
    since, until = rows.decided_from, rows.decided_until
    return (
        all(
            wanted is None or interaction[column] == wanted
            for column, wanted in (
                ("mode", rows.mode),
                ("slice", rows.slice),
                ("model_id", rows.model_id),
                ("origin", rows.origin),
            )
        )
        and interaction["slice"] != rows.other_slice
        and (since is None or interaction["decided_at"] >= since)
        and (until is None or interaction["decided_at"] < until)
    )


_FILTER = "$filter"
"""Stands in a statement for the conditions below, see `_filtered`."""

_CONDITIONS: Mapping[str, str] = {
    **{name: f"{name} = ${name}" for name in ("mode", "slice", "model_id", "origin")},
    "decided_from": "decided_at >= $decided_from",
    "decided_until": "decided_at < $decided_until",
    "other_slice": "slice <> $other_slice",
}

# which interactions: after < matures_at ≤ until, and what the filter lets through
_WHERE = f"""
WHERE matures_at > $after AND ($until IS NULL OR matures_at <= $until) AND {_FILTER}
"""
_ORDER = ("matures_at", "decided_at", "event_id")

# RFC 3339 in UTC with six digits
_ISO = "'%Y-%m-%dT%H:%M:%S.%fZ'"

_JSON = ("context", "actions", "excluded")

# one row per selected interaction, with the keys of `bandit.types.Interaction`; `actions` stays null where a catalogue
# was offered, because naming its version is shorter
_TRAINING_COLUMNS: Mapping[str, str] = {
    "event_id": "event_id",
    **{name: f"strftime({name}, {_ISO})" for name in ("decided_at", "matures_at")},
    **{name: name for name in ("model_id", "context")},
    "actions": "CASE WHEN catalogue_version IS NULL THEN actions END",
    **{name: name for name in ("catalogue_version", "excluded", "index")},
    "propensity": "probability",
    **{name: name for name in ("pmf", "reward", "rewarded", "mode", "slice", "trial_model_id", "trial_share")},
    **{name: name for name in ("origin", "settings_version", "slot", "subject")},
}

# one row per state: how many selected decisions are in it, and when the first of them matures
_ACCOUNT = f"""
SELECT CASE WHEN j.rewarded THEN 'rewarded' WHEN NOT j.rewarded THEN 'defaulted'
            WHEN a.reason = 'conflict' THEN 'conflicts' WHEN a.reason IS NOT NULL THEN a.reason
            ELSE 'waiting' END AS state, count(*), min(d.matures_at)
FROM (SELECT event_id, record_id, matures_at FROM decisions WHERE {_FILTER}) d
LEFT JOIN joined j USING (record_id) LEFT JOIN set_aside a USING (event_id)
GROUP BY state
"""

# one row per outcome: how many reward records of selected decisions have it
_REWARDS_OF = f"""
SELECT outcome, count(*) FROM rewards
WHERE event_id IN (SELECT event_id FROM decisions WHERE {_FILTER})
GROUP BY outcome ORDER BY outcome
"""

_TIMES = ("decided_at", "matures_at", "received_at", "rewarded_at")

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "decisions": (
        *("event_id", "decided_at", "model_id", "context", "actions", "pmf", "action", "index", "probability"),
        *("mode", "slice", "slot", "settings_version", "catalogue_version", "excluded", "deferred", "origin"),
    ),
    "rewards": ("event_id", "received_at", "reward", "reward_id", "event", "value", "action", "origin"),
    "interactions": (
        *("event_id", "decided_at", "matures_at", "model_id", "context", "actions", "pmf", "action", "index"),
        *("probability", "mode", "slice", "trial_model_id", "trial_share", "slot", "settings_version"),
        *("catalogue_version", "excluded"),
        *("reward", "rewarded", "rewards_counted", "rewarded_at", "origin", "subject"),
    ),
}
"""What is exported of each view, in this order."""

_SOURCES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "decisions": ("decisions", ("decided_at", "event_id")),
    # the records, not the view: an export says what was reported, whatever became of it
    "rewards": (
        "(SELECT *, CASE WHEN imported_at IS NULL THEN 'live' ELSE 'import' END AS origin FROM reward_records)",
        ("stamped_at", "writer_id", "sequence", "position"),
    ),
    "interactions": (f"interactions {_WHERE}", _ORDER),
}
"""Where the rows of each come from, and their order."""

_KINDS: Mapping[str, str] = {
    **dict.fromkeys(_TIMES, "TIMESTAMPTZ"),
    **dict.fromkeys(("index", "slot", "settings_version", "catalogue_version", "rewards_counted"), "INTEGER"),
    **dict.fromkeys(("probability", "trial_share", "reward"), "DOUBLE"),
    **dict.fromkeys(("deferred", "rewarded"), "BOOLEAN"),
    **dict.fromkeys(_JSON, "JSON"),
    "pmf": "DOUBLE[]",
}
"""The types of columns, other than VARCHAR."""


def write_training_rows(
    cursor: duckdb.DuckDBPyConnection,
    scratch: Path,
    path: Path,
    *,
    after: datetime,
    until: datetime,
    rows: RowFilter,
) -> int:
    """Write training rows as NDJSON; times are naive UTC here. Returns the number of rows.

    They are those of one moment, whatever is joined meanwhile.
    """
    bounds = _bounds(after, until, rows)
    source = wide.Source(_filtered(f"({AS_LOGGED}) {_WHERE}", rows), _ORDER, bounds)
    with scratch_file(scratch, path) as temporary, _one_moment(cursor):
        if wide.are_wide(cursor, bounds=bounds, with_catalogues=False):
            return wide.write_lines(cursor, scratch, temporary, _TRAINING_COLUMNS, source, text=_JSON)
        return _copy(cursor, temporary, _as_json(_TRAINING_COLUMNS), source, options="FORMAT json")


def count_matured(cursor: duckdb.DuckDBPyConnection, *, after: datetime, until: datetime, rows: RowFilter) -> int:
    """How many interactions of `rows` have after < matures_at ≤ until."""
    query = f"SELECT count(*) FROM {_source(rows)} WHERE matures_at > $after AND matures_at <= $until AND {_FILTER}"
    found = cursor.execute(_filtered(query, rows), _bounds(after, until, rows)).fetchone()
    return int(found[0]) if found else 0


def nth_newest_maturity(
    cursor: duckdb.DuckDBPyConnection, n: int, *, until: datetime, rows: RowFilter
) -> datetime | None:
    """When the n-th newest interaction of `rows` that matured by `until` did; None when there are fewer."""
    query = f"SELECT matures_at FROM {_source(rows)} WHERE matures_at <= $until AND {_FILTER} ORDER BY matures_at DESC"
    parameters = _filters(rows) | {"until": until, "skip": max(n, 1) - 1}
    found = cursor.execute(_filtered(f"{query} LIMIT 1 OFFSET $skip", rows), parameters).fetchone()
    return from_utc(found[0]) if found else None


def _source(rows: RowFilter) -> str:
    """The slim table, made to look like the view, where nothing is asked that it does not hold."""
    if rows == RowFilter(origin=rows.origin):
        return (
            "(SELECT matures_at, origin, NULL AS mode, NULL AS slice, NULL AS model_id, NULL AS decided_at FROM joined)"
        )
    return "interactions"


def interactions_frame(
    cursor: duckdb.DuckDBPyConnection, *, after: datetime, until: datetime | None, rows: RowFilter
) -> pd.DataFrame:
    """The selected interactions as a DataFrame."""
    columns = ", ".join(COLUMNS["interactions"])
    frame: pd.DataFrame = cursor.execute(
        _filtered(f"SELECT {columns} FROM interactions {_WHERE} ORDER BY {', '.join(_ORDER)}", rows),
        _bounds(after, until, rows),
    ).df()
    for column in _TIMES:
        if column in frame:
            frame[column] = frame[column].dt.tz_localize("UTC")
    return frame


def account(cursor: duckdb.DuckDBPyConnection, rows: RowFilter) -> dict[str, Any]:
    """What became of the decisions that `rows` selects, and of the rewards reported for them."""
    bounds = _filters(rows)
    states = cursor.execute(_filtered(_ACCOUNT, rows), bounds).fetchall()
    found: dict[str, Any] = dict.fromkeys(("rewarded", "defaulted", "waiting", "conflicts", "not_activated"), 0)
    found |= {name: count for name, count, _ in states}
    found["decisions"] = sum(count for _, count, _ in states)
    found["first_matures_at"] = from_utc(next((first for name, _, first in states if name == "waiting"), None))
    found["rewards"] = dict(cursor.execute(_filtered(_REWARDS_OF, rows), bounds).fetchall())
    return found


def export_table(
    cursor: duckdb.DuckDBPyConnection,
    scratch: Path,
    path: Path,
    *,
    what: str,
    form: str,
    after: datetime,
    rows: RowFilter = EVERYTHING,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write decisions, rewards or interactions as `ndjson` or `parquet`; returns the number of rows.

    NDJSON has context and actions as JSON objects and times as RFC 3339; Parquet has them as JSON text and times
    as timestamps (UTC), with `metadata` in its footer. `rows` restricts interactions. Raises `InvalidInput` for
    another name or format.
    """
    if what not in COLUMNS:
        raise InvalidInput("what", "is not something that can be exported", one_of(COLUMNS))
    if form not in ("ndjson", "parquet"):
        raise InvalidInput("format", "is not known", "ndjson, parquet")
    text, order = _SOURCES[what]
    bounds = _bounds(after, None, rows) if what == "interactions" else {}
    source = wide.Source(_filtered(text, rows), order, bounds)
    options = "FORMAT json" if form == "ndjson" else "FORMAT parquet, COMPRESSION zstd"
    if metadata and form == "parquet":
        options += f", KV_METADATA {{{', '.join(f'{quote(k)}: {quote(v)}' for k, v in metadata.items())}}}"
    lines = {name: f"strftime({name}, {_ISO})" if name in _TIMES else name for name in COLUMNS[what]}
    with scratch_file(scratch, path) as temporary:
        if what == "rewards" or not wide.are_wide(cursor):
            columns = _as_json(lines) if form == "ndjson" else _as_parquet(COLUMNS[what])
            return _copy(cursor, temporary, columns, source, options=options)
        if form == "ndjson":
            return wide.write_lines(cursor, scratch, temporary, lines, source, text=_JSON)
        between = scratch / f"{uuid.uuid4().hex}.ndjson"
        try:
            wide.write_lines(cursor, scratch, between, lines, source, text=_JSON)
            kinds = {name: _KINDS.get(name, "VARCHAR") for name in lines}
            return wide.lines_to_parquet(cursor, between, temporary, kinds, options=options)
        finally:
            between.unlink(missing_ok=True)


def _as_json(columns: Mapping[str, str]) -> Mapping[str, str]:
    """The columns of a line for DuckDB to format, JSON text as JSON."""
    return {name: f"({value})::JSON" if name in _JSON else value for name, value in columns.items()}


def _as_parquet(names: Sequence[str]) -> Mapping[str, str]:
    """The columns of a table, times with their zone."""
    return {name: f"timezone('UTC', {name})" if name in _TIMES else name for name in names}


@contextmanager
def scratch_file(scratch: Path, target: Path) -> Iterator[Path]:
    """A path in `scratch` to write to; moved to `target` at the end of the block, removed when it fails.

    Raises OSError when the disk is full, `InvalidInput` when `target` cannot be written otherwise.
    """
    temporary = scratch / f"{uuid.uuid4().hex}.tmp"
    try:
        with shortages(target):
            yield temporary
        try:
            _put(temporary, target)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            raise InvalidInput("out", f"cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _put(written: Path, target: Path) -> None:
    """Put a file in the place of `target`, or its bytes into that where it is a device or a pipe."""
    if target.exists() and not target.is_file():
        with written.open("rb") as file, target.open("wb") as device:
            shutil.copyfileobj(file, device)
        return
    try:
        os.replace(written, target)
    except OSError:  # another file system: copy beside the target first, so that it appears whole
        beside = target.with_name(f".{target.name}.{written.stem}")
        try:
            shutil.copyfile(written, beside)
            os.replace(beside, target)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()


@contextmanager
def _one_moment(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All statements of the block read the database as it is at its first one."""
    cursor.begin()
    try:
        yield
    finally:
        cursor.rollback()  # nothing was written


def _copy(
    cursor: duckdb.DuckDBPyConnection, path: Path, columns: Mapping[str, str], source: wide.Source, *, options: str
) -> int:
    selected = ", ".join(f"{value} AS {name}" for name, value in columns.items())
    order = ", ".join(f"source.{name}" for name in source.order)
    query = f"SELECT {selected} FROM (FROM {source.text}) source ORDER BY {order}"
    row = cursor.execute(f"COPY ({query}) TO {quote(str(path))} ({options})", source.parameters).fetchone()
    return int(row[0]) if row else 0


def _filtered(statement: str, rows: RowFilter) -> str:
    """The statement with the conditions that `rows` asks for: planning one that lets everything through costs too."""
    return statement.replace(_FILTER, " AND ".join(_CONDITIONS[name] for name in _filters(rows)) or "true")


def _filters(rows: RowFilter) -> dict[str, object]:
    wanted = {name: getattr(rows, name) for name in _CONDITIONS}
    return {
        name: to_utc(value) if isinstance(value, datetime) else value
        for name, value in wanted.items()
        if value is not None
    }


def _bounds(after: datetime, until: datetime | None, rows: RowFilter) -> dict[str, object]:
    return {"after": after, "until": until} | _filters(rows)
