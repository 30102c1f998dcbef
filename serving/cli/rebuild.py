"""`rewardloop rebuild`: the DuckDB file made anew from the log alone."""

from __future__ import annotations

import click

from serving.cli.access import operate
from serving.cli.common import Common, common, print_json, say


@click.command()
@common
def command(common: Common) -> None:
    """Make the DuckDB file anew from the log; nothing is lost by it."""
    answer = operate(common, "rebuild")
    if common.as_json:
        print_json(answer)
        return
    say(
        f"Rebuilt from {answer['segments']:,} segments with {answer['events']:,} events: "
        f"{answer['interactions']:,} interactions, digest {answer['digest']}."
    )
    if answer["quarantined"]:
        say(f"{len(answer['quarantined'])} damaged segments went to events/quarantine; see `rewardloop doctor`.")
