"""The warehouse as a file: exactly once, locked down, rebuildable, and readable while it is written."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import duckdb
import pytest

from bandit.errors import InvalidInput
from bandit.eventlog.erasure import as_text
from bandit.experiment import Experiment
from bandit.rows import read_interactions
from bandit.settings import merge_settings, parse_settings
from joiner.archive import archives, compact, holds_any
from joiner.parquet import read_parquet
from joiner.rebuild import rebuild
from joiner.warehouse import Warehouse
from tests.joiner.logs import FAR, START, at, decision, experiment, reward, write
from tests.joiner.test_files import metadata_of

AWKWARD = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2**53 + 2.0, 1e22, 123456789.12345679]


def test_a_segment_goes_in_exactly_once_however_often_it_is_offered(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    segments = write(target, [decision("e", 0), reward("e", 1, 1.0)])
    with Warehouse(target) as warehouse:
        assert warehouse.ingest([*segments, *segments]).events == 2
    with Warehouse(target) as warehouse:
        report = warehouse.ingest(segments)
        assert (report.segments, report.known) == (0, 1)
        assert warehouse.counts()["decision_records"] == 1


@pytest.mark.parametrize("name", ["of [1]", "of *", "**", "it's {a,b}", "event_id=7", "line=x"])
def test_a_data_directory_may_have_a_name_that_is_a_pattern_or_says_what_a_column_is(tmp_path: Path, name: str) -> None:
    elsewhere = experiment(tmp_path / "of 1")
    write(elsewhere, [decision("elsewhere", 0)])
    target = experiment(tmp_path / name)
    with Warehouse(target) as warehouse:
        assert warehouse.ingest(write(target, [decision("e", 0), reward("e", 1, 1.0)])).events == 2
        warehouse.join(FAR)
        assert warehouse.export(tmp_path / name / "out.parquet", what="interactions", form="parquet") == 1
        assert compact(warehouse, older_than=FAR, now=FAR).segments == 1
    assert list(read_parquet(tmp_path / name / "out.parquet")["event_id"]) == ["e"]
    assert holds_any(archives(target.paths)[0], ['"e"'])
    assert rebuild(target, watermark=FAR).interactions == 1


def test_records_are_numbered_one_after_the_other_over_any_number_of_batches(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    segments = [write(target, [decision(f"e{n}", n)])[-1] for n in range(20)]
    with Warehouse(target) as warehouse:
        for segment in segments:
            warehouse.ingest([segment])
        row = warehouse.cursor().execute("SELECT count(DISTINCT record_id), max(record_id) FROM decision_records")
        count, last = row.fetchone() or (0, 0)
    assert count == 20 and last < 20 * 4  # at most the four lines of each segment apart


def test_a_corrupt_segment_is_quarantined_and_the_others_go_in(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    write(target, [decision("good", 0)], "w0")
    bad = write(target, [decision("bad", 0)], "w1")[-1]
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 1
    bad.write_bytes(data)
    with Warehouse(target) as warehouse:
        report = warehouse.ingest(write(target, []))
        assert report.segments == 1 and len(report.quarantined) == 1
        assert not bad.exists() and report.quarantined[0].exists()
        warehouse.join(FAR)
        assert list(warehouse.interactions()["event_id"]) == ["good"]


def test_a_segment_that_holds_what_no_column_can_is_set_aside_with_its_reason_and_the_others_go_in(
    tmp_path: Path,
) -> None:
    target = experiment(tmp_path)
    for writer, slot in (("w0", 3), ("w1", 2**31), ("w2", 2**31 - 1)):
        paths = write(target, [decision(f"of {writer}", 0, slot=slot)], writer)
    whole = paths[1].read_bytes()
    with Warehouse(target) as warehouse:
        report = warehouse.ingest(paths)
        assert (report.segments, report.events) == (2, 2)
        [aside] = report.quarantined
        assert (aside.name, aside.read_bytes()) == ("w1-00000001.jsonl.unreadable", whole)
        [(name, why)] = report.unreadable.items()
        assert (name, "2147483648" in why, str(tmp_path) in why) == ("w1-00000001", True, False)
        warehouse.join(FAR)
        assert list(warehouse.interactions()["event_id"]) == ["of w0", "of w2"]


def test_everything_survives_the_way_through_the_warehouse_bit_for_bit(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    context = {"Ab": 1, "ab": 'x\n"|: 🙂', "date": "2026-01-01", "n": {"deep": AWKWARD}, "none": None, "yes": True}
    odd = decision("2026-01-01", 0, context=context, pmf=[0.1, 0.9], probability=1 / 3, model_id="m|:1", slot=2)
    write(target, [odd, reward("2026-01-01", 1, 0.1 + 0.2)])
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, []))
        warehouse.join(FAR)
        assert warehouse.write_training_rows(tmp_path / "rows.jsonl", after=None, until=FAR) == 1
    [row] = read_interactions(tmp_path / "rows.jsonl", {})
    assert row.context == context
    assert (row.event_id, row.decided_at, row.model_id) == (odd.event_id, odd.decided_at, odd.model_id)
    assert row.matures_at == at(60)
    assert (row.propensity, row.pmf, row.reward, row.slot) == (1 / 3, (0.1, 0.9), 0.1 + 0.2, 2)
    assert [action.id for action in row.actions] == ["a", "b"] and row.actions[1].features == {"f": True}


def test_training_rows_are_cut_by_the_time_of_maturity(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    write(target, [decision(f"e{n}", n) for n in range(10)])
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, []))
        warehouse.join(FAR)
        assert warehouse.write_training_rows(tmp_path / "r", after=at(62), until=at(65)) == 3
        names = [json.loads(line)["event_id"] for line in (tmp_path / "r").read_text().splitlines()]
    assert names == ["e3", "e4", "e5"]


NAMES = ['user"id', "*", "$", "$.a", "a.b", "[0]", "0", "a/b", "a~b", "~1", "/", "back\\", "'", "ü🙂", "a b", "-", "a"]


def test_the_subject_is_the_feature_of_the_very_name_that_is_declared_as_erasure_finds_it(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    context: dict[str, object] = {name: f"of {name}" for name in NAMES} | {"n": 7, "yes": True, "f": 1.5, "none": None}
    context["nested"] = dict.fromkeys(NAMES, "another")
    versions = {}
    for name in [*NAMES, "n", "yes", "f", "none", "absent", "nul\0"]:
        changed = merge_settings(target.settings, {"serving": {"subject_field": name}})
        versions[name] = target.change(changed, now=START)
    write(target, [decision(f"e{v}", v, context=context, settings_version=v) for v in versions.values()])
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, []))
        warehouse.join(FAR)
        found = dict(warehouse.cursor().execute("SELECT event_id, subject FROM interactions").fetchall())
    subjects = {name: found[f"e{version}"] for name, version in versions.items()}
    expected = {name: as_text(context.get(name)) for name in versions}
    assert subjects == expected
    assert [expected[name] for name in ("a.b", "n", "yes", "f", "absent")] == ["of a.b", "7", "true", "1.5", None]


@pytest.mark.parametrize("rebuilt", [True, False])
def test_an_empty_name_that_an_earlier_release_took_as_subject_is_none(tmp_path: Path, rebuilt: bool) -> None:
    target = experiment(tmp_path)
    stored = json.loads(target.paths.settings.read_bytes())
    stored["versions"][0]["settings"]["serving"]["subject_field"] = ""
    target.paths.settings.write_text(json.dumps(stored))
    segments = write(target, [decision("e", 0)])
    with Warehouse(target) as warehouse:
        warehouse.ingest(segments)
        if not rebuilt:
            warehouse.cursor().execute("UPDATE settings SET subject_field = ''")
        warehouse.join(FAR)
        assert list(warehouse.interactions()["subject"]) == [None]


def test_an_experiment_without_events_has_no_rows_and_zero_counts(tmp_path: Path) -> None:
    with Warehouse(experiment(tmp_path)) as warehouse:
        assert warehouse.ingest([]).segments == 0
        assert warehouse.join(FAR).interactions == 0
        assert warehouse.interactions().empty
        assert set(warehouse.counts().values()) == {0}
        assert warehouse.next_maturity() == (0, None)
        assert warehouse.write_training_rows(tmp_path / "rows", after=None, until=FAR) == 0
        assert (tmp_path / "rows").read_bytes() == b""


def test_nothing_outside_its_folders_can_be_read_or_written(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with Warehouse(target) as warehouse:
        cursor = warehouse._read()
        for statement in (
            f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
            f"SELECT * FROM read_text('{target.paths.secret}')",
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            f"ATTACH '{tmp_path}/other.duckdb'",
            f"SELECT * FROM read_text('{target.paths.events}/../secret')",
        ):
            with pytest.raises(duckdb.PermissionException):
                cursor.execute(statement)
        for statement in ("SET enable_external_access = true", "SET memory_limit = '1TB'", "SET threads = 64"):
            with pytest.raises(duckdb.InvalidInputException):
                cursor.execute(statement)


def test_rebuild_makes_the_same_rows_from_the_log_alone(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    write(target, [decision(f"e{n}", n) for n in range(100)])
    write(target, [reward(f"e{n}", 50 + n / 100, n / 100) for n in range(0, 100, 3)], "w1")
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, []))
        warehouse.join(at(130))
        before, digest = warehouse.interactions(), warehouse.digest()
    first = rebuild(target)
    target.paths.warehouse.unlink()
    second = rebuild(target, watermark=at(130))
    assert first.digest == second.digest == digest
    assert second.interactions == len(before) == 71
    with Warehouse(target) as warehouse:
        assert warehouse.interactions().equals(before)


def test_a_file_that_is_no_database_any_more_is_rebuilt(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    write(target, [decision("e", 0)])
    target.paths.warehouse.write_bytes(b"not a database" * 1000)
    assert rebuild(target, watermark=FAR).interactions == 1


def test_a_file_of_another_schema_version_is_made_anew(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    segments = write(target, [decision("e", 0)])
    with Warehouse(target) as warehouse:
        warehouse.ingest(segments)
        warehouse._connection.execute("UPDATE state SET schema_version = 0")
    with Warehouse(target) as warehouse:
        assert warehouse.ingest(segments).segments == 1


def test_a_file_whose_views_another_release_made_gets_those_of_this_one_and_keeps_its_rows(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, [decision("e", 0)]))
        warehouse._connection.execute("CREATE OR REPLACE VIEW decisions AS SELECT 1 AS one")
    with Warehouse(target) as warehouse:
        assert warehouse.cursor().execute("FROM decisions").fetchall() == [(1,)]  # as the file says that it is made
        warehouse._connection.execute("UPDATE prepared SET made_of = 'something else'")
    with Warehouse(target) as warehouse:
        assert warehouse.cursor().execute("SELECT event_id FROM decisions").fetchall() == [("e",)]
        warehouse._connection.execute("DROP TABLE prepared")  # as releases did not have it
    with Warehouse(target) as warehouse:
        assert warehouse.cursor().execute("SELECT count(*) FROM prepared").fetchone() == (1,)
        assert warehouse.counts()["decisions"] == 1


def test_who_has_closed_his_cursor_reads_no_more_although_it_is_still_in_memory(tmp_path: Path) -> None:
    with Warehouse(experiment(tmp_path)) as warehouse:
        cursor = warehouse.cursor()
        assert not warehouse.wait_for_readers(0.05)
        cursor.close()
        assert warehouse.wait_for_readers(0.05)


def test_readers_in_other_threads_see_whole_ticks_only(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    for tick in range(8):
        write(target, [decision(f"e{tick}-{n}", tick) for n in range(50)])
    segments = write(target, [])
    seen: list[int] = []
    with Warehouse(target) as warehouse:
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append(warehouse.count_matured(None, FAR))

        reader = threading.Thread(target=read)
        reader.start()
        for tick, segment in enumerate(segments):
            warehouse.ingest([segment])
            warehouse.join(at(60 + tick))
        done.set()
        reader.join()
        assert warehouse.count_matured(None, FAR) == 400
    assert seen == sorted(seen) and all(count % 50 == 0 for count in seen)


def test_an_export_into_a_pipe_is_written_to_it_and_leaves_it_one(tmp_path: Path) -> None:
    target, pipe = experiment(tmp_path), tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, [decision("e", 0)]))
        assert warehouse.export(pipe, what="decisions", form="ndjson") == 1
        reader.join(10)
        assert pipe.is_fifo() and json.loads(read[0])["event_id"] == "e"
        with pytest.raises(InvalidInput, match="cannot be written"):
            warehouse.export(tmp_path, what="decisions", form="ndjson")


@pytest.mark.parametrize("what", ["decisions", "rewards", "interactions"])
def test_exports_have_the_same_rows_in_both_formats(tmp_path: Path, what: str) -> None:
    target = experiment(tmp_path)
    write(target, [decision(f"e{n}", n) for n in range(5)] + [reward("e1", 3, 1.0), reward("nobody", 4, 0.5)])
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, []))
        warehouse.join(at(63))
        count = warehouse.export(tmp_path / "out.ndjson", what=what, form="ndjson")
        assert warehouse.export(tmp_path / "out.parquet", what=what, form="parquet", metadata={"k": "v'"}) == count
    lines = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    frame = read_parquet(tmp_path / "out.parquet")
    assert len(lines) == len(frame) == count == {"decisions": 5, "rewards": 2, "interactions": 4}[what]
    assert list(lines[0]) == list(frame.columns)
    if what == "interactions":
        assert {"trial_model_id", "trial_share"} < set(lines[0])
    assert [line["event_id"] for line in lines] == list(frame["event_id"])
    assert metadata_of(tmp_path / "out.parquet")["k"] == "v'"
    if what != "rewards":
        assert lines[0]["decided_at"] == "2026-03-01T12:00:00.000000Z"
        assert frame["decided_at"][0] == START
        assert lines[0]["context"] == json.loads(frame["context"][0]) == {"x": 1.5, "Ab": "ü|:", "ab": [1, 2]}


def test_exports_name_the_offered_actions_also_where_the_log_refers_to_a_catalogue(tmp_path: Path) -> None:
    actions = [{"id": "x'"}, {"id": "y", "features": {"f": 1}}, {"id": "z"}]
    target = Experiment.create(tmp_path, "test", parse_settings({"actions": actions}), now=START)
    whole = decision("whole", 0, actions=None, catalogue_version=1)
    less = decision("less", 1, actions=None, catalogue_version=1, excluded=["x'"])
    write(target, [whole, less])
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, []))
        warehouse.join(FAR)
        warehouse.export(tmp_path / "out", what="interactions", form="ndjson")
    lines = {line["event_id"]: line for line in map(json.loads, (tmp_path / "out").read_text().splitlines())}
    assert lines["whole"]["actions"] == actions
    assert lines["less"]["actions"] == actions[1:] and lines["less"]["excluded"] == ["x'"]


def test_an_export_of_something_else_names_what_there_is(tmp_path: Path) -> None:
    with Warehouse(experiment(tmp_path)) as warehouse:
        with pytest.raises(InvalidInput, match="decisions, rewards, interactions"):
            warehouse.export(tmp_path / "out", what="secrets", form="ndjson")
        with pytest.raises(InvalidInput, match="ndjson, parquet"):
            warehouse.export(tmp_path / "out", what="rewards", form="xls")
    assert not (tmp_path / "out").exists()
