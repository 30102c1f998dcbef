"""`rewardloop validate`: is this configuration good, and what would it declare?"""

from __future__ import annotations

import click

from bandit.errors import InvalidInput, InvalidSettings
from bandit.settings import settings_to_dict
from serving.cli.common import DEFAULT_EXPERIMENT, Common, common_with, print_json, say
from serving.cli.config import check_all, check_ports
from serving.cli.start import defaults_sentence


@click.command()
@common_with(experiment=None)
def command(common: Common) -> None:
    """Check --config and the environment; exit 1 when something is wrong, naming the key."""
    if common.config is None:
        raise InvalidInput("--config", "must name the file to check")
    if not common.config.is_file():
        raise InvalidInput("--config", "there is no such file")
    try:
        configuration = common.configuration()
        check_all(configuration)
        check_ports(configuration.service)
    except InvalidSettings as error:
        if common.as_json:
            problems = [{"field": p.field, "problem": p.problem, "limit": p.limit} for p in error.problems]
            print_json({"valid": False, "problems": problems})
        else:
            say(f"not valid: {error}")
        click.get_current_context().exit(1)
    names = [name or DEFAULT_EXPERIMENT for name in configuration.experiments]
    settings = {name: configuration.settings_for(name) for name in names}
    if common.as_json:
        print_json({"valid": True, "experiments": {name: settings_to_dict(value) for name, value in settings.items()}})
        return
    for name, value in settings.items():
        click.echo(f"{name}: {defaults_sentence(value)}")
