"""`rewardloop sql`: one read-only query over decisions, rewards, interactions, runs and models."""

from __future__ import annotations

import sys

import click

from serving.cli.access import operate
from serving.cli.common import Common, Number, common, print_json, print_table, say


@click.command()
@click.argument("query")
@click.option(
    "--rows", "rows_max", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Rows at most."
)
@click.option("--seconds", "seconds_max", type=Number(0.1, 600), default=30.0, show_default=True, help="Time at most.")
@common
def command(common: Common, *, query: str, rows_max: int, seconds_max: float) -> None:
    """Answer one SELECT (`-` reads it from stdin), also while the service runs.

    Views: decisions, rewards, interactions, runs, models, health, delays; `DESCRIBE interactions` lists the columns.
    """
    text = sys.stdin.read() if query == "-" else query
    answer = operate(common, "sql", sql=text, rows_max=rows_max, seconds_max=seconds_max)
    if common.as_json:
        rows = [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]
        print_json({"columns": answer["columns"], "rows": rows, "truncated": answer["truncated"]})
        return
    print_table(None, answer["columns"], answer["rows"])
    if answer["truncated"]:
        say(f"Only the first {rows_max:,} rows are shown; --rows asks for more.")
