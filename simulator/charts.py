"""Pictures of many runs: configurations side by side, with bands over their seeds.

A *series* is one configuration with its runs over seeds; a *panel* is a set of series that share their axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from simulator import style
from simulator.curves import ROLLING, action_shares, band, rolling_mean
from simulator.environment import ReferenceLines, Vector
from simulator.runner import Run

SHARES_MAX = 9
_SKIP = 20  # the very first rolling means rest on a handful of rewards and only flicker


@dataclass(frozen=True, slots=True)
class Series:
    """One configuration with its runs, one a seed; `emphasis` draws it thicker."""

    label: str
    runs: Sequence[Run]
    colour: str
    emphasis: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Series that share axes, under a title."""

    title: str
    series: Sequence[Series]


def comparison_picture(
    panels: Sequence[Panel], lines: ReferenceLines | None, path: Path, *, title: str, subtitle: str, fixed_label: str
) -> Path:
    """Rolling reward above, cumulative regret below, one column a panel; drawn to `path` (.png or .svg).

    Without `lines` (a drifting world has no constant ones) the rolling means of random and oracle are drawn.
    """
    columns = len(panels)
    figure = style.new_figure(1.4 + 5.6 * columns, 7.6)
    axes: Any = figure.subplots(2, columns, squeeze=False, sharex=True, sharey="row", height_ratios=(3, 2))
    figure.subplots_adjust(left=0.075, right=0.975, top=0.83, bottom=0.075, wspace=0.07, hspace=0.13)
    figure.text(0.02, 0.955, title, fontsize=15, fontweight="bold", color=style.INK)
    figure.text(0.02, 0.917, subtitle, fontsize=10, color=style.MUTED)
    for column, panel in enumerate(panels):
        first = column == 0
        above, below = axes[0][column], axes[1][column]
        style.dress(above, ylabel=f"reward, rolling mean of {ROLLING}" if first else "")
        style.dress(below, xlabel="interactions", ylabel="cumulative regret" if first else "")
        above.set_title(panel.title, loc="left", fontsize=11, fontweight="bold", color=style.INK, pad=8)
        _references(above, panel, lines, fixed_label)
        for series in panel.series:
            _draw_series(above, below, series)
        below.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        below.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        below.set_ylim(bottom=0)
        _legend(above, panel)
    return style.save(figure, path)


def shares_picture(panels: Sequence[Panel], path: Path) -> Path:
    """How often each action was chosen over time: one row a panel, one column a series, seeds taken together."""
    columns, rows = max(len(panel.series) for panel in panels), len(panels)
    height = 2.2 * rows + 1.0
    figure = style.new_figure(2.7 * columns + 0.8, height)
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(
        left=0.8 / (2.7 * columns + 0.8), right=0.985, top=1 - 0.4 / height, bottom=0.8 / height, wspace=0.1, hspace=0.3
    )
    shares = [[_mean_shares(series.runs) for series in panel.series] for panel in panels]
    totals: dict[str, float] = {}
    for one in (one for row in shares for one in row):
        for name, values in one.items():
            totals[name] = totals.get(name, 0.0) + float(values.mean())
    ranked = sorted(totals, key=lambda name: -totals[name])
    shown, rest = ranked[:SHARES_MAX], ranked[SHARES_MAX:]
    colours = [*style.LAYERS[: len(shown)], *([style.GRID] if rest else [])]
    for row, panel in enumerate(panels):
        for column in range(columns):
            cell = axes[row][column]
            if column >= len(panel.series):
                cell.set_visible(False)
                continue
            series, one = panel.series[column], shares[row][column]
            style.dress(cell, ylabel=panel.title.partition(",")[0] if column == 0 else "")
            _stack(cell, one, shown, rest, colours, series.runs[0].played)
            cell.set_title(series.label, loc="left", fontsize=9, color=style.INK)
    labels = [name if len(name) <= 18 else name[:17] + "…" for name in shown] + (["others"] if rest else [])
    handles = [Patch(color=colour) for colour in colours]
    figure.legend(handles, labels, loc="lower center", ncols=min(10, len(labels)), frameon=False, fontsize=8)
    return style.save(figure, path)


def _stack(  # noqa: PLR0917
    cell: Any, one: dict[str, Vector], shown: Sequence[str], rest: Sequence[str], colours: Sequence[str], played: int
) -> None:
    bins = len(next(iter(one.values())))
    zeros = np.zeros(bins)
    layers = [one.get(name, zeros) for name in shown]
    if rest:
        layers.append(np.sum([one.get(name, zeros) for name in rest], axis=0))
    cell.stackplot((np.arange(bins) + 0.5) * played / bins, *layers, colors=colours, linewidth=0)
    cell.set_xlim(0, played)
    cell.set_ylim(0, 1)
    cell.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    cell.tick_params(labelsize=7)


def _draw_series(above: Any, below: Any, series: Series) -> None:
    rolling = band([rolling_mean(run.rewards) for run in series.runs])
    regret = band([run.regret() for run in series.runs])
    x = np.arange(1, len(rolling.mean) + 1)
    start = min(_SKIP, len(x) - 1)
    width = 2.2 if series.emphasis else 1.4
    order = 5 if series.emphasis else 4
    if len(series.runs) > 1:
        above.fill_between(
            x[start:],
            rolling.lower[start:],
            rolling.upper[start:],
            color=series.colour,
            alpha=0.10,
            linewidth=0,
            zorder=3,
        )
        below.fill_between(x, regret.lower, regret.upper, color=series.colour, alpha=0.10, linewidth=0, zorder=3)
    above.plot(x[start:], rolling.mean[start:], color=series.colour, linewidth=width, zorder=order)
    below.plot(x, regret.mean, color=series.colour, linewidth=width, zorder=order)
    if series.emphasis:
        at = sorted({position for run in series.runs for position in run.promotions_at()})
        below.plot(
            at, np.zeros(len(at)), linestyle="", marker="^", markersize=5, color=series.colour, clip_on=False, zorder=6
        )


def _references(axes: Any, panel: Panel, lines: ReferenceLines | None, fixed_label: str) -> None:
    dashes = (0, (5, 3))
    if lines is not None:
        for value, label, colour in (
            (lines.oracle, "oracle", style.ORACLE),
            (lines.fixed, fixed_label, style.FIXED),
            (lines.random, "random", style.RANDOM),
        ):
            axes.axhline(value, color=colour, linewidth=1.1, linestyle=dashes, zorder=2, label=f"{label} {value:.3f}")
        return
    run = panel.series[0].runs[0]
    x = np.arange(1, run.played + 1)
    for values, label, colour in ((run.oracle, "oracle", style.ORACLE), (run.random, "random", style.RANDOM)):
        axes.plot(
            x,
            rolling_mean(values),
            color=colour,
            linewidth=1.1,
            linestyle=dashes,
            zorder=2,
            label=f"{label} {values.mean():.3f}",
        )


def _legend(axes: Any, panel: Panel) -> None:
    handles, labels = [], []
    for series in panel.series:
        mean = float(np.mean([run.rewards.mean() for run in series.runs]))
        handles.append(Line2D([], [], color=series.colour, linewidth=2.2 if series.emphasis else 1.4))
        labels.append(f"{series.label}  {mean:.3f}")
    lines, names = axes.get_legend_handles_labels()
    axes.legend(
        [*handles, *lines],
        [*labels, *names],
        loc="lower right",
        fontsize=8,
        frameon=True,
        framealpha=0.9,
        edgecolor="none",
        labelcolor=style.INK,
    )


def _mean_shares(runs: Sequence[Run]) -> dict[str, Vector]:
    every = [action_shares(run) for run in runs]
    names = {name: None for one in every for name in one}
    zeros = np.zeros(len(next(iter(every[0].values()))))
    means = {name: np.mean([one.get(name, zeros) for one in every], axis=0) for name in names}
    return means
