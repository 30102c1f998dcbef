"""`rewardloop up`: decision API and learner together under one supervisor, with nothing to configure."""

from __future__ import annotations

import json
from typing import Any

import click

from bandit.experiment import Experiment
from bandit.keys import KeyRing
from bandit.service_log import log_to_stderr
from serving.cli.common import Common, common_with, say
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
from serving.supervisor import ServiceAddress, Supervisor


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
    service = configuration.service
    plan_experiments(common, configuration, quick=quick)  # what is wrong with them is told before anything is taken
    for address in (host or service.host, service.admin_host):
        check_exposure(data_dir, address, insecure=insecure)
    access = access_sentence(data_dir, host or service.host)
    key_needed = not KeyRing(data_dir).empty
    supervisor = Supervisor(
        data_dir,
        workers=workers or service.workers,
        host=host or service.host,
        port=service.port if port is None else port,
        admin_host=service.admin_host,
        worker_options=worker_options(common, allow_hosts=allow_hosts, insecure=insecure),
        admin_port=service.admin_port if admin_port is None else admin_port,
        prepare=lambda: prepare_experiments(common, configuration, quick=quick),
        on_ready=lambda address: _announce(
            address, all_experiments(data_dir), access=access, key_needed=key_needed, quick=quick
        ),
    )
    log_to_stderr()
    click.get_current_context().exit(supervisor.run())


def _announce(
    address: ServiceAddress, experiments: list[Experiment], *, access: str, key_needed: bool, quick: bool
) -> None:
    say(f"Decision API  {address.url}")
    say(f"Admin API     {address.admin_url}   (the console is at /)")
    say(f"Keys          {access}")
    for experiment in experiments:
        say(f"Experiment    {experiment.name}: {defaults_sentence(experiment.settings)}")
    say(f"Ask with:     {_curl(address.url or '', experiments[0], key_needed=key_needed)}")
    say(f"Next:         it waits for decisions and rewards; `rewardloop status` says what happens then{_hint(quick)}.")


def _hint(quick: bool) -> str:
    return "" if quick else " (`--quick` makes everything happen within seconds)"


def _curl(url: str, experiment: Experiment, *, key_needed: bool) -> str:
    body: dict[str, Any] = {"context": {"hour": 20}}
    if experiment.catalogue() is None:
        body["actions"] = [{"id": "news"}, {"id": "sport"}]
    key = '-H "authorization: Bearer $KEY" ' if key_needed else ""
    address = f"{url}/v1/experiments/{experiment.name}/recommend"
    return f"curl -s {address} {key}-H 'content-type: application/json' -d '{json.dumps(body)}'"
