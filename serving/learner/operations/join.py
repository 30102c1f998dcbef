"""Join on demand over a window of decisions, with an account of what joined and what did not."""

from __future__ import annotations

from typing import Any

from bandit.errors import InvalidInput
from joiner.window import summarise, window, write
from serving.learner.catch_up import catch_up
from serving.learner.operations.export import guess_output_format, target_path
from serving.learner.workspace import Workspace


def run(
    workspace: Workspace,
    *,
    last: str | None = None,
    since: str | None = None,
    until: str | None = None,
    mode: str | None = None,
    slice: str | None = None,
    model_id: str | None = None,
    origin: str | None = None,
    out: str | None = None,
    format: str | None = None,
) -> dict[str, Any]:
    """Join the decisions of the window and write them to the absolute path `out`, if given.

    Raises `InvalidInput` for a window that means nothing or a path that cannot be written.
    """
    now = workspace.clock()
    rows = window(now, last=last, since=since, until=until, mode=mode, slice=slice, model_id=model_id, origin=origin)
    target = target_path(out) if out is not None else None
    form = format or (guess_output_format(target) if target is not None else "ndjson")
    if form not in ("ndjson", "parquet"):
        raise InvalidInput("format", "is not one of a join; `export` writes dsjson", "ndjson, parquet")
    catch_up(workspace)
    summary = summarise(workspace.warehouse, rows, now=now)
    answer = summary.as_dict()
    if target is not None:
        answer |= {"out": out, "rows": write(workspace.warehouse, target, rows, summary, form=form)}
    return answer
