"""`rewardloop models`: what was learnt, how models differ, and which one serves."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import click

from serving.asking import ask
from serving.cli.access import operate, owner
from serving.cli.common import Common, common, print_json, print_table, say
from serving.learner.address import Address


@click.group()
def command() -> None:
    """List, show and compare models; train, promote, roll back, pin."""


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
    if answer["problem"]:
        say(f"Which one is champion is not known: {answer['problem']}")


@command.command("show")
@click.argument("model_id")
@common
def show_model(common: Common, *, model_id: str) -> None:
    """One model: its options, data, encoding of each feature, and its part in history."""
    answer = operate(common, "models", action="show", model_id=model_id)
    if common.as_json:
        print_json(answer)
        return
    encoding, history, canaries = answer.pop("encoding"), answer.pop("history"), answer.pop("canaries")
    _print_flat(answer)
    click.echo(f"canaries: {len(canaries)}")
    click.echo()
    columns = ("feature", "of", "present", "encoding")
    print_table("How each feature is encoded", columns, [[each[column] for column in columns] for each in encoding])
    click.echo()
    rows = [(entry["at"], entry["kind"], entry.get("reason")) for entry in history]
    print_table("Its part in history", ("at", "what", "why"), rows)


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
    choices = answer.pop("choices")
    _print_flat(answer)
    if choices:
        choices.sort(key=lambda choice: choice["distance"], reverse=True)
        click.echo()
        print_table(
            "Canaries of either, and what each model favours; distance is the share of draws that would differ",
            ("context", model_id, other, "distance"),
            [
                (
                    json.dumps(choice["context"], ensure_ascii=False),
                    _favourite(choice["actions"], choice["left"]),
                    _favourite(choice["actions"], choice["right"]),
                    f"{choice['distance']:.4f}",
                )
                for choice in choices
            ],
        )


@command.command("train")
@common
def train(common: Common) -> None:
    """Run the loop now: join, train, evaluate, promote if the gate says so; exit 1 if it failed or was stopped."""
    name = common.experiment_name()
    address = owner(common.data_dir)
    if address is None:
        report = operate(common, "run")
    else:
        with told_progress(address, name):
            report = ask(address, "POST", f"/v1/experiments/{name}/models/train")
    if common.as_json:
        print_json(report)
    else:
        click.echo(f"{report['outcome']}: {report['reason']}")
    if report["outcome"] in ("failed", "stopped"):
        click.get_current_context().exit(1)


@contextlib.contextmanager
def told_progress(address: Address, name: str) -> Iterator[None]:
    """Tell on stderr, a second apart, what the learner is doing, as long as the block takes."""
    over = threading.Event()

    def tell() -> None:
        started, told = time.monotonic(), None
        while not over.wait(1.0):
            doing = ask(address, "GET", f"/v1/experiments/{name}/status")["running"]
            if doing is not None and doing != told:
                told = doing
                say(f"{time.monotonic() - started:6.0f} s  {doing}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


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


@command.command("unset")
@common
def unset(common: Common) -> None:
    """Let go of the champion: the cold start serves, and the next run learns the log from its beginning."""
    answer = operate(common, "models", action="unset")
    if common.as_json:
        print_json(answer)
    else:
        say(f"No model is champion now (before: {answer['previous']}): the cold start serves. Recorded in history.")


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


def _favourite(actions: list[str], pmf: list[float]) -> str:
    """The likeliest action with its probability."""
    best = max(range(len(pmf)), key=pmf.__getitem__)
    return f"{actions[best]} {pmf[best]:.4f}"


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
