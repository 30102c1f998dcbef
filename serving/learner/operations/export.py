"""Write decisions, rewards, interactions or a copy of the warehouse to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bandit.errors import InvalidInput
from joiner.copy import copy_warehouse
from serving.learner.catch_up import catch_up
from serving.learner.workspace import Workspace


def run(workspace: Workspace, what: str, out: str, format: str | None = None) -> dict[str, Any]:
    """Export to the absolute path `out`; gives the number of rows. Raises `InvalidInput`."""
    target = target_path(out)
    intake = catch_up(workspace)
    until = intake.watermark.isoformat() if intake.watermark else None
    answer: dict[str, Any] = {"what": what, "out": out, "complete_until": until}
    if what == "warehouse":
        copy_warehouse(workspace.warehouse, target)
        return answer | {"format": "duckdb"}
    form = format or guess_output_format(target)
    rows = workspace.warehouse.export(target, what=what, form=form)
    return answer | {"format": form, "rows": rows}


def target_path(out: str) -> Path:
    """`out` as the path of a file that can be made; raises `InvalidInput`."""
    path = Path(out)
    if not path.is_absolute():
        raise InvalidInput("out", "must be an absolute path")
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidInput("out", "is not a file in an existing folder")
    return path


def guess_output_format(path: Path) -> str:
    """`parquet` for that ending, else `ndjson`."""
    return "parquet" if path.suffix == ".parquet" else "ndjson"
