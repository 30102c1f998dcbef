"""Rows so wide that DuckDB cannot format them: a thousand actions with features, in every row.

DuckDB works on 2,048 rows at a time and casts, sorts and formats all of them before it lets go of any. Context and
actions are JSON text already: here they pass through it as they are, in the order in which they are stored, and are
put into lines and into order outside, so that no more is in memory than what it reads at once. The lines are the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import duckdb

from joiner.connection import OWN_COLUMNS, as_pattern, quote

_VECTOR_ROWS = 2048
_VECTOR_COPIES = 32
"""A vector may take this share of the memory, for each thread: formatted as JSON, ten times its size was seen."""

_FETCHED_ROWS = 16
_GROUP_ROWS = 2048
"""Rows in a row group of a Parquet file: as few as a vector has, since a group is in memory as a whole."""
_OBJECT_BYTES_MIN = 1024 * 1024
"""DuckDB reads JSON in pieces of twice the largest object."""

# one row: roughly how many bytes the widest 2,048 consecutive of the selected decisions take together
_WIDEST = f"""
SELECT max(bytes) FROM (
  SELECT sum(strlen(context) + coalesce(strlen(excluded), 0) + coalesce(8 * len(pmf), 0)
             + coalesce(strlen(actions), $offer_bytes)) AS bytes
  FROM decision_records WHERE $matured GROUP BY record_id // {_VECTOR_ROWS})
"""


@dataclass(frozen=True, slots=True)
class Source:
    """Rows to be written: what follows FROM, by which of its columns they are sorted, and its parameters."""

    text: str
    order: Sequence[str]
    parameters: Mapping[str, object]


def are_wide(
    cursor: duckdb.DuckDBPyConnection, *, bounds: Mapping[str, object] | None = None, with_catalogues: bool = True
) -> bool:
    """Whether DuckDB may not have the memory to format rows of the decisions that matured in `bounds` (None: of all).

    `with_catalogues` says that the rows hold the offered actions also where the log only names their catalogue.
    """
    found = cursor.execute(
        "SELECT sum(bytes), (SELECT count(*) FROM catalogues), current_setting('memory_limit'), "
        "current_setting('threads') FROM segments"
    ).fetchone()
    assert found is not None, "an aggregate has one row"
    logged, catalogues, memory, threads = found
    room = _bytes(memory) / _VECTOR_COPIES / int(threads)
    if (logged or 0) <= room and not (with_catalogues and catalogues):
        return False  # no log this short has rows that are too wide
    offer_bytes = "0"
    if with_catalogues:
        offer_bytes = "(SELECT coalesce(max(strlen(whole)), 0) FROM catalogues)"
    matured = "true" if bounds is None else "matures_at > $after AND matures_at <= $until"
    query = _WIDEST.replace("$offer_bytes", offer_bytes).replace("$matured", matured)
    widest = cursor.execute(query, None if bounds is None else {name: bounds[name] for name in ("after", "until")})
    row = widest.fetchone()
    return bool(row and (row[0] or 0) > room)


def write_lines(
    cursor: duckdb.DuckDBPyConnection,
    scratch: Path,
    path: Path,
    columns: Mapping[str, str],
    source: Source,
    *,
    text: Sequence[str],
) -> int:
    """Write rows to `path` as NDJSON, laying them aside in `scratch` until they are sorted; returns how many.

    `columns` are the keys of a line with their expressions; those of `text` are JSON text as they are.
    """
    parts, selected = _parts(columns, text)
    cursor.execute(f"SELECT {', '.join((*selected, *source.order))} FROM {source.text}", source.parameters)
    unsorted = scratch / f"{uuid.uuid4().hex}.tmp"
    places: list[tuple[tuple[object, ...], int, int]] = []
    try:
        with unsorted.open("wb") as file:
            start = 0
            while rows := cursor.fetchmany(_FETCHED_ROWS):
                for row in rows:
                    pieces = [
                        f"{key}{value or 'null'}" if key else value[1:-1]
                        for key, value in zip(parts, row[: len(parts)], strict=True)
                    ]
                    line = f"{{{','.join(pieces)}}}\n".encode()
                    file.write(line)
                    places.append((row[len(parts) :], start, len(line)))
                    start += len(line)
        ordered = sorted(places)
        if ordered == places:
            unsorted.replace(path)
        else:
            _put_in_order(unsorted, path, ordered)
    finally:
        unsorted.unlink(missing_ok=True)
    return len(places)


def lines_to_parquet(
    cursor: duckdb.DuckDBPyConnection, lines: Path, path: Path, columns: Mapping[str, str], *, options: str
) -> int:
    """Write NDJSON lines as a Parquet file; `columns` gives each key's type, `options` are those of the COPY."""
    with lines.open("rb") as file:
        widest = max((len(line) for line in file), default=0)
    types = ", ".join(f"{quote(name)}: {quote(kind)}" for name, kind in columns.items())
    source = (
        f"read_json({quote(as_pattern(lines))}, format = 'newline_delimited', columns = {{{types}}}, {OWN_COLUMNS}, "
        f"maximum_object_size = {max(widest + 1, _OBJECT_BYTES_MIN)})"
    )
    options += f", ROW_GROUP_SIZE {_GROUP_ROWS}"
    selected = ", ".join(f"{name}::VARCHAR AS {name}" if kind == "JSON" else name for name, kind in columns.items())
    row = cursor.execute(f"COPY (SELECT {selected} FROM {source}) TO {quote(str(path))} ({options})").fetchone()
    return int(row[0]) if row else 0


def _parts(columns: Mapping[str, str], text: Sequence[str]) -> tuple[list[str], list[str]]:
    """What a line is made of: for each part the key to write before it, or "" for an object of several columns whose
    braces go; and the expression that gives it.
    """
    keys, selected = [], []
    for whole, names in groupby(columns, key=lambda name: name in text):
        if whole:
            for name in names:
                keys.append(f'"{name}":')
                selected.append(columns[name])
        else:
            keys.append("")
            selected.append(f"to_json({{{', '.join(f'{quote(name)}: {columns[name]}' for name in names)}}})")
    return keys, selected


def _put_in_order(source: Path, target: Path, places: Sequence[tuple[tuple[object, ...], int, int]]) -> None:
    with source.open("rb") as given, target.open("wb") as file:
        for _, start, length in places:
            given.seek(start)
            file.write(given.read(length))


def _bytes(setting: str) -> float:
    """A size as DuckDB tells it: `1.8 GiB`."""
    number, unit = setting.split()
    return float(number) * 1024.0 ** ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB").index(unit)
