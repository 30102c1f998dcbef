"""Files: what goes in comes out, and a full disk is told as such."""

from __future__ import annotations

import errno
import gzip
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from bandit.errors import InvalidInput
from joiner.connection import shortages
from joiner.numerals import taken_as_text
from joiner.parquet import count_rows, read_chunks, read_exactly, read_parquet, write_parquet
from joiner.tables import read_table


def metadata_of(path: Path) -> dict[str, str]:
    """What the footer of a Parquet file says, as text."""
    with duckdb.connect() as connection:
        found = connection.execute("SELECT key, value FROM parquet_kv_metadata(?)", [str(path)]).fetchall()
    return {key.decode(): value.decode() for key, value in found}


def test_columns_lists_and_metadata_survive_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "it's.parquet"
    columns = {
        "n": np.arange(3),
        "ragged": [[1.0, 2.0], [0.1 + 0.2], []],
        "matrix": np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]),
        "text": ["ü", None, "x"],
        "at": pd.to_datetime(["2026-01-01T00:00:00.123456Z"] * 3),
    }
    assert write_parquet(path, columns, metadata={"window": "72h", "rows": {"n": 3}}) == 3
    frame = read_parquet(path)
    assert list(frame["n"]) == [0, 1, 2]
    assert [list(row) for row in frame["ragged"]] == [[1.0, 2.0], [0.1 + 0.2], []]
    assert (np.stack(list(frame["matrix"])) == columns["matrix"]).all()
    assert list(frame["text"].fillna("missing")) == ["ü", "missing", "x"]
    assert frame["at"][0].isoformat() == "2026-01-01T00:00:00.123456+00:00"
    assert metadata_of(path) == {"window": "72h", "rows": '{"n": 3}'}
    assert list(read_parquet(path, columns=["text", "n"]).columns) == ["text", "n"]


def test_a_data_frame_is_written_as_it_is(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]})
    write_parquet(tmp_path / "f.parquet", frame)
    assert read_parquet(tmp_path / "f.parquet").equals(frame)


def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(InvalidInput, match=r"x\.parquet"):
        read_parquet(tmp_path / "x.parquet")
    with pytest.raises(InvalidInput, match="there is no file"):
        read_parquet(tmp_path / "y.parquet")


PATTERNS = ["d[1]", "d*", "d?", "**", "d[!a]", "[d1]", "{d1,d2}", "d1\\file", "it's [1]", "d[1]/file", "d*/file"]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_name_that_would_be_a_pattern_is_that_of_one_file(tmp_path: Path, name: str) -> None:
    for number, neighbour in enumerate(("d1", "d2", "dx", "it's 1", "d1/file", "d2/file", name)):
        parquet, table = tmp_path / f"{neighbour}.parquet", tmp_path / f"{neighbour}.csv"
        parquet.parent.mkdir(exist_ok=True)
        write_parquet(parquet, {"n": [number]})
        table.write_text(f"n,label\n{number},x\n")
    assert list(read_parquet(parquet)["n"]) == read_exactly(parquet, "n") == list(read_table(table)["n"]) == [number]
    assert [list(chunk["n"]) for chunk in read_chunks(parquet)] == [[number]] and count_rows(parquet) == 1
    table.write_text("n,label\n1,x\n1,x,y\n")
    with pytest.raises(InvalidInput, match="Line: 3"):
        read_table(table, label="label")


def test_a_compressed_table_that_is_damaged_is_refused_by_name_though_its_rows_can_be_told(tmp_path: Path) -> None:
    packed = gzip.compress(b"n,label\n" + b"1,x\n" * 1000)
    for broken in (packed[:-8] + bytes(4) + packed[-4:], packed[:20] + b"\xff" * 8, packed[:-20]):
        (tmp_path / "t.csv.gz").write_bytes(broken)
        with pytest.raises(InvalidInput, match=r"file: t\.csv\.gz cannot be read"):
            read_table(tmp_path / "t.csv.gz", label="label")


def test_a_path_that_duckdb_would_take_for_another_is_refused_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("d/[1].csv", "d\\[1].csv"):
        (tmp_path / name).write_text("n\n1\n")
    assert len(read_table(tmp_path / "d/[1].csv")) == 1
    with pytest.raises(InvalidInput, match=r"the path of d\\\[1\]\.csv has a backslash"):
        read_table(tmp_path / "d\\[1].csv")


def test_csv_keeps_numbers_numbers_and_text_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b'id,x,name\n007,1.5,a b\n008,,"q,"\n'))
    frame = read_table(tmp_path / "t.csv.gz")
    assert list(frame["x"].fillna(-1)) == [1.5, -1]
    assert list(frame["name"]) == ["a b", "q,"]
    assert list(read_table(tmp_path / "t.csv.gz", text=True)["id"]) == ["007", "008"]


def test_the_labels_of_a_csv_are_the_text_of_their_cells_and_the_other_columns_keep_their_types(tmp_path: Path) -> None:
    labels = ["yes", "T", "2020-1-2", "10:30", "1.0", "1", "", "-inf", "123456789012345678901"]
    path = tmp_path / "t.csv"
    for label in labels:
        path.write_text(f"n,it's\n1,{label}\n2,{label}\n")
        frame = read_table(path, label="it's")
        assert list(frame["it's"].fillna("missing")) == [label or "missing"] * 2
        assert list(frame["n"]) == [1, 2]
    assert list(read_table(path, label="other").columns) == ["n", "it's"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_csv_without_anything_in_it_is_said_to_be_empty(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(InvalidInput, match=f"{name} is empty"):
        read_table(tmp_path / name, label="kind")
    (tmp_path / name).write_bytes(gzip.compress(b"kind\n") if name.endswith(".gz") else b"kind\n")
    assert list(read_table(tmp_path / name, label="kind").columns) == ["kind"]


def test_the_labels_of_a_parquet_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for column, cells in {
        "(2::BIGINT ** 53)::BIGINT + n": [2**53, 2**53 + 1, None],
        "18446744073709551610::UBIGINT + n::UBIGINT": [2**64 - 6, 2**64 - 5, None],
        "'12345678901234567890.10'::DECIMAL(38, 2) + n": [
            Decimal("12345678901234567890.10"),
            Decimal("12345678901234567891.10"),
            None,
        ],
        "CASE n WHEN 0 THEN 'inf'::DOUBLE ELSE 1.5 END": [float("inf"), 1.5, None],
        "n = 0": [True, False, None],
        "'2020-01-01'::DATE + n": ["2020-01-01", "2020-01-02", None],
        "make_timestamp_ns(1 + n)": ["1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000002", None],
        "'007'": ["007", "007", None],
        "[n, n]": ["[0, 0]", "[1, 1]", None],
    }.items():
        select = f"SELECT CASE WHEN n < 2 THEN {column} END AS l, n FROM (SELECT unnest([0, 1, 2]) AS n)"
        duckdb.sql(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
        frame = read_table(path, label="l")
        assert frame["l"].tolist() == cells, column
        assert list(frame["n"]) == [0, 1, 2]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('a,"b,c",d\n1,x,2\n1,2\n3,"y,z",4\n', r"Line: 3.*Columns: 3 Found: 2"),
        ("a;b\n1;2\n1;2;3\n", r"Line: 3.*Columns: 2 Found: 3"),
    ],
)
def test_csv_with_a_row_of_another_length_is_refused_with_its_line(
    tmp_path: Path, content: str, said: str, text: bool
) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InvalidInput, match=said):
        read_table(tmp_path / "t.csv", text=text)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_csv_with_a_row_of_another_length_far_down_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    content = 'a,"b c",d\n' + "1,x,2\n" * 30_000 + "3,2\n"
    (tmp_path / name).write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    for text in (False, True):
        with pytest.raises(InvalidInput, match=r"Line: 30002; Expected Number of Columns: 3 Found: 2"):
            read_table(tmp_path / name, text=text)


def test_csv_of_one_column_may_hold_delimiters_in_quotes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"a,b"\nx\n"y,z"\n')
    assert list(read_table(tmp_path / "t.csv")["a,b"]) == ["x", "y,z"]


def test_quotes_are_no_part_of_a_cell_however_far_down_the_first_one_is(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("size\n" + "small\n" * 30_000 + '"large, or more"\n"large"\n')
    assert list(read_table(tmp_path / "t.csv")["size"][-3:]) == ["small", "large, or more", "large"]
    (tmp_path / "n.csv").write_text("size\n" + "1\n" * 30_000 + '"2"\n')
    assert read_table(tmp_path / "n.csv")["size"].sum() == 30_002


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("rows", [30, 30_000])
def test_csv_with_a_quote_that_is_not_closed_is_refused_with_its_line(tmp_path: Path, rows: int, text: bool) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n" + "1,x,2\n" * rows + '1,"say "hi" now",2\n1,"y",2\n')
    with pytest.raises(InvalidInput, match=rf"Line: {rows + 2}; Value with unterminated quote found"):
        read_table(tmp_path / "t.csv", text=text)


def test_a_mark_within_a_cell_and_quotes_of_another_kind_are_read_as_they_are_meant(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b\n5" disk,1\nit\'s,2\n"6"" disk",3\n')
    assert list(read_table(tmp_path / "t.csv")["a"]) == ['5" disk', "it's", '6" disk']
    (tmp_path / "t.csv").write_text("a,b\n'x, y',1\nz,2\n")
    assert list(read_table(tmp_path / "t.csv")["a"]) == ["x, y", "z"]


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.xls").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"\.parquet"):
        read_table(tmp_path / "t.xls")


@pytest.mark.parametrize("missing", ["NA", "N/A", "n/a", "?", "null", "NULL", "NaN", "None", " NA "])
def test_a_word_for_a_missing_number_leaves_a_column_one_of_numbers_and_a_label_a_class(
    tmp_path: Path, missing: str
) -> None:
    (tmp_path / "t.csv").write_text(f"x,kind\n1.5,a\n{missing},{missing}\n3,a\n")
    frame = read_table(tmp_path / "t.csv", label="kind")
    assert list(frame["x"].fillna(-1)) == [1.5, -1, 3] and frame["x"].dtype == np.float64
    assert [text.strip() for text in frame["kind"]] == ["a", missing.strip(), "a"]


def test_a_category_called_like_a_missing_number_stays_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("country,kind\nNA,a\nDE,b\nNA,a\n")
    assert list(read_table(tmp_path / "t.csv", label="kind")["country"]) == ["NA", "DE", "NA"]


def test_codes_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("zip,kind\n01067,a\n04109,b\nNA,a\n")
    frame = read_table(tmp_path / "t.csv", label="kind")
    assert list(frame["zip"]) == ["01067", "04109", "NA"] and taken_as_text(frame) == {}


def test_decimal_commas_are_numbers_where_semicolons_part_the_cells_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x;y;kind\n1,5;1,5;1,5\n-0,25;1.5;a\n?;3;b\n")
    frame = read_table(tmp_path / "t.csv", label="kind")
    assert list(frame["x"].fillna(-1)) == [1.5, -0.25, -1]
    assert list(frame["y"]) == ["1,5", "1.5", "3"] and list(frame["kind"]) == ["1,5", "a", "b"]
    (tmp_path / "t.csv").write_text('x,kind\n"1,500",a\n"2,500",b\n')
    assert list(read_table(tmp_path / "t.csv", label="kind")["x"]) == ["1,500", "2,500"]


def test_columns_of_text_that_are_mostly_numbers_are_told_with_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y,z,n\n1,a,1,1\nten,b,a,2\n3,1,b,NA\n4,c,1,4\nten,d,2,5\n5,e,3,6\n")
    assert taken_as_text(read_table(tmp_path / "t.csv")) == {"x": ["ten"], "z": ["a", "b"]}


def test_whole_numbers_of_any_length_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"x,kind\n1{'0' * 44},a\n2,b\n")
    assert list(read_table(tmp_path / "t.csv", label="kind")["x"]) == [1e44, 2.0]


@pytest.mark.parametrize(("head", "delimiter"), [("n,kind,kind", ","), ("n;Kind;kind", ";"), ('n,"kind","kind"', ",")])
def test_a_label_that_several_columns_have_for_a_name_is_refused(tmp_path: Path, head: str, delimiter: str) -> None:
    rows = [delimiter.join(cells) for cells in ("1ab", "2cd", "3ab")]
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]))
    with pytest.raises(InvalidInput, match=r"label: names 2 columns \([Kk]ind, kind\)"):
        read_table(tmp_path / "t.csv", label="kind")
    assert len(read_table(tmp_path / "t.csv", label="n").columns) == 3


def test_a_full_disk_is_an_os_error_that_says_what_to_do(tmp_path: Path) -> None:
    connection = duckdb.connect()
    with pytest.raises(OSError, match="make room") as caught, shortages(tmp_path / "warehouse.duckdb"):
        connection.execute("COPY (SELECT * FROM range(100000)) TO '/dev/full' (FORMAT csv)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "warehouse.duckdb")
    with pytest.raises(duckdb.CatalogException), shortages(tmp_path / "warehouse.duckdb"):
        connection.execute("SELECT * FROM nothing")
