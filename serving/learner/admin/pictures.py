"""The console's pictures as plain SVG: the curve of rewards, bars of traffic, and each lift with its interval.

They stretch with the page: lines keep their width and the words beside them are the page's own, so that they stay
readable on a phone. Colours are the page's, by class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from evaluation.svg import Scale, number, scale_for, ticks
from joiner.pulse import Stretch

WIDTH, HEIGHT = 1000.0, 240.0
STRETCHES_AVERAGED = 10
"""The curve at each point is the mean over so many stretches up to it."""
_LETTER = 1.6  # percent of the picture's width on a small screen


@dataclass(frozen=True, slots=True)
class Label:
    """A word beside a picture, `at` percent of its height (from the top) or width (from the left)."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Curve:
    """The picture of rewards with the words around it, and its last value, a mean over `averaged` interactions."""

    svg: str
    levels: list[Label]
    promotions: list[Label]
    start: datetime
    stop: datetime
    rows: int
    averaged: int
    last: float


def reward_picture(stretches: Sequence[Stretch], promotions: Mapping[str, datetime]) -> Curve | None:
    """Means of stretches as dots, their rolling mean as a line, promotions as upright lines; None without data."""
    if not stretches:
        return None
    rolled = [_mean(stretches[max(0, i + 1 - STRETCHES_AVERAGED) : i + 1]) for i in range(len(stretches))]
    y = scale_for([*rolled, *(stretch.mean for stretch in stretches)], HEIGHT, 0.0)
    x = Scale(0.0, len(stretches), 0.0, WIDTH)
    levels = ticks(y.low, y.high, 6)
    marks = {name: at for name, since in promotions.items() if (at := _place(stretches, since)) is not None}
    points = [(x(index + 0.5), y(value)) for index, value in enumerate(rolled)]
    parts = [
        *(f'<path class="level" d="M0 {y(level)}H{WIDTH}"/>' for level in levels),
        *(f'<path class="promotion" d="M{x(at)} 0V{HEIGHT}"/>' for at in marks.values()),
        f'<path class="dots" d="{" ".join(f"M{x(i + 0.5)} {y(s.mean)}h0" for i, s in enumerate(stretches))}"/>',
        f'<path class="curve" d="M{" L".join(f"{left} {top}" for left, top in points)}"/>',
    ]
    return Curve(
        svg=_svg(WIDTH, HEIGHT, "mean reward of the newest interactions", parts),
        levels=[Label(round(100 * y(level) / HEIGHT, 2), number(level)) for level in levels],
        promotions=_apart([Label(round(100 * x(at) / WIDTH, 2), name) for name, at in marks.items()]),
        start=stretches[0].start,
        stop=stretches[-1].stop,
        rows=sum(stretch.count for stretch in stretches),
        averaged=sum(stretch.count for stretch in stretches[-STRETCHES_AVERAGED:]),
        last=rolled[-1],
    )


def bars(values: Sequence[int], what: str) -> str:
    """One bar per value, oldest left."""
    highest = max([1, *values])
    parts = [
        f'<rect class="bar" x="{index}" y="{1 - value / highest:.4f}" width=".8" height="{value / highest:.4f}"/>'
        for index, value in enumerate(values)
    ]
    return _svg(float(len(values)), 1.0, what, parts)


def lift_scale(runs: Sequence[Mapping[str, Any]]) -> Scale:
    """One scale for the intervals of these runs, with 0 in it; what is far out does not flatten the others."""
    ends = [_clip(run[end], run["lift"]) for run in runs for end in ("lower", "upper")]
    return scale_for([0.0, *ends], 0.0, 100.0)


def interval(run: Mapping[str, Any], scale: Scale) -> str:
    """The run's lift as a dot on its interval, and where nothing would be gained as a line through 0."""
    lower, upper = (scale(_clip(run[end], run["lift"])) for end in ("lower", "upper"))
    parts = [
        f'<path class="zero" d="M{scale(0.0)} 0V10"/>',
        f'<path class="ci" d="M{lower} 5H{upper}"/>',
        f'<path class="dot" d="M{scale(run["lift"])} 5h0"/>',
    ]
    return _svg(100.0, 10.0, "lift with its interval", parts)


def _mean(stretches: Sequence[Stretch]) -> float:
    return sum(stretch.mean * stretch.count for stretch in stretches) / sum(stretch.count for stretch in stretches)


def _place(stretches: Sequence[Stretch], moment: datetime) -> float | None:
    """Where a moment lies between the stretches, None when it lies before them or in nobody's time."""
    if moment <= stretches[0].start:
        return None
    for index, stretch in enumerate(stretches):
        if moment <= stretch.start:
            return float(index)
        if moment < stretch.stop:
            return index + (moment - stretch.start) / (stretch.stop - stretch.start)
    return float(len(stretches))


def _apart(labels: Sequence[Label]) -> list[Label]:
    """Labels from left to right; those that would lie on each other become one, between their places."""
    groups: list[list[Label]] = []
    shown: list[Label] = []
    for label in sorted(labels, key=lambda label: label.at):
        single = [label]
        while shown and label.at - shown[-1].at < _LETTER * (len(label.text) + len(shown[-1].text) + 1) / 2:
            shown.pop()
            single = [*groups.pop(), *single]
            label = _together(single)
        groups.append(single)
        shown.append(label)
    return shown


def _together(labels: Sequence[Label]) -> Label:
    first, last = labels[0], labels[-1]
    between = ", " if len(labels) == 2 else "–"
    return Label(round((first.at + last.at) / 2, 2), f"{first.text}{between}{last.text}")


def _clip(bound: float, lift: float) -> float:
    """A bound of a thin look may be far out; it must not flatten the others."""
    return min(max(bound, lift - 1.0), lift + 1.0)


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" preserveAspectRatio="none" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg>"
    )
