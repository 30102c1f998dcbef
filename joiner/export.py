"""Rows out of the warehouse: training rows, tables for people, and files with the wire's names.

Files are written by DuckDB into a scratch folder, the only place it may write to, and moved from there to where
the caller wants them. No field depends on when a row was ingested.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import duckdb
import pandas as pd

from bandit.errors import InvalidInput
from joiner.connection import quote, to_utc

What = Literal["decisions", "rewards", "interactions"]
Format = Literal["ndjson", "parquet"]


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which interactions are wanted: of one mode, slice, model or origin; None is all of them.

    `decided_from` and `decided_until` (aware) bound the time of the decision, the first inclusive.
    """

    mode: str | None = None
    slice: str | None = None
    model_id: str | None = None
    origin: str | None = None
    decided_from: datetime | None = None
    decided_until: datetime | None = None


EVERYTHING = RowFilter()

# one row per interaction with after < matures_at ≤ until that the filter lets through
_SELECTED = """
FROM interactions
WHERE matures_at > $after AND ($until IS NULL OR matures_at <= $until)
  AND ($mode IS NULL OR mode = $mode) AND ($slice IS NULL OR slice = $slice)
  AND ($model_id IS NULL OR model_id = $model_id) AND ($origin IS NULL OR origin = $origin)
  AND ($decided_from IS NULL OR decided_at >= $decided_from)
  AND ($decided_until IS NULL OR decided_at < $decided_until)
ORDER BY matures_at, decided_at, event_id
"""

# RFC 3339 in UTC with six digits; `%f` alone would be microseconds without a zone
ISO = "'%Y-%m-%dT%H:%M:%S.%fZ'"

_TRAINING_ROWS = f"""
SELECT event_id, strftime(decided_at, {ISO}) AS decided_at, model_id, context::JSON AS context,
       actions::JSON AS actions, catalogue_version, excluded::JSON AS excluded, action_index AS index, propensity, pmf,
       reward, rewarded, mode, slice, origin, settings_version, slot, subject
{_SELECTED}
"""

# one row per distinct way of offering a catalogue: the offered actions as JSON text
_OFFERED = """
offered AS (
  SELECT o.catalogue_version, o.excluded, '[' || string_agg(c.action, ',' ORDER BY c.position) || ']' AS offered
  FROM (SELECT DISTINCT catalogue_version, excluded FROM {table} WHERE actions IS NULL) o
  JOIN catalogues c USING (catalogue_version)
  WHERE o.excluded IS NULL OR NOT list_contains(from_json(o.excluded, '["VARCHAR"]'), c.id)
  GROUP BY o.catalogue_version, o.excluded
)
"""

_DECISION_COLUMNS = """
       {probability} AS probability, d.mode, d.slice, d.slot, d.settings_version, d.catalogue_version,
       d.excluded{json} AS excluded
"""

EXPORTS: Mapping[str, str] = {
    # one row per event_id: its first decision record
    "decisions": f"""
WITH {_OFFERED.format(table="decision_records")}
SELECT d.event_id, {{time}}(d.decided_at) AS decided_at, d.model_id, d.context{{json}} AS context,
       coalesce(d.actions, o.offered){{json}} AS actions, d.pmf, d.action, d.action_index AS index,
       {_DECISION_COLUMNS.format(probability="d.probability", json="{json}")},
       d.deferred, CASE WHEN d.imported_at IS NULL THEN 'live' ELSE 'import' END AS origin
FROM (
  SELECT * FROM decision_records WHERE event_id NOT IN (SELECT event_id FROM repeated)
  UNION ALL
  SELECT * FROM decision_records WHERE event_id IN (SELECT event_id FROM repeated)
  QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY stamped_at, writer_id, sequence, position) = 1
) d
LEFT JOIN offered o ON d.actions IS NULL AND o.catalogue_version = d.catalogue_version
  AND o.excluded IS NOT DISTINCT FROM d.excluded
ORDER BY d.stamped_at, d.decided_at, d.event_id
""",
    # one row per reward record
    "rewards": """
SELECT event_id, {time}(received_at) AS received_at, reward, reward_id, event, value, action,
       CASE WHEN imported_at IS NULL THEN 'live' ELSE 'import' END AS origin
FROM reward_records
ORDER BY stamped_at, writer_id, sequence, position
""",
    # one row per event_id whose window has closed
    "interactions": f"""
WITH {_OFFERED.format(table="interactions")}
SELECT d.event_id, {{time}}(d.decided_at) AS decided_at, {{time}}(d.matures_at) AS matures_at, d.model_id,
       d.context{{json}} AS context, coalesce(d.actions, o.offered){{json}} AS actions, d.pmf, d.action,
       d.action_index AS index,
       {_DECISION_COLUMNS.format(probability="d.propensity", json="{json}")},
       d.reward, d.rewarded, d.rewards_counted, d.origin, d.subject
FROM interactions d
LEFT JOIN offered o ON d.actions IS NULL AND o.catalogue_version = d.catalogue_version
  AND o.excluded IS NOT DISTINCT FROM d.excluded
ORDER BY d.matures_at, d.decided_at, d.event_id
""",
}


def write_training_rows(
    cursor: duckdb.DuckDBPyConnection,
    scratch: Path,
    path: Path,
    *,
    after: datetime,
    until: datetime,
    rows: RowFilter,
) -> int:
    """Write training rows as NDJSON; times are naive UTC here. Returns the number of rows."""
    return _copy(cursor, scratch, path, _TRAINING_ROWS, options="FORMAT json", parameters=_bounds(after, until, rows))


def interactions_frame(
    cursor: duckdb.DuckDBPyConnection, *, after: datetime, until: datetime | None, rows: RowFilter
) -> pd.DataFrame:
    """The selected interactions as a DataFrame."""
    frame: pd.DataFrame = cursor.execute(f"SELECT * {_SELECTED}", _bounds(after, until, rows)).df()
    for column in ("decided_at", "matures_at", "rewarded_at"):
        frame[column] = frame[column].dt.tz_localize("UTC")
    return frame


def export_table(cursor: duckdb.DuckDBPyConnection, scratch: Path, path: Path, *, what: str, form: str) -> int:
    """Write decisions, rewards or interactions as `ndjson` or `parquet`; returns the number of rows.

    NDJSON has context and actions as JSON objects and times as RFC 3339; Parquet has them as JSON text and times
    as timestamps (UTC). Raises `InvalidInput` for another name or format.
    """
    if what not in EXPORTS:
        raise InvalidInput("what", "is not something that can be exported", ", ".join(EXPORTS))
    if form == "ndjson":
        query = EXPORTS[what].replace("{time}(", f"strftime({ISO}, ").replace("{json}", "::JSON")
        return _copy(cursor, scratch, path, query, options="FORMAT json", parameters={})
    if form == "parquet":
        query = EXPORTS[what].replace("{time}(", "timezone('UTC', ").replace("{json}", "")
        return _copy(cursor, scratch, path, query, options="FORMAT parquet, COMPRESSION zstd", parameters={})
    raise InvalidInput("format", "is not known", "ndjson, parquet")


@contextmanager
def scratch_file(scratch: Path, target: Path) -> Iterator[Path]:
    """A path in `scratch` to write to; moved to `target` at the end of the block, removed when it fails."""
    temporary = scratch / f"{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        try:
            os.replace(temporary, target)
        except OSError:  # another file system: copy beside the target first, so that it appears whole
            beside = target.with_name(f".{target.name}.{temporary.stem}")
            try:
                shutil.copyfile(temporary, beside)
                os.replace(beside, target)
            finally:
                beside.unlink(missing_ok=True)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(
    cursor: duckdb.DuckDBPyConnection,
    scratch: Path,
    path: Path,
    query: str,
    *,
    options: str,
    parameters: Mapping[str, object],
) -> int:
    with scratch_file(scratch, path) as temporary:
        row = cursor.execute(f"COPY ({query}) TO {quote(str(temporary))} ({options})", parameters).fetchone()
    return int(row[0]) if row else 0


def _bounds(after: datetime, until: datetime | None, rows: RowFilter) -> dict[str, object]:
    return {
        "after": after,
        "until": until,
        "mode": rows.mode,
        "slice": rows.slice,
        "model_id": rows.model_id,
        "origin": rows.origin,
        "decided_from": to_utc(rows.decided_from) if rows.decided_from else None,
        "decided_until": to_utc(rows.decided_until) if rows.decided_until else None,
    }
