"""The runs of an experiment as a picture: each lift with its interval, promotions marked; plain SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 720, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 24
COLOURS = {"promote": "#0a7d33", "initial": "#2456a6", "rollback": "#b3261e", "failed": "#b3261e"}
OTHER = "#6b7280"


def run_picture(runs: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of the runs that have a lift, oldest left; an empty string when none has."""
    seen = [run for run in runs if run.get("lift") is not None and run.get("lower") is not None]
    if not seen:
        return ""
    low = min(0.0, *(_clip(run["lower"], run["lift"]) for run in seen))
    high = max(0.0, *(_clip(run["upper"], run["lift"]) for run in seen))
    span = (high - low) or 1.0

    def x(index: int) -> float:
        return LEFT + (index + 0.5) * (WIDTH - LEFT - RIGHT) / len(seen)

    def y(value: float) -> float:
        return TOP + (high - min(max(value, low), high)) * (HEIGHT - TOP - BOTTOM) / span

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="lift of each run with its interval" '
        'font-family="inherit" font-size="11" fill="currentColor">',
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="currentColor" '
        'stroke-opacity=".4" stroke-dasharray="3 3"/>',
    ]
    for value in sorted({low, 0.0, high}):
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:+.3f}</text>')
    for index, run in enumerate(seen):
        colour = COLOURS.get(str(run["outcome"]), OTHER)
        title = escape(f"run {run.get('run', '?')}, {run['outcome']}: {run['reason']}")
        parts.append(
            f'<g stroke="{colour}" fill="{colour}"><title>{title}</title>'
            f'<line x1="{x(index):.1f}" x2="{x(index):.1f}" y1="{y(run["lower"]):.1f}" y2="{y(run["upper"]):.1f}"/>'
            f'<circle cx="{x(index):.1f}" cy="{y(run["lift"]):.1f}" r="3"/></g>'
        )
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 6}">lift per decision of each run\'s challenger, oldest left '
        "(green: promoted)</text></svg>"
    )
    return "".join(parts)


def _clip(bound: float, lift: float) -> float:
    """A bound of a thin look may be far out; it must not flatten the others."""
    return min(max(bound, lift - 1.0), lift + 1.0)
