"""SQL that people type: one read-only query over the views, bounded in time and in rows.

It runs in a read-only transaction on a connection that reaches no other file. `runs` and `models` are not in the
warehouse; they are laid beside it from the registry for the length of the query.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from bandit.errors import InvalidInput, Refused
from bandit.registry import ModelRegistry
from joiner.connection import without_zones
from joiner.warehouse import Warehouse

if TYPE_CHECKING:
    import pandas as pd


ROWS_MAX = 1000
SECONDS_MAX = 30.0

RUN_COLUMNS = (
    *("at", "trigger", "outcome", "reason", "rows", "seconds", "lift", "weighed", "lower", "upper"),
    *("model_id", "champion", "evaluation_id", "error"),
)
MODEL_COLUMNS = (
    *("model_id", "created_at", "parent", "kind", "settings_version", "rows", "cut", "vw_version", "note"),
    *("champion_since", "is_champion"),
)


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The first rows of an answer; `truncated` when there were more."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool


def run_query(
    warehouse: Warehouse,
    registry: ModelRegistry,
    sql: str,
    *,
    rows_max: int = ROWS_MAX,
    seconds_max: float = SECONDS_MAX,
) -> QueryResult:
    """Run one SELECT over the views, `runs` and `models`.

    Raises `InvalidInput` when it is not exactly one SELECT or DuckDB refuses it, `Refused` when it takes longer
    than `seconds_max`.
    """
    warehouse.keep_watermark()
    cursor = warehouse.cursor()
    try:
        _check_only_select(cursor, sql)
        for name, frame in registry_tables(registry).items():
            cursor.register(name, frame)
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        timer = threading.Timer(seconds_max, cursor.interrupt)
        timer.start()
        try:
            relation = without_zones(cursor.sql(sql))
            columns = relation.columns
            rows = [list(row) for row in relation.limit(rows_max + 1).fetchall()]
        finally:
            timer.cancel()
    except duckdb.InterruptException:
        raise Refused(f"the query took longer than {seconds_max:g} s; narrow it, or query an exported copy") from None
    except duckdb.Error as error:
        raise InvalidInput("sql", str(error).split("\n\nLINE", maxsplit=1)[0]) from None
    finally:
        cursor.close()
    return QueryResult(columns, rows[:rows_max], len(rows) > rows_max)


def _check_only_select(cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = cursor.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise InvalidInput("sql", "is not one SELECT; the warehouse can only be read")


def registry_tables(registry: ModelRegistry) -> dict[str, pd.DataFrame]:
    """`runs` (one row per run of the learner) and `models` (one row per stored model), times as UTC without a zone."""
    return {"runs": _runs(registry), "models": _models(registry)}


def _runs(registry: ModelRegistry) -> pd.DataFrame:
    entries = registry.history.entries("run")
    return _frame(RUN_COLUMNS, [[entry.get(column) for column in RUN_COLUMNS] for entry in entries])


def _models(registry: ModelRegistry) -> pd.DataFrame:
    champion = registry.champion()
    since = {entry.model_id: entry.since.isoformat() for entry in reversed(registry.champions())}
    if champion is not None:
        since[champion.model_id] = champion.since.isoformat()
    rows = [
        [
            *(manifest.model_id, manifest.created_at.isoformat(), manifest.parent, manifest.kind),
            *(manifest.settings_version, manifest.data.get("rows"), manifest.data.get("cut")),
            *(manifest.vw_version, manifest.note, since.get(manifest.model_id)),
            champion is not None and champion.model_id == manifest.model_id,
        ]
        for manifest in registry.manifests()
    ]
    return _frame(MODEL_COLUMNS, rows)


def _frame(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns))
    for column in columns:  # times as times, text as text, also when there is no row yet
        if column in ("at", "created_at", "cut", "champion_since"):
            frame[column] = pd.to_datetime(frame[column], utc=True, format="ISO8601").dt.tz_localize(None)
        elif column in ("rows", "seconds", "lift", "weighed", "lower", "upper", "settings_version"):
            frame[column] = pd.to_numeric(frame[column])
        elif column == "is_champion":
            frame[column] = frame[column].astype(bool)
        else:
            frame[column] = frame[column].astype("string")
    return frame
