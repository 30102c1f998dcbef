"""The words in which a setting is told: what it may be, within what limit, and why a value was refused.

Documentation, `rewardloop init` and refusals all read them from the declared types, so that none can drift from what
is accepted. msgspec's own messages name Python's types; people write TOML and JSON.
"""

from __future__ import annotations

import re

from msgspec import Struct, inspect

from bandit.errors import one_of

_PATH = re.compile(r" - at `\$\.?([\w.\[\]]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?([\w.\[\]]*)`)?", re.DOTALL)
_MEMBER = re.compile(r"\[(?:\.\.\.|\d+)\]")
_SEEN = {
    "str": "text",
    "int": "an integer",
    "float": "a number with a fraction",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


def explain(message: str, root: type[Struct]) -> tuple[str, str, str | None]:
    """What msgspec said about a `root`, as dotted key, problem and limit in the words of a configuration file."""
    if unknown := unknown_member(message):
        path, name = unknown
        return (f"{path}.{name}" if path else name), "is not a known setting", one_of(members_at(root, path))
    found = _PATH.search(message)
    path = found.group(1) if found else ""
    problem = message[: found.start()] if found else message
    if missing := re.match(r"Object missing required field `(.*)`", problem):
        return (f"{path}.{missing[1]}" if path else missing[1]), "is required", None
    kind = _kind_at(root, path)
    if problem.startswith("Invalid enum value"):
        return path, "is not one of the values there are", in_words(kind)[1]
    if problem.startswith("Invalid RFC3339") or "`datetime`" in problem:
        return path, "is not a time", "RFC 3339 with a time zone, such as 2026-03-01T12:00:00Z, or a date"
    if wrong := re.match(r"Expected `.*`, got `([a-z]+)", problem):
        return path or "settings", f"must be {_wanted(kind)}, not {_SEEN.get(wrong[1], wrong[1])}", in_words(kind)[1]
    if re.match(r"Expected `(int|float)( \| null)?` [<>]", problem):
        return path, "is out of range", in_words(kind)[1]
    return path or "settings", problem[:1].lower() + problem[1:], None


def unknown_member(message: str) -> tuple[str, str] | None:
    """The path of a table and the name in it that msgspec does not know, None where it says something else.

    The name is whatever somebody wrote, so it may itself look like a path.
    """
    found = _UNKNOWN.fullmatch(message)
    return (found[2] or "", found[1]) if found else None


def in_words(kind: inspect.Type) -> tuple[str, str | None]:
    """What a setting of this type may be, and within what limit (None where there is none)."""
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        bounds = (("≥", kind.ge), (">", kind.gt), ("≤", kind.le), ("<", kind.lt))
        limit = ", ".join(f"{sign} {_number(value)}" for sign, value in bounds if value is not None)
        return ("integer" if isinstance(kind, inspect.IntType) else "number"), limit or None
    if isinstance(kind, inspect.LiteralType):
        return "one of", one_of(map(str, kind.values))
    if isinstance(kind, inspect.UnionType):
        given = _given(kind)
        words, bound = in_words(given)
        named = [str(value) for each in kind.types if isinstance(each, inspect.LiteralType) for value in each.values]
        if isinstance(given, inspect.LiteralType) or not named:
            return f"nothing or {words}", bound
        return words, ", or ".join(filter(None, [bound, *named]))
    names: dict[type[inspect.Type], str] = {
        inspect.BoolType: "true or false",
        inspect.StrType: "text",
        inspect.DateTimeType: "time",
        inspect.ListType: "list",
        inspect.DictType: "table",
        inspect.StructType: "table",
    }
    return names[type(kind)], None


def members_at(root: type[Struct], path: str) -> list[str]:
    """The names that the table at a dotted path may hold, in the order of their declaration, if there is one."""
    try:
        kind = _kind_at(root, path)
    except KeyError:  # an unknown name may end in what looks like a path
        return []
    if isinstance(kind, inspect.UnionType):
        kind = _given(kind)
    return [known.encode_name for known in kind.fields] if isinstance(kind, inspect.StructType) else []


def _wanted(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.UnionType):
        kind = _given(kind)
    words = "text" if isinstance(kind, inspect.LiteralType) else in_words(kind)[0]
    return {"integer": "an integer"}.get(words) or (words if words in ("text", "true or false") else f"a {words}")


def _number(value: float) -> str:
    """A bound as a person would type it: 536870912 and 0.1, never 5.36871e+08."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def _given(kind: inspect.UnionType) -> inspect.Type:
    """The type of a setting that may be left out, where it is given."""
    given = [option for option in kind.types if not isinstance(option, inspect.NoneType)]
    return next((option for option in given if not isinstance(option, inspect.LiteralType)), given[0])


def _kind_at(root: type[Struct], path: str) -> inspect.Type:
    """The type of the setting at a dotted path, with `[...]` for any member of a table or list; raises KeyError."""
    kind: inspect.Type = inspect.type_info(root)
    for name in _MEMBER.sub(".*", path).split(".") if path else ():
        if isinstance(kind, inspect.UnionType):  # a section that may be left out
            kind = _given(kind)
        if isinstance(kind, inspect.StructType):
            kind = {known.encode_name: known.type for known in kind.fields}[name]
        elif isinstance(kind, inspect.DictType):
            kind = kind.value_type
        elif isinstance(kind, inspect.ListType):
            kind = kind.item_type
    return kind
