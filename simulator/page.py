"""The HTML page of a simulation: summary tables and pictures in one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates

_LEAST = 0.4
"""The share of its pixels below which a picture is not legible; on a narrow screen it is moved sideways instead."""
_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><link rel="icon" href="data:,">
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p, figcaption { color: #6b7280 } figure { margin: 1rem 0 } img { max-width: 100%; height: auto }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #e5e7eb }
th { font-weight: 600 } th:first-child, td:first-child { text-align: left }
pre { background: #f9fafb; padding: .6rem .8rem; overflow-x: auto }
</style></head><body>
<h1>{{ title }}</h1><p>{{ subtitle }}</p>
{% for figure in figures %}<figure><div class="scroll"><img alt="{{ figure.caption }}"
style="min-width: {{ figure.least }}px" src="data:image/png;base64,{{ figure.data }}"></div>
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}{% for table in tables %}<h2>{{ table.title }}</h2>
<div class="scroll"><table><thead><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}<h2>The same again</h2><pre>{{ command }}</pre>
</body></html>
"""


def write_page(
    path: Path,
    *,
    title: str,
    subtitle: str,
    figures: Sequence[tuple[Path, str]],
    tables: Sequence[Mapping[str, Any]],
    command: str,
) -> Path:
    """Write the page; `figures` are PNG files with captions, `tables` have title, columns and rows of text."""
    templates = Templates(autoescape=True)
    embedded = [_embedded(file.read_bytes(), caption) for file, caption in figures]
    html = templates.from_string(_TEMPLATE).render(
        title=title, subtitle=subtitle, figures=embedded, tables=tables, command=command
    )
    path.write_text(html, encoding="utf-8")
    return path


def _embedded(png: bytes, caption: str) -> dict[str, Any]:
    width = int.from_bytes(png[16:20], "big")  # the first number of a PNG's header
    return {"data": base64.b64encode(png).decode("ascii"), "caption": caption, "least": int(_LEAST * width)}
