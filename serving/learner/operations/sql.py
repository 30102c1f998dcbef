"""One read-only query over the warehouse's views."""

from __future__ import annotations

from typing import Any

from bandit.errors import InvalidInput
from joiner.query import ROWS_MAX, SECONDS_MAX, run_query
from serving.learner.catch_up import catch_up
from serving.learner.workspace import Workspace

ROWS_LIMIT = 100_000
SECONDS_LIMIT = 600.0


def run(workspace: Workspace, sql: str, rows_max: int = ROWS_MAX, seconds_max: float = SECONDS_MAX) -> dict[str, Any]:
    """Answer `sql`; raises `InvalidInput` for anything but one SELECT and `Refused` when it takes too long."""
    if not 1 <= rows_max <= ROWS_LIMIT:
        raise InvalidInput("rows_max", "is out of range", f"1 to {ROWS_LIMIT}")
    if not 0 < seconds_max <= SECONDS_LIMIT:
        raise InvalidInput("seconds_max", "is out of range", f"above 0, at most {SECONDS_LIMIT:g}")
    catch_up(workspace, wait=False)
    result = run_query(workspace.warehouse, workspace.registry, sql, rows_max=rows_max, seconds_max=seconds_max)
    return {"columns": result.columns, "rows": _plain(result.rows), "truncated": result.truncated}


def _plain(value: Any) -> Any:
    """Values as JSON knows them: times as RFC 3339 (UTC), not-a-number as null."""
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if value is None or isinstance(value, str | int):
        return value
    return f"{value.isoformat()}Z" if type(value).__name__ == "datetime" else str(value)
