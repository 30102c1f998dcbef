"""What every command shares: its options, finding the experiment, and printing tables or JSON.

`@common` adds `--data-dir`, `--config`, `--experiment` and `--json` and hands the command one `Common`. The data
directory is made when absent; the experiment may be left out where there is only one. `@common_with` does the same for
a command to which an option means something else, or nothing.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from bandit.experiment import Experiment
    from serving.cli.config import Configuration

_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(Z|\+00:00)$")

DEFAULT_DATA_DIR = "./rewardloop-data"
DEFAULT_EXPERIMENT = "default"
NAMES_MAX = 10
"""How many experiments an error names."""

COLUMN_GAP = 2
WORD_UNBROKEN = 16
"""On a narrow terminal longer words of a table are broken."""


@dataclass(frozen=True, slots=True)
class Common:
    """The options that every command takes, after the environment was consulted."""

    data_dir: Path
    config: Path | None
    experiment: str | None
    as_json: bool
    data_dir_given: bool = False

    def configuration(self) -> Configuration:
        """The configuration file (if any) under `REWARDLOOP_*`; raises `InvalidSettings`."""
        from serving.cli.config import load_configuration

        return load_configuration(self.config)

    def make_data_dir(self) -> Path:
        """The data directory, made when absent; raises `InvalidInput` when the path is not, and cannot be, a folder."""
        self.check_data_dir()
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput("--data-dir", f"cannot be made ({error.strerror})") from None
        return self.data_dir

    def check_data_dir(self) -> None:
        """Raise `InvalidInput` when something else than a folder has its name, or a restore into it has not ended."""
        from bandit.backup import is_half_restored

        if self.data_dir.exists() and not self.data_dir.is_dir():
            raise InvalidInput("--data-dir", "is not a folder")
        if is_half_restored(self.data_dir):
            raise InvalidInput("--data-dir", "is only half restored: restore again, unless a restore is under way")

    def experiment_name(self) -> str:
        """The experiment asked for, or the only one; raises `InvalidInput` or `NotFound`."""
        from bandit.experiment import Experiment
        from bandit.settings import check_experiment_name

        self.check_data_dir()
        asked = None if self.experiment is None else check_experiment_name(self.experiment)
        names = Experiment.names(self.data_dir)
        if asked in names:
            return asked
        if not names:
            raise NotFound(f"no experiment in {self.data_dir}: start one with `rewardloop up` or name its --data-dir")
        if asked is not None:
            raise NotFound(f"experiment '{asked}' does not exist in {self.data_dir}: there is {known_names(names)}")
        if len(names) == 1:
            return names[0]
        raise InvalidInput("--experiment", f"must be named, there are several: {known_names(names)}")

    def open_experiment(self) -> Experiment:
        """Open the experiment asked for, or the only one; raises `InvalidInput` or `NotFound`."""
        from bandit.experiment import Experiment

        return Experiment.open(self.data_dir, self.experiment_name())


def known_names(names: Sequence[str]) -> str:
    """The experiments that there are, the first `NAMES_MAX` of them by name."""
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")


def common_with(
    *,
    data_dir: str = f"Where everything is kept.  [default: {DEFAULT_DATA_DIR}]",
    config: str = "A TOML file as `rewardloop init` writes it.",
    experiment: str | None = "Which experiment; may be left out where there is only one.",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The decorator `common` with other help; with `experiment` None for a command that takes none."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(
            *arguments: Any,
            data_dir: Path | None,
            config: Path | None,
            as_json: bool,
            experiment: str | None = None,
            **options: Any,
        ) -> Any:
            shared = Common(
                data_dir=data_dir if data_dir is not None else Path(DEFAULT_DATA_DIR),
                config=config,
                experiment=experiment,
                as_json=as_json,
                data_dir_given=data_dir is not None,
            )
            return function(*arguments, common=shared, **options)

        path = click.Path(path_type=Path)
        options = [click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")]
        if experiment is not None:
            options.append(click.option("--experiment", envvar="REWARDLOOP_EXPERIMENT", help=experiment))
        options.append(click.option("--config", type=path, envvar="REWARDLOOP_CONFIG", help=config))
        options.append(click.option("--data-dir", type=path, envvar="REWARDLOOP_DATA_DIR", help=data_dir))
        decorated: Callable[..., Any] = wrapper
        for option in options:
            decorated = option(decorated)
        return decorated

    return decorate


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a click command: adds the shared options and passes them as the keyword `common`."""
    return common_with()(function)


class Number(click.FloatRange):
    """click's range of numbers, which lets not-a-number through, without it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; fails as click's own types do."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def now() -> datetime:
    """The server's clock, aware UTC."""
    return datetime.now(UTC)


def print_json(value: Any) -> None:
    """Print one JSON object to stdout (times as ISO 8601, not-a-number as null)."""
    click.echo(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False))


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table to stdout, folded between words to the terminal's width, but never so far that a number is cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = [[_cell(cell) for cell in row] for row in rows]
    console = Console(highlight=False)
    widths = _widths([columns, *lines], console.width if sys.stdout.isatty() else None)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, width=width, overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    # what is wider than the terminal is left to it to break
    console.width = max(console.width, sum(widths) + COLUMN_GAP * len(widths))
    console.print(table)


def _widths(lines: Sequence[Sequence[str]], available: int | None) -> list[int]:
    """How wide each column of a table is: as wide as it would be, less where more than `available` would be taken."""
    from rich.cells import cell_len

    columns = list(zip(*lines, strict=True))
    widths = [max(cell_len(part) for cell in column for part in cell.split("\n")) for column in columns]
    least = [max(_least(word) for cell in column for word in cell.split() or [""]) for column in columns]
    excess = 0 if available is None else sum(widths) + COLUMN_GAP * (len(widths) - 1) - available
    while excess > 0 and widths != least:
        widest = max(range(len(widths)), key=lambda place: (widths[place] > least[place]) * widths[place])
        widths[widest] -= 1
        excess -= 1
    return widths


def _least(word: str) -> int:
    """How narrow a column may become for a word: a number stays whole, and so does a word that is no long one."""
    from rich.cells import cell_len

    is_number = any(map(str.isdigit, word)) and not any(map(str.isalpha, word))
    return cell_len(word) if is_number else min(cell_len(word), WORD_UNBROKEN)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and _TIME.fullmatch(value):
        return f"{value[:10]} {value[11:19]}"
    return str(value)


def figure(value: Any, form: str = ".4f") -> Any:
    """A cell as people read it: numbers with fractions in `form`, whole ones with thousands, others as they are."""
    if isinstance(value, float):
        return f"{value:{form}}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value


def say(message: str) -> None:
    """Tell the person at the terminal something, on stderr."""
    click.echo(message, err=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int)) or value is None:
        return value
    if hasattr(value, "item"):  # a numpy scalar
        return _plain(value.item())
    return str(value)
