"""`rewardloop up`: decision API and learner together under one supervisor, with nothing to configure."""

from __future__ import annotations

import click
import msgspec

from bandit.experiment import Experiment
from bandit.keys import KeyRing
from bandit.service_log import log_to_stderr
from serving.cli.common import Common, common_with, say
from serving.cli.config import check_ports
from serving.cli.start import (
    TO_START_WITH,
    access_sentence,
    all_experiments,
    check_exposure,
    defaults_sentence,
    plan_experiments,
    prepare_experiments,
    service_options,
    worker_options,
)
from serving.learner.address import ServiceAddress
from serving.learner.admin.first_question import curl
from serving.supervisor import Supervisor


@click.command()
@service_options
@click.option("--workers", type=click.IntRange(1, 64), default=None, help="Decision processes.  [default: 1]")
@click.option("--quick", is_flag=True, help="Window 5 s, a run every 5 s or 50 interactions: for trying things out.")
@common_with(experiment=TO_START_WITH)
def command(
    common: Common,
    *,
    host: str | None,
    port: int | None,
    admin_port: int | None,
    workers: int | None,
    quick: bool,
    insecure: bool,
    allow_hosts: tuple[str, ...],
) -> None:
    """Run decision API and learner together until stopped."""
    data_dir = common.make_data_dir()
    configuration = common.configuration()
    given = {"host": host or None, "port": port, "admin_port": admin_port, "workers": workers}
    service = msgspec.structs.replace(
        configuration.service, **{key: value for key, value in given.items() if value is not None}
    )
    check_ports(service, "service.admin_port" if port is None and admin_port is None else "--admin-port")
    plan_experiments(common, configuration, quick=quick)  # what is wrong with them is told before anything is taken
    for address in (service.host, service.admin_host):
        check_exposure(data_dir, address, insecure=insecure)
    access = access_sentence(data_dir, service.host)
    key_needed = not KeyRing(data_dir).empty
    supervisor = Supervisor(
        data_dir,
        workers=service.workers,
        host=service.host,
        port=service.port,
        admin_host=service.admin_host,
        worker_options=worker_options(common, allow_hosts=allow_hosts, insecure=insecure),
        admin_port=service.admin_port,
        prepare=lambda: prepare_experiments(common, configuration, quick=quick),
        on_ready=lambda address: _announce(
            address,
            all_experiments(data_dir),
            asked=common.experiment,
            access=access,
            key_needed=key_needed,
            quick=quick,
        ),
    )
    log_to_stderr()
    click.get_current_context().exit(supervisor.run())


def _announce(
    address: ServiceAddress,
    experiments: list[Experiment],
    *,
    asked: str | None,
    access: str,
    key_needed: bool,
    quick: bool,
) -> None:
    say(f"Decision API  {address.url}")
    say(f"Admin API     {address.admin_url}   (the console is at /)")
    say(f"Keys          {access}")
    for experiment in experiments:
        say(f"Experiment    {experiment.name}: {defaults_sentence(experiment.settings)}")
    first = next((each for each in experiments if each.name == asked), experiments[0])
    say(f"Ask with:     {curl(first, address.url, key_needed=key_needed)}")
    say(f"Next:         it waits for decisions and rewards; `rewardloop status` says what happens then{_hint(quick)}.")


def _hint(quick: bool) -> str:
    return "" if quick else " (`--quick` makes everything happen within seconds)"
