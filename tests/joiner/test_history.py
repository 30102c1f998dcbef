"""Imported history: what is accepted, what is refused and counted, and that it is log like any other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bandit.errors import Busy, InvalidInput
from bandit.eventlog import read_events, survey
from bandit.events import DecisionEvent
from bandit.experiment import Experiment
from bandit.files import FileLock
from bandit.settings import parse_settings
from joiner.history import LOCK, BrokenOff, ImportReport, import_history, import_is_under_way, import_rows
from joiner.rebuild import rebuild
from joiner.warehouse import Warehouse
from tests.joiner.logs import START, at, decision, experiment, reward, write

ROW: dict[str, Any] = {
    "context": {"x": 1},
    "action": "a",
    "probability": 0.25,
    "reward": 1.0,
    "actions": [{"id": "a"}, {"id": "b", "features": {"f": 2}}],
}


def bring_in(target: Experiment, rows: Sequence[Mapping[str, Any] | bytes], **options: Any) -> ImportReport:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return import_history(target, lines, clock=lambda: START, durable=False, **options)


def joined(target: Experiment) -> pd.DataFrame:
    now = START + timedelta(hours=1)
    found = survey(target.paths, now=now)
    assert found.watermark == now
    with Warehouse(target) as warehouse:
        warehouse.ingest(found.segments)
        warehouse.join(found.watermark)
        return warehouse.interactions()


def test_history_is_mature_at_once(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    report = bring_in(target, [ROW, ROW | {"reward": 0.5, "action": "b", "probability": 0.75}])
    assert (report.rows, report.imported, report.rewards) == (2, 2, 2)
    frame = joined(target)
    assert list(frame["reward"]) == [1.0, 0.5]
    assert list(frame["index"]) == [0, 1]
    assert set(frame["origin"]) == {"import"} and set(frame["model_id"]) == {"imported"}
    assert frame["pmf"].isna().all()


def test_without_reward_there_was_silence(tmp_path: Path) -> None:
    target = experiment(tmp_path, default=-0.5)
    bring_in(target, [{key: value for key, value in ROW.items() if key != "reward"}, ROW | {"reward": None}])
    frame = joined(target)
    assert list(frame["reward"]) == [-0.5, -0.5] and not frame["rewarded"].any()


def test_the_same_file_imported_twice_counts_once(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    for _ in range(2):
        bring_in(target, [ROW, ROW, ROW | {"reward": 0.0}])
    assert list(joined(target)["reward"]) == [1.0, 1.0, 0.0]
    with Warehouse(target) as warehouse:
        counts = warehouse.counts()
    assert (counts["imported"], counts["duplicates"], counts["conflicts"], counts["late"]) == (3, 6, 0, 0)


def test_rows_with_which_two_files_begin_alike_are_the_same_and_the_report_tells_how_many_ids_were_made(
    tmp_path: Path,
) -> None:
    target = experiment(tmp_path)
    first = bring_in(target, [ROW, ROW, ROW | {"reward": 0.0}])
    longer = bring_in(target, [ROW, ROW, ROW, ROW | {"event_id": "mine"}, ROW | {"reward": 9.0}])
    assert (first.without_event_id, longer.without_event_id, longer.imported) == (3, 3, 4)
    assert len(joined(target)) == 3 + 1 + 1  # the third row and the one with an id are new


def test_rows_keep_the_order_of_the_file(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    bring_in(target, [ROW | {"context": {"n": n}} for n in range(6000)])
    assert [json.loads(text)["n"] for text in joined(target)["context"]] == list(range(6000))


def test_a_slot_that_no_answer_has_is_refused_with_the_limit_and_those_of_the_api_come_in(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    report = bring_in(target, [ROW | {"slot": slot} for slot in (0, 1, 10, 1000, 1001, 2**31, 10**30)])
    assert (report.imported, report.refused) == (3, {"invalid_slot": 4})
    assert "1 to 1000" in report.examples[-1]
    assert list(joined(target)["slot"]) == [1, 10, 1000]


def test_given_times_ids_and_distributions_are_kept(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    bring_in(target, [ROW | {"event_id": "mine", "decided_at": "2020-01-02T03:04:05+01:00", "pmf": [0.25, 0.75]}])
    [row] = joined(target).to_dict("records")
    assert row["event_id"] == "mine"
    assert row["decided_at"].isoformat() == "2020-01-02T02:04:05+00:00"
    assert list(row["pmf"]) == [0.25, 0.75]


def test_a_decision_ahead_of_its_import_is_refused_by_name_unless_two_clocks_may_differ_by_so_much(
    tmp_path: Path,
) -> None:
    target = experiment(tmp_path)
    local = (START + timedelta(hours=9)).replace(tzinfo=None)
    times = [START + timedelta(minutes=4), START + timedelta(minutes=6), local, START - timedelta(days=9)]
    report = bring_in(target, [ROW | {"decided_at": moment.isoformat()} for moment in times])
    assert (report.imported, report.refused) == (2, {"time_ahead": 2})
    assert [example.partition(":")[0] for example in report.examples] == ["line 2", "line 3"]
    assert "decided_at: lies ahead of the import; a time without a zone is read as UTC (limit: 300 s" in str(
        report.examples
    )
    assert list(joined(target)["decided_at"]) == [times[3], times[0]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"probability": None}, "no_probability"),
        ({"probability": 0}, "invalid_probability"),
        ({"probability": -0.5}, "invalid_probability"),
        ({"probability": 1e-300}, "invalid_probability"),
        ({"probability": None, "pmf": [1e-300, 1.0], "action": "a"}, "invalid_probability"),
        ({"probability": 1.5}, "invalid_probability"),
        ({"probability": "0.5"}, "invalid_probability"),
        ({"probability": True}, "invalid_probability"),
        ({"pmf": [0.5, 0.5]}, "inconsistent_pmf"),
        ({"pmf": [0.25, 0.25]}, "invalid_pmf"),
        ({"pmf": [0.25, 0.5, 0.25]}, "invalid_pmf"),
        ({"reward": 7}, "reward_out_of_range"),
        ({"reward": "good"}, "invalid_reward"),
        ({"action": "c"}, "unknown_action"),
        ({"action": None}, "invalid_action"),
        ({"actions": []}, "invalid_actions"),
        ({"actions": ["a", "a"]}, "invalid_actions"),
        ({"actions": None}, "no_actions"),
        ({"context": None}, "invalid_features"),
        ({"context": {"x\n": 1}}, "invalid_features"),
        ({"decided_at": "yesterday"}, "invalid_time"),
        ({"decided_at": "0001-01-01T00:00:00+14:00"}, "invalid_time"),
        ({"event_id": ""}, "invalid_id"),
        ({"event_id": 5}, "invalid_id"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_and_counted(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    report = bring_in(experiment(tmp_path), [ROW, ROW | change, ROW])
    assert (report.rows, report.imported, dict(report.refused)) == (3, 2, {reason: 1})
    assert report.examples[0].startswith("line 2: ")


@pytest.mark.parametrize("line", [b"{", b"[]", b"5", b'{"context": NaN}', b'{"context": 1e400}', b"\xff", b'"\\ud800"'])
def test_a_line_that_is_no_json_object_is_refused_and_counted(tmp_path: Path, line: bytes) -> None:
    assert dict(bring_in(experiment(tmp_path), [line, ROW, b"", b"  \n"]).refused) == {"not_json": 1}


def test_a_missing_probability_is_filled_in_only_for_a_stated_logging_policy(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    report = bring_in(target, [ROW | {"probability": None}, ROW], logging_policy="uniform")
    assert report.imported == 2
    frame = joined(target)
    assert list(frame["probability"]) == [0.5, 0.25]
    assert list(frame["pmf"][0]) == [0.5, 0.5] and frame["pmf"].isna()[1]


def test_rows_without_actions_were_offered_the_catalogue(tmp_path: Path) -> None:
    settings = parse_settings({"actions": [{"id": "1"}, {"id": "2"}]})
    target = Experiment.create(tmp_path, "test", settings, now=START - timedelta(days=1))
    plain = {key: value for key, value in ROW.items() if key != "actions"}
    report = bring_in(target, [plain | {"action": "2"}, plain | {"action": 1}, plain | {"action": "3"}])
    assert dict(report.refused) == {"unknown_action": 1}
    frame = joined(target)
    assert list(frame["index"]) == [1, 0]
    assert set(frame["catalogue_version"]) == {1} and set(frame["actions"]) == {'[{"id":"1"},{"id":"2"}]'}


def test_actions_that_a_row_names_alone_have_the_features_of_the_catalogue_as_in_a_request(tmp_path: Path) -> None:
    listed = [{"id": "a", "features": {"price": 3}}, {"id": "b", "features": {"price": 5}}, {"id": "c"}]
    target = Experiment.create(tmp_path, "test", parse_settings({"actions": listed}), now=START - timedelta(days=1))
    own = {"id": "b", "features": {"f": 2}}
    offers = [["b", "a"], [own, {"id": "a", "features": {}}], ["a", "b", "c"], ["d", "a"]]
    bring_in(target, [ROW | {"actions": offer, "decided_at": str(at(n))} for n, offer in enumerate(offers)])
    frame = joined(target).sort_values("decided_at")
    b, a = listed[1], listed[0]
    assert [json.loads(actions) for actions in frame["actions"]] == [[b, a], [own, a], listed, [{"id": "d"}, a]]
    assert frame["catalogue_version"].notna().tolist() == [False, False, True, False]  # it is whole


def test_a_list_of_numbers_becomes_features_by_position(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    bring_in(target, [ROW | {"context": {"v": [1.5, 2], "words": ["a", "b"]}}])
    assert json.loads(joined(target)["context"][0]) == {"v": {"0": 1.5, "1": 2}, "words": ["a", "b"]}


def test_imported_rows_are_in_a_rebuild_too(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    write(target, [decision("live", 0), reward("live", 1, 1.0)])
    bring_in(target, [ROW, ROW])
    before = joined(target)
    assert len(before) == 3
    target.paths.warehouse.unlink()
    rebuild(target, watermark=at(3600))
    with Warehouse(target) as warehouse:
        assert warehouse.interactions().equals(before)


def test_an_import_that_waits_for_rows_keeps_no_log_from_being_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 2)
    target = experiment(tmp_path)
    watermarks = []

    def lines() -> Iterator[bytes]:
        for number in range(5):
            later = START + timedelta(minutes=1 + number)
            found = survey(target.paths, now=later)
            watermarks.append(found.watermark == later)
            with pytest.raises(Busy, match="another import into this experiment is under way"):
                bring_in(target, [ROW])
            yield json.dumps(ROW | {"context": {"x": number}}).encode()

    report = import_history(target, lines(), clock=lambda: START, durable=False)
    assert report.imported == 5
    assert watermarks == [True] * 5
    frame = joined(target)
    assert len(frame) == 5
    assert frame["matures_at"].min() >= START + timedelta(minutes=2)  # nothing comes in behind what was joined


def test_an_import_whose_file_breaks_off_keeps_its_whole_batches_and_is_made_good_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 2)
    target = experiment(tmp_path)
    whole = [json.dumps(ROW | {"context": {"x": number}}).encode() for number in range(5)]

    def torn() -> Iterator[bytes]:
        yield from whole[:3]
        raise OSError("the pipe is gone")

    with pytest.raises(OSError, match="the pipe is gone"):
        import_history(target, torn(), clock=lambda: START, durable=False)
    segments = survey(target.paths, now=START).segments
    assert [isinstance(event, DecisionEvent) for path in segments for event in read_events(path)] == [True, False] * 2
    bring_in(target, whole)
    assert [context["x"] for context in map(json.loads, joined(target)["context"])] == [0, 1, 2, 3, 4]


def test_rows_that_break_off_are_refused_with_how_many_were_imported_and_once_mended_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 2)
    target = experiment(tmp_path)
    rows = [ROW | {"context": {"x": number}, "probability": 2.0 if number == 1 else 0.25} for number in range(6)]

    def broken(after: int) -> Iterator[dict[str, Any]]:
        yield from rows[:after]
        raise BrokenOff("h.parquet cannot be read")

    for after, told in ((1, "nothing was imported"), (5, "3 rows were imported before, and count once")):
        with pytest.raises(InvalidInput, match=f"FILE: h.parquet cannot be read; {told}"):
            import_rows(target, broken(after), clock=lambda: START, durable=False)
    bring_in(target, rows)
    assert [context["x"] for context in map(json.loads, joined(target)["context"])] == [0, 2, 3, 4, 5]


def test_whoever_looks_whether_an_import_is_under_way_keeps_none_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = experiment(tmp_path)
    assert not import_is_under_way(target.paths)
    looking = FileLock(target.paths.root / LOCK)
    looking.acquire()
    monkeypatch.setattr("joiner.history.time.sleep", lambda _: looking.release())
    seen = []
    report = bring_in(target, [ROW], progress=lambda _: seen.append(import_is_under_way(target.paths)))
    assert (report.imported, seen, import_is_under_way(target.paths)) == (1, [True], False)
