"""Rows of a thousand actions with features: tens of kilobytes each, of which DuckDB takes thousands at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bandit.errors import MemoryFull
from bandit.events import ActionRecord, DecisionEvent, Event
from bandit.experiment import Experiment
from bandit.rows import read_interactions
from bandit.settings import parse_settings
from joiner import wide as wide_rows
from joiner.connection import quote, shortages
from joiner.parquet import read_parquet
from joiner.warehouse import Warehouse
from tests.joiner.logs import FAR, START, at, decision, reward, write

ROWS, ROWS_IN_A_SEGMENT = 2_400, 800
TEXT = "x" * 1_000
SMALL = {"rewards": {"window_s": 60.0}, "training": {"database_bytes_max": 512 * 1024 * 1024}}


def wide(number: int) -> DecisionEvent:
    """A decision of 25 kB whose place in time is not its place in the log."""
    offered = [ActionRecord(f"{name}-{number}", {"f": number, "t": TEXT}) for name in "abcdefghijklmnopqrstuvwxy"]
    seconds = 1_000 + (number * 7) % ROWS
    return decision(
        f"w{number}", seconds, action="b", actions=offered, pmf=[0.01] + [0.75] + [0.01] * 23, context={"n": number}
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of an experiment with a wide log and a database of little memory."""
    folder = tmp_path_factory.mktemp("wide")
    experiment = Experiment.create(folder, "test", parse_settings(SMALL), now=START)
    narrow: list[Event] = [
        decision("é", 2, excluded=["q"]),
        decision("n", 1, context={"x": 1e-9, "s": "\u2028\\/"}),
        reward("n", 3, 0.1),
    ]
    write(experiment, narrow, "w0")
    for first in range(0, ROWS, ROWS_IN_A_SEGMENT):
        write(experiment, [wide(number) for number in range(first, first + ROWS_IN_A_SEGMENT)], "w1")
    with Warehouse(experiment, threads=1) as warehouse:
        warehouse.ingest(sorted(experiment.paths.events.glob("*.jsonl")))
        warehouse.join(FAR)
    return folder


def test_wide_rows_are_written_for_training_in_the_order_of_maturity(log: Path, tmp_path: Path) -> None:
    with Warehouse(Experiment.open(log, "test"), threads=1) as warehouse:
        with pytest.raises(MemoryFull, match=r"training\.database_bytes_max"), shortages(tmp_path):
            target = quote(str(warehouse.scratch / "refused"))  # what DuckDB makes of them by itself
            warehouse.cursor().execute(
                f"COPY (SELECT *, context::JSON, actions::JSON FROM interactions ORDER BY matures_at) TO {target} "
                "(FORMAT json)"
            )
        (warehouse.scratch / "refused").unlink(missing_ok=True)
        assert warehouse.write_training_rows(tmp_path / "rows", after=None, until=FAR) == ROWS + 2
    rows = list(read_interactions(tmp_path / "rows", {}))
    keys = [(row.matures_at, row.decided_at, row.event_id) for row in rows]
    assert keys == sorted(keys)
    assert {len(row.actions) for row in rows[2:]} == {25}
    assert all(row.actions[0].features == {"f": row.context["n"], "t": TEXT} for row in rows[2:])


def test_wide_rows_written_for_training_are_those_of_one_moment(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(log / "experiments", tmp_path / "experiments")
    with Warehouse(Experiment.open(tmp_path, "test"), threads=1) as warehouse:
        are_wide = wide_rows.are_wide

        def looked_at_while_others_write(*arguments: Any, **named: Any) -> bool:
            answer = are_wide(*arguments, **named)
            warehouse.cursor().execute("DELETE FROM joined")
            return answer

        monkeypatch.setattr(wide_rows, "are_wide", looked_at_while_others_write)
        assert warehouse.write_training_rows(tmp_path / "rows", after=None, until=FAR) == ROWS + 2
        assert warehouse.write_training_rows(tmp_path / "none", after=None, until=FAR) == 0
    assert len(list(read_interactions(tmp_path / "rows", {}))) == ROWS + 2


def test_a_row_is_the_same_to_the_byte_whether_its_neighbours_are_wide_or_not(log: Path, tmp_path: Path) -> None:
    with Warehouse(Experiment.open(log, "test"), threads=1) as warehouse:
        assert warehouse.write_training_rows(tmp_path / "alone", after=None, until=at(500)) == 2
        warehouse.write_training_rows(tmp_path / "all", after=None, until=FAR)
    alone = (tmp_path / "alone").read_bytes()
    assert (tmp_path / "all").read_bytes()[: len(alone)] == alone


@pytest.mark.parametrize("what", ["decisions", "interactions"])
def test_wide_rows_are_exported_the_same_in_both_formats(log: Path, tmp_path: Path, what: str) -> None:
    with Warehouse(Experiment.open(log, "test"), threads=1) as warehouse:
        for form in ("ndjson", "parquet"):
            assert warehouse.export(tmp_path / form, what=what, form=form, metadata={"a": "b"}) == ROWS + 2
        names = [row[0] for row in warehouse.cursor().execute(f"DESCRIBE {what}").fetchall()]
        kinds = dict(row[:2] for row in warehouse.cursor().execute(f"DESCRIBE {what}").fetchall())
        assert list(warehouse.scratch.iterdir()) == []
    described = duckdb.execute(f"DESCRIBE SELECT * FROM read_parquet({quote(str(tmp_path / 'parquet'))})").fetchall()
    assert all(name in names for name, *_ in described)
    for name, kind, *_ in described:
        assert kind == ("TIMESTAMP WITH TIME ZONE" if kinds[name] == "TIMESTAMP" else kinds[name])
    frame = read_parquet(tmp_path / "parquet")
    lines = [json.loads(line) for line in (tmp_path / "ndjson").read_text().split("\n") if line]
    assert [json.loads(text) for text in frame["actions"]] == [line["actions"] for line in lines]
    assert [list(pmf) for pmf in frame["pmf"]] == [line["pmf"] for line in lines]
    assert list(frame["event_id"]) == [line["event_id"] for line in lines]
    assert frame["decided_at"].is_monotonic_increasing


def test_a_catalogue_makes_rows_wide_only_where_they_hold_it(tmp_path: Path) -> None:
    actions = [{"id": f"a{number}", "features": {"t": TEXT}} for number in range(25)]
    experiment = Experiment.create(tmp_path, "test", parse_settings({**SMALL, "actions": actions}), now=START)
    pmf = [0.04] * 25
    events = [
        decision(f"e{n:05d}", n, actions=None, catalogue_version=1, pmf=pmf, probability=0.04) for n in range(ROWS)
    ]
    paths = write(experiment, events)
    with Warehouse(experiment, threads=1) as warehouse:
        warehouse.ingest(paths)
        warehouse.join(FAR)
        assert warehouse.export(tmp_path / "rows", what="interactions", form="ndjson") == ROWS
        assert warehouse.write_training_rows(tmp_path / "training", after=None, until=FAR) == ROWS
    assert (tmp_path / "training").stat().st_size < ROWS * 1_000 < (tmp_path / "rows").stat().st_size / 20


def test_segments_that_do_not_fit_together_go_in_one_by_one(log: Path, tmp_path: Path) -> None:
    shutil.copytree(log / "experiments", tmp_path / "experiments")
    experiment = Experiment.open(tmp_path, "test")
    experiment.paths.warehouse.unlink()
    segments = sorted(experiment.paths.events.glob("*.jsonl"))
    with Warehouse(experiment, threads=8) as warehouse:  # each thread reads a segment, with buffers of its own
        assert warehouse.ingest(segments).segments == len(segments)
        assert warehouse.join(FAR).interactions == ROWS + 2
