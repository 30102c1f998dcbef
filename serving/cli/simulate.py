"""`rewardloop simulate`: one configuration in a simulated world, over several seeds."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.errors import InvalidInput, one_of
from serving.cli.common import Common, common_with, print_json, print_table, say
from serving.cli.demo import FRESH_DATA_DIR, fresh_data_dir, settle_data_dir
from serving.cli.failures import failure_table, tell_failures
from serving.cli.sources import names_table, source_json, source_of, source_table, tell_source
from serving.cli.worlds import WorldOptions, world_options

if TYPE_CHECKING:
    from bandit.settings import ExperimentSettings
    from simulator.curves import Summary
    from simulator.environment import Environment, ReferenceLines, Source
    from simulator.runner import Run

API_KEY = "REWARDLOOP_API_KEY"
"""The environment variable of the key that --url asks with; on the command line others could read it."""
ENCODERS = ("bins", "zscore")
EXPERIMENT = "simulation"
NAME_SHOWN_MAX = 24
REFERENCE_DRAWS = 20_000
"""So many rounds are drawn where a world cannot enumerate its own for the reference lines."""


@dataclass(frozen=True, slots=True)
class Column:
    """A measure of the summary under its title, with the decimal places of a run's number and of their mean."""

    measure: str
    title: str
    places: int
    places_of_mean: int


COLUMNS = (
    Column("counted", "counted", 0, 0),
    Column("mean_reward", "mean reward", 4, 4),
    Column("first_500", "first 500", 4, 4),
    Column("last_500", "last 500", 4, 4),
    Column("regret", "regret", 1, 1),
    Column("promotions", "promoted", 0, 1),
    Column("holds", "held", 0, 1),
    Column("insufficient", "insufficient", 0, 1),
    Column("failed", "failed", 0, 1),
)


@click.command(name="simulate")
@world_options(seeds="0")
@click.option("--algorithm", default=None, help="Exploration algorithm.  [default: that of the settings]")
@click.option("--encoder", type=click.Choice(ENCODERS), default=None, help="How numbers become features.")
@click.option(
    "--gate",
    type=click.Choice(["on", "off"]),
    default=None,
    help="The promotion gate.  [default: that of the settings, on unless they say otherwise]",
)
@click.option(
    "--url",
    default=None,
    help="Play against the running service at this address instead (REWARDLOOP_API_KEY: the key it asks for).",
)
@common_with(
    data_dir=FRESH_DATA_DIR,
    experiment="The experiment of the service at --url, else whose settings in --config to play with.",
)
def command(
    *,
    options: WorldOptions,
    algorithm: str | None,
    encoder: str | None,
    gate: str | None,
    url: str | None,
    common: Common,
) -> None:
    """Play a simulated world against the loop and say what it earned.

    In one process, with a simulated clock: the same seed gives the same result. With --url the client app plays
    against a running service instead, which keeps its own settings. Exit code 1 when a run of the learner failed, or
    the service went away half way.
    """
    from serving.simulation import parse_seeds, simulated_settings

    seeds = parse_seeds(options.seeds)
    if url is not None:
        _check_playable(options, url)
        options = replace(options, warm_start=0)  # the service has a history of its own
    changes = setting_changes(algorithm, encoder, gate)
    name, declared = (None, None) if url is not None else declared_settings(common, EXPERIMENT)
    names = [] if name is None else _names_of_runs(name, seeds)
    # a running service has limits of its own, which nobody knows here
    base = options.base(None if declared is None else declared.limits)
    world, source = options.changing(base), source_of(base, options)
    settings = None if declared is None else simulated_settings(world, declared, changes)
    tell_source(source)
    stopped = ""
    with fresh_data_dir(common, "rewardloop-simulation-") as data_dir:
        if url is not None:
            runs, stopped = _play_over_http(world, options, seeds, url, common)
        else:
            assert settings is not None
            runs = _play_in_process(world, options, seeds, settings, data_dir, names)
        summaries = _present(world, options, runs, data_dir, common, source, stopped)
    if stopped:
        say(f"rewardloop: {stopped}; what was played until then is what is shown")
    failed = bool(tell_failures((f"seed {one.seed}", one) for one in summaries) or stopped)
    settle_data_dir(common, data_dir, ended_well=not failed)
    if failed:
        click.get_current_context().exit(1)


def declared_settings(common: Common, otherwise: str) -> tuple[str, ExperimentSettings]:
    """The name and settings of the experiment asked for, or of the only one declared by name; else of `otherwise`.

    Raises `InvalidInput` where several are declared, or others than the one asked for.
    """
    from bandit.settings import check_experiment_name

    configuration = common.configuration()
    declared = [name for name in configuration.experiments if name is not None]
    if common.experiment is None and len(declared) > 1:
        raise InvalidInput("--experiment", f"must be named, several are declared: {', '.join(declared)}")
    name = common.experiment or (declared[0] if declared else otherwise)
    check_experiment_name(name)
    if declared and name not in declared and None not in configuration.experiments:
        raise InvalidInput("--experiment", "is not declared in the configuration", one_of(declared))
    return name, configuration.settings_for(name)


def _names_of_runs(name: str, seeds: list[int]) -> list[str]:
    """Each run's experiment; raises `InvalidInput` where a seed makes a name longer than one may be."""
    from bandit.settings import EXPERIMENT_NAME

    if len(seeds) == 1:
        return [name]
    names = [f"{name}-{seed}" for seed in seeds]
    longest = max(names, key=len)
    if not EXPERIMENT_NAME.fullmatch(longest):
        ending = longest.removeprefix(name)
        raise InvalidInput("--experiment", f"is too long for several seeds: each run adds its own, such as {ending}")
    return names


def setting_changes(algorithm: str | None, encoder: str | None, gate: str | None) -> dict[str, Any]:
    """The settings that the options stand for."""
    changes: dict[str, Any] = {}
    if gate is not None:
        changes["gate"] = {"enabled": gate == "on"}
    if algorithm is not None:
        check_algorithm(algorithm)
        changes["exploration"] = {"algorithm": algorithm}
    if encoder is not None:
        changes["encoding"] = {"numbers": encoder}
    return changes


def check_algorithm(name: str) -> None:
    """Raise `InvalidInput` for what is no exploration algorithm."""
    from typing import get_args

    from bandit.settings import Algorithm

    if name not in get_args(Algorithm):
        raise InvalidInput("--algorithm", "is not an exploration algorithm", one_of(get_args(Algorithm)))


def _check_playable(options: WorldOptions, url: str) -> None:
    """Raise `InvalidInput` for an address or key that is none, and for options that a running service decides."""
    from rewardloop_client.arguments import check_address

    try:
        check_address(url, "")
    except ValueError as error:
        raise InvalidInput("--url", str(error).removeprefix(": ")) from None
    key = os.environ.get(API_KEY, "")
    if not (key.isascii() and key.isprintable()):
        raise InvalidInput(API_KEY, "is no key of a service: it has characters that are no printable ASCII")
    if options.env == "replay":
        raise InvalidInput("--env", "replay needs the simulated clock; leave --url out")
    if options.warm_start and given("warm_start"):
        raise InvalidInput("--warm-start", "cannot be played through --url; use `rewardloop import`")
    for name in ("algorithm", "encoder", "gate", "config"):
        if given(name):
            raise InvalidInput(f"--{name}", "does not reach a running service: its own settings hold; leave --url out")
    if given("jobs"):
        raise InvalidInput("--jobs", "belongs to runs in one process; through --url one seed is played after the other")
    if options.continuous:
        raise InvalidInput("--continuous", "belongs to the simulated clock; a running service's traffic never stops")


def _play_in_process(  # noqa: PLR0917
    world: Environment,
    options: WorldOptions,
    seeds: list[int],
    settings: ExperimentSettings,
    data_dir: Path,
    names: list[str],
) -> list[Run]:
    from serving.simulation import run_jobs
    from simulator.console import progress_bar

    jobs = [options.job(name, settings, seed) for name, seed in zip(names, seeds, strict=True)]
    with progress_bar("playing", options.interactions * len(jobs)) as advance:
        return run_jobs([world], jobs, data_dir, processes=options.jobs, on_progress=advance)


def _play_over_http(
    world: Environment, options: WorldOptions, seeds: list[int], url: str, common: Common
) -> tuple[list[Run], str]:
    """The runs, and where the service went away half way, how far it got: batches that ended are kept."""
    from rewardloop_client import Client
    from rewardloop_client.errors import RewardloopError as ClientError

    from serving.over_http import DecisionsOnly
    from simulator.client_app import ClientApp
    from simulator.console import progress_bar
    from simulator.runner import Script, play

    rate_per_s = options.rate if given("rate") else None
    key = os.environ.get(API_KEY)
    runs: list[Run] = []
    try:
        with (
            progress_bar("playing", options.interactions * len(seeds)) as advance,
            Client(url, common.experiment or "default", api_key=key, timeout_s=5.0, retries=5) as client,
        ):
            for seed in seeds:
                app = ClientApp(client, rate_per_s=rate_per_s)
                transport = DecisionsOnly(app, on_answer=lambda _number, _answer: advance(1))
                script = Script(options.interactions, options.batch, 0, seed, unique=True)
                play(world, transport, script, channel=options.channel(), send_actions=True, on_start=runs.append)
    except ClientError as error:
        problem = f"the service did not play along: {error}"
        kept = [run.cut() for run in runs if run.batches]
        if not kept:
            raise InvalidInput("--url", problem) from None
        how_far = f"seed {runs[-1].seed}: after {runs[-1].asked:,} of {options.interactions:,} interactions {problem}"
        return kept, how_far
    return runs, ""


def _present(  # noqa: PLR0917
    world: Environment,
    options: WorldOptions,
    runs: list[Run],
    data_dir: Path,
    common: Common,
    source: Source | None,
    stopped: str,
) -> list[Summary]:
    from dataclasses import asdict

    from simulator.charts import Panel, Series, comparison_picture, shares_picture
    from simulator.curves import over_seeds, summarise
    from simulator.page import write_page
    from simulator.style import AGENT

    counted = count_replayed(options, runs)
    summaries = [summarise(run) for run in runs]
    means, errors = over_seeds(summaries)
    lines = constant_lines(world, options)
    panel = Panel("", [Series("rewardloop", runs, AGENT, emphasis=True)])
    subtitle = what_was_played(options, counted, several=len(runs) > 1) + "; stopped half way" * bool(stopped)
    picture = comparison_picture(
        [panel],
        lines,
        data_dir / "simulation.png",
        title=f"rewardloop on {world.name}",
        subtitle=subtitle,
        fixed_label=fixed_label(lines),
    )
    shares = shares_picture([panel], data_dir / "actions.png")
    columns, rows = summary_rows(summaries, means, errors, counted=bool(counted))
    page = write_page(
        data_dir / "simulation.html",
        title=f"rewardloop on {world.name}",
        subtitle=subtitle if not stopped else f"{subtitle}: {stopped}",
        figures=[
            (
                picture,
                "Above: expected reward, mean of the last 100; the numbers are means over the whole run. "
                "Below: what the oracle would have earned more; triangles mark promotions.",
            ),
            (shares, "Share of each action."),
        ],
        tables=[
            {"title": "Summary, of rewards as they came", "columns": columns, "rows": rows},
            *failure_table((f"seed {one.seed}", one) for one in summaries),
            *source_table(source),
            *names_table(runs),
        ],
        command=command_line(),
    )
    if common.as_json:
        seeds = [asdict(summary) for summary in summaries]
        print_json({"seeds": seeds, "mean": means, "se": errors} | source_json(source))
    else:
        print_table(None, columns, rows)
    say(f"picture {picture}\npage    {page}")
    return summaries


def what_was_played(options: WorldOptions, counted: str, *, several: bool) -> str:
    """The runs in a line: length, batches, history, seeds (with what the band over them is), and how many `counted`."""
    played = f"{options.interactions:,} interactions in batches of {options.batch:,}"
    if options.warm_start:
        played += f" after {options.warm_start:,} rows of uniform history"
    return f"{played}; " + ("mean and range over seeds " if several else "seed ") + f"{options.seeds}{counted}"


def count_replayed(options: WorldOptions, runs: Sequence[Run]) -> str:
    """How many questions of a replay count, as the end of a sentence; empty for other worlds.

    Raises `InvalidInput` when a run has nothing to show.
    """
    if options.env != "replay":
        return ""
    least, most = min(run.played for run in runs), max(run.played for run in runs)
    if least == 0:
        raise InvalidInput(
            "--interactions",
            f"of {options.interactions:,} questions none met what the log tells of, so that nothing counts; ask more",
        )
    count = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"; {count} of them met the logged action and count"


def constant_lines(world: Environment, options: WorldOptions) -> ReferenceLines | None:
    """The reference lines of a world that stays as it is; None for one that changes."""
    import numpy as np

    from simulator.environment import reference_lines

    if options.drift != "none" or options.env in ("news", "replay"):
        return None
    return reference_lines(world, rng=np.random.default_rng(0), draws=REFERENCE_DRAWS)


def fixed_label(lines: ReferenceLines | None) -> str:
    """How the best single action is called beside its line."""
    from simulator.style import label

    if lines is None:
        return ""
    return f"always {label(lines.fixed_action, NAME_SHOWN_MAX)}"


def summary_rows(
    summaries: list[Summary], means: dict[str, float], errors: dict[str, float | None], *, counted: bool
) -> tuple[list[str], list[list[str]]]:
    """The summary as a table: one row a seed, and their mean ± standard error where there are several.

    `counted` tells how many questions count, too.
    """
    shown = [column for column in COLUMNS if counted or column.measure != "counted"]
    rows = [[str(one.seed), *(_cell(one, column) for column in shown)] for one in summaries]
    if len(summaries) > 1:
        means_shown = (number(means[one.measure], one.places_of_mean, errors[one.measure]) for one in shown)
        rows.append(["mean ± se", *means_shown])
    return ["seed", *(column.title for column in shown)], rows


def _cell(one: Summary, column: Column) -> str:
    value = getattr(one, column.measure)
    if column.measure == "counted":
        return f"{value:,} of {one.asked:,}"
    return "–" if value is None else number(value, column.places)


def number(value: float, places: int, error: float | None = None) -> str:
    """A number (± its standard error) as people read it; a dash where nobody knows it."""
    if math.isnan(value):
        return "–"
    return f"{value:,.{places}f}" + ("" if error is None else f" ± {error:,.{places}f}")


def given(name: str) -> bool:
    """Whether a parameter of the running command was typed, rather than left to its default."""
    from click.core import ParameterSource

    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["rewardloop", *sys.argv[1:]])
