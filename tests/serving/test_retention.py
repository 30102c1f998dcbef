"""Retention: archives are log, byte for byte; what is dropped is gone everywhere, what is kept is complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bandit.errors import CorruptLog, InvalidSettings
from bandit.eventlog import verify_segment
from bandit.eventlog.survey import sealed_segments
from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from joiner.archive import KEPT_MIN, PARQUET, archives, compact, drop, unpack
from joiner.rebuild import rebuild
from joiner.warehouse import Warehouse
from serving.cli.common import now
from serving.in_process import EPOCH
from serving.learner.hosting import LearnerService
from serving.learner.operations.compact import run as retain
from serving.learner.operations.doctor import run as doctor
from serving.learner.operations.erase import run as erase
from serving.learner.workspace import Workspace
from tests.joiner.logs import FAR, activation, at, decision, experiment, reward, write
from tests.serving.learner_support import copy_of, paths_of, played, settings

LATER = EPOCH + timedelta(days=10)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All within minutes; segments are to be archived after a day."""
    data_dir = tmp_path_factory.mktemp("retention") / "data"
    return played(data_dir, 3, retention={"compact_after_days": 1.0}, serving={"subject_field": "sky"})


@pytest.fixture
def data_dir(original: Path, tmp_path: Path) -> Path:
    return copy_of(original, tmp_path)


def _operate(data_dir: Path, operation: Any, *, at: datetime = LATER, **arguments: Any) -> Any:
    workspace = Workspace(Experiment.open(data_dir, "test"), lambda: at)
    try:
        return operation(workspace, **arguments)
    finally:
        workspace.close()


def _digest(workspace: Workspace) -> str:
    return workspace.warehouse.digest()


def _segments(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sealed_segments(paths_of(data_dir).events)}


def test_archived_segments_come_back_byte_for_byte(data_dir: Path, tmp_path: Path) -> None:
    before = _segments(data_dir)
    answer = _operate(data_dir, retain)
    assert (answer["segments"], _segments(data_dir)) == (len(before), {})
    (archive,) = archives(paths_of(data_dir))
    assert {path.name: path.read_bytes() for path in unpack(archive, tmp_path / "out")} == before
    assert answer["bytes_after"] < answer["bytes_before"] / 3


def test_a_rebuild_from_archives_gives_the_same_interactions_and_the_doctor_is_content(data_dir: Path) -> None:
    before = _operate(data_dir, _digest)
    _operate(data_dir, retain)
    report = rebuild(Experiment.open(data_dir, "test"))
    assert report.digest == before
    answer = _operate(data_dir, doctor, at=now(), deep=True)
    assert answer["healthy"], answer["findings"]
    assert (answer["checked"]["archives"], answer["checked"]["interactions_rebuilt"]) == (1, 240)


def test_a_deleted_database_finds_the_archives_again_by_itself(data_dir: Path) -> None:
    _operate(data_dir, retain)
    before = _operate(data_dir, lambda workspace: workspace.warehouse.counts()["decision_records"])
    paths_of(data_dir).warehouse.unlink()
    assert _operate(data_dir, lambda workspace: workspace.warehouse.counts()["decision_records"]) == before == 180


def test_segments_that_are_young_or_not_joined_yet_stay(data_dir: Path) -> None:
    before = _segments(data_dir)
    assert _operate(data_dir, retain, at=EPOCH + timedelta(hours=23))["segments"] == 0
    paths_of(data_dir).warehouse.unlink()
    with Warehouse(Experiment.open(data_dir, "test")) as fresh:
        fresh.ingest(sealed_segments(paths_of(data_dir).events))
        assert compact(fresh, older_than=LATER, now=LATER).segments == 0
    assert _segments(data_dir) == before


def test_a_compaction_that_was_cut_short_is_finished_by_the_next_and_doubles_nothing(data_dir: Path) -> None:
    before = _segments(data_dir)
    digest = _operate(data_dir, _digest)
    _operate(data_dir, retain)
    for name, content in before.items():  # as if it had died before it removed them
        (paths_of(data_dir).events / name).write_bytes(content)
    (paths_of(data_dir).archive / ".incoming-half").mkdir()
    assert rebuild(Experiment.open(data_dir, "test")).digest == digest
    _operate(data_dir, retain)
    assert _segments(data_dir) == {}
    assert len(archives(paths_of(data_dir))) == 1


def test_a_changed_archive_is_found_and_never_read(data_dir: Path) -> None:
    _operate(data_dir, retain)
    (archive,) = archives(paths_of(data_dir))
    parquet = archive.folder / PARQUET
    data = bytearray(parquet.read_bytes())
    data[len(data) // 2] ^= 1
    parquet.write_bytes(data)
    found = _operate(data_dir, doctor, at=now())["findings"]
    assert any(finding["wrong"] and "does not match its digest" in finding["what"] for finding in found)
    with pytest.raises(CorruptLog):
        rebuild(Experiment.open(data_dir, "test"))


def test_what_is_dropped_is_gone_from_log_and_database(data_dir: Path) -> None:
    experiment = Experiment.open(data_dir, "test")
    experiment.change(
        settings(retention={"compact_after_days": 1.0, "drop_after_days": 5.0}), now=EPOCH + timedelta(minutes=10)
    )
    assert _operate(data_dir, retain)["dropped"] == 0
    assert _operate(data_dir, retain, at=LATER + timedelta(hours=23))["dropped"] == 0
    assert _operate(data_dir, retain, at=LATER + timedelta(days=1))["dropped"] == 480
    assert archives(paths_of(data_dir)) == []
    assert _operate(data_dir, lambda workspace: workspace.warehouse.counts()["interactions"]) == 0
    assert [entry["events"] for entry in ModelRegistry(paths_of(data_dir)).history("drop")] == [480]
    assert _operate(data_dir, doctor, at=now(), deep=True)["healthy"]


class Clocks:
    """A wall clock and a monotonic one: both go on with time, and only the first can be moved."""

    def __init__(self, wall: datetime) -> None:
        self.wall, self.monotonic_s = wall, 0.0

    def go_on(self, **time: float) -> None:
        self.wall += timedelta(**time)
        self.monotonic_s += timedelta(**time).total_seconds()

    def move(self, **time: float) -> None:
        self.wall += timedelta(**time)


@contextmanager
def _learner(data_dir: Path, clocks: Clocks, *, hours: float = 8) -> Iterator[LearnerService]:
    """A learner that drops what is two days old; it has run for some hours, and looked at its clocks."""
    target = Experiment.open(data_dir, "test")
    target.change(settings(retention={"compact_after_days": 1.0, "drop_after_days": 2.0}), now=clocks.wall)
    service = LearnerService(data_dir, clock=lambda: clocks.wall, monotonic=lambda: clocks.monotonic_s)
    try:
        service.discover()
        clocks.go_on(hours=hours)
        service.compare_clocks()
        yield service
    finally:
        service.close()


def test_a_clock_that_leaps_ahead_takes_nothing_from_the_log(data_dir: Path) -> None:
    clocks, before = Clocks(EPOCH + timedelta(minutes=10)), _segments(data_dir)
    with _learner(data_dir, clocks) as service:
        clocks.move(days=3)
        for _ in range(5):
            service.retain()
            clocks.go_on(hours=1)
        clocks.move(days=-3)
        service.retain()
        clocks.go_on(hours=5)
        service.retain()
    assert (_segments(data_dir), archives(paths_of(data_dir))) == (before, [])
    told = ModelRegistry(paths_of(data_dir)).history("clock")
    assert [entry["leap_s"] for entry in told] == [259200.0, -259200.0]
    assert "leapt ahead by 3 days, 0:00:00" in told[0]["reason"]
    found = _operate(data_dir, doctor, at=clocks.wall)["findings"]
    assert [finding["wrong"] for finding in found if "the clock leapt back by 3 days" in finding["what"]] == [False]


def test_a_clock_that_is_wrong_for_hours_drops_nothing_either(data_dir: Path) -> None:
    clocks = Clocks(EPOCH + timedelta(minutes=10))
    with _learner(data_dir, clocks) as service:
        clocks.move(days=3)
        for _ in range(20):
            service.retain()
            clocks.go_on(hours=1)
        clocks.move(days=-3)
        for _ in range(8):
            service.retain()
            clocks.go_on(hours=1)
    assert (len(archives(paths_of(data_dir))), ModelRegistry(paths_of(data_dir)).history("drop")) == (1, [])


def test_a_clock_that_keeps_pace_is_believed_hours_after_a_start(data_dir: Path) -> None:
    clocks, before = Clocks(EPOCH + timedelta(days=3)), _segments(data_dir)
    with _learner(data_dir, clocks, hours=5) as service:
        service.retain()
        assert _segments(data_dir) == before
        clocks.go_on(hours=2)
        service.retain()
        (archive,) = archives(paths_of(data_dir))
        assert len(archive.names) == len(before)
        clocks.go_on(days=1)
        service.retain()
        assert (archives(paths_of(data_dir)), _segments(data_dir)) == ([], {})


def _kept_at_each_second(target: Experiment, seconds: range) -> list[list[tuple[str, float]]]:
    """What a rebuilt database holds as one second after the other is too old to be kept."""
    kept: list[list[tuple[str, float]]] = []
    for second in seconds:
        with Warehouse(target) as warehouse:
            archived = compact(warehouse, older_than=at(second), now=FAR).segments
        dropped = drop(target.paths, older_than=at(second), now=FAR + KEPT_MIN)
        if kept and not archived and not dropped:  # the log is what it was
            kept.append(kept[-1])
            continue
        rebuild(target, watermark=FAR)
        with Warehouse(target) as warehouse:
            rows = warehouse.cursor().execute("SELECT event_id, reward FROM interactions ORDER BY ALL").fetchall()
            kept.append(rows)
    return kept


def test_a_reward_and_an_activation_are_kept_as_long_as_their_decision_and_no_longer(tmp_path: Path) -> None:
    target = experiment(tmp_path)  # windows of 60 s
    for event in (
        decision("e1", 0, deferred=True),
        activation("e1", 1),
        reward("e1", 2, 1.0),
        reward("e1", 600, 0.5),  # too late
        reward("never asked", 30, 1.0),
    ):
        paths = write(target, [event])
    with Warehouse(target) as warehouse:
        warehouse.ingest(paths)
        warehouse.join(FAR)
    states = _kept_at_each_second(target, range(20, 70, 5))
    assert states == [[("e1", 1.0)]] * 9 + [[]]
    assert (archives(target.paths), sealed_segments(target.paths.events)) == ([], [])


def test_a_retry_that_came_long_after_its_decision_does_not_take_its_place_when_that_is_dropped(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    for event in (decision("e1", 0), reward("e1", 2, 1.0), decision("e1", 100, action="b")):
        paths = write(target, [event])
    with Warehouse(target) as warehouse:
        warehouse.ingest(paths)
        warehouse.join(FAR)
    states = _kept_at_each_second(target, range(50, 180, 10))
    assert states == [[("e1", 1.0)]] * 12 + [[]]
    assert archives(target.paths) == []


def test_erasure_reaches_into_archives(data_dir: Path) -> None:
    _operate(data_dir, retain)
    counted = _operate(data_dir, erase, subject="cold")
    assert counted["events"] > 20
    assert len(archives(paths_of(data_dir))) == 1
    answer = _operate(data_dir, erase, subject="cold", confirmed=True)
    assert answer["records"] == counted["records"]
    assert all(verify_segment(segment) for segment in sealed_segments(paths_of(data_dir).events))
    _operate(data_dir, retain)
    for path in (paths_of(data_dir).events, paths_of(data_dir).archive):
        assert not any(b'"cold"' in file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert _operate(data_dir, erase, subject="cold")["events"] == 0
    assert _operate(data_dir, doctor, at=now(), deep=True)["healthy"]


def test_dropping_needs_an_earlier_compaction() -> None:
    for rules in ({"drop_after_days": 5.0}, {"compact_after_days": 6.0, "drop_after_days": 5.0}):
        with pytest.raises(InvalidSettings, match="compact_after_days"):
            settings(retention=rules)
