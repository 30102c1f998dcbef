"""The options that say which world a simulation plays in and how its rewards travel, and the world they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.errors import InvalidInput, one_of
from serving.cli.common import Number
from serving.cli.table_limits import check_table

if TYPE_CHECKING:
    from bandit.settings import ExperimentSettings, Limits
    from serving.simulation import Job
    from simulator.channel import Channel
    from simulator.environment import Environment

ENVIRONMENTS = ("statlog", "table", "linear", "nonlinear", "news", "replay")
COLUMNS_NAMED_MAX = 20
DELAY_MAX_S = 1e6
WARM_START_MAX = 1_000_000
WARM_START_DRAWS_MAX = 3_000_000
"""So many draws from a log take half a minute."""
RATE_MIN, RATE_MAX = 1e-3, 1e6
DRIFTS = ("none", "abrupt", "gradual", "seasonal")


@dataclass(frozen=True, slots=True)
class WorldOptions:
    """What the options said."""

    env: str
    data: Path | None
    label: str | None
    actions: int | None
    drift: str
    interactions: int
    batch: int
    warm_start: int
    reward_delay: float
    reward_loss: float
    reward_twice: float
    reward_noise: float
    rate: float
    continuous: bool
    seeds: str
    jobs: int

    def base(self, limits: Limits | None) -> Environment:
        """Build the world as it is before drift and noise; raises `InvalidInput` that names the option.

        Tables and logs are held against `limits`, where they are known.
        """
        from simulator.news import NewsWorld
        from simulator.synthetic import LinearWorld, NonLinearWorld

        if self.label is not None and self.env != "table":
            raise InvalidInput("--label", "belongs to --env table")
        if self.data is not None and self.env not in ("table", "replay"):
            raise InvalidInput("--data", "belongs to --env table and --env replay")
        if self.actions is not None and self.env in ("statlog", "table", "replay"):
            raise InvalidInput("--actions", "belongs to the synthetic worlds; data bring their own actions")
        if self.env == "linear":
            return LinearWorld(self.actions or 5)
        if self.env == "nonlinear":
            return NonLinearWorld(self.actions or 5)
        if self.env == "news":
            return NewsWorld(self.actions or 10)
        if self.env == "replay":
            return self._log(limits)
        return statlog_world() if self.env == "statlog" else self._table(limits)

    def changing(self, world: Environment) -> Environment:
        """`world` with drift and noise, where the options want them; raises `InvalidInput` that names the option."""
        from simulator.drift import Drifting, Permuted
        from simulator.noise import Flipped

        if self.drift != "none":
            if world.catalogue is None:
                raise InvalidInput("--drift", "needs a world whose actions stay; the news world drifts by itself")
            half = max(1, self.interactions // 2)
            world = Drifting(world, Permuted(world), self.drift, at=half if self.drift == "abrupt" else 0, length=half)  # type: ignore[arg-type]
        if self.reward_noise:
            world = Flipped(world, self.reward_noise)
        return world

    def channel(self) -> Channel:
        """How rewards travel."""
        from simulator.channel import Delay, Lost, Twice

        way: Channel = Delay(self.reward_delay, "exponential") if self.reward_delay else Delay()
        if self.reward_twice:
            way = Twice(self.reward_twice, way)
        return Lost(self.reward_loss, way) if self.reward_loss else way

    def job(self, name: str, settings: ExperimentSettings, seed: int) -> Job:
        """One run of this world as `name`."""
        from serving.simulation import Job
        from simulator.runner import Script

        return Job(
            name=name,
            settings=settings,
            script=Script(self.interactions, self.batch, self.warm_start, seed),
            channel=self.channel(),
            question_every_s=1 / self.rate,
            barrier=not self.continuous,
        )

    def _log(self, limits: Limits | None) -> Environment:
        from serving.cli.replayed import read_replayed

        if self.data is None:
            raise InvalidInput("--data", "is required with --env replay: a file as `rewardloop export` writes")
        world = read_replayed(self.data, limits)
        possible = int(WARM_START_DRAWS_MAX * world.acceptance())
        if self.warm_start > possible:
            raise InvalidInput(
                "--warm-start",
                f"cannot be had from this log, of which about one draw in {1 / world.acceptance():,.0f} counts; "
                f"at most {possible:,} rows can",
            )
        return world

    def _table(self, limits: Limits | None) -> Environment:
        from joiner.numerals import taken_as_text
        from joiner.tables import read_table
        from simulator.tables import LabelledTable, UnusableTable

        if self.data is None:
            raise InvalidInput("--data", "is required with --env table: a CSV or Parquet file")
        if self.label is None:
            raise InvalidInput("--label", "is required with --env table: the column that holds the classes")
        try:
            frame = read_table(self.data, label=self.label)
        except InvalidInput as error:
            found = error.problems[0]
            option = "--label" if found.field == "label" else "--data"
            raise InvalidInput(option, found.problem, found.limit) from None
        columns = {str(name): frame[name].tolist() for name in frame.columns}
        if self.label not in columns:
            named = [*list(columns)[:COLUMNS_NAMED_MAX], *["…"] * (len(columns) > COLUMNS_NAMED_MAX)]
            raise InvalidInput("--label", "is not a column of the table", one_of(named))
        labels = columns.pop(self.label)
        as_text = taken_as_text(frame.drop(columns=[self.label]))
        try:
            table = LabelledTable(columns, labels, name=self.data.name, as_text=as_text)
        except UnusableTable as error:
            raise InvalidInput("--label", str(error)) from None
        if limits is not None:
            check_table(table, limits)
        return table


def statlog_world() -> Any:
    """Statlog out of the package."""
    from joiner.tables import read_table
    from simulator.statlog import STATLOG_PARQUET, statlog

    table = read_table(STATLOG_PARQUET)
    return statlog({str(name): table[name].tolist() for name in table.columns})


def world_options(*, seeds: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a click command: adds the options and passes them as the keyword `options`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*arguments: Any, **given: Any) -> Any:
            chosen = WorldOptions(**{field.name: given.pop(field.name) for field in fields(WorldOptions)})
            return function(*arguments, options=chosen, **given)

        for option in reversed(_options(seeds)):
            wrapper = option(wrapper)
        return wrapper

    return decorate


def _options(seeds: str) -> list[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    share = Number(0, 1)
    return [
        click.option("--env", type=click.Choice(ENVIRONMENTS), default="statlog", show_default=True,
                     help="The world to play in."),
        click.option("--data", type=click.Path(path_type=Path), help="A table, or for replay a log (NDJSON, Parquet)."),
        click.option("--label", help="--env table: the column of classes, one an action."),
        click.option("--actions", type=click.IntRange(2, 1000), help="How many actions a synthetic world offers."),
        click.option("--drift", type=click.Choice(DRIFTS), default="none", show_default=True,
                     help="How the world changes: abruptly half way, gradually from start to half way, or by season."),
        click.option("--interactions", type=click.IntRange(1, 10_000_000), default=7500, show_default=True,
                     help="How many to play."),
        click.option("--batch", type=click.IntRange(min=1), default=500, show_default=True,
                     help="Interactions between two runs of the learner."),
        click.option("--warm-start", type=click.IntRange(0, WARM_START_MAX), default=100, show_default=True,
                     help="Rows of uniformly logged history to begin with; 20 or more make a first model."),
        click.option("--reward-delay", type=Number(0, DELAY_MAX_S), default=0.0, show_default=True,
                     help="Mean of the (exponential) delay of rewards, in simulated seconds."),
        click.option("--reward-loss", type=share, default=0.0, show_default=True, help="Share of rewards lost."),
        click.option("--reward-twice", type=share, default=0.0, show_default=True, help="Share sent twice."),
        click.option("--reward-noise", type=share, default=0.0, show_default=True, help="Share of rewards flipped."),
        click.option("--rate", type=Number(RATE_MIN, RATE_MAX), default=100.0, show_default=True,
                     help="Questions per simulated second; with --url, if given, per real one."),
        click.option("--continuous", is_flag=True,
                     help="Never wait for the reward window: each run trains on what has matured so far."),
        click.option("--seeds", default=seeds, show_default=True, help="3, a range 0-9, or a list 1,5,7."),
        click.option("--jobs", type=click.IntRange(1, 256), default=min(4, os.cpu_count() or 1), show_default=True,
                     help="Runs at the same time; where half of them would do, each run trains in two processes."),
    ]  # fmt: skip
