"""One line for each promise about speed: what is claimed, what is wanted, what was measured, and whether it holds.

Every bench prints such lines among its figures; `benchmarks.bench` gathers them into the table that `make bench`
ends with.
"""

from __future__ import annotations

from typing import NamedTuple

MARK = "claim: "
_SEPARATOR = " | "


class Claim(NamedTuple):
    """A promise, its bound and the figure, ready to be read."""

    what: str
    wanted: str
    measured: str
    holds: str


def claim(
    what: str, measured: float, *, at_least: float | None = None, at_most: float | None = None, unit: str = ""
) -> bool:
    """Print one line; returns whether `measured` is within its bounds (both included)."""
    holds = (at_least is None or measured >= at_least) and (at_most is None or measured <= at_most)
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≥", at_least), ("≤", at_most)) if bound is not None]
    unit = f" {unit}" if unit else ""
    told = Claim(what, ", ".join(bounds) + unit, f"{measured:.4g}{unit}", "yes" if holds else "NO")
    print(MARK + _SEPARATOR.join(told))
    return holds


def read(printed: str) -> list[Claim]:
    """The claims in what a bench printed.

    >>> read("noise\\nclaim: one worker | ≥ 0.8 | 0.85 | yes\\n")
    [Claim(what='one worker', wanted='≥ 0.8', measured='0.85', holds='yes')]
    """
    lines = [line.removeprefix(MARK) for line in printed.splitlines() if line.startswith(MARK)]
    return [Claim(*line.split(_SEPARATOR)) for line in lines]


def table(claims: list[Claim]) -> str:
    """The claims in columns, under their titles."""
    rows = [Claim("claim", "wanted", "measured", "holds"), *claims]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
