"""Scored rows are refused in words when a column is wrong, and survive tables, slices and joins."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bandit.errors import InvalidScores
from evaluation.scored import ScoredRows
from joiner.parquet import write_parquet
from serving.cli.scored_file import ScoredFile
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


def test_rows_without_a_subject_stand_for_themselves_beside_rows_that_have_one() -> None:
    rows = replace(mixed(), event_id=[f"e{i}" for i in range(50)])
    known = replace(rows.slice(0, 20), cluster=["ann", "bob"] * 10)
    together = ScoredRows.concat([known, rows.slice(20, 21), rows.slice(21)])
    assert together.cluster == ["ann", "bob"] * 10 + [f"e{i}" for i in range(20, 50)]
    nameless = ScoredRows.concat([known, replace(rows.slice(20), event_id=None)]).cluster
    assert nameless is not None and len(set(nameless)) == 2 + 30
    assert ScoredRows.concat([rows.slice(0, 20), rows.slice(20)]).cluster is None


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


def test_times_are_the_same_moments_in_whatever_zone_and_to_the_microsecond() -> None:
    rows, east = mixed().slice(0, 4), timezone(timedelta(hours=5, minutes=30))
    moment, before = datetime(2026, 3, 29, 1, 59, 59, 999_999, tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC)
    given = [moment, moment.astimezone(east), moment.replace(tzinfo=None), before]
    times = ScoredRows.of(replace(rows, decided_at=given)).decided_at
    assert times.tolist() == [moment.replace(tzinfo=None)] * 3 + [before.replace(tzinfo=None)]


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
        ("reward", "one", "reward"),
        ("action", "1", "action"),
        ("reward", datetime(2026, 1, 1, tzinfo=UTC), "reward"),
        ("reward", 1e300, "reward"),
        ("propensity", 1e-320, "propensity"),
    ],
)
def test_a_wrong_number_names_its_column_and_its_row(column: str, value: object, named: str) -> None:
    frame = make_world(1).log(np.random.default_rng(1), 10).to_frame()
    frame = frame.astype({column: float if isinstance(value, float | int | None) else object})
    frame.loc[3, column] = value
    with pytest.raises(InvalidScores, match=r"row 103, counted from 0") as error:
        ScoredRows.from_frame(frame, first=100)
    assert error.value.problems[0].field == named


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("candidate", [0.5, 0.4, 0.0, 0.0, 0.0]),
        ("champion", [1.2, -0.2, 0.0, 0.0, 0.0]),
        ("q", [0.1]),
        ("q", [0.1, 0.2, np.inf, 0.3, 0.4]),
        ("q", [0.1, 0.2, -1e300, 0.3, 0.4]),
        ("candidate", "not a list"),
        ("candidate", ["a", "b", "c", "d", "e"]),
        ("candidate", [None, 0.25, 0.25, 0.25, 0.25]),
        ("champion", np.ma.masked_array([0.0, 0.25, 0.25, 0.25, 0.25], [True, False, False, False, False])),
        ("champion", [np.nan, 0.25, 0.25, 0.25, 0.25]),
        ("q", np.ma.masked_array(np.full(5, 0.5), [False, False, True, False, False])),
        ("pmf", np.ma.masked_array(np.full(5, 0.2), [False, False, True, False, False])),
        ("candidate", [[0.2], [0.2], [0.2], [0.2], [0.2]]),
    ],
)
def test_a_wrong_list_names_its_column_and_its_row(column: str, value: object) -> None:
    frame = make_world(1).log(np.random.default_rng(1), 10).to_frame()
    frame.at[3, column] = value
    with pytest.raises(InvalidScores, match="row 3, counted from 0") as error:
        ScoredRows.from_frame(frame)
    assert error.value.problems[0].field == column


def test_a_null_within_a_stored_list_is_never_taken_for_a_number(tmp_path: Path) -> None:
    frame = make_world(1).log(np.random.default_rng(1), 3000).to_frame()
    frame.at[2700, "candidate"] = [None, 0.25, 0.25, 0.25, 0.25]
    write_parquet(tmp_path / "rows.parquet", frame)
    with pytest.raises(InvalidScores, match=r"candidate: .*row 2,700, counted from 0"):
        list(ScoredFile(tmp_path / "rows.parquet", vectors=1).chunks())


def test_a_row_without_its_subject_is_refused_and_one_without_a_segment_has_none() -> None:
    frame = make_world(1).log(np.random.default_rng(1), 10).to_frame()
    frame["segment"] = ["a", None] * 5
    assert ScoredRows.from_frame(frame).segment == ["a", ""] * 5
    frame["cluster"] = ["u"] * 9 + [None]
    with pytest.raises(InvalidScores, match=r"cluster: must name a subject in every row \(row 9"):
        ScoredRows.from_frame(frame)


def test_a_number_is_no_time() -> None:
    frame = make_world(1).log(np.random.default_rng(1), 10).to_frame()
    with pytest.raises(InvalidScores, match="decided_at: must be a time"):
        ScoredRows.from_frame(frame.assign(decided_at=range(10)))


def test_a_missing_column_is_named() -> None:
    frame = make_world(1).log(np.random.default_rng(1), 10).to_frame().drop(columns=["q"])
    with pytest.raises(InvalidScores, match="q: column is missing"):
        ScoredRows.from_frame(frame)
