"""The picture of one run: rolling reward of the agent between random and oracle, with its promotions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simulator import style
from simulator.curves import ROLLING, first_drawn, rolling_mean
from simulator.environment import ReferenceLines
from simulator.runner import Run


def run_picture(run: Run, lines: ReferenceLines, path: Path, *, title: str, fixed_label: str) -> Path:
    """Draw a finished run to `path` (.png or .svg) and return it."""
    figure = style.new_figure(10, 4.6)
    axes = figure.add_axes((0.065, 0.115, 0.765, 0.715))
    style.dress(axes, xlabel="interactions", ylabel=f"reward, rolling mean of {ROLLING}")
    n = run.played
    x = np.arange(1, n + 1)
    curve = rolling_mean(run.rewards)
    start = first_drawn(n)
    axes.fill_between(x[start:], curve[start:], lines.random, color=style.AGENT, alpha=0.07, linewidth=0)
    _references(axes, lines, fixed_label, n)
    mark = style.POINT if n == 1 else ""
    axes.plot(x[start:], curve[start:], color=style.AGENT, linewidth=2, marker=mark, solid_joinstyle="round", zorder=4)
    last = float(run.rewards[-min(500, n) :].mean())
    axes.set_xlim(0, n)
    axes.set_ylim(0, 1.06)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1f}")
    promotions = _promotions(axes, run)
    _label(axes, n, _apart(last, lines), f"rewardloop  {last:.3f}", style.AGENT, bold=True)
    count = f"{promotions} promotion" + ("" if promotions == 1 else "s")
    style.heading(
        axes,
        title,
        f"{n:,} interactions, mean reward {run.rewards.mean():.3f}, last {min(500, n)}: {last:.3f} — "
        f"{count} that the gate let pass",
    )
    return style.save(figure, path)


def _references(axes: Any, lines: ReferenceLines, fixed_label: str, n: int) -> None:
    for value, label, colour in (
        (lines.oracle, "oracle", style.ORACLE),
        (lines.fixed, fixed_label, style.FIXED),
        (lines.random, "random", style.RANDOM),
    ):
        axes.axhline(value, color=colour, linewidth=1.2, linestyle=(0, (5, 3)), zorder=2)
        _label(axes, n, value, f"{label}  {value:.3f}", colour)


def _promotions(axes: Any, run: Run) -> int:
    at = run.promotions_at()
    for number, position in enumerate(at):
        axes.axvline(position, color=style.PROMOTION, linewidth=1, alpha=0.55, zorder=3)
        axes.plot([position], [0.03], marker="^", color=style.PROMOTION, markersize=6, zorder=5, clip_on=False)
        if number == len(at) - 1:  # beside the last one there is room
            left = position > 0.8 * run.played
            axes.text(
                position + run.played * (-0.01 if left else 0.01),
                0.055,
                "challenger promoted",
                color=style.PROMOTION,
                fontsize=8.5,
                va="center",
                ha="right" if left else "left",
            )
    return len(at)


def _apart(value: float, lines: ReferenceLines) -> float:
    """Where the agent's label goes, so that it does not lie on the oracle's."""
    return min(value, lines.oracle - 0.055) if value > lines.oracle - 0.055 else value


def _label(axes: Any, x: float, y: float, text: str, colour: str, *, bold: bool = False) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(8, 0),
        textcoords="offset points",
        color=colour,
        fontsize=9.5,
        fontweight="bold" if bold else "normal",
        va="center",
        annotation_clip=False,
    )
