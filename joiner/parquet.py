"""Parquet files in and out, through DuckDB: the one place where columns become files and come back.

List columns (one list of numbers per row) are kept as lists. Files appear whole or not at all.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from bandit.errors import InvalidInput
from joiner.connection import connect, connect_to, parquet_rows, quote, shortages

if TYPE_CHECKING:
    import pandas as pd


CHUNK_VECTORS = 8
"""DuckDB hands rows over in vectors of 2,048."""

_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_NATIVE = {"BOOLEAN", "FLOAT", "DOUBLE", *_SIGNED, *(f"U{kind}" for kind in _SIGNED)}


def read_parquet(path: Path, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of a Parquet file, in order; list columns hold numpy arrays. Raises `InvalidInput` when it is none."""
    wanted = "*" if columns is None else ", ".join(_name(column) for column in columns)
    return _query(path, f"SELECT {wanted} FROM {parquet_rows(path)}")


def read_exactly(path: Path, column: str) -> list[Any]:
    """The cells of one column, in order, without loss: a DataFrame has no whole numbers beyond 64 bits, and turns
    those with gaps, and decimals, into floats.

    Numbers and truth values are Python's own, everything else is its text, a missing cell None. Raises `InvalidInput`.
    """
    with _reading(path) as connection:
        relation = connection.sql(f"SELECT {_name(column)} FROM {parquet_rows(path)}")
        kind = str(relation.types[0])
        native = kind in _NATIVE or kind.startswith("DECIMAL")
        cells = relation if native else relation.project(f"CAST({_name(column)} AS VARCHAR)")
        return [cell for (cell,) in cells.fetchall()]


def count_rows(path: Path) -> int:
    """How many rows a Parquet file has; raises `InvalidInput` when it is none."""
    return int(_query(path, f"SELECT count(*) AS n FROM {parquet_rows(path)}")["n"][0])


def read_chunks(path: Path, *, vectors: int = CHUNK_VECTORS) -> Iterator[pd.DataFrame]:
    """The rows of a Parquet file, in order, some thousands at a time, whatever its length; as `read_parquet` gives."""
    with _reading(path) as connection:
        # one thread: more would read ahead, and the memory is to stay what a chunk takes
        connection.execute(f"SELECT * FROM {parquet_rows(path)}")
        while len(frame := connection.fetch_df_chunk(vectors)):
            yield frame


def write_parquet(
    path: Path,
    columns: pd.DataFrame | Mapping[str, Any],
    *,
    metadata: Mapping[str, Any] | None = None,
    using: tuple[duckdb.DuckDBPyConnection, Path] | None = None,
) -> int:
    """Write a DataFrame, or columns of equal length (arrays, lists, lists of lists), as `path`; returns the rows.

    An array of two dimensions becomes a column of lists. `metadata` goes into the file's footer, each value as text or
    as JSON. One core does it. `using` saves opening a connection: a cursor of an open one, and the folder on the same
    disk that it may write to. Raises OSError when the disk refuses.
    """
    import pandas as pd

    frame, selection = (columns, "*") if isinstance(columns, pd.DataFrame) else _flat(columns)
    folder = using[1] if using else path.parent
    temporary = folder / f".{path.name}.{uuid.uuid4().hex}"
    options = "FORMAT parquet, COMPRESSION zstd"
    if metadata:
        pairs = (f"{quote(key)}: {quote(_text(value))}" for key, value in metadata.items())
        options += f", KV_METADATA {{{', '.join(pairs)}}}"
    connection = using[0] if using else connect(None, [folder], threads=1)
    try:
        connection.register("frame", frame)
        with shortages(path):
            row = connection.execute(
                f"COPY (SELECT {selection} FROM frame) TO {quote(str(temporary.resolve()))} ({options})"
            ).fetchone()
        os.replace(temporary, path)
    finally:
        connection.close()  # a cursor takes what was registered along
        temporary.unlink(missing_ok=True)
    return int(row[0]) if row else 0


def _query(path: Path, query: str) -> pd.DataFrame:
    with _reading(path) as connection:
        frame: pd.DataFrame = connection.execute(query).df()
        return frame


@contextmanager
def _reading(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    if not path.is_file():
        raise InvalidInput("file", f"there is no file {path.name}")
    connection = connect_to(path, threads=1)
    try:
        yield connection
    except duckdb.Error as error:  # a damaged file may fail anywhere within the reader
        cause = str(error).partition("\n")[0]
        raise InvalidInput("file", f"{path.name} cannot be read as Parquet ({cause})") from None
    finally:
        connection.close()


def _flat(columns: Mapping[str, Any]) -> tuple[pd.DataFrame, str]:
    """A frame without lists where they are as long in every row, and the query that makes them lists again."""
    import pandas as pd

    flat: dict[str, Any] = {}
    selection = []
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1]:
            parts = [f"{name}[{place}]" for place in range(values.shape[1])]
            flat.update(zip(parts, values.T, strict=True))
            selection.append(f"[{', '.join(_name(part) for part in parts)}] AS {_name(name)}")
        else:
            flat[name] = list(values) if isinstance(values, np.ndarray) and values.ndim == 2 else values
            selection.append(_name(name))
    return pd.DataFrame(flat, copy=False), ", ".join(selection)


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
