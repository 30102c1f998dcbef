"""`rewardloop learn`: the learner alone, for a service whose decision workers run elsewhere on this machine."""

from __future__ import annotations

import click

from bandit.service_log import log_to_stderr
from serving.cli.common import Common, common_with, say
from serving.cli.start import TO_START_WITH, check_exposure, plan_experiments, prepare_experiments
from serving.supervisor import Supervisor


@click.command()
@click.option("--host", default=None, help="Where the admin API listens.  [default: 127.0.0.1]")
@click.option("--admin-port", "--port", type=click.IntRange(0, 65535), default=None, help="[default: 8001]")
@click.option("--insecure", is_flag=True, help="Allow other machines to connect although no key exists.")
@common_with(experiment=TO_START_WITH)
def command(common: Common, *, host: str | None, admin_port: int | None, insecure: bool) -> None:
    """Run the learner (joins, training, promotion, admin API) until stopped."""
    data_dir = common.make_data_dir()
    configuration = common.configuration()
    plan_experiments(common, configuration)  # what is wrong with them is told before anything is taken
    service = configuration.service
    check_exposure(data_dir, host or service.admin_host, insecure=insecure)
    supervisor = Supervisor(
        data_dir,
        workers=0,
        admin_host=host or service.admin_host,
        admin_port=service.admin_port if admin_port is None else admin_port,
        prepare=lambda: prepare_experiments(common, configuration),
        on_ready=lambda address: say(f"Admin API  {address.admin_url}   (the console is at /)"),
    )
    log_to_stderr()
    click.get_current_context().exit(supervisor.run())
