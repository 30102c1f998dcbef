"""Evaluations over time as one picture: each look's lift with its bounds, promotions marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from evaluation.svg import number, scale_for, ticks

SHOWN_MAX = 200
WIDTH = 520
DATED_MAX = 6

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#1d2433;max-width:60em;margin:1.5em auto;padding:0 1em}"
    "svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#5c667a}"
    ".grid{stroke:#dfe3ea}.zero{stroke:#5c667a}.promote{stroke:#18794e;fill:#18794e}.hold{stroke:#4b6384;fill:#4b6384}"
    "b{stroke:none!important}b.promote{color:#18794e}b.hold{color:#4b6384}b.insufficient{color:#5c667a}b.initial{color:#2458d6}"
    ".insufficient{stroke:#c9d2e0;fill:#c9d2e0}.initial{stroke:#2458d6;fill:#2458d6}"
)


def render_history(evaluations: Sequence[Mapping[str, Any]], name: str) -> str:
    """A self-contained HTML page; entries have `id, outcome, n, lift, weighed, lower, upper`, oldest first.

    The newest 200 are shown.
    """
    shown = [entry for entry in evaluations if entry["lift"] is not None][-SHOWN_MAX:]
    legend = ", ".join(
        f'<b class="{outcome}">{sum(entry["outcome"] == outcome for entry in evaluations)} {outcome}</b>'
        for outcome in ("promote", "hold", "insufficient", "initial")
    )
    picture = _picture(shown) if shown else "<p>No evaluation has a lift yet.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluations of {escape(name)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Evaluations of {escape(name)}</h1><p>Paired lift with the gate's bounds, oldest left: {legend}.</p>"
        f"{picture}</body></html>"
    )


def _bounded(entry: Mapping[str, Any]) -> float:
    """The lift that the bounds belong to; older certificates have the plain one alone."""
    weighed = entry.get("weighed")
    return float(entry["lift"] if weighed is None else weighed)


def _picture(shown: Sequence[Mapping[str, Any]]) -> str:
    height, left, bottom = 290, 56, 40
    shown = [{**entry, "lift": _bounded(entry)} for entry in shown]
    ends = sorted(float(entry[key]) for entry in shown for key in ("lift", "lower", "upper") if entry[key] is not None)
    # a few early bounds are so wide that they would flatten everything else
    low, high = ends[len(ends) // 50], ends[-1 - len(ends) // 50]
    y = scale_for([low, high, 0.0], height - bottom, 10)
    step = (WIDTH - left - 12) / max(1, len(shown))
    out = [
        f'<line class="grid" x1="{left}" x2="{WIDTH}" y1="{y(v)}" y2="{y(v)}"/>'
        f'<text x="{left - 6}" y="{y(v) + 4}" text-anchor="end">{number(v)}</text>'
        for v in ticks(y.low, y.high)
    ]
    out.append(f'<line class="zero" x1="{left}" x2="{WIDTH}" y1="{y(0)}" y2="{y(0)}"/>')
    for index, entry in enumerate(shown):
        x = round(left + step * (index + 0.5), 1)
        kind = entry["outcome"]
        lower, upper = (
            min(max(y(float(entry[key] if entry[key] is not None else entry["lift"])), 0), height)
            for key in ("lower", "upper")
        )
        title = escape(f"{entry['id']}: {kind}, lift {entry['lift']:+.4f}, n = {entry['n']:,}")
        out.append(
            f'<g class="{escape(kind)}"><title>{title}</title><line x1="{x}" x2="{x}" y1="{lower}" y2="{upper}"/>'
            f'<circle cx="{x}" cy="{y(float(entry["lift"]))}" r="{4 if kind == "promote" else 2.5}"/></g>'
        )
        if index % max(1, -(-len(shown) // DATED_MAX)) == 0:
            for below, text in ((24, str(entry.get("created_at") or "")[:10]), (10, f"n = {entry['n']:,}")):
                out.append(f'<text x="{x}" y="{height - below}" text-anchor="middle">{escape(text)}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Lift over time">{"".join(out)}</svg>'
