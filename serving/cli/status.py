"""`rewardloop status`: what happens next, why nothing changed yet, and the numbers behind it."""

from __future__ import annotations

from typing import Any

import click

from serving.asking import ask
from serving.cli.access import operate, owner
from serving.cli.common import Common, common, print_json, print_table


@click.command()
@common
def command(common: Common) -> None:
    """Say in one sentence what happens next and, when nothing changed, why."""
    name = common.experiment_name()
    address = owner(common.data_dir)
    if address is None:
        state = operate(common, "status")
        state["next"] = "No learner runs on this data directory; `rewardloop up` starts one. Then: " + state["next"]
    else:
        state = ask(address, "GET", f"/v1/experiments/{name}/status")
    if common.as_json:
        print_json(state)
        return
    _print(state)


def _print(state: dict[str, Any]) -> None:
    click.echo(f"{state['experiment']}: {state['next']}")
    click.echo(state["why"])
    if state.get("damage"):  # not said by a learner of an older version
        click.echo(state["damage"])
    click.echo()
    counts, last = state["counts"], state["last_run"] or {}
    rows = [
        ("champion", _champion(state)),
        ("since", state["champion_since"]),
        ("runs", state["runs"]),
        ("last verdict", _verdict(last)),
        ("decisions", f"{counts['decisions']:,}"),
        ("rewards", f"{counts['rewards']:,}"),
        ("interactions", f"{counts['interactions']:,} joined, {counts['imported']:,} imported"),
        ("waiting", f"{state['waiting']:,}"),
        ("new since the last run", f"{state['new_interactions']:,} of {state['run_after_interactions']:,}"),
        ("log complete until", state["watermark"]),
        ("settings version", state["settings_version"]),
    ]
    if state["retention_waits_until"]:
        rows.append(("retention waits until", state["retention_waits_until"]))
    print_table(None, ("what", "now"), rows)
    if state["workers"]:
        click.echo()
        columns = ("worker", "model", "complete until")
        print_table(None, columns, [(w["writer_id"], w["model_id"], w["complete_until"]) for w in state["workers"]])


def _champion(state: dict[str, Any]) -> str:
    if state["champion_problem"]:
        return "not known, see above"
    return state["champion"] or f"none yet (cold start: {state['cold_start']})"


def _verdict(last: dict[str, Any]) -> str:
    if not last:
        return "none yet"
    if last.get("lift") is None:
        return str(last["outcome"])
    lift, weighed = f"lift {last['lift']:+.4f}", last.get("weighed")
    if weighed is not None and f"lift {weighed:+.4f}" != lift:  # the bounds belong to this one
        lift += f", weighed {weighed:+.4f}"
    return f"{last['outcome']}, {lift} [{last['lower']:+.4f}, {last['upper']:+.4f}]"
