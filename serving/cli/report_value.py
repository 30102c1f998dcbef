"""`rewardloop report value` and `report apprentice`: what was earned over control, and what was learnt by watching."""

from __future__ import annotations

import click

from serving.cli.access import operate
from serving.cli.common import Common, common, print_json, print_table


@click.command("value")
@click.option("--last", help="Decisions of the last 72h, 30m, 7d before now (or before --until).")
@click.option("--since", help="Decisions from this time on (RFC 3339; UTC where no zone is given).")
@click.option("--until", help="Decisions before this time.")
@click.option("--model", "model_id", help="Only decisions made while this model served.")
@common
def value(common: Common, **options: str | None) -> None:
    """The live lift over the control slice (`serving.control_fraction`), per 1,000 decisions."""
    answer = operate(common, "value", **options)
    if common.as_json:
        print_json(answer)
        return
    click.echo(answer["sentence"])
    if answer["lift"] is not None:
        rows = [
            ("policy, per decision", f"{answer['policy']:+.4f}"),
            ("control, per decision", f"{answer['control']:+.4f}"),
            ("interactions", f"{answer['interactions']:,}"),
            ("of them control", f"{answer['control_decisions']:,}"),
        ]
        rows += [(f"slot {entry['slot']}", entry["sentence"]) for entry in answer["slots"]]
        print_table(None, ("what", ""), rows)


@click.command("apprentice")
@common
def apprentice(common: Common) -> None:
    """How often the apprentice would have agreed with the baseline, and what it guesses it would have earned."""
    answer = operate(common, "apprentice")
    if common.as_json:
        print_json(answer)
    else:
        click.echo(answer["sentence"])
