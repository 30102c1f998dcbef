"""What a world was made of, wherever people look: rows played, rows left out, and names that pictures write out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serving.cli.common import say

if TYPE_CHECKING:
    from serving.cli.worlds import WorldOptions
    from simulator.environment import Environment, Source
    from simulator.runner import Run


def source_of(world: Environment, options: WorldOptions) -> Source | None:
    """What the world (before drift and noise) was made of; None for one that was not made of the user's file."""
    from simulator.environment import FromRows

    return world.source if options.data is not None and isinstance(world, FromRows) else None


def source_json(source: Source | None) -> dict[str, Any]:
    """The member `data` of `--json`, or nothing."""
    return {} if source is None else {"data": {"rows": source.rows, "left_out": dict(source.left_out)}}


def source_table(source: Source | None) -> list[dict[str, Any]]:
    """A table for the page, as `write_page` takes it; empty when no row was left out."""
    if source is None or not source.left_out:
        return []
    rows = [["played", f"{source.rows:,}"], *([_words(reason), f"{n:,}"] for reason, n in source.left_out.items())]
    return [{"title": "Rows of the data", "columns": ["", "rows"], "rows": rows}]


def names_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A table for the page of the actions whose names the pictures had to write out; empty when there are none."""
    from simulator.charts import written_out

    rows = written_out(runs)
    return [{"title": "Names in the pictures", "columns": ["written", "action"], "rows": rows}] if rows else []


def tell_source(source: Source | None) -> None:
    """Say on stderr, one line a reason, which rows were left out."""
    if source is not None:
        every = source.rows + sum(source.left_out.values())
        for reason, count in source.left_out.items():
            say(f"{count:,} of {every:,} rows are {_words(reason)}")


def _words(reason: str) -> str:
    return f"left out: {reason}"
