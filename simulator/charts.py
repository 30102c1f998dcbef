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
_ENTRY_LINES_MAX = 4  # of the legend; a picture is made wider for them
_CELL = 2.7  # inches of a column of shares
_NAME_LENGTH = 18  # letters of an action's name in the legend
_LABEL_GAP = 0.058  # of the height of a panel, between two labels
_LEADER = (2.0, 15.0)  # points to the right of a plot where the line to a label away from its own begins and ends
_EDGE = 0.25  # inches left free beside title and subtitle
_TITLE_LINE, _SUBTITLE_LINE = 0.28, 0.19  # inches from one line to the next


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
    width = 0.7 + cell * columns
    titles = style.wrapped(title, width - 2 * _EDGE, 15, "bold")
    subtitles = style.wrapped(subtitle, width - 2 * _EDGE, 10)
    head = _TITLE_LINE * (len(titles) - 1) + _SUBTITLE_LINE * (len(subtitles) - 1)
    height = 1.0 + head + 5.7 * rows
    figure = style.new_figure(width, height)
    for number, line in enumerate(titles):
        y = height - 0.42 - _TITLE_LINE * number
        figure.text(_EDGE / width, y / height, line, fontsize=15, fontweight="bold", color=style.INK)
    for number, line in enumerate(subtitles):
        y = height - 0.7 - _TITLE_LINE * (len(titles) - 1) - _SUBTITLE_LINE * number
        figure.text(_EDGE / width, y / height, line, fontsize=10, color=style.MUTED)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        left, top = 0.7 + cell * column, height - 1.35 - head - 5.7 * row
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
    entry = _ENTRY + _ENTRY_LETTER * max(map(len, labels))
    width = max(_CELL * columns + 0.8, entry * -(-len(labels) // _ENTRY_LINES_MAX))
    across = max(1, min(len(labels), int(width / entry)))
    foot = 0.65 + _ENTRY_LINE * -(-len(labels) // across)
    above = 0.4 if any(panel.title for panel in panels) else 0.0  # of each row, for the panel's title
    height = (2.2 + above) * rows + 0.2 + foot
    figure = style.new_figure(width, height)
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(
        left=0.8 / width,
        right=1 - 0.25 / width,
        top=1 - (0.4 + above) / height,
        bottom=foot / height,
        wspace=0.17,
        hspace=0.3 + above / 1.7,
    )
    for row, panel in enumerate(panels):
        for column in range(columns):
            cell = axes[row][column]
            if column >= len(panel.series):
                cell.set_visible(False)
                continue
            series, one = panel.series[column], shares[row][column]
            below = row + 1 == rows or column >= len(panels[row + 1].series)
            style.dress(cell, xlabel="interactions" * below, ylabel="share of decisions" if column == 0 else "")
            _stack(cell, one, shown, rest, colours, series.runs[0].played)
            cell.set_title(series.label, loc="left", fontsize=9, color=style.INK)
            if column == 0 and panel.title:
                cell.annotate(panel.title, (0, 1), xytext=(0, 24), xycoords="axes fraction",
                              textcoords="offset points", fontsize=10, fontweight="bold", color=style.INK)  # fmt: skip
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
    # a stretch's share stands in its middle; the first and the last ones reach to the ends
    x = np.concatenate([[0.0], (np.arange(bins) + 0.5) * played / bins, [played]])
    layers = [np.concatenate([layer[:1], layer, layer[-1:]]) for layer in layers]
    cell.stackplot(x, *layers, colors=colours, linewidth=0)
    cell.set_xlim(0, played)
    cell.set_ylim(0, 1)
    cell.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10], integer=True))
    cell.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    cell.tick_params(labelsize=7)


@dataclass(frozen=True, slots=True)
class _Label:
    """What stands to the right of a line: where it ends, its name, the mean that is printed, and its colour."""

    height: float
    name: str
    mean: float
    colour: str
    bold: bool = False

    @property
    def text(self) -> str:
        return f"{self.name}  {self.mean:.3f}"


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
    return _Label(float(rolling.mean[-1]), series.label, mean, series.colour, series.emphasis)


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
        return [_Label(value, label, value, colour) for value, label, colour in known]
    runs = panel.series[0].runs
    if any(np.isnan(run.oracle).any() for run in runs):
        return []
    labels = []
    for name, colour in (("oracle", style.ORACLE), ("random", style.RANDOM)):
        curve = band([rolling_mean(getattr(run, name)) for run in runs]).mean
        start = first_drawn(len(curve))
        axes.plot(np.arange(start + 1, len(curve) + 1), curve[start:], **{**drawn, "color": colour})
        mean = float(np.mean([getattr(run, name).mean() for run in runs]))
        labels.append(_Label(float(curve[-1]), name, mean, colour))
    return labels


def _place(axes: Any, labels: Sequence[_Label]) -> None:
    """Write each label beside the end of its line, or where that is crowded near it, with a thin line to there."""
    low, high = axes.get_ylim()
    gap = (high - low) * _LABEL_GAP
    placed = spread(labels, gap, low, high)
    end, away = axes.get_xlim()[1], [abs(label.height - height) > gap / 4 for label, height in placed]
    across = 72 * axes.get_position().width * axes.figure.get_figwidth()  # of the plot, in points
    for (label, height), led in zip(placed, away, strict=True):
        if led:
            x = (1 + _LEADER[0] / across, 1 + _LEADER[1] / across)
            leader = Line2D(x, (label.height, height), transform=axes.get_yaxis_transform())
            leader.set(color=label.colour, linewidth=0.6, solid_capstyle="butt")
            axes.figure.add_artist(leader)
        axes.annotate(
            label.text,
            (end, height),
            xytext=(_LEADER[1] + 3 if any(away) else 7, 0),
            textcoords="offset points",
            color=label.colour,
            fontsize=8.5,
            fontweight="bold" if label.bold else "normal",
            va="center",
            annotation_clip=False,
        )


def spread(labels: Sequence[_Label], gap: float, low: float, high: float) -> list[tuple[_Label, float]]:
    """Each label with its height: that of its line, or where several would be closer than `gap`, spread around the mean
    of their lines in the order of the numbers that they print; within `low` and `high` as long as there is room.
    """
    groups: list[list[_Label]] = []
    for label in sorted(labels, key=lambda label: label.height):
        groups.append([label])
        while len(groups) > 1 and _foot(groups[-1], gap, low, high) - _foot(groups[-2], gap, low, high) < gap * len(
            groups[-2]
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [
        (label, _foot(group, gap, low, high) + gap * number)
        for group in groups
        for number, label in enumerate(sorted(group, key=lambda label: (label.mean, label.height)))
    ]


def _foot(group: Sequence[_Label], gap: float, low: float, high: float) -> float:
    """The height of a group's lowest label."""
    reach = gap * (len(group) - 1)
    middle = float(np.mean([label.height for label in group]))
    return max(low, min(middle - reach / 2, high - reach))


def _mean_shares(runs: Sequence[Run]) -> dict[str, Vector]:
    bins = min(SHARES_BINS, *(run.played for run in runs))
    every = [action_shares(run, bins) for run in runs]
    names = {name: None for one in every for name in one}
    zeros = np.zeros(len(next(iter(every[0].values()))))
    means = {name: np.mean([one.get(name, zeros) for one in every], axis=0) for name in names}
    return means
