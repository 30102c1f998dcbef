"""Charts as plain SVG text: no scripts, no fonts to load, sharp on a phone and on paper.

Each function gives one `<svg>` that scales with its column; colours come from the page's CSS classes, so that the
print style can change them. All text that comes from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 460
_LEFT, _RIGHT = 92, 22

CHARACTER = 6.5
"""Width of a small character, generously: labels that would touch are left out."""

LABELLED_SHARE = 0.05
"""Bars of a histogram with at least this share of the rows say it."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a forest plot: a label, a point and its interval, and a style (candidate, champion, lift)."""

    label: str
    value: float
    lower: float
    upper: float
    style: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        span = self.high - self.low
        return round(self.start + (value - self.low) / span * (self.stop - self.start), 2)


def scale_for(values: Sequence[float], start: float, stop: float, *, pad: float = 0.06) -> Scale:
    """A scale that holds all finite `values` with some air; never of zero width."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    span = (high - low) or abs(high) or 1.0
    return Scale(low - pad * span, high + pad * span, start, stop)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within [low, high], roughly `about` of them."""
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]


def number(value: float) -> str:
    """A tick's label: short, with a true minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "\u2212")


def forest(groups: Sequence[Sequence[Bar]], *, reference: tuple[float, str] | None = None, title: str) -> str:
    """Points with intervals, one group of bars per row label; `reference` is a dashed line with its meaning."""
    row, gap, top = 15, 9, 12
    height = top + sum(len(group) * row + gap for group in groups) + 36
    ends = [end for group in groups for bar in group for end in (bar.lower, bar.upper, bar.value)]
    x = scale_for([*ends, *([reference[0]] if reference else [])], _LEFT, WIDTH - _RIGHT)
    out = [_axis_x(x, top, height - 30)]
    if reference:
        at = x(reference[0])
        out.append(f'<line class="ref" x1="{at}" x2="{at}" y1="{top}" y2="{height - 30}"/>')
        anchor = "end" if at > WIDTH * 0.7 else "start"
        shift = -4 if anchor == "end" else 4
        out.append(_text(at + shift, height - 3, reference[1], anchor, "small"))
    y = float(top)
    for group in groups:
        middle = y + len(group) * row / 2
        out.append(_text(_LEFT - 8, middle + 4, group[0].label, "end"))
        for bar in group:
            centre = y + row / 2
            left, right = x(bar.lower), x(bar.upper)
            out.append(f'<line class="ci {bar.style}" x1="{left}" x2="{right}" y1="{centre}" y2="{centre}"/>')
            for end in (left, right):
                out.append(f'<line class="ci {bar.style}" x1="{end}" x2="{end}" y1="{centre - 3}" y2="{centre + 3}"/>')
            out.append(f'<circle class="dot {bar.style}" cx="{x(bar.value)}" cy="{centre}" r="4"/>')
            y += row
        y += gap
    return _svg(height, title, out)


def band(points: Sequence[Sequence[float]], *, marks: Sequence[tuple[float, float]], title: str, unit: str) -> str:
    """A running mean over a count, [n, mean, se] each, with its ±1.96 SE band; `marks` are (n, bound) of looks."""
    height, top, bottom = 230, 12, 40
    # the first few means are so noisy that they would flatten the rest
    shown = [point for point in points if point[0] >= points[-1][0] * 0.04] or list(points)
    ends = [value for _, mean, se in shown for value in (mean - 1.96 * se, mean + 1.96 * se)]
    x = Scale(0, points[-1][0], _LEFT - 40, WIDTH - _RIGHT)
    y = scale_for([*ends, 0.0, *(bound for _, bound in marks)], height - bottom, top)
    upper = [f"{x(n)},{y(mean + 1.96 * se)}" for n, mean, se in shown]
    lower = [f"{x(n)},{y(mean - 1.96 * se)}" for n, mean, se in reversed(shown)]
    line = " ".join(f"{x(n)},{y(mean)}" for n, mean, _ in shown)
    out = [_axis_y(y, x.start, x.stop), f'<line class="zero" x1="{x.start}" x2="{x.stop}" y1="{y(0)}" y2="{y(0)}"/>']
    out.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/><polyline class="line" points="{line}"/>')
    for n, bound in marks:
        out.append(f'<path class="look" d="M{x(n) - 4},{y(bound) + 7} l4,-7 l4,7 z"/>')
    for value in ticks(0, points[-1][0]):
        out.append(_text(x(value), height - bottom + 16, number(value), "middle", "small"))
    out.append(_text(x.stop, height - 6, unit, "end", "small"))
    return _svg(height, title, out)


def histograms(series: Sequence[tuple[str, Sequence[float], Sequence[int], int]], *, title: str, unit: str) -> str:
    """Histograms over the same logarithmic axis, one above the other: (style, edges, counts, zeros)."""
    edges = sorted({edge for _, some, _, _ in series for edge in some})
    if not edges:
        return ""
    each, top, bottom = 76, 8, 40
    height = top + each * len(series) + bottom
    low, high = math.log2(edges[0]), math.log2(edges[-1])
    x = Scale(low - 1.3, max(high, low + 1), 24, WIDTH - _RIGHT)
    out = []
    for index, (style, some, counts, zeros) in enumerate(series):
        base = top + each * (index + 1) - 4
        most, rows = max([*counts, zeros, 1]), sum(counts) + zeros
        out.append(f'<line class="axis" x1="{x.start}" x2="{x.stop}" y1="{base}" y2="{base}"/>')
        bars = [(math.log2(a), math.log2(b), c) for a, b, c in zip(some[:-1], some[1:], counts, strict=True)]
        for left, right, count in [(low - 1.25, low - 0.35, zeros), *bars]:
            if count:
                tall = max(1.0, (each - 22) * count / most)
                wide = x(right) - x(left) - 1.5
                if count >= LABELLED_SHARE * rows:
                    middle = x(left) + wide / 2
                    out.append(
                        _text(round(middle, 1), round(base - tall - 4, 1), _share(count / rows), "middle", "small")
                    )
                out.append(
                    f'<rect class="bar {style}" x="{x(left)}" y="{base - tall:.1f}" width="{wide:.1f}" '
                    f'height="{tall:.1f}"><title>{count:,} rows</title></rect>'
                )
    y = height - bottom + 12
    out.append(_text(x(low - 0.8), y, "0", "middle", "small"))
    free = x(low - 0.8) + 2 * CHARACTER
    for power in range(int(low), int(high) + 1):
        label = f"{2**power:,}" if power >= 0 else f"1/{2**-power:,}"
        half = len(label) * CHARACTER / 2
        if x(power) - half >= free and (power % 2 == 0 or high - low < 6):
            out.append(_text(x(power), y, label, "middle", "small"))
            free = x(power) + half + 2 * CHARACTER
    out.append(_text(x.stop, height - 8, unit, "end", "small"))
    return _svg(height, title, out)


def shares(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], *, title: str) -> str:
    """Horizontal bars of shares, several styles per label."""
    bar, gap, top = 8, 9, 6
    height = top + sum(len(parts) * bar + gap for _, parts in rows) + 22
    most = max([share for _, parts in rows for _, share in parts] + [1e-9])
    x = Scale(0, most * 1.12, _LEFT, WIDTH - _RIGHT - 20)
    out, y = [], float(top)
    for label, parts in rows:
        middle = y + len(parts) * bar / 2
        out.append(_text(_LEFT - 8, middle + 4, label, "end"))
        for style, share in parts:
            wide = max(0.0, x(share) - _LEFT)
            out.append(
                f'<rect class="bar {style}" x="{_LEFT}" y="{y}" width="{wide:.1f}" height="{bar - 1}">'
                f"<title>{share:.1%}</title></rect>"
            )
            if style == "candidate":
                out.append(_text(x(share) + 4, y + bar, _share(share), "start", "small"))
            y += bar
        y += gap
    return _svg(height, title, out)


def scatter(points: Sequence[tuple[float, float, float]], *, title: str, x_unit: str, y_unit: str) -> str:
    """Points with vertical ±1.96 SE bars and the diagonal: (x, y, se)."""
    height, top, bottom = 240, 12, 40
    ends = [value for a, b, se in points for value in (a, b - 1.96 * se, b + 1.96 * se)]
    x = scale_for(ends, _LEFT - 40, WIDTH - _RIGHT)
    y = scale_for(ends, height - bottom, top)
    out = [_axis_y(y, x.start, x.stop)]
    out.append(
        f'<line class="ref" x1="{x.start}" y1="{y(x.low)}" x2="{x.stop}" y2="{y(x.high)}"/>'
        f"{_text(x.start + 6, top + 8, y_unit, 'start', 'small')}{_text(x.stop, height - 6, x_unit, 'end', 'small')}"
    )
    for a, b, se in points:
        out.append(
            f'<line class="ci lift" x1="{x(a)}" x2="{x(a)}" y1="{y(b - 1.96 * se)}" y2="{y(b + 1.96 * se)}"/>'
            f'<circle class="dot lift" cx="{x(a)}" cy="{y(b)}" r="4"/>'
        )
    for value in ticks(x.low, x.high):
        out.append(_text(x(value), height - bottom + 16, number(value), "middle", "small"))
    return _svg(height, title, out)


def _share(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _axis_x(x: Scale, top: float, bottom: float) -> str:
    parts = []
    for value in ticks(x.low, x.high):
        at = x(value)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(at, bottom + 14, number(value), "middle", "small"))
    return "".join(parts)


def _axis_y(y: Scale, left: float, right: float) -> str:
    parts = []
    for value in ticks(y.low, y.high):
        at = y(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at}" y2="{at}"/>')
        parts.append(_text(left - 6, at + 4, number(value), "end", "small"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str, style: str = "label") -> str:
    short = text if len(text) <= 40 else text[:39] + "…"
    return f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(short)}</text>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
