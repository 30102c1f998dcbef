"""`rewardloop actions`: the catalogue of an experiment, one action at a time.

Running services notice as they notice every change of settings.
"""

from __future__ import annotations

import json
from typing import Any

import click
import msgspec

from bandit.catalogue import catalogue_of, put_action, remove_action
from bandit.errors import InvalidInput
from bandit.experiment import Experiment
from serving.cli.common import Common, common, now, print_json, print_table, say


@click.group()
def command() -> None:
    """List, put and remove actions of the catalogue."""


@command.command("list")
@common
def list_(common: Common) -> None:
    """All actions of the catalogue in force, in their order."""
    catalogue = catalogue_of(common.open_experiment())
    if common.as_json:
        print_json(catalogue)
        return
    if catalogue["actions"] is None:
        say("no catalogue is declared: actions come with each request")
        return
    rows = [(action["id"], json.dumps(action["features"], ensure_ascii=False)) for action in catalogue["actions"]]
    print_table(f"Catalogue {catalogue['catalogue_version']}", ("action", "features"), rows)


@command.command("put")
@click.argument("action_id")
@click.option("--features", default="{}", show_default=True, help='A JSON object: {"price": 4}.')
@common
def put(common: Common, *, action_id: str, features: str) -> None:
    """Put the action ACTION_ID into the catalogue, or other features in place of those it has."""
    experiment = common.open_experiment()
    put_action(experiment, _id(action_id), _object(features), now=now(), origin="command")
    _tell(common, experiment)


@command.command("remove")
@click.argument("action_id")
@common
def remove(common: Common, *, action_id: str) -> None:
    """Remove the action ACTION_ID from the catalogue."""
    experiment = common.open_experiment()
    remove_action(experiment, _id(action_id), now=now(), origin="command")
    _tell(common, experiment)


def _tell(common: Common, experiment: Experiment) -> None:
    catalogue = catalogue_of(experiment)
    if common.as_json:
        print_json(catalogue)
    else:
        click.echo(f"Catalogue {catalogue['catalogue_version']} is in force: {len(catalogue['actions'])} actions")


def _id(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("ACTION_ID", "is not UTF-8 text") from None
    return text


def _object(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise InvalidInput("--features", "is not valid JSON") from None
    if not isinstance(value, dict):
        raise InvalidInput("--features", "must be a JSON object")
    return value
