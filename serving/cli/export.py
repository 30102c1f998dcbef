"""`rewardloop export`: decisions, rewards, interactions or the whole warehouse as a file."""

from __future__ import annotations

from pathlib import Path

import click

from serving.cli.access import operate
from serving.cli.common import Common, common, print_json, say


@click.command()
@click.option(
    "--what",
    type=click.Choice(["decisions", "rewards", "interactions", "warehouse"]),
    default="interactions",
    show_default=True,
    help="`warehouse` is a DuckDB file of your own, with all views.",
)
@click.option(
    "--format", "form", type=click.Choice(["ndjson", "parquet", "dsjson"]), help="[default: by --out's ending]"
)
@click.option("--model", help="For dsjson: what this model has learnt, as it read it.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@common
def command(common: Common, *, what: str, form: str | None, model: str | None, out: Path) -> None:
    """Write decisions, rewards or interactions to a file; works whether or not a service runs."""
    answer = operate(common, "export", what=what, format=form, model=model, out=str(out.resolve()))
    if common.as_json:
        print_json(answer)
        return
    until = answer["complete_until"] or "a time not known"
    rows = f"{answer['rows']:,} {what}" if "rows" in answer else "The warehouse"
    say(f"{rows} written to {out} ({answer['format']}); the log is complete until {until}.")
    if "vw_arguments" in answer and not answer["complete"]:
        say("The model had learnt other rows too, which are gone by now: VW will not come to its weights.")
    elif "vw_arguments" in answer and not answer["order_known"]:
        say("An earlier release made the model and did not note how often it read which rows; each is written once.")
        say(f"VW need not come to its weights. The arguments: vw --dsjson -d {out} {answer['vw_arguments']}")
    elif "vw_arguments" in answer:
        say(f"VW comes to the same weights with: vw --dsjson -d {out} {answer['vw_arguments']}")
