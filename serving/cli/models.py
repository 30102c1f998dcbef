"""`rewardloop models`: what was learnt, how models differ, and which one serves."""

from __future__ import annotations

from typing import Any

import click

from serving.cli.access import operate
from serving.cli.common import Common, common, print_json, print_table, say


@click.group()
def command() -> None:
    """List, show and compare models; promote, roll back, pin."""


@command.command("list")
@common
def list_models(common: Common) -> None:
    """All models, newest first."""
    answer = operate(common, "models", action="list")
    if common.as_json:
        print_json(answer)
        return
    columns = ("model", "kind", "rows", "made", "parent", "role")
    keys = ("model_id", "kind", "rows", "created_at", "parent", "role")
    print_table(None, columns, [[model[key] for key in keys] for model in answer["models"]])


@command.command("show")
@click.argument("model_id")
@common
def show_model(common: Common, *, model_id: str) -> None:
    """One model: its options, data, encoding of each feature, and its part in history."""
    answer = operate(common, "models", action="show", model_id=model_id)
    if common.as_json:
        print_json(answer)
        return
    _print_flat(answer)


@command.command("diff")
@click.argument("model_id")
@click.argument("other")
@common
def diff_models(common: Common, *, model_id: str, other: str) -> None:
    """How two models differ in options, data and choices."""
    answer = operate(common, "models", action="diff", model_id=model_id, other=other)
    if common.as_json:
        print_json(answer)
        return
    _print_flat(answer)


@command.command("promote")
@click.argument("model_id")
@click.option("--override", is_flag=True, help="Even without a promote verdict; history records it as an override.")
@common
def promote_model(common: Common, *, model_id: str, override: bool) -> None:
    """Make a model the champion by hand."""
    _tell(common, operate(common, "models", action="promote", model_id=model_id, override=override))


@command.command("rollback")
@common
def roll_back(common: Common) -> None:
    """Bring the champion before the present one back."""
    _tell(common, operate(common, "models", action="rollback"))


@command.command("pin")
@common
def pin(common: Common) -> None:
    """Keep the champion: nothing takes its place until `unpin`."""
    _tell_pin(common, operate(common, "models", action="pin"))


@command.command("unpin")
@common
def unpin(common: Common) -> None:
    """Let the gate promote again."""
    _tell_pin(common, operate(common, "models", action="unpin"))


def _tell_pin(common: Common, answer: dict[str, Any]) -> None:
    if common.as_json:
        print_json(answer)
    else:
        pinned = answer["pinned"]
        say(f"{pinned} is pinned." if pinned else "Nothing is pinned; the gate promotes again.")


def _tell(common: Common, answer: dict[str, Any]) -> None:
    if common.as_json:
        print_json(answer)
    else:
        say(f"Champion is now {answer['champion']} (before: {answer['previous'] or 'none'}); recorded in history.")


def _print_flat(value: dict[str, Any], indent: str = "") -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            click.echo(f"{indent}{key}:")
            _print_flat(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            click.echo(f"{indent}{key}:")
            for entry in item:
                click.echo(f"{indent}  - " + ", ".join(f"{name}: {shown}" for name, shown in entry.items()))
        else:
            click.echo(f"{indent}{key}: {item}")
