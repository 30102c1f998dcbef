"""A log replayed as a world, as it is typed: how much of it counts, and what is left out for which reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joiner.parquet import write_parquet
from tests.simulator.command_support import BRIEF, SMALL, rewardloop, said


def a_log(path: Path) -> Path:
    """Sixty rows over two actions, half of them rewarded; one more that was too rare and two that are none."""
    rows = [{"context": {"n": i}, "action": "ab"[i % 2], "probability": 0.5, "reward": i % 2} for i in range(60)]
    rows += [rows[0] | {"probability": 0.0005}, {"context": {}}]
    path.write_text("\n".join([*(json.dumps(row) for row in rows), "[]"]))
    return path


def test_a_replay_says_in_summary_json_and_page_how_much_of_it_counts_and_leaves_out_what_nobody_knows(
    tmp_path: Path,
) -> None:
    log = a_log(tmp_path / "log.ndjson")
    command = ("simulate", "--env", "replay", "--data", str(log), *SMALL, "--seeds", "0-2")
    result = rewardloop(*command, "--data-dir", str(tmp_path / "out"))
    assert result.exception is None, result.exception
    assert "nan" not in result.stdout and "–" in result.stdout
    page = (tmp_path / "out/simulation.html").read_text("utf-8")
    assert (
        "of them met the logged action and count" in page and "nan" not in page.replace("base64", "").split("<h2>")[1]
    )
    answer = said(rewardloop(*command, "--json", "--data-dir", str(tmp_path / "told")))
    counts = [one["counted"] for one in answer["seeds"]]
    assert all(one["asked"] == 100 > one["counted"] > 0 for one in answer["seeds"])
    assert answer["mean"]["counted"] == pytest.approx(sum(counts) / 3)
    assert all(f"{count} of 100" in line for count, line in zip(counts, result.stdout.splitlines()[1:], strict=False))


def test_rows_of_a_log_that_cannot_be_replayed_are_counted_by_their_reason(tmp_path: Path) -> None:
    log = a_log(tmp_path / "log.ndjson")
    command = ("simulate", "--env", "replay", "--data", str(log), *BRIEF)
    result = rewardloop(*command, "--json", "--data-dir", str(tmp_path / "out"))
    assert said(result)["data"] == {
        "rows": 60,
        "left_out": {
            "a probability below 0.001, too rare to replay by": 1,
            "no object with a context and an action": 2,
        },
    }
    assert "1 of 63 rows are left out: a probability below 0.001, too rare to replay by" in result.stderr
    assert "Rows of the data" in (tmp_path / "out/simulation.html").read_text("utf-8")


@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_rows_that_the_decision_api_would_refuse_are_left_out_before_anything_is_played(
    tmp_path: Path, command: str
) -> None:
    log = a_log(tmp_path / "log.ndjson")
    right = {"context": {}, "action": "a", "probability": 0.5, "reward": 1}
    wrong = [
        right | {"context": {"t": "z" * 3000}},
        right | {"action": "z" * 300},
        right | {"actions": ["a", {"id": "b", "features": {"t": "\x01"}}]},
    ]
    log.write_text("\n".join([*log.read_text().splitlines()[:60], *map(json.dumps, wrong)]))
    small = ("--env", "replay", "--data", str(log), *BRIEF, "--seeds", "0", "--json")
    lines = ("--algorithm", "default", "--encoder", "bins") if command == "compare" else ()
    answer = said(rewardloop(command, *small, *lines, "--data-dir", str(tmp_path / "out")))
    assert answer["data"] == {
        "rows": 60,
        "left_out": {
            "a context that the decision API would refuse: is too long (limit: limits.text_length_max = 1024 "
            "characters)": 1,
            "actions that the decision API would refuse: is too long (limit: limits.name_length_max = 256 "
            "characters)": 1,
            "actions that the decision API would refuse: holds a control character or a lone surrogate": 1,
        },
    }


def test_a_log_is_replayed_alike_from_ndjson_and_parquet_exports(tmp_path: Path) -> None:
    said(rewardloop("simulate", "--env", "linear", *SMALL, "--json", "--data-dir", str(tmp_path / "made")))
    answers = []
    for form in ("ndjson", "parquet"):
        log = tmp_path / f"log.{form}"
        export = ("export", "--what", "interactions", "--out", str(log), "--data-dir", str(tmp_path / "made"))
        assert rewardloop(*export).exception is None
        command = ("simulate", "--env", "replay", "--data", str(log), *SMALL, "--json")
        answers.append(said(rewardloop(*command, "--data-dir", str(tmp_path / form))))
    assert answers[0] == answers[1] and answers[0]["data"]["rows"] == 140


def test_a_table_that_is_no_log_is_refused_by_the_column_it_lacks(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet", {"context": ["{}"], "action": ["a"]})
    result = rewardloop("simulate", "--env", "replay", "--data", str(tmp_path / "t.parquet"), *BRIEF)
    assert "--data: t.parquet has no column actions" in str(result.exception)


def test_a_warm_start_that_a_log_can_hardly_give_is_refused_at_once(tmp_path: Path) -> None:
    actions = [f"a{i}" for i in range(200)]
    row = {"context": {}, "actions": actions, "action": "a0", "reward": 1}
    log = tmp_path / "log.ndjson"
    log.write_text("\n".join(json.dumps(row | {"probability": p}) for p in [1.0] * 99 + [0.001]))
    command = ("simulate", "--env", "replay", "--data", str(log), "--warm-start", "200")
    refused = str(rewardloop(*command, "--data-dir", str(tmp_path / "out")).exception)
    assert refused.startswith("--warm-start: cannot be had from this log") and "at most 164 rows can" in refused
    assert not (tmp_path / "out").exists()


def test_a_comparison_by_replay_says_how_much_of_it_counts(tmp_path: Path) -> None:
    log = a_log(tmp_path / "log.ndjson")
    command = ("compare", "--env", "replay", "--data", str(log), "--algorithm", "uniform", "--encoder", "bins", *SMALL)
    result = rewardloop(*command, "--seeds", "0", "--data-dir", str(tmp_path / "out"))
    columns, values = result.stdout.splitlines()[:2]
    assert "counted" in columns.split() and 0 < int(values.split()[columns.split().index("counted") + 1]) < 100


def test_a_replay_of_which_nothing_counts_asks_for_more(tmp_path: Path) -> None:
    rows = [{"context": {}, "action": "a", "probability": p, "reward": 1} for p in [1.0] * 300 + [0.001]]
    log = tmp_path / "log.ndjson"
    log.write_text("\n".join(json.dumps(row) for row in rows))
    result = rewardloop("simulate", "--env", "replay", "--data", str(log), "--interactions", "2", "--warm-start", "0",
                        "--data-dir", str(tmp_path / "out"))  # fmt: skip
    assert "--interactions" in str(result.exception) and "none met" in str(result.exception)
