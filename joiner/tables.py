"""Tables that people bring along: CSV or Parquet in, a DataFrame out."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd

from bandit.errors import InvalidInput
from joiner.connection import connect, quote
from joiner.parquet import read_parquet

CSV_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def read_table(path: Path, *, text: bool = False) -> pd.DataFrame:
    """The rows of a `.parquet`, `.csv` or `.tsv` file (`.gz` too), in order; types are found by looking at all rows.

    `text` keeps every CSV column as text, for ids that look like numbers or dates. Raises `InvalidInput`.
    """
    if not path.is_file():
        raise InvalidInput("file", f"there is no file {path.name}")
    name = path.name.lower()
    if name.endswith(".parquet"):
        return read_parquet(path)
    if not name.endswith(CSV_SUFFIXES):
        raise InvalidInput("file", f"{path.name} has an unknown ending", ".parquet, " + ", ".join(CSV_SUFFIXES))
    connection = connect(None, [path.parent])
    options = "header = true, sample_size = -1" + (", all_varchar = true" if text else "")
    try:
        frame: pd.DataFrame = connection.execute(
            f"SELECT * FROM read_csv({quote(str(path.resolve()))}, {options})"
        ).df()
        return frame
    except (duckdb.InvalidInputException, duckdb.IOException, duckdb.ConversionException) as error:
        lines = str(error).splitlines()
        # DuckDB says where in its first line, and only further down that the bytes are at fault
        reason = "it is not UTF-8 text" if any("utf-8" in line.lower() for line in lines) else lines[0]
        raise InvalidInput("file", f"{path.name} cannot be read as CSV ({reason})") from None
    finally:
        connection.close()
