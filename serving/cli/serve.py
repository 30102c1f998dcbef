"""`rewardloop serve`: the decision API alone, in as many worker processes as asked for."""

from __future__ import annotations

import click

from bandit.experiment import Experiment
from bandit.service_log import log_to_stderr
from serving.cli.common import Common, common_with, say
from serving.cli.start import (
    TO_START_WITH,
    access_sentence,
    check_exposure,
    plan_experiments,
    prepare_experiments,
    service_options,
    worker_options,
)
from serving.learner.address import ServiceAddress
from serving.supervisor import Supervisor


@click.command()
@service_options
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Decision processes.  [default: 1]")
@common_with(experiment=TO_START_WITH)
def command(
    common: Common,
    *,
    host: str | None,
    port: int | None,
    admin_port: int | None,
    workers: int | None,
    insecure: bool,
    allow_hosts: tuple[str, ...],
) -> None:
    """Run the decision API alone until stopped; `rewardloop learn` runs the learner beside it."""
    del admin_port  # the same options as `up`; there is no admin API here
    data_dir = common.make_data_dir()
    configuration = common.configuration()
    service = configuration.service
    plan_experiments(common, configuration)  # what is wrong with them is told before anything is taken
    check_exposure(data_dir, host or service.host, insecure=insecure)
    access = access_sentence(data_dir, host or service.host)
    supervisor = Supervisor(
        data_dir,
        workers=workers or service.workers,
        learner=False,
        host=host or service.host,
        port=service.port if port is None else port,
        worker_options=worker_options(common, allow_hosts=allow_hosts, insecure=insecure),
        prepare=lambda: prepare_experiments(common, configuration),
        on_ready=lambda address: _announce(address, Experiment.names(data_dir), access),
    )
    log_to_stderr()
    click.get_current_context().exit(supervisor.run())


def _announce(address: ServiceAddress, names: list[str], access: str) -> None:
    say(f"Decision API  {address.url}   (documentation at {address.url}/docs)")
    say(f"Keys          {access}")
    say(f"Experiments   {', '.join(names)}")
    say("Next:         decisions and rewards are logged; `rewardloop learn` on the same directory learns from them.")
