"""Scored rows are refused in words when a column is wrong, and survive tables, slices and joins."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from bandit.errors import InvalidScores
from evaluation.scored import ScoredRows
from tests.evaluation.worlds import make_world


def mixed() -> ScoredRows:
    return ScoredRows.concat(
        [
            make_world(1, k=5).log(np.random.default_rng(1), 30),
            make_world(2, k=3).log(np.random.default_rng(2), 20, pmf=False),
        ]
    )


def test_rows_survive_a_table_bit_for_bit() -> None:
    rows = replace(mixed(), cluster=[f"u{i % 7}" for i in range(50)], event_id=[str(i) for i in range(50)])
    assert ScoredRows.from_frame(rows.to_frame()).digest() == rows.digest()


def test_slices_put_together_are_the_whole() -> None:
    rows = mixed()
    assert ScoredRows.concat([rows.slice(0, 13), rows.slice(13, 13), rows.slice(13)]).digest() == rows.digest()
    assert ScoredRows.concat(list(rows.chunks(16))).digest() == rows.digest()


def test_filtering_keeps_ragged_rows_together() -> None:
    rows = mixed()
    odd = rows.where(np.arange(50) % 2 == 1)
    assert len(odd) == 25
    assert np.array_equal(odd.reduce().lift, rows.reduce().lift[1::2])


def test_any_object_with_the_columns_will_do() -> None:
    rows = mixed()
    times = [datetime(2026, 1, 1, tzinfo=UTC)] * 50
    scores = SimpleNamespace(
        **{name: getattr(rows, name) for name in ("offsets", "candidate", "champion", "q", "pmf", "action", "reward")},
        propensity=rows.propensity,
        decided_at=times,
        event_id=None,
        cluster=None,
    )
    assert ScoredRows.of(scores).decided_at[0] == np.datetime64("2026-01-01")


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        ("reward", np.nan, "reward"),
        ("propensity", 0.0, "propensity"),
        ("propensity", np.nan, "propensity"),
        ("propensity", 1.5, "propensity"),
        ("action", 5, "action"),
        ("action", 0.5, "action"),
        ("action", None, "action"),
    ],
)
def test_a_wrong_number_names_its_column(column: str, value: float, named: str) -> None:
    frame = make_world(1).log(np.random.default_rng(1), 10).to_frame().astype({column: float})
    frame.loc[3, column] = value
    with pytest.raises(InvalidScores) as error:
        ScoredRows.from_frame(frame)
    assert error.value.problems[0].field == named


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("candidate", [0.5, 0.4, 0.0, 0.0, 0.0]),
        ("champion", [1.2, -0.2, 0.0, 0.0, 0.0]),
        ("q", [0.1]),
        ("q", [0.1, 0.2, np.inf, 0.3, 0.4]),
        ("candidate", "not a list"),
        ("candidate", ["a", "b", "c", "d", "e"]),
    ],
)
def test_a_wrong_list_names_its_column(column: str, value: object) -> None:
    frame = make_world(1).log(np.random.default_rng(1), 10).to_frame()
    frame.at[3, column] = value
    with pytest.raises(InvalidScores) as error:
        ScoredRows.from_frame(frame)
    assert error.value.problems[0].field in (column, "q")


def test_a_missing_column_is_named() -> None:
    frame = make_world(1).log(np.random.default_rng(1), 10).to_frame().drop(columns=["q"])
    with pytest.raises(InvalidScores, match="q: column is missing"):
        ScoredRows.from_frame(frame)
