"""A run on a terminal, as it happens: one line a batch, with a bar for the reward and the verdict in words.

Everything goes to stderr, so that results on stdout stay clean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from simulator.curves import ROLLING, rolling_mean
from simulator.runner import Batch, Run
from simulator.transport import Answer, Settled

_BAR_WIDTH = 16
_WIDTH_WITHOUT_TERMINAL = 160
_STYLES = {"initial": "cyan", "promote": "bold green", "hold": "yellow", "insufficient": "bright_black"}
_WORDS = {"initial": "initial model", "promote": "promoted", "hold": "held", "insufficient": "insufficient data"}


class RunDisplay:
    """Live progress of one run; a context manager. `on_answer`, `on_batch` and `phase` feed it."""

    def __init__(self, interactions: int, *, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDTH_WITHOUT_TERMINAL
        self._progress = Progress(
            TextColumn("  {task.description}", style="bright_black"),
            BarColumn(bar_width=_BAR_WIDTH + 10),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}", style="bright_black"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=interactions)

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def phase(self, text: str) -> None:
        """Say what is being waited for."""
        self._progress.update(self._task, description=text)

    def on_answer(self, _number: int, _answer: Answer) -> None:
        """Count one answer; may be called from any thread."""
        self._progress.advance(self._task)

    def note(self, text: str, style: str = "") -> None:
        """Print one line among the batches."""
        self._print(Text(text, style=style))

    def heading(self, initial: Settled | None) -> None:
        """The table's head, with the warm start as its first line."""
        self._print(Text(f"{'batch':>7}{'played':>9}  {'rolling reward':<{_BAR_WIDTH + 7}}  verdict", style="bold"))
        if initial is not None:
            line = Text(f"{'–':>7}{'0':>9}  {'':<{_BAR_WIDTH + 7}}  ")
            self._print(line.append_text(verdict_text(initial)))

    def on_batch(self, run: Run, batch: Batch) -> None:
        """One line for a finished batch."""
        rolling = float(rolling_mean(run.rewards[: batch.stop], ROLLING)[-1])
        line = Text(f"{batch.number:>7}{batch.stop:>9,}  ")
        line.append_text(reward_bar(rolling)).append(f" {rolling:.3f}  ").append_text(verdict_text(batch.settled))
        self._print(line)

    def _print(self, line: Text) -> None:
        self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)


def reward_bar(share: float) -> Text:
    """A bar for a reward between 0 and 1, `_BAR_WIDTH` characters wide."""
    filled = round(max(0.0, min(1.0, share)) * _BAR_WIDTH)
    return Text("█" * filled, style="blue").append("░" * (_BAR_WIDTH - filled), style="bright_black")


def verdict_text(settled: Settled) -> Text:
    """The verdict in a word, with the lift that the gate weighed and its interval where there is one."""
    text = Text(_WORDS.get(settled.outcome, settled.outcome), style=_STYLES.get(settled.outcome, ""))
    lift = settled.lift if settled.weighed is None else settled.weighed
    if lift is not None:
        text.append(f"  lift {lift:+.4f}", style="default")
        if settled.lower is not None and settled.upper is not None:
            text.append(f" [{settled.lower:+.4f}, {settled.upper:+.4f}]", style="bright_black")
    return text


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where that is a terminal, with the time left; the block gets what advances it."""
    columns = (
        TextColumn(label),
        BarColumn(bar_width=40),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}", style="bright_black"),
        TimeElapsedColumn(),
        TextColumn("left", style="bright_black"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)
