"""Any labelled table is a world: its labels to the letter, its limits by their place, its names in every picture."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from bandit.errors import InvalidInput
from simulator.style import drawable, label
from tests.simulator.command_support import BRIEF, SMALL, rewardloop, said


def test_any_labelled_table_is_a_world(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{i % 7},{'red' if i % 2 else 'blue'},{'a|b: c' if i % 2 else ''}" for i in range(60)]
    table.write_text("\n".join(["size,colour,kind", *rows, "3,,x", ",red,y"]))
    answer = said(
        rewardloop(
            *("simulate", "--env", "table", "--data", str(table), "--label", "kind", *SMALL, "--json"),
            *("--data-dir", str(tmp_path / "out")),
        )
    )
    assert 0 <= answer["mean"]["mean_reward"] <= 1


def refused(command: str, table: Path, *more: str) -> str:
    """What a table is refused with, before a data directory is made for it."""
    out = table.with_name("out")
    result = rewardloop(
        command, "--env", "table", "--data", str(table), "--label", "kind", "--data-dir", str(out), *more
    )
    assert isinstance(result.exception, InvalidInput) and not out.exists()
    return str(result.exception)


@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_a_cell_beyond_a_limit_is_refused_by_its_place_before_anything_is_played(tmp_path: Path, command: str) -> None:
    table = tmp_path / "table.csv"
    lines = [f"{i},short,{'ab'[i % 2]}" for i in range(2000)]
    lines[3] = "1,short,"
    lines[1234] = f"1,{'z' * 1025},a"
    table.write_text("\n".join(["size,t,kind", *lines]))
    assert refused(command, table) == (
        "--data: table.csv: column t, row 1,235, is too long (limit: limits.text_length_max = 1024 characters)"
    )
    table.write_text("\n".join(["size,t,kind", *lines[:3], "1,a\x01b,a"]))
    assert refused(command, table) == (
        "--data: table.csv: column t, row 4, holds a control character or a lone surrogate"
    )
    table.write_text("\n".join([f"size,{'n' * 257},kind", *lines[:3]]))
    assert refused(command, table) == (
        "--data: table.csv: the name of column 2 is too long (limit: limits.name_length_max = 256 characters)"
    )


@pytest.mark.parametrize(
    ("content", "words"), [("", "--data: table.csv is empty"), ("kind\n", "the table has no rows")]
)
def test_a_table_of_nothing_is_said_to_be_one(tmp_path: Path, content: str, words: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(content)
    assert words in refused("simulate", table)


def test_rows_without_a_label_are_counted_in_what_is_said_of_the_run(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["size,kind", *(f"{i},{['a', 'b', ''][i % 3]}" for i in range(60))]))
    command = ("simulate", "--env", "table", "--data", str(table), "--label", "kind", *BRIEF, "--json")
    result = rewardloop(*command, "--data-dir", str(tmp_path / "out"))
    assert said(result)["data"] == {"rows": 40, "left_out": {"no label": 20}}
    assert "20 of 60 rows are left out: no label" in result.stderr.splitlines()
    assert "left out: no label" in (tmp_path / "out/simulation.html").read_text("utf-8")


def test_columns_that_are_text_though_most_cells_are_numbers_are_named_wherever_results_are_read(
    tmp_path: Path,
) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{i},{'ten' if i == 7 else i},{'NA' if i % 2 else 'b'}" for i in range(60)]
    table.write_text("\n".join(["size,weight,kind", *rows]))
    command = ("simulate", "--env", "table", "--data", str(table), "--label", "kind", *BRIEF, "--json")
    result = rewardloop(*command, "--data-dir", str(tmp_path / "out"))
    assert said(result)["data"] == {"rows": 60, "left_out": {}, "as_text": {"weight": ["ten"]}}
    assert "column weight: read as text, only ten is not a number" in result.stderr.splitlines()
    page = (tmp_path / "out/simulation.html").read_text("utf-8")
    assert "Columns read as text" in page and "only ten is not a number" in page


@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_an_ambiguous_label_is_refused_by_its_option(tmp_path: Path, command: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["size,kind,kind", *(f"{i},{'ab'[i % 2]},{'ab'[i % 2]}" for i in range(60))]))
    assert refused(command, table).startswith("--label: names 2 columns (kind, kind)")


def test_a_row_of_too_many_features_is_refused_and_missing_cells_are_none(tmp_path: Path) -> None:
    table, full, half = tmp_path / "table.csv", ",".join(["1"] * 1200), ",".join(["1"] * 600 + [""] * 600)
    head = ",".join([*(f"c{i}" for i in range(1200)), "kind"])
    table.write_text("\n".join([head, f"{half},a", f"{full},b"]))
    assert refused("simulate", table) == (
        "--data: table.csv: row 2 has 1,200 features, which are too many (limit: limits.features_max = 1000)"
    )
    config = tmp_path / "c.toml"
    config.write_text("[limits]\nfeatures_max = 500\n")
    table.write_text("\n".join([head, f"{half},a", f"{half},b"]))
    assert "row 1 has 600 features" in refused("simulate", table, "--config", str(config))
    said(rewardloop("simulate", "--env", "table", "--data", str(table), "--label", "kind", "--json",
                    "--interactions", "4", "--batch", "4", "--warm-start", "0",
                    "--data-dir", str(tmp_path / "played")))  # fmt: skip


@pytest.mark.parametrize(
    "labels", [("no", "yes"), ("F", "T"), ("2020-01-02", "2020-1-2"), ("10:30", "10:30:00"), ("1", "1.0")]
)
def test_the_labels_of_a_csv_are_the_actions_to_the_letter(tmp_path: Path, labels: tuple[str, str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["size,kind", *(f"{i % 7},{labels[i % 2]}" for i in range(60))]))
    command = ("simulate", "--env", "table", "--data", str(table), "--label", "kind", *BRIEF)
    said(rewardloop(*command, "--json", "--data-dir", str(tmp_path / "out")))
    (stored,) = tmp_path.glob("out/experiments/*/catalogues/1.json")
    assert [action["id"] for action in json.loads(stored.read_text())] == list(labels)


def test_labels_that_look_like_formulas_and_long_ones_are_drawn_as_they_are(tmp_path: Path) -> None:
    table = tmp_path / "$\\frac$.csv"
    labels = ["$\\bad{$", "<b>", "x" * 300, "😀"]
    table.write_text("\n".join(["size,kind", *(f"{i},{labels[i % 4]}" for i in range(40))]), "utf-8")
    command = ("simulate", "--env", "table", "--data", str(table), "--label", "kind", *BRIEF, "--json")
    said(rewardloop(*command, "--data-dir", str(tmp_path / "out")))
    picture = (tmp_path / "out/simulation.png").read_bytes()
    assert int.from_bytes(picture[16:20], "big") < 2000


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("Žluťoučký kůň, العربية", "Žluťoučký kůň, العربية"),
        ("日本語", "\\u65e5\\u672c\\u8a9e"),
        ("hot dog 🌭", "hot dog [hot dog]"),
        ("👩\u200d💻", "[woman][personal computer]"),
        ("𒀀", "\\U00012000"),
    ],
)
def test_what_the_font_lacks_is_written_out_in_pictures(text: str, drawn: str) -> None:
    assert drawable(text).replace("\u200d", "") == drawn
    assert label(text, 4) == (text[:3] + "…" if drawn == text else drawn[:7] + "…")


def test_names_that_the_font_lacks_are_drawn_without_a_warning_and_stay_themselves_in_data(tmp_path: Path) -> None:
    table, names = tmp_path / "表🌭.csv", ["日本語", "한국어", "hot dog 🌭"]
    table.write_text("\n".join(["size,kind", *(f"{i},{names[i % 3]}" for i in range(60))]), "utf-8")
    command = ("simulate", "--env", "table", "--data", str(table), "--label", "kind", *BRIEF, "--json")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        said(rewardloop(*command, "--data-dir", str(tmp_path / "out")))
    assert [str(one.message) for one in heard if "Glyph" in str(one.message)] == []
    (stored,) = tmp_path.glob("out/experiments/*/catalogues/1.json")
    assert {action["id"] for action in json.loads(stored.read_text("utf-8"))} == set(names)
    page = (tmp_path / "out/simulation.html").read_text("utf-8")
    assert "rewardloop on 表🌭.csv" in page
    assert "<td>\\u65e5\\u672c\\u8a9e</td><td>日本語</td>" in page


def test_a_missing_label_column_is_answered_with_the_columns_there_are(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("size,kind\n1,a\n2,b\n")
    result = rewardloop("simulate", "--env", "table", "--data", str(table), "--label", "sort")
    assert "--label" in str(result.exception) and "size, kind" in str(result.exception)
