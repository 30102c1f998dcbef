"""Pictures of many runs: configurations side by side, with bands over their seeds.

A *series* is one configuration with its runs over seeds; a *panel* is a set of series that share their axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulator import style
from simulator.curves import ROLLING, action_shares, band, rolling_mean
from simulator.environment import ReferenceLines
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
    """How often each action was chosen over time, one small picture a series, seeds taken together."""
    every = [series for panel in panels for series in panel.series]
    titles = [
        f"{series.label} — {panel.title}" if len(panels) > 1 else series.label
        for panel in panels
        for series in panel.series
    ]
    columns = min(4, len(every))
    rows = -(-len(every) // columns)
    figure = style.new_figure(3.1 * columns + 0.6, 2.3 * rows + 0.8)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(
        left=0.05,
        right=0.985,
        top=1 - 0.4 / (2.3 * rows + 0.8),
        bottom=0.75 / (2.3 * rows + 0.8),
        wspace=0.08,
        hspace=0.32,
    )
    names: list[str] = []
    shares = [_mean_shares(series.runs) for series in every]
    for one in shares:
        names += [name for name in one if name not in names]
    shown, rest = names[:SHARES_MAX], names[SHARES_MAX:]
    palette = [*style.SERIES, style.PROMOTION]
    for number, (series, one, title) in enumerate(zip(every, shares, titles, strict=True)):
        cell: Any = axes[number // columns][number % columns]
        style.dress(cell)
        bins = len(next(iter(one.values())))
        x = np.linspace(0, series.runs[0].played, bins)
        zeros = np.zeros(bins)
        layers = [one.get(name, zeros) for name in shown]
        if rest:
            layers.append(sum((one.get(name, zeros) for name in rest), zeros))
        colours = [palette[i % len(palette)] for i in range(len(shown))] + [style.GRID]
        cell.stackplot(x, *layers, colors=colours[: len(layers)], linewidth=0)
        cell.set_title(title, loc="left", fontsize=8.5, color=style.INK)
        cell.set_ylim(0, 1)
        cell.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        cell.tick_params(labelsize=7)
    for number in range(len(every), rows * columns):
        axes[number // columns][number % columns].set_visible(False)
    labels = [name if len(name) <= 18 else name[:17] + "…" for name in shown] + (["others"] if rest else [])
    handles = [_patch(palette[i % len(palette)] if i < len(shown) else style.GRID) for i in range(len(labels))]
    figure.legend(handles, labels, loc="lower center", ncols=min(10, len(labels)), frameon=False, fontsize=8)
    return style.save(figure, path)


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
    from matplotlib.lines import Line2D

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


def _mean_shares(runs: Sequence[Run]) -> dict[str, Any]:
    every = [action_shares(run) for run in runs]
    names = {name: None for one in every for name in one}
    zeros = np.zeros(len(next(iter(every[0].values()))))
    means = {name: np.mean([one.get(name, zeros) for one in every], axis=0) for name in names}
    return dict(sorted(means.items(), key=lambda item: -float(item[1].sum())))


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour)
