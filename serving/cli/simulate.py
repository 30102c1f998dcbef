"""`rewardloop simulate`: one configuration in a simulated world, over several seeds."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.errors import InvalidInput
from serving.cli.common import Common, common, print_json, print_table, say
from serving.cli.demo import fresh_data_dir
from serving.cli.worlds import WorldOptions, world_options

if TYPE_CHECKING:
    from bandit.settings import ExperimentSettings
    from simulator.curves import Summary
    from simulator.environment import Environment, ReferenceLines
    from simulator.runner import Run

ENCODERS = ("bins", "zscore")
EXPERIMENT = "simulation"


@click.command(name="simulate")
@world_options(seeds="0")
@click.option("--algorithm", default=None, help="Exploration algorithm.  [default: that of the settings]")
@click.option("--encoder", type=click.Choice(ENCODERS), default=None, help="How numbers become features.")
@click.option("--gate", type=click.Choice(["on", "off"]), default="on", show_default=True, help="The promotion gate.")
@click.option("--url", default=None, help="Play against the running service at this address instead.")
@common
def command(
    *,
    options: WorldOptions,
    algorithm: str | None,
    encoder: str | None,
    gate: str,
    url: str | None,
    common: Common,
) -> None:
    """Play a simulated world against the loop and say what it earned.

    In one process, with a simulated clock: the same seed gives the same result. With --url the client app plays
    against a running service instead.
    """
    from serving.simulation import parse_seeds, simulated_settings

    seeds = parse_seeds(options.seeds)
    world = options.world()
    data_dir = fresh_data_dir(common, "rewardloop-simulation-")
    changes = setting_changes(algorithm, encoder, gate)
    if url is not None:
        if options.env == "replay":
            raise InvalidInput("--env", "replay needs the simulated clock; leave --url out")
        runs = _play_over_http(world, options, seeds, url, common)
    else:
        name = common.experiment or EXPERIMENT
        settings = simulated_settings(world, common.configuration().settings_for(name), changes)
        runs = _play_in_process(world, options, seeds, settings, data_dir, name)
    _present(world, options, runs, data_dir, common)


def setting_changes(algorithm: str | None, encoder: str | None, gate: str | None) -> dict[str, Any]:
    """The settings that the options stand for."""
    changes: dict[str, Any] = {}
    if gate is not None:
        changes["gate"] = {"enabled": gate == "on"}
    if algorithm is not None:
        changes["exploration"] = {"algorithm": algorithm}
    if encoder is not None:
        changes["encoding"] = {"numbers": encoder}
    return changes


def _play_in_process(  # noqa: PLR0917
    world: Environment,
    options: WorldOptions,
    seeds: list[int],
    settings: ExperimentSettings,
    data_dir: Path,
    name: str,
) -> list[Run]:
    from serving.simulation import run_jobs
    from simulator.console import progress_bar

    jobs = [options.job(name if len(seeds) == 1 else f"{name}-{seed}", settings, seed) for seed in seeds]
    with progress_bar("playing", options.interactions * len(jobs)) as advance:
        return run_jobs([world], jobs, data_dir, processes=options.jobs, on_progress=advance)


def _play_over_http(world: Environment, options: WorldOptions, seeds: list[int], url: str, common: Common) -> list[Run]:
    from click.core import ParameterSource
    from rewardloop_client import Client

    from serving.over_http import DecisionsOnly
    from simulator.client_app import ClientApp
    from simulator.console import progress_bar
    from simulator.runner import Script, play

    asked = click.get_current_context().get_parameter_source("warm_start") is ParameterSource.COMMANDLINE
    if options.warm_start and asked:
        raise InvalidInput("--warm-start", "cannot be played through --url; use `rewardloop import`")
    runs = []
    with (
        progress_bar("playing", options.interactions * len(seeds)) as advance,
        Client(url, common.experiment or "default", timeout_s=5.0, retries=5) as client,
    ):
        for seed in seeds:
            transport = DecisionsOnly(ClientApp(client), on_answer=lambda _number, _answer: advance(1))
            script = Script(options.interactions, options.batch, 0, seed, unique=True)
            runs.append(play(world, transport, script, channel=options.channel(), send_actions=True))
    return runs


def _present(world: Environment, options: WorldOptions, runs: list[Run], data_dir: Path, common: Common) -> None:
    from dataclasses import asdict

    from simulator.charts import Panel, Series, comparison_picture, shares_picture
    from simulator.curves import over_seeds, summarise
    from simulator.page import write_page
    from simulator.style import AGENT

    summaries = [summarise(run) for run in runs]
    means, errors = over_seeds(summaries)
    lines = constant_lines(world, options)
    panel = Panel("", [Series("rewardloop", runs, AGENT, emphasis=True)])
    subtitle = f"{options.interactions:,} interactions in batches of {options.batch:,}, seeds {options.seeds}"
    picture = comparison_picture(
        [panel],
        lines,
        data_dir / "simulation.png",
        title=f"rewardloop on {world.name}",
        subtitle=subtitle,
        fixed_label=fixed_label(lines),
    )
    shares = shares_picture([panel], data_dir / "actions.png")
    columns, rows = summary_rows(summaries, means, errors)
    page = write_page(
        data_dir / "simulation.html",
        title=f"rewardloop on {world.name}",
        subtitle=subtitle,
        figures=[(picture, "Reward and regret; triangles mark promotions."), (shares, "Share of each action.")],
        tables=[{"title": "Summary", "columns": columns, "rows": rows}],
        command=command_line(),
    )
    if common.as_json:
        print_json({"seeds": [asdict(summary) for summary in summaries], "mean": means, "se": errors})
    else:
        print_table(None, columns, rows)
    say(f"picture {picture}\npage    {page}\ndata    {data_dir}")


def constant_lines(world: Environment, options: WorldOptions) -> ReferenceLines | None:
    """The reference lines of a world that stays as it is; None for one that changes."""
    import numpy as np

    from simulator.environment import reference_lines

    if options.drift != "none" or options.env in ("news", "replay"):
        return None
    return reference_lines(world, rng=np.random.default_rng(0), draws=20_000)


def fixed_label(lines: ReferenceLines | None) -> str:
    """How the best single action is called beside its line."""
    return "" if lines is None else f"always {lines.fixed_action}"


def summary_rows(
    summaries: list[Summary], means: dict[str, float], errors: dict[str, float | None]
) -> tuple[list[str], list[list[str]]]:
    """The summary as a table: one row a seed, and their mean ± standard error where there are several."""
    columns = ["seed", "mean reward", "first 500", "last 500", "regret", "promoted", "held", "insufficient"]
    rows = [
        [
            str(one.seed),
            *(f"{value:.4f}" for value in (one.mean_reward, one.first_500, one.last_500)),
            f"{one.regret:,.1f}",
            *(str(count) for count in (one.promotions, one.holds, one.insufficient)),
        ]
        for one in summaries
    ]
    if len(summaries) > 1:
        digits = (4, 4, 4, 1, 1, 1, 1)
        cells = [
            f"{mean:,.{places}f} ± {error:,.{places}f}"
            for mean, error, places in zip(means.values(), errors.values(), digits, strict=True)
        ]
        rows.append(["mean ± se", *cells])
    return columns, rows


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["rewardloop", *sys.argv[1:]])
