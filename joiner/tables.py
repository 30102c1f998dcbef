"""Tables that people bring along: CSV or Parquet in, a DataFrame out."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import duckdb

from bandit.errors import InvalidInput
from joiner.connection import OWN_COLUMNS, as_pattern, connect_to, quote
from joiner.numerals import as_numbers
from joiner.parquet import read_exactly, read_parquet

if TYPE_CHECKING:
    import pandas as pd


CSV_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
DELIMITERS = (",", "\t", ";", "|")

UNPACKING = (OSError, EOFError, zlib.error)
"""What reading a compressed file raises where it is damaged."""

_PIECE_BYTES = 1 << 20

_CAUSES = ("Expected Number", "Value with unterminated quote")
"""How the lines begin in which DuckDB says what is wrong with a row."""


def read_table(path: Path, *, text: bool = False, label: str | None = None) -> pd.DataFrame:
    """The rows of a `.parquet`, `.csv` or `.tsv` file (`.gz` too), in order; types are found by looking at all rows.

    The first line of a CSV names the columns, and every other has as many cells. A column of numbers may say `NA`,
    `N/A`, `null` or `?` where one is missing, and write decimal commas where semicolons part the cells.

    `text` keeps every CSV column as text, for ids that look like numbers or dates. The column `label`, where there is
    one of that name, holds names rather than quantities: of a CSV the text of each cell, to the letter; of a Parquet
    file what `read_exactly` gives. Raises `InvalidInput`, also where several columns have the label's name.
    """
    import pandas as pd

    if not path.is_file():
        raise InvalidInput("file", f"there is no file {path.name}")
    name = path.name.lower()
    if name.endswith(".parquet"):
        frame = read_parquet(path)
        if label in frame.columns:
            frame[label] = pd.Series(read_exactly(path, str(label)), dtype=object)
        return frame
    if not name.endswith(CSV_SUFFIXES):
        raise InvalidInput("file", f"{path.name} has an unknown ending", ".parquet, " + ", ".join(CSV_SUFFIXES))
    if problem := packing_problem(path):
        raise InvalidInput("file", f"{path.name} cannot be read ({problem})")
    connection = connect_to(path)
    file = quote(as_pattern(path))
    try:
        options = csv_options(connection, path) + ", sample_size = -1" + (", all_varchar = true" if text else "")
        delimiter = _delimiter(connection, file)
        if label is not None:
            _check_label(connection, file, delimiter, label)
        frame = _read_csv(connection, file, options, label)
        if len(frame.columns) == 1:
            if _is_blank(path):
                raise InvalidInput("file", f"{path.name} is empty")
            check_rows(connection, path, str(frame.columns[0]))
        return frame if text else _with_numbers(frame, label, decimal_comma=delimiter == ";")
    except duckdb.Error as error:
        problem = csv_problem(connection, path, error)
        raise InvalidInput("file", f"{path.name} cannot be read as CSV ({problem})") from None
    finally:
        connection.close()


def csv_options(connection: duckdb.DuckDBPyConnection, path: Path) -> str:
    """The options of `read_csv` for a file: quotes are `"`, unless its first rows have `'`; the rest DuckDB finds out.

    Left to itself it takes a file for one without quotes where the first rows have none, or one cell breaks their
    rules, and all cells keep theirs. Raises DuckDB's error for a file that cannot be read.
    """
    sniffed = connection.execute(f"SELECT Quote FROM sniff_csv({quote(as_pattern(path))})").fetchall()
    mark = "'" if sniffed == [("'",)] else '"'
    return f"header = true, skip = 0, quote = {quote(mark)}, {OWN_COLUMNS}"


def _read_csv(connection: duckdb.DuckDBPyConnection, file: str, options: str, label: str | None) -> pd.DataFrame:
    query = f"SELECT * FROM read_csv({file}, {options}"
    if label is not None:
        try:
            return _frame(connection.sql(f"{query}, types = {{{quote(label)}: 'VARCHAR'}})"))
        except duckdb.BinderException:
            pass  # there is no such column: the table is read as it is, and shows which there are
    return _frame(connection.sql(f"{query})"))


def _frame(relation: duckdb.DuckDBPyRelation) -> pd.DataFrame:
    """The rows of a relation; whole numbers too long for any other type, which Python gets none of, as floats."""
    columns = []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        column = '"' + name.replace('"', '""') + '"'
        columns.append(f"TRY_CAST({column} AS DOUBLE) AS {column}" if str(kind) == "BIGNUM" else column)
    frame: pd.DataFrame = relation.project(", ".join(columns)).df()
    return frame


def _with_numbers(frame: pd.DataFrame, label: str | None, *, decimal_comma: bool) -> pd.DataFrame:
    """The frame with those columns of texts as numbers that are numbers but for the way they are written."""
    import pandas as pd

    for name in frame.columns:
        if name != label and pd.api.types.is_string_dtype(frame[name]):
            numbers = as_numbers(frame[name], decimal_comma=decimal_comma)
            if numbers is not None:
                frame[name] = numbers
    return frame


def _delimiter(connection: duckdb.DuckDBPyConnection, file: str) -> str:
    ((delimiter,),) = connection.execute(f"SELECT Delimiter FROM sniff_csv({file})").fetchall()
    return str(delimiter)


def _check_label(connection: duckdb.DuckDBPyConnection, file: str, delimiter: str, label: str) -> None:
    """Raise `InvalidInput` where several columns have the label's name: DuckDB would rename all but the first, and what
    is to be found out would be told as a feature.
    """
    options = f"header = false, all_varchar = true, delim = {quote(delimiter)}, {OWN_COLUMNS}"
    header = connection.execute(f"SELECT * FROM read_csv({file}, {options}) LIMIT 1").fetchall()
    named = [str(name) for line in header for name in line if str(name).casefold() == label.casefold()]
    if len(named) > 1:
        raise InvalidInput("label", f"names {len(named)} columns ({', '.join(named)}); give them different names")


def _is_blank(path: Path) -> bool:
    """Whether a CSV holds nothing but white space; DuckDB makes up a column for it."""
    with open_plain(path) as file:
        return not any(line.decode("utf-8-sig", "replace").strip() for line in file)


def open_plain(path: Path) -> BinaryIO:
    """The bytes of a file, those of a compressed one unpacked; what reading them raises is `UNPACKING`."""
    return cast("BinaryIO", gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def packing_problem(path: Path) -> str | None:
    """What is wrong with a compressed file, which is unpacked to its end to find out; None for any other.

    The checksum stands at the end. DuckDB does not compare it, and who reads line by line has used all of them by then.
    What is no regular file, such as a pipe, can be read but once.
    """
    if path.suffix.lower() != ".gz" or not path.is_file():
        return None
    try:
        with open_plain(path) as file:
            while file.read(_PIECE_BYTES):
                pass
    except UNPACKING as error:
        return str(error)
    return None


def check_rows(connection: duckdb.DuckDBPyConnection, path: Path, header: str) -> None:
    """Raise DuckDB's error for the first row of another length, where a lone column's name looks like several.

    When looking for types DuckDB takes a file of uneven rows for one column rather than say so.
    """
    file = quote(as_pattern(path))
    for delimiter in DELIMITERS:
        if delimiter not in header:
            continue
        try:
            options = f"{csv_options(connection, path)}, delim = {quote(delimiter)}"
            connection.execute(f"SELECT * FROM read_csv({file}, {options})")
        except duckdb.InvalidInputException:
            _read_plainly(connection, path, header, delimiter)
        return


def csv_problem(connection: duckdb.DuckDBPyConnection, path: Path, error: duckdb.Error) -> str:
    """What DuckDB found wrong with a CSV: its first line says where, and only further down it says what.

    A row of another length beyond the first few thousand leaves it without any dialect that fits, and without a line to
    name: then the file is read once more, by the delimiter that its first line has most of.
    """
    if "Error when sniffing file" in str(error):
        try:
            with open_plain(path) as file:
                header = file.readline().decode("utf-8-sig").rstrip("\r\n")
            _read_plainly(connection, path, header, max(DELIMITERS, key=header.count))
        except duckdb.InvalidInputException as found:
            error = found
        except (duckdb.Error, csv.Error, *UNPACKING, ValueError):
            pass  # what was found first has to do
    lines = str(error).splitlines()
    if any("not utf-8" in line.lower() for line in lines):
        return "it is not UTF-8 text"
    return "; ".join([lines[0], *(line.rstrip(".") for line in lines[1:] if line.startswith(_CAUSES))])


def _read_plainly(connection: duckdb.DuckDBPyConnection, path: Path, header: str, delimiter: str) -> None:
    """Read all rows as text by the rules of RFC 4180; raises DuckDB's error for the first one of another length."""
    names = next(csv.reader([header], delimiter=delimiter), [])
    columns = ", ".join(f"'{place}': 'VARCHAR'" for place in range(len(names)))
    options = f"auto_detect = false, header = true, delim = {quote(delimiter)}, columns = {{{columns}}}"
    options += f""", quote = '"', escape = '"', {OWN_COLUMNS}"""
    connection.execute(f"SELECT count(*) FROM read_csv({quote(as_pattern(path))}, {options})").fetchone()
