"""`rewardloop validate`: is this configuration good, what would it declare, and what would a start with it change?"""

from __future__ import annotations

from collections.abc import Sequence

import click

from bandit.errors import InvalidInput, InvalidSettings
from bandit.experiment import Experiment
from bandit.settings import differing, settings_to_dict
from serving.cli.common import DEFAULT_EXPERIMENT, Common, common_with, print_json, say
from serving.cli.config import Configuration, check_all, check_ports
from serving.cli.start import defaults_sentence, plan_experiments
from serving.learner.challengers.plans import made_of


@click.command()
@common_with(experiment=None)
def command(common: Common) -> None:
    """Check --config and the environment; exit 1 when something is wrong, naming the key.

    Of experiments that --data-dir has it says what a start with this configuration would change.
    """
    if common.config is None:
        raise InvalidInput("--config", "must name the file to check")
    if not common.config.is_file():
        raise InvalidInput("--config", "there is no such file")
    try:
        configuration = common.configuration()
        check_all(configuration)
        check_ports(configuration.service)
        changes = _changes(common, configuration)
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
        declared = {name: settings_to_dict(value) for name, value in settings.items()}
        print_json(
            {"valid": True, "experiments": declared, "changes": {name: keys for name, (keys, _) in changes.items()}}
        )
        return
    for name, value in settings.items():
        click.echo(f"{name}: {defaults_sentence(value)}")
    for name, (keys, anew) in changes.items():
        told = f"would change {', '.join(keys)}" if keys else "would change nothing"
        click.echo(f"{name}: a start on {common.data_dir} {told}{', so that challengers learn anew' if anew else ''}")


def _changes(common: Common, configuration: Configuration) -> dict[str, tuple[Sequence[str], bool]]:
    """By experiment: the settings that a start would change, and whether models are made otherwise from then on."""
    present, found = Experiment.names(common.data_dir), dict[str, tuple[Sequence[str], bool]]()
    for name, declared in plan_experiments(common, configuration).items():
        if name in present:
            experiment = Experiment.open(common.data_dir, name)
            now, then = experiment.settings, experiment.laid_over(declared)
            found[name] = differing(settings_to_dict(now), settings_to_dict(then)), made_of(now) != made_of(then)
    return found
