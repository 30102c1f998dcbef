"""The documentation page at `/docs`: the OpenAPI document as one self-contained HTML page, without a network.

Written on the server once, with no script at all, so that it can be read behind any proxy and policy. Only the address
that its commands ask is put in for each reader: the one that the page was asked at.
"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
WIDTH = 90
"""How many characters a line of a command may have before it is broken."""

_ADDRESS = "http://127.0.0.1:8000"
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2563eb }
@media (prefers-color-scheme: dark) { :root { --accent: #7aa2ff } }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; padding: 2rem 1rem 6rem; max-width: 56rem }
h1 { font-size: 1.7rem } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line) } h3 { margin-bottom: .2rem }
a { color: var(--accent) } code, pre { font: .88em/1.5 ui-monospace, monospace; background: var(--soft) }
code { padding: .1em .3em; border-radius: .25em } pre { padding: .8em 1em; border-radius: .5em }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
pre code { background: none; padding: 0; font-size: 1em }
table { border-collapse: collapse; width: 100%; font-size: .93em } td, th { text-align: left; vertical-align: top;
padding: .35em .6em .35em 0; border-bottom: 1px solid var(--line) } td:first-child { white-space: nowrap }
.method { font-weight: 700; color: var(--accent) } .path { font-family: ui-monospace, monospace; word-break: break-all }
section.operation { margin: 2rem 0; padding: 0 1rem 1rem; border: 1px solid var(--line); border-radius: .6rem }
.quiet { opacity: .75 } summary { cursor: pointer }
"""


def render_docs(document: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    info, schemas = document["info"], document["components"]["schemas"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} <span class=quiet>{escape(info['version'])}</span></h1>",
        _prose(info["description"]),
        '<p>Machine-readable: <a href="/openapi.json">openapi.json</a></p>',
    ]
    for tag in document["tags"]:
        parts.append(f"<h2>{escape(tag['name'])}</h2>{_prose(tag['description'])}")
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    parts.append(_operation(method, path, operation))
    parts.append("<h2>messages</h2>")
    parts += [_message(name, schema) for name, schema in schemas.items()]
    parts.append("</body></html>\n")
    return "".join(parts)


def addressed(page: str, scheme: str, host: str | None, bound: tuple[str, int | None] | None) -> str:
    """The page with commands that ask the address it was asked at: `host` as it was sent, else where it is `bound`.

    What was sent is taken only where it is a name or number with a port: it stands in a page and goes into a shell.
    """
    if host is None or _HOST.fullmatch(host) is None:
        if bound is None or bound[1] is None:
            return page
        host = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
    return page.replace(_ADDRESS, f"{'https' if scheme == 'https' else 'http'}://{host}")


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f'<section class=operation id="{escape(operation["operationId"])}">',
        f"<h3><span class=method>{method.upper()}</span> <span class=path>{escape(path)}</span></h3>",
        f"<p><strong>{escape(operation['summary'])}.</strong></p>{_prose(operation['description'])}",
    ]
    if operation.get("parameters"):
        rows = [
            (f"<code>{escape(entry['name'])}</code>", _inline(entry["description"]))
            for entry in operation["parameters"]
        ]
        parts.append(_table(("In the address", ""), rows))
    body = operation.get("requestBody", {}).get("content", {})
    for media, content in body.items():
        parts.append(f"<p>Body <code>{escape(media)}</code>: {_kind(content['schema'])}</p>")
    example = body.get("application/json", {}).get("example")
    if example is not None:
        parts.append(f"<pre><code>{escape(_curl(method, path, example))}</code></pre>")
    rows = []
    for status, response in operation["responses"].items():
        kinds = ", ".join(_kind(content["schema"]) for content in response.get("content", {}).values())
        rows.append((f"<code>{status}</code>", f"{_inline(response['description'])} {kinds}"))
    parts.append(_table(("Answer", ""), rows))
    for response in operation["responses"].values():
        answer = response.get("content", {}).get("application/json", {}).get("example")
        if answer is not None:
            parts.append(f"<details><summary>an answer</summary><pre><code>{_pretty(answer)}</code></pre></details>")
    return "".join(parts) + "</section>"


def _message(name: str, schema: dict[str, Any]) -> str:
    parts = [f'<h3 id="schema-{escape(name)}">{escape(name)}</h3>', _prose(schema.get("description", ""))]
    properties = schema.get("properties")
    if properties is None:
        parts.append(f"<p>{_kind(schema)}</p>")
    else:
        required = schema.get("required", [])
        rows = [
            (
                f"<code>{escape(field)}</code>{'' if field in required else ' <span class=quiet>optional</span>'}",
                f"{_kind(below)} {_bounds(below)} {_inline(below.get('description', ''))}",
            )
            for field, below in properties.items()
        ]
        parts.append(_table(("Field", ""), rows))
    return "".join(parts)


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    kinds = schema.get("type", "anything")
    names = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
    if "items" in schema:
        return f"list of {_kind(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    return " or ".join(escape(name) for name in names)


def _bounds(schema: dict[str, Any]) -> str:
    words = []
    for low, high, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ):
        if high in schema:
            words.append(f"{schema.get(low, 0):,} to {schema[high]:,}{unit}")
    if "default" in schema:
        words.append(f"default {json.dumps(schema['default'])}")
    return f"<span class=quiet>({', '.join(words)})</span>" if words else ""


def _curl(method: str, path: str, example: Any) -> str:
    address = path.replace("{experiment}", "default").replace("{event_id}", "EVENT_ID")
    return (
        f"curl -s -X {method.upper()} {_ADDRESS}{address} \\\n"
        f"  -H 'content-type: application/json' \\\n  -d '{_wrapped(example, 2)}'"
    )


def _wrapped(value: Any, indent: int) -> str:
    """JSON on one line where it fits, else an entry a line, each of them likewise."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or indent + len(line) <= WIDTH:
        return line
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        entries = [
            f"{json.dumps(key, ensure_ascii=False)}: {_wrapped(below, indent + 2)}" for key, below in value.items()
        ]
    else:
        entries = [_wrapped(below, indent + 2) for below in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(entries) + f"\n{' ' * indent}{closing}"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{left}</td><td>{right}</td></tr>" for left, right in rows)
    return f"<table><tr><th>{head[0]}</th><th>{head[1]}</th></tr>{body}</table>"


def _pretty(value: Any) -> str:
    return escape(json.dumps(value, indent=2, ensure_ascii=False))


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph.strip())


def _inline(text: str) -> str:
    """Escaped text with `code`, **bold** and *emphasis* marked up."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    marked = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)
    return re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*", r"<em>\1</em>", marked)
