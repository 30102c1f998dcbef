"""Training rows are read back as written, and nothing that would spoil a model gets through."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandit.errors import InvalidHistory
from bandit.rows import read_interactions
from bandit.types import Action, Interaction

ROW: dict[str, Any] = {
    "event_id": "e1",
    "decided_at": "2026-01-01T00:00:00Z",
    "model_id": "m",
    "context": {"x": 1, "t": ["a"]},
    "actions": [{"id": "a"}, {"id": "b", "features": {"p": 2}}],
    "index": 1,
    "propensity": 0.5,
    "pmf": [0.5, 0.5],
    "reward": 1.0,
    "joined_by": "a later release",
}
CATALOGUE = {3: (Action("a"), Action("b"), Action("c"))}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path


def test_a_row_is_read_with_its_own_actions(tmp_path: Path) -> None:
    (row,) = read_interactions(write(tmp_path / "rows", ROW), {})
    assert row.actions == (Action("a"), Action("b", {"p": 2}))
    assert row.context == {"x": 1, "t": ["a"]} and row.pmf == (0.5, 0.5) and row.rewarded


def test_rows_of_a_catalogue_share_one_tuple_of_actions(tmp_path: Path) -> None:
    whole = {**ROW, "actions": None, "catalogue_version": 3, "pmf": None, "index": 2}
    less = {**whole, "excluded": ["a"], "index": 1}
    first, second, third = read_interactions(write(tmp_path / "rows", whole, whole, less), CATALOGUE)
    assert first.actions is second.actions
    assert [action.id for action in third.actions] == ["b", "c"]


@pytest.mark.parametrize(
    "change",
    [
        {"index": 2},
        {"index": -1},
        {"propensity": 0.0},
        {"propensity": 1.5},
        {"propensity": None},
        {"reward": None},
        {"reward": "1"},
        {"pmf": [1.0]},
        {"actions": None},
        {"actions": None, "catalogue_version": 9},
        {"context": 5},
        {"decided_at": "yesterday"},
    ],
)
def test_a_row_that_cannot_be_learnt_is_named_by_its_line(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidHistory, match="line 2"):
        list(read_interactions(write(tmp_path / "rows", ROW, {**ROW, **change}), CATALOGUE))


@pytest.mark.parametrize("line", [b'{"event_id": "e"', b"[]", b"\xff\xfe", b'{"reward": 1e400}'])
def test_broken_lines_are_refused(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(line + b"\n")
    with pytest.raises(InvalidHistory, match="line 1"):
        list(read_interactions(path, {}))


def test_every_field_is_read_into_its_place(tmp_path: Path) -> None:
    expected = Interaction(
        event_id="e1",
        decided_at=datetime(2026, 1, 1, tzinfo=UTC),
        model_id="m",
        context={"x": 1},
        actions=CATALOGUE[3],
        index=2,
        propensity=0.5,
        pmf=(0.25, 0.25, 0.5),
        reward=-1.5,
        rewarded=False,
        mode="apprentice",
        slice="trial",
        origin="import",
        settings_version=7,
        slot=4,
        subject="s",
        trial_model_id="t",
        trial_share=0.25,
        matures_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    written = msgspec.to_builtins(expected) | {"actions": None, "catalogue_version": 3}
    assert list(read_interactions(write(tmp_path / "rows", written), CATALOGUE)) == [expected]
