"""What of a request JSON cannot say, and where: looked for only once writing it has failed."""

from __future__ import annotations

import math
from typing import Any

DEPTH_MAX = 200
"""Whatever is nested deeper is refused by the service, too; something that holds itself goes on for ever."""

PLACE_MAX = 200
"""Of a place so many characters are told."""


def unsayable(body: Any) -> str | None:
    """Where the first value is that JSON cannot say, and what is wrong with it; None where all can be said."""
    waiting: list[tuple[str, Any, int]] = [("", body, 0)]
    while waiting:
        place, value, depth = waiting.pop()
        wrong = "is nested too deeply, or holds itself" if depth > DEPTH_MAX else _wrong_with(value)
        if wrong is not None:
            return f"{_short(place) or 'the body'} {wrong}"
        below: list[tuple[str, Any, int]] = []
        if isinstance(value, dict):
            below = [(f"{place}.{name}" if place else str(name), each, depth + 1) for name, each in value.items()]
        elif isinstance(value, (list, tuple)):
            below = [(f"{place}[{position}]", each, depth + 1) for position, each in enumerate(value)]
        waiting += reversed(below)
    return None


def _wrong_with(value: Any) -> str | None:
    if value is None or isinstance(value, (int, list, tuple)):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"is {float(value)!r}, which JSON has not"
    if isinstance(value, str):
        return None if _is_unicode(value) else "holds a lone surrogate, which is no Unicode text"
    if not isinstance(value, dict):
        return f"is of the type {_named(value)}, which JSON has not"
    for name in value:
        if not isinstance(name, (str, int, float, type(None))):
            return f"has a name of the type {_named(name)}, where JSON has text"
        if isinstance(name, str) and not _is_unicode(name):
            return "has a name with a lone surrogate, which is no Unicode text"
    return None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _named(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _short(place: str) -> str:
    return place if len(place) <= PLACE_MAX else f"{place[:PLACE_MAX]}…"
