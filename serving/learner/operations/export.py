"""Write decisions, rewards, interactions or a copy of the warehouse to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bandit.errors import InvalidInput
from bandit.training import Learning
from joiner.copy import copy_warehouse
from joiner.dsjson_export import export_dsjson
from serving.learner.catch_up import catch_up
from serving.learner.challengers.plans import model_time
from serving.learner.workspace import Workspace


def run(
    workspace: Workspace, what: str, out: str, format: str | None = None, model: str | None = None
) -> dict[str, Any]:
    """Export to the absolute path `out`; gives the number of rows. Raises `InvalidInput`, `NotFound`.

    `model` is for dsjson: the rows that this model has learnt, in its features, in the order and as often as it read
    them, with VW's arguments in the answer; `complete` says that all of them are still here, `order_known` that the
    model's state notes how often it read which (those of releases before that do not).
    """
    target = target_path(out)
    if what == "warehouse" and format is not None:
        raise InvalidInput("format", "is for rows; the warehouse is a DuckDB file")
    if format is None and what != "warehouse":
        format = guess_output_format(target)
    if model is not None and format != "dsjson":
        raise InvalidInput("model", "goes with the format dsjson only")
    if format == "dsjson" and what != "interactions":
        raise InvalidInput("format", "dsjson is a format of interactions")
    intake = catch_up(workspace)
    until = intake.watermark.isoformat() if intake.watermark else None
    answer: dict[str, Any] = {"what": what, "out": out, "complete_until": until}
    if what == "warehouse":
        copy_warehouse(workspace.warehouse, workspace.registry, target)
        return answer | {"format": "duckdb"}
    if format == "dsjson":
        return answer | {"format": format} | _dsjson(workspace, target, model)
    rows = workspace.warehouse.export(target, what=what, form=format or "ndjson")
    return answer | {"format": format, "rows": rows}


def _dsjson(workspace: Workspace, target: Path, model: str | None) -> dict[str, Any]:
    if model is None:
        return {"rows": export_dsjson(workspace.warehouse, target)}
    stored = workspace.registry.load(model)
    data = stored.manifest.data
    learning = Learning.resume(stored.files, workspace.experiment.settings_of(stored.manifest.settings_version))
    try:
        arguments = " ".join(learning.policy.arguments)
        rows = export_dsjson(
            workspace.warehouse,
            target,
            encoder=learning.encoder,
            settings=learning.settings,
            after=model_time(data, "since"),
            until=model_time(data, "cut"),
            reread_rows=learning.reread_rows or 0,
        )
    finally:
        learning.close()
    return {
        "rows": rows,
        "model": model,
        "vw_arguments": arguments,
        "complete": rows == data.get("rows"),
        "order_known": learning.reread_rows is not None or learning.settings.learning.passes == 1,
    }


def target_path(out: str) -> Path:
    """`out` as the path of a file that can be made; raises `InvalidInput`."""
    path = Path(out)
    if not path.is_absolute():
        raise InvalidInput("out", "must be an absolute path")
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidInput("out", "is not a file in an existing folder")
    return path


def guess_output_format(path: Path) -> str:
    """The format that a file's ending tells, `ndjson` where there is none; raises `InvalidInput` for another ending."""
    known = {"": "ndjson", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson"}
    known |= {".parquet": "parquet", ".dsjson": "dsjson"}
    form = known.get(path.suffix.lower())
    if form is None:
        raise InvalidInput(
            "format", f"must be given, the ending {path.suffix} does not tell it", "ndjson, parquet, dsjson"
        )
    return form
