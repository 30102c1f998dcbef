"""What a world was made of, wherever people look: rows played and left out, columns read as text, names written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from serving.cli.common import say

if TYPE_CHECKING:
    from serving.cli.worlds import WorldOptions
    from simulator.environment import Environment, Source
    from simulator.runner import Run


CELLS_NAMED_MAX = 3
CELL_SHOWN_MAX = 40


def source_of(world: Environment, options: WorldOptions) -> Source | None:
    """What the world (before drift and noise) was made of; None for one that was not made of the user's file."""
    from simulator.environment import FromRows

    return world.source if options.data is not None and isinstance(world, FromRows) else None


def source_json(source: Source | None) -> dict[str, Any]:
    """The member `data` of `--json`, or nothing."""
    if source is None:
        return {}
    as_text = {"as_text": dict(source.as_text)} if source.as_text else {}
    return {"data": {"rows": source.rows, "left_out": dict(source.left_out), **as_text}}


def source_table(source: Source | None) -> list[dict[str, Any]]:
    """Tables for the page, as `write_page` takes them: rows left out and columns taken as text, where there are any."""
    tables: list[dict[str, Any]] = []
    if source is not None and source.left_out:
        rows = [["played", f"{source.rows:,}"], *([_words(reason), f"{n:,}"] for reason, n in source.left_out.items())]
        tables.append({"title": "Rows of the data", "columns": ["", "rows"], "rows": rows})
    if source is not None and source.as_text:
        rows = [[_shown(name), _no_numbers(others)] for name, others in source.as_text.items()]
        tables.append({"title": "Columns read as text", "columns": ["column", "although most cells are numbers"],
                       "rows": rows})  # fmt: skip
    return tables


def names_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A table for the page of the actions whose names the pictures had to write out; empty when there are none."""
    from simulator.charts import written_out

    rows = written_out(runs)
    return [{"title": "Names in the pictures", "columns": ["written", "action"], "rows": rows}] if rows else []


def tell_source(source: Source | None) -> None:
    """Say on stderr, one line each, which rows were left out why, and which columns were taken as text."""
    if source is not None:
        every = source.rows + sum(source.left_out.values())
        for reason, count in source.left_out.items():
            say(f"{count:,} of {every:,} rows are {_words(reason)}")
        for name, others in source.as_text.items():
            say(f"column {_shown(name)}: read as text, {_no_numbers(others)}")


def _no_numbers(others: Sequence[str]) -> str:
    """Which cells keep a column from being one of numbers."""
    if len(others) == 1:
        return f"only {_shown(others[0])} is not a number"
    named = ", ".join(_shown(text) for text in others[:CELLS_NAMED_MAX])
    more = f" and {len(others) - CELLS_NAMED_MAX:,} more" if len(others) > CELLS_NAMED_MAX else ""
    return f"{named}{more} are not numbers"


def _shown(text: str) -> str:
    return text if len(text) <= CELL_SHOWN_MAX else text[: CELL_SHOWN_MAX - 1] + "…"


def _words(reason: str) -> str:
    return f"left out: {reason}"
