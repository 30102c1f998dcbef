"""`rewardloop keys`: make, list and revoke API keys.

A secret is printed once, by the command that makes it; afterwards only its hash exists. Running services notice
within a second or two.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from bandit.errors import InvalidInput
from bandit.experiment import Experiment
from bandit.keys import SCOPES, KeyRecord, create_key, list_keys, revoke_key
from bandit.settings import check_experiment_name
from serving.cli.common import Common, common, common_with, known_names, now, print_json, print_table, say


@click.group()
def command() -> None:
    """Create, list and revoke API keys."""


@command.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What the key may do; give it several times. admin includes the others.  [default: recommend and reward]",
)
@click.option("--all-experiments", is_flag=True, help="Let the key into every experiment, also those made later.")
@common
def create(common: Common, name: str, scopes: Sequence[str], all_experiments: bool) -> None:
    """Create a key named NAME and print its secret, this once.

    It holds for the experiment named by --experiment, which must exist, or the only one there is; while there is
    none yet it holds for all. Two keys of one name may live at the same time: create the new one, move the client,
    revoke the old one.
    """
    data_dir = common.make_data_dir()
    if all_experiments and common.experiment is not None:
        raise InvalidInput("--all-experiments", "and --experiment exclude each other")
    experiments = None
    there = Experiment.names(data_dir)
    if not all_experiments and (common.experiment is not None or there):
        asked = common.experiment
        experiments = [common.experiment_name() if asked is None else check_experiment_name(asked)]
        if experiments[0] not in there:
            known = f"there is {known_names(there)}" if there else "there is none yet; --all-experiments needs none"
            raise InvalidInput("--experiment", f"{experiments[0]} does not exist in {data_dir}: {known}")
    record, secret = create_key(
        data_dir, name=name, scopes=scopes or ("recommend", "reward"), experiments=experiments, now=now()
    )
    if common.as_json:
        print_json(_plain(record) | {"secret": secret})
        return
    say(f"key {record.id} ({name}) may {', '.join(record.scopes)} in {_where(record)}; the secret is shown only now:")
    click.echo(secret)


@command.command("list")
@common_with(experiment=None)
def list_(common: Common) -> None:
    """List all keys, revoked ones too; never a secret."""
    common.check_data_dir()
    records = list_keys(common.data_dir)
    if common.as_json:
        print_json({"keys": [_plain(record) for record in records]})
        return
    if not records:
        say("no keys: the service answers on loopback only, to anyone there")
        return
    print_table(
        None,
        ("id", "name", "scopes", "experiments", "created", "revoked"),
        [
            (
                record.id,
                record.name,
                ", ".join(record.scopes),
                _where(record),
                f"{record.created_at:%Y-%m-%d %H:%M}",
                f"{record.revoked_at:%Y-%m-%d %H:%M}" if record.revoked_at else "",
            )
            for record in records
        ],
    )


@command.command("revoke")
@click.argument("key_id")
@common_with(experiment=None)
def revoke(common: Common, key_id: str) -> None:
    """Revoke the key KEY_ID; running services refuse it within a second or two."""
    common.check_data_dir()
    record = revoke_key(common.data_dir, key_id, now=now())
    if common.as_json:
        print_json(_plain(record))
    else:
        say(f"key {record.id} ({record.name}) is revoked")


def _where(record: KeyRecord) -> str:
    return "all experiments" if record.experiments is None else ", ".join(record.experiments)


def _plain(record: KeyRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "name": record.name,
        "scopes": record.scopes,
        "experiments": record.experiments,
        "created_at": record.created_at,
        "revoked_at": record.revoked_at,
    }
