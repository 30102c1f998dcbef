"""How the pictures look: colours, fonts, axes, and saving so that equal figures give equal bytes."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

INK = "#1f2937"
MUTED = "#6b7280"
GRID = "#e5e7eb"
AGENT = "#2563eb"
ORACLE = "#16a34a"
RANDOM = "#9ca3af"
FIXED = "#d97706"
PROMOTION = "#7c3aed"
ALGORITHMS = {
    "default": AGENT,
    "uniform": RANDOM,
    "egreedy": "#cc44bb",
    "bag": "#665500",
    "cover": "#00bbff",
    "softmax": "#882233",
    "explore_first": "#007766",
    "squarecb": "#444477",
}
"""Each algorithm's colour, in every picture; told apart at the width of a line from each other and from the reference
lines, by people who see no red or no green too."""
SERIES = tuple(colour for colour in ALGORITHMS.values() if colour != RANDOM)
LAYERS = ("#1d4ed8", "#60a5fa", "#f59e0b", "#10b981", "#a78bfa", "#f472b6", "#22d3ee", "#84cc16", "#fb7185")
POINT = "o"
"""What marks a curve of a single point, which has no line."""
DPI = 160
_VARIANTS = {chr(code) for code in range(0xFE00, 0xFE10)}


def drawable(text: str, font: FontProperties | None = None) -> str:
    """`text` with what the font lacks written out: a symbol (an emoji) by its name in brackets, a letter as its escape.

    Pictures look alike on every machine, so that they use the font that comes along, which lacks CJK and emoji.
    """
    known = get_font(findfont(font or FontProperties()))
    return "".join(char if char == "\n" or known.get_char_index(ord(char)) else _written_out(char) for char in text)


def label(text: str, length: int) -> str:
    """`text` as it can be drawn, cut to `length` characters, or to twice as many where some had to be written out."""
    drawn = drawable(text)
    longest = length if drawn == text else 2 * length
    return drawn if len(drawn) <= longest else drawn[: longest - 1] + "…"


def wrapped(text: str, inches: float, size: float, weight: str = "normal") -> list[str]:
    """`text` as it can be drawn at `size` points, in lines that are no wider than that."""
    font = FontProperties(size=size, weight=weight)
    drawn = drawable(text, font)
    width, _, _ = text_to_path.get_text_width_height_descent(drawn, font, ismath=False)
    if width <= 72 * inches:
        return [drawn]
    letters = int(0.9 * len(drawn) * 72 * inches / width)  # some lines have wider letters than others
    return textwrap.wrap(drawn, max(1, letters))


def _written_out(char: str) -> str:
    kind, name = unicodedata.category(char), unicodedata.name(char, "")
    if kind == "So" and name:
        return f"[{name.lower()}]"
    if kind == "Cf" or char in _VARIANTS:  # these only shape what stands beside them
        return ""
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def colours_of(labels: Sequence[str], algorithms: Mapping[str, str], main: str) -> dict[str, str]:
    """A colour for each label: the agent's for `main`, its own for each of `algorithms` (label → name), else another.

    Only where there are more labels than colours does one come again.
    """
    known = {label: ALGORITHMS[name] for label, name in algorithms.items()} | {main: AGENT}
    taken = {known[label] for label in labels if label in known}
    left = cycle([colour for colour in SERIES if colour not in taken] or SERIES)
    return {label: known[label] if label in known else next(left) for label in labels}


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure (inches) that touches no global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Any, *, xlabel: str = "", ylabel: str = "") -> None:
    """Plain axes: light horizontal grid, no box, muted labels."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.set_xlabel(xlabel, color=MUTED, fontsize=9)
    axes.set_ylabel(ylabel, color=MUTED, fontsize=9)


def heading(axes: Any, title: str, subtitle: str = "") -> None:
    """A title and a quieter line below it, flush left above the axes."""
    axes.text(0, 1.13, title, transform=axes.transAxes, fontsize=13, fontweight="bold", color=INK, va="bottom")
    if subtitle:
        axes.text(0, 1.055, subtitle, transform=axes.transAxes, fontsize=9.5, color=MUTED, va="bottom")


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as its suffix says (.png or .svg); the same figure gives the same bytes, and its texts are
    drawn as they are (names of actions may hold dollar signs, which are no formulas) or, where the font lacks a
    character, written out."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        drawn = drawable(text.get_text(), text.get_fontproperties())
        if drawn != text.get_text():
            text.set_text(drawn)
    metadata = {"Software": None} if path.suffix == ".png" else {"Date": None}
    with rc_context({"svg.hashsalt": "rewardloop", "svg.fonttype": "path"}):
        figure.savefig(path, metadata=metadata, facecolor="white")
    return path
