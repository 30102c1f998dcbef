"""How many rows a training job holds at a time: a bound on rows, and one on the actions that they bring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bandit.types import Action
from serving.learner.training import jobs
from serving.learner.training.desk import Desk


def write(path: Path, offers: Sequence[int | None]) -> None:
    """Rows of so many actions of their own, or of the catalogue."""
    lines = []
    for number, k in enumerate(offers):
        row = {
            "event_id": f"e{number}",
            "decided_at": "2026-03-01T12:00:00Z",
            "model_id": "m",
            "context": {},
            "index": 0,
            "propensity": 0.5,
            "reward": 0.0,
            "actions": None if k is None else [{"id": str(place)} for place in range(k)],
            "catalogue_version": 1 if k is None else None,
        }
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))


def test_rows_of_many_actions_are_read_in_smaller_chunks_and_a_catalogue_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CHUNK_ACTIONS", 100)
    monkeypatch.setattr(jobs, "CHUNK_ROWS", 30)
    catalogues = {1: tuple(Action(str(place)) for place in range(60))}

    def sizes(offers: Sequence[int | None]) -> list[int]:
        write(tmp_path / "rows", offers)
        chunks = list(jobs._chunks(Desk(), jobs.Job(tmp_path, "a", {}, "m"), tmp_path / "rows", catalogues))
        assert [row.event_id for chunk in chunks for row in chunk] == [f"e{n}" for n in range(len(offers))]
        return [len(chunk) for chunk in chunks]

    assert sizes([50] * 5) == [2, 2, 1]
    assert sizes([1] * 70) == [30, 30, 10]
    assert sizes([None] * 40) == [30, 10]
    assert sizes([300, 300]) == [1, 1]
    assert sizes([]) == []
