"""`rewardloop demo`: the whole loop on Statlog, through the real service, in about a minute."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bandit.errors import InvalidInput
from serving.cli.common import Common, common_with, print_json, say

if TYPE_CHECKING:
    from serving.demonstration import DemoResult
    from serving.over_http import Service

EXPERIMENTS = "experiments"
_FRESH = "Where everything is kept: a folder that is new or empty.  [default: a temporary one, {}]"
FRESH_DATA_DIR = _FRESH.format("of which picture and page stay")
STAYING_DATA_DIR = _FRESH.format("which stays")


@click.command(name="demo")
@click.option("--interactions", type=click.IntRange(min=1), default=7500, show_default=True, help="How many to play.")
@click.option("--batch", type=click.IntRange(min=1), default=500, show_default=True, help="Interactions per batch.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the world.")
@click.option("--algorithm", default=None, help="Exploration algorithm.  [default: that of the settings]")
@click.option("--sabotage", is_flag=True, help="Offer a bad challenger and kill the learner on the way.")
@click.option("--keep-running", is_flag=True, help="Leave the service up afterwards, until Ctrl-C.")
@common_with(data_dir=STAYING_DATA_DIR, experiment=None)
def command(
    *,
    interactions: int,
    batch: int,
    seed: int,
    algorithm: str | None,
    sabotage: bool,
    keep_running: bool,
    common: Common,
) -> None:
    """Run the whole loop on Statlog (Shuttle) through the real service.

    A fresh data directory, 100 rows of uniformly logged history, then every interaction over HTTP; each batch is
    joined, trained on, evaluated, and promoted only if the gate says so.
    """

    from serving.cli.worlds import statlog_world
    from serving.demonstration import EXPERIMENT, DemoOptions, demonstrate
    from simulator.console import RunDisplay

    options = DemoOptions(interactions, min(batch, interactions), seed=seed, algorithm=algorithm, sabotage=sabotage)
    base = common.configuration().settings_for(EXPERIMENT)
    world = statlog_world()
    with fresh_data_dir(common, "rewardloop-demo-") as data_dir, RunDisplay(interactions) as display:
        result = demonstrate(world, data_dir, options, display, base=base, keep_running=_hold if keep_running else None)
    if common.as_json:
        print_json(result.to_dict())
    else:
        _print_summary(result)
    if not common.data_dir_given:
        say(f"The temporary folder {data_dir} stays, with the report in it: remove it when you have seen enough.")


@contextmanager
def fresh_data_dir(common: Common, prefix: str) -> Iterator[Path]:
    """The data directory asked for, which has to be empty, or a new temporary one; raises `InvalidInput`.

    A temporary one that the block leaves by Ctrl-C or an error is named where batches were played, else removed.
    """
    if common.data_dir_given:
        yield _given_data_dir(common)
        return
    data_dir = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield data_dir
    except BaseException:
        if _worth_keeping(data_dir):
            say(f"data    {data_dir}")
        else:
            shutil.rmtree(data_dir, ignore_errors=True)
        raise


def _given_data_dir(common: Common) -> Path:
    data_dir = common.make_data_dir()
    if any(data_dir.iterdir()):
        raise InvalidInput("--data-dir", "is not empty; name a new folder, or leave the option out")
    return data_dir.resolve()


def _worth_keeping(data_dir: Path) -> bool:
    """Whether a picture, a page or a log is there, or an experiment whose learner has run after a batch."""
    from bandit.experiment import ExperimentPaths
    from bandit.history import History

    if any(path.name != EXPERIMENTS for path in data_dir.iterdir()):
        return True
    runs = (History(ExperimentPaths(root)).entries("run") for root in data_dir.glob(f"{EXPERIMENTS}/*"))
    return any(run["trigger"] != "history" for entries in runs for run in entries)


def settle_data_dir(common: Common, data_dir: Path, *, ended_well: bool) -> None:
    """Say where the experiments are, the last thing of a command: in a temporary folder they are removed with success.

    Picture and page stay: the output names them, and they need nothing else.
    """
    experiments = data_dir / EXPERIMENTS
    if common.data_dir_given or not ended_well:
        say(f"data    {data_dir}")
    elif experiments.is_dir():
        shutil.rmtree(experiments, ignore_errors=True)
        say("data    removed with the temporary folder's experiments; --data-dir DIR keeps them")


def _hold(service: Service) -> None:
    say(f"The service stays up: decisions at {service.url}, console at {service.admin_url} — Ctrl-C ends it.")
    try:
        service.wait()
    except KeyboardInterrupt:
        say("stopping")


def _print_summary(result: DemoResult) -> None:
    rows = [
        ("mean reward", f"{result.mean_reward:.3f}"),
        ("first 500", f"{result.first_500:.3f}   taught by the warm start alone"),
        ("last 500", f"{result.last_500:.3f}"),
        (
            "verdicts",
            f"{result.promotions} promoted, {result.holds} held, {result.insufficient} with insufficient data",
        ),
        (
            "on disk",
            f"{result.decisions_logged:,} decisions, {result.rewards_logged:,} rewards, "
            f"{result.interactions_joined:,} interactions joined (and {result.imported:,} imported)",
        ),
        ("champion", result.champion),
        ("time", f"{result.seconds:.1f} s for {result.interactions:,} interactions"),
    ]
    if result.sabotage is not None:
        harm = result.sabotage
        rows += [
            ("bad challenger", f"{harm.outcome}: {harm.reason}"),
            ("killed learner", f"in batch {harm.learner_killed_in_batch}; nothing is missing"),
        ]
    _print_facts(rows, [("picture", result.picture), ("report", result.report or "–"), ("data", result.data_dir)])


def _print_facts(rows: list[tuple[str, str]], paths: list[tuple[str, str]]) -> None:
    """Two columns without a head; long values wrap under themselves, paths stay whole, so that they can be copied."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    console = Console(highlight=False)
    console.print()
    console.print(table)
    width = max(len(name) for name, _ in rows) + 2
    for name, path in paths:
        console.print(Text.assemble((name.ljust(width), "bold"), path), soft_wrap=True)
