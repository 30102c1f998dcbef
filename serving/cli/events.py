"""`rewardloop events show ID`: where one event is, which of its rewards counted, and what has learnt from it."""

from __future__ import annotations

import json
from typing import Any

import click

from serving.cli.access import operate
from serving.cli.common import Common, common, print_json, print_table


@click.group()
def command() -> None:
    """Follow one event through the loop."""


@command.command()
@click.argument("event_id")
@common
def show(common: Common, *, event_id: str) -> None:
    """Show a decision, its rewards with what became of each, and the models that learnt from it."""
    answer = operate(common, "events", event_id=event_id)
    if common.as_json:
        print_json(answer)
        return
    click.echo(f"{event_id}: {answer['state']}. {answer['why']}")
    decision, interaction = answer["decision"], answer["interaction"]
    if decision is not None:
        click.echo()
        print_table(None, ("decision", ""), _decision(decision, len(answer["repeated_decisions"])))
    if answer["rewards"]:
        click.echo()
        columns = ("received at", "reward", "reward id", "event", "action", "outcome", "why")
        keys = ("received_at", "reward", "reward_id", "event", "action", "outcome", "why")
        print_table(None, columns, [[reward[key] for key in keys] for reward in answer["rewards"]])
    if interaction is not None:
        click.echo()
        rows = [
            ("reward", f"{interaction['reward']:g}" + ("" if interaction["rewarded"] else " (the default)")),
            ("learnt by", _names([model["model_id"] for model in answer["learnt_by"]])),
            ("evaluated in", answer.get("not_evaluated") or _names(answer["evaluated_in"])),
        ]
        print_table(None, ("interaction", ""), rows)


def _decision(decision: dict[str, Any], repeats: int) -> list[tuple[str, Any]]:
    rows = [
        ("decided at", decision["decided_at"]),
        ("window closes", decision["matures_at"]),
        ("action", f"{decision['action']} (probability {decision['probability']:.6g})"),
        ("model", decision["model_id"]),
        ("mode, slice", f"{decision['mode']}, {decision['slice']}"),
        ("context", json.dumps(decision["context"], ensure_ascii=False)),
        ("settings version", decision["settings_version"]),
        ("in segment", decision["segment"]),
    ]
    return [*rows, ("repeated", f"{repeats} more time{'s' if repeats > 1 else ''} in the log")] if repeats else rows


def _names(names: list[str]) -> str:
    if not names:
        return "none yet"
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
