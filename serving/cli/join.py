"""`rewardloop join`: join decisions with rewards over a window, and say what joined and what did not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from serving.cli.access import operate
from serving.cli.common import Common, common, print_json, print_table, say


@click.command()
@click.option("--last", help="Decisions of the last 72h, 30m, 7d before now (or before --until).")
@click.option("--since", help="Decisions from this time on (RFC 3339; UTC where no zone is given).")
@click.option("--until", help="Decisions before this time.")
@click.option("--mode", help="Only decisions made in this mode (online, apprentice, …).")
@click.option("--slice", "slice_", help="Only decisions of this slice (policy, trial, control).")
@click.option("--model", "model_id", help="Only decisions of this model.")
@click.option("--origin", type=click.Choice(["live", "import"]), help="Only live decisions, or only imported ones.")
@click.option("--format", "form", type=click.Choice(["ndjson", "parquet"]), help="[default: by --out's ending]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the interactions to this file.")
@common
def command(common: Common, *, slice_: str | None, form: str | None, out: Path | None, **options: Any) -> None:
    """Join decisions with their rewards; the default is all of them."""
    path = str(out.resolve()) if out is not None else None
    answer = operate(common, "join", slice=slice_, format=form, out=path, **options)
    if common.as_json:
        print_json(answer)
        return
    rows = [
        ("decisions", answer["decisions"], "in the window"),
        ("interactions", answer["interactions"], "joined: their reward window has closed"),
        ("  rewarded", answer["rewarded"], "at least one reward counted"),
        ("  defaulted", answer["defaulted"], "silence: the default reward"),
        ("waiting", answer["waiting"], _waiting(answer)),
        ("conflicts", answer["conflicts"], "kept out: several decisions share the event_id"),
        ("not activated", answer["not_activated"], "kept out: deferred and never activated"),
        *((f"rewards {outcome}", count, "reward records") for outcome, count in answer["rewards"].items()),
    ]
    print_table(None, ("what", "count", ""), [(name, f"{count:,}", text) for name, count, text in rows])
    until = answer["complete_until"] or "a time not known"
    say(f"Window: {answer['since'] or 'the beginning'} to {answer['until']}; complete until {until}.")
    if out is not None:
        say(f"{answer['rows']:,} interactions written to {out}.")


def _waiting(answer: dict[str, Any]) -> str:
    first = answer["first_matures_at"]
    return f"their window is open, the first until {first}" if first else "their window is open"
