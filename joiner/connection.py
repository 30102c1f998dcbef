"""DuckDB connections that can touch one directory and nothing else.

Everything that reaches DuckDB (file paths, a person's SQL) is fenced in at connect: files outside the allowed
directories, other databases, extensions and configuration changes are refused by the engine itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from bandit.errors import Busy, InvalidInput, MemoryFull
from bandit.files import NO_ROOM

DEFAULT_MEMORY_BYTES = 2_000_000_000

OWN_COLUMNS = "hive_partitioning = false"
"""An option of every reader: DuckDB makes columns of directories called `name=value`, in place of the file's own."""

_SPECIAL = re.compile(r"[\[*?]")


def connect(
    database: Path | None,
    directories: Sequence[Path],
    *,
    scratch: Path | None = None,
    read_only: bool = False,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    threads: int | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open `database` (None: in memory), able to read and write below `directories` alone.

    `scratch` is where DuckDB spills what exceeds `memory_bytes`; without it nothing is spilt. Raises `Busy` when
    another process has the database open, `InvalidInput` for a directory that DuckDB cannot name.
    """
    # a reader's pattern has to lie in an allowed directory as well as the file that it finds
    resolved = (directory.resolve() for directory in directories)
    names = (name for directory in resolved for name in (directory, as_pattern(directory)))
    allowed = ", ".join(quote(f"{name}/") for name in names)
    try:
        connection = duckdb.connect(str(database) if database else ":memory:", read_only=read_only)
    except duckdb.IOException as error:
        if "lock" not in str(error).lower():
            raise
        raise Busy(f"{database.name if database else 'database'} is open in another process") from None
    # the order counts: once external access is off, the list of directories can no longer be set
    connection.execute(f"SET allowed_directories = [{allowed}]")
    connection.execute(f"SET temp_directory = {quote(str(scratch)) if scratch else quote('')}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET autoload_known_extensions = false")
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute(f"SET memory_limit = '{int(memory_bytes)}B'")
    if threads is not None:
        connection.execute(f"SET threads = {int(threads)}")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = true")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET lock_configuration = true")
    return connection


def connect_to(file: Path, *, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Open a database in memory that can read `file`, also where that is a link into another directory."""
    return connect(None, [file.parent, file.resolve().parent], threads=threads)


class Statements:
    """SQL that is executed again and again, each text parsed once: for small batches that is a fifth of the time."""

    def __init__(self) -> None:
        self._parsed: dict[str, duckdb.Statement] = {}

    def execute(
        self, cursor: duckdb.DuckDBPyConnection, text: str, parameters: Mapping[str, object] | None = None
    ) -> duckdb.DuckDBPyConnection:
        """Execute one statement whose text never varies: what does is for `parameters`."""
        statement = self._parsed.get(text)
        if statement is None:
            (statement,) = cursor.extract_statements(text)
            self._parsed[text] = statement
        return cursor.execute(statement, parameters)


@contextmanager
def shortages(path: Path) -> Iterator[None]:
    """Let a full disk be the OSError that it is everywhere else, for which DuckDB has several errors, and full memory
    a `MemoryFull`.
    """
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise MemoryFull(
            "the database needs more memory than `training.database_bytes_max` lets it have; raise that setting and "
            "start the learner again"
        ) from None
    except duckdb.Error as error:
        code = next((code for code in NO_ROOM if os.strerror(code) in str(error)), None)
        if code is None:
            raise
        told = "no room is left on the disk; what was acknowledged is in the log, so nothing is lost: make room"
        raise OSError(code, told, path.name) from None


def remove_database(path: Path) -> None:
    """Remove a DuckDB file with its write-ahead logs; these first, because they must not meet another file."""
    remove_write_ahead_logs(path)
    path.unlink(missing_ok=True)


def remove_write_ahead_logs(path: Path) -> None:
    """Remove what is committed and not yet in the DuckDB file at `path`, also what a checkpoint had set aside."""
    for suffix in (".wal", ".wal.checkpoint", ".wal.recovery"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def quote(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def as_pattern(path: Path) -> str:
    """The path of a file as DuckDB's readers have to be given it: they take a name for a pattern, which may be that of
    other files. What DuckDB writes, and a database, goes by its plain name.

    A link keeps its own name, whose ending tells what is compressed. Raises `InvalidInput` for a path that no pattern
    names: within one DuckDB takes a backslash for a slash.
    """
    name = str(path.parent.resolve() / path.name)
    pattern = _SPECIAL.sub(r"[\g<0>]", name)
    if pattern != name and "\\" in name:
        raise InvalidInput("file", f"the path of {path.name} has a backslash beside one of [ * ?; rename it")
    return pattern


def parquet_rows(path: Path) -> str:
    """The rows of a Parquet file, to select from."""
    return f"read_parquet({quote(as_pattern(path))}, {OWN_COLUMNS})"


def to_utc(moment: datetime) -> datetime:
    """An aware time as the naive UTC that the warehouse stores; raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("times must be aware (UTC)")
    return moment.astimezone(UTC).replace(tzinfo=None)


def from_utc(moment: datetime | None) -> datetime | None:
    """A time stored in the warehouse as aware UTC."""
    return None if moment is None else moment.replace(tzinfo=UTC)


def without_zones(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The relation with its times as UTC without a zone, so that Python gets plain `datetime`s of them."""
    if not any(str(kind) == "TIMESTAMP WITH TIME ZONE" for kind in relation.types):
        return relation
    columns = []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        column = '"' + name.replace('"', '""') + '"'
        zoned = str(kind) == "TIMESTAMP WITH TIME ZONE"
        columns.append(f"timezone('UTC', {column}) AS {column}" if zoned else column)
    return relation.project(", ".join(columns))
