"""The history of an experiment: what was recorded stays, and only an unfinished line goes."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from bandit.errors import CorruptLog
from bandit.experiment import ExperimentPaths
from bandit.history import History
from tests.bandit.eventlog_support import START


def test_the_history_keeps_what_was_recorded_and_drops_only_an_unfinished_line(tmp_path: Path) -> None:
    paths = ExperimentPaths(tmp_path)
    history = History(paths)
    assert history.entries() == []
    history.record("run", now=START, verdict="hold", reason='lift "small"\n')
    history.record("pin", now=START, model_id="m1")
    with paths.history.open("ab") as file:
        file.write(b'{"kind":"run","at"' + b"x" * 9000)
    assert [entry["kind"] for entry in history.entries()] == ["run", "pin"]
    history.record("rollback", now=START + timedelta(seconds=1))
    entries = history.entries()
    assert [entry["kind"] for entry in entries] == ["run", "pin", "rollback"]
    assert entries[0]["reason"] == 'lift "small"\n'
    assert history.entries("pin") == [{"kind": "pin", "at": "2026-03-01T12:00:00Z", "model_id": "m1"}]
    assert len([json.loads(line) for line in paths.history.read_text().splitlines()]) == 3


def test_a_broken_line_inside_the_history_is_an_error(tmp_path: Path) -> None:
    paths = ExperimentPaths(tmp_path)
    history = History(paths)
    paths.history.write_bytes(b'{"kind":"run"}\n{"ki\n{"kind":"run"}\n')
    with pytest.raises(CorruptLog):
        history.entries()


def test_the_newest_entries_come_first_and_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    paths = ExperimentPaths(tmp_path)
    history = History(paths, durable=False)
    assert list(history.newest("run")) == []
    for number in range(4):
        history.record("run" if number % 2 else "pin", now=START, number=number)
    assert [entry["number"] for entry in history.newest("run")] == [3, 1]
    damaged = b"no JSON\n" + paths.history.read_bytes()
    paths.history.write_bytes(damaged)
    assert next(history.newest("run"))["number"] == 3
    with pytest.raises(CorruptLog):
        list(history.newest("run"))
