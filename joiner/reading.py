"""Segments read by DuckDB, and those that it cannot read although they are whole.

A record may hold what the tables have no room for: a number beyond its column, a line beyond the largest object. Such a
segment says nothing about the disk or the database, so it can be set aside and the others go in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from bandit.errors import MemoryFull
from joiner.connection import as_pattern, connect, shortages
from joiner.statements import READ_SEGMENTS, TRY_SEGMENTS

REASON_LENGTH_MAX = 300

_ABOUT_CONTENT = (
    duckdb.InvalidInputException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.TypeMismatchException,
)
"""What DuckDB raises for what a file holds; files that cannot be read at all and a full memory are other errors."""


class UnreadableSegments(Exception):
    """At least one of the segments holds what DuckDB cannot read; the message says what."""


def read_segments(cursor: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> None:
    """Read whole segments into the temporary table `incoming`; raises `UnreadableSegments`, OSError for a full disk."""
    _read(cursor, READ_SEGMENTS, paths)


def unreadable_segments(segments: Sequence[Path]) -> dict[Path, str]:
    """Which of the segments (of one folder) DuckDB cannot read, and why; nothing is kept.

    Raises OSError, `MemoryFull`.
    """
    if not segments:
        return {}
    connection = connect(None, [segments[0].parent])
    try:
        _read(connection, TRY_SEGMENTS, [str(segment.resolve()) for segment in segments])
    except UnreadableSegments as error:
        if len(segments) == 1:
            return {segments[0]: str(error)}
        return {path: why for segment in segments for path, why in unreadable_segments([segment]).items()}
    except MemoryFull:
        if len(segments) == 1:
            raise
        return {path: why for segment in segments for path, why in unreadable_segments([segment]).items()}
    finally:
        connection.close()
    return {}


def _read(cursor: duckdb.DuckDBPyConnection, statement: str, paths: Sequence[str]) -> None:
    try:
        with shortages(Path(paths[0])):
            cursor.execute(statement, [[as_pattern(Path(path)) for path in paths]])
    except _ABOUT_CONTENT as error:
        reason = str(error)
        for path in paths:
            reason = reason.replace(path, Path(path).name)
        raise UnreadableSegments(" ".join(reason.partition("\n")[0].split())[:REASON_LENGTH_MAX]) from None
