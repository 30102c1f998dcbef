"""Pictures of many runs: configurations side by side, with bands over their seeds.

A *series* is one configuration with its runs over seeds; a *panel* is a set of series that share their axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from simulator import style
from simulator.curves import ROLLING, SHARES_BINS, action_shares, band, first_drawn, rolling_mean
from simulator.environment import ReferenceLines, Vector
from simulator.runner import Run

SHARES_MAX = 9
_PLOT, _PLOT_OF_TWO = 5.25, 3.5  # inches of a plot's width; of two less, since a page shrinks a wide picture
_LETTER = 0.083  # inches of a label, besides what its number takes
_ENTRY, _ENTRY_LETTER = 0.55, 0.07  # inches of a legend's entry, and of each letter in it
_ENTRY_LINE = 0.2  # inches of a line of the legend
_NAME_LENGTH = 18  # letters of an action's name in the legend
_LABEL_GAP = 0.058  # of the height of a panel, between two labels


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
    """Expected reward above, cumulative regret below, two panels beside each other; drawn to `path` (.png or .svg).

    Without `lines` (a drifting world has no constant ones, and each panel may show another world) the rolling means of
    what random choice and the oracle would have earned in the panel's own rounds are drawn, their mean over the runs of
    a series; nothing where nobody knows that, in a replayed log, and then there is no regret either.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    longest = max(len(fixed_label), *(len(series.label) for panel in panels for series in panel.series))
    plot = _PLOT if columns == 1 else _PLOT_OF_TWO
    cell = plot + max(2.05, 1.35 + _LETTER * longest)
    width, height = 0.7 + cell * columns, 1.0 + 5.7 * rows
    figure = style.new_figure(width, height)
    figure.text(0.25 / width, 1 - 0.42 / height, title, fontsize=15, fontweight="bold", color=style.INK)
    figure.text(0.25 / width, 1 - 0.7 / height, subtitle, fontsize=10, color=style.MUTED)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = 0.7 + cell * column, height - 1.35 - 5.7 * row
        above: Any = figure.add_axes((left / width, (top - 2.95) / height, plot / width, 2.95 / height))
        below: Any = figure.add_axes((left / width, (top - 4.85) / height, plot / width, 1.6 / height), sharex=above)
        _draw_panel(above, below, panel, lines, fixed_label, first=column == 0)
    return style.save(figure, path)


def _draw_panel(
    above: Any, below: Any, panel: Panel, lines: ReferenceLines | None, fixed_label: str, *, first: bool
) -> None:
    style.dress(above, ylabel=f"expected reward, mean of {ROLLING}" if first else "")
    style.dress(below, xlabel="interactions", ylabel="cumulative regret" if first else "")
    above.tick_params(labelbottom=False)
    above.set_title(panel.title, loc="left", fontsize=11, fontweight="bold", color=style.INK, pad=8)
    labels = _references(above, panel, lines, fixed_label)
    for series in panel.series:
        labels.append(_draw_series(above, below, series))
    below.set_xlim(0, max(min(run.played for run in series.runs) for series in panel.series))
    below.xaxis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    below.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    below.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    above.yaxis.set_major_formatter(lambda value, _: f"{value:.2f}".rstrip("0").rstrip("."))
    below.set_ylim(bottom=0)
    if np.isnan(panel.series[0].runs[0].oracle).any():
        below.set_yticks([])
        below.text(0.01, 0.5, "unknown: a log does not tell what other actions would have earned",
                   transform=below.transAxes, fontsize=8.5, color=style.MUTED)  # fmt: skip
    _place(above, labels)


def shares_picture(panels: Sequence[Panel], path: Path) -> Path:
    """How often each action was chosen over time: one row a panel, one column a series, seeds taken together."""
    columns, rows = max(len(panel.series) for panel in panels), len(panels)
    shares = [[_mean_shares(series.runs) for series in panel.series] for panel in panels]
    totals: dict[str, float] = {}
    for one in (one for row in shares for one in row):
        for name, values in one.items():
            totals[name] = totals.get(name, 0.0) + float(values.mean())
    ranked = sorted(totals, key=lambda name: -totals[name])
    shown, rest = ranked[:SHARES_MAX], ranked[SHARES_MAX:]
    colours = [*style.LAYERS[: len(shown)], *([style.GRID] if rest else [])]
    labels = [style.label(name, _NAME_LENGTH) for name in shown] + (["others"] if rest else [])
    width = 2.7 * columns + 0.8
    across = max(1, min(len(labels), int(width / (_ENTRY + _ENTRY_LETTER * max(map(len, labels))))))
    foot = 0.8 + _ENTRY_LINE * (-(-len(labels) // across) - 1)
    height = 2.2 * rows + 0.2 + foot
    figure = style.new_figure(width, height)
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(
        left=0.8 / width,
        right=min(0.985, 1 - 0.2 / width),
        top=1 - 0.4 / height,
        bottom=foot / height,
        wspace=0.1,
        hspace=0.3,
    )
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
    handles = [Patch(color=colour) for colour in colours]
    figure.legend(handles, labels, loc="lower center", ncols=across, frameon=False, fontsize=8)
    return style.save(figure, path)


def written_out(runs: Sequence[Run]) -> list[list[str]]:
    """The chosen actions that pictures show under another name, since their font lacks it: that name and the action."""
    names = sorted({name for run in runs for name in run.actions})
    return [[style.label(name, _NAME_LENGTH), name] for name in names if style.drawable(name) != name]


def _stack(  # noqa: PLR0917
    cell: Any, one: dict[str, Vector], shown: Sequence[str], rest: Sequence[str], colours: Sequence[str], played: int
) -> None:
    bins = len(next(iter(one.values())))
    zeros = np.zeros(bins)
    layers = [one.get(name, zeros) for name in shown]
    if rest:
        layers.append(np.sum([one.get(name, zeros) for name in rest], axis=0))
    x = (np.arange(bins) + 0.5) * played / bins
    if bins == 1:  # one point has no area
        x, layers = np.array([0.0, played]), [np.repeat(layer, 2) for layer in layers]
    cell.stackplot(x, *layers, colors=colours, linewidth=0)
    cell.set_xlim(0, played)
    cell.set_ylim(0, 1)
    cell.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    cell.tick_params(labelsize=7)


@dataclass(frozen=True, slots=True)
class _Label:
    """What stands to the right of a line: at which height it ends, its text and colour."""

    height: float
    text: str
    colour: str
    bold: bool = False


def _draw_series(above: Any, below: Any, series: Series) -> _Label:
    rolling = band([rolling_mean(run.expected) for run in series.runs])
    regret = band([run.regret() for run in series.runs])
    x = np.arange(1, len(rolling.mean) + 1)
    start, mark = first_drawn(len(x)), style.POINT if len(x) == 1 else ""
    width, order = (2.0, 5) if series.emphasis else (1.2, 4)
    if len(series.runs) > 1:
        for axes, one, first in ((above, rolling, start), (below, regret, 0)):
            span = x[first:], one.lower[first:], one.upper[first:]
            axes.fill_between(*span, color=series.colour, alpha=0.12, linewidth=0, zorder=3)
    drawn: dict[str, Any] = {"color": series.colour, "linewidth": width, "zorder": order, "marker": mark}
    above.plot(x[start:], rolling.mean[start:], **drawn)
    below.plot(x, regret.mean, **drawn)
    if series.emphasis:
        at = sorted({position for run in series.runs for position in run.promotions_at()})
        below.plot(
            at, np.zeros(len(at)), linestyle="", marker="^", markersize=4, color=series.colour, clip_on=False, zorder=6
        )
    mean = float(np.mean([run.expected.mean() for run in series.runs]))
    return _Label(float(rolling.mean[-1]), f"{series.label}  {mean:.3f}", series.colour, series.emphasis)


def _references(axes: Any, panel: Panel, lines: ReferenceLines | None, fixed_label: str) -> list[_Label]:
    drawn = {"color": style.RANDOM, "linewidth": 1.1, "linestyle": (0, (5, 3)), "zorder": 2}
    if lines is not None:
        known = (
            (lines.oracle, "oracle", style.ORACLE),
            (lines.fixed, fixed_label, style.FIXED),
            (lines.random, "random", style.RANDOM),
        )
        for value, _, colour in known:
            axes.axhline(value, **{**drawn, "color": colour})
        return [_Label(value, f"{label}  {value:.3f}", colour) for value, label, colour in known]
    runs = panel.series[0].runs
    if any(np.isnan(run.oracle).any() for run in runs):
        return []
    labels = []
    for name, colour in (("oracle", style.ORACLE), ("random", style.RANDOM)):
        curve = band([rolling_mean(getattr(run, name)) for run in runs]).mean
        start = first_drawn(len(curve))
        axes.plot(np.arange(start + 1, len(curve) + 1), curve[start:], **{**drawn, "color": colour})
        mean = float(np.mean([getattr(run, name).mean() for run in runs]))
        labels.append(_Label(float(curve[-1]), f"{name}  {mean:.3f}", colour))
    return labels


def _place(axes: Any, labels: Sequence[_Label]) -> None:
    """Write each label beside the end of its line, pushed apart so that none lies on another."""
    low, high = axes.get_ylim()
    gap = (high - low) * _LABEL_GAP
    ranked = sorted(labels, key=lambda label: label.height)
    heights: list[float] = []
    for label in ranked:
        heights.append(max(label.height, heights[-1] + gap) if heights else max(label.height, low))
    excess = heights[-1] - high
    for number in reversed(range(len(heights))):
        if excess > 0:
            ceiling = high if number == len(heights) - 1 else heights[number + 1] - gap
            heights[number] = min(heights[number], ceiling)
    end = axes.get_xlim()[1]
    for label, height in zip(ranked, heights, strict=True):
        axes.annotate(
            label.text,
            (end, height),
            xytext=(7, 0),
            textcoords="offset points",
            color=label.colour,
            fontsize=8.5,
            fontweight="bold" if label.bold else "normal",
            va="center",
            annotation_clip=False,
        )


def _mean_shares(runs: Sequence[Run]) -> dict[str, Vector]:
    bins = min(SHARES_BINS, *(run.played for run in runs))
    every = [action_shares(run, bins) for run in runs]
    names = {name: None for one in every for name in one}
    zeros = np.zeros(len(next(iter(every[0].values()))))
    means = {name: np.mean([one.get(name, zeros) for one in every], axis=0) for name in names}
    return means
