"""Retention: archives are log, byte for byte; what is dropped is gone everywhere, what is kept is complete."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandit.errors import Busy, CorruptLog, InvalidSettings
from bandit.eventlog import verify_segment
from bandit.eventlog.survey import sealed_segments
from bandit.experiment import Experiment
from bandit.history import History
from bandit.registry import ModelRegistry
from joiner import archive as archive_module
from joiner.archive import KEPT_MIN, MANIFEST, PARQUET, archives, compact, drop, unpack, unpack_into_log
from joiner.rebuild import rebuild
from joiner.warehouse import Warehouse
from serving.cli.common import now
from serving.in_process import EPOCH
from serving.learner import workspace as workspace_module
from serving.learner.clock_watch import Boot, ClockWatch, pace_path, this_boot
from serving.learner.hosting import LearnerService
from serving.learner.leftovers import remove_leftovers
from serving.learner.operations import erase as erase_module
from serving.learner.operations.compact import retain as retain_as_of
from serving.learner.operations.compact import run as retain
from serving.learner.operations.doctor import run as doctor
from serving.learner.operations.erase import run as erase
from serving.learner.operations.rebuild import run as rebuild_database
from serving.learner.status import experiment_status
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
    assert [entry["events"] for entry in ModelRegistry(paths_of(data_dir)).history.entries("drop")] == [480]
    assert _operate(data_dir, doctor, at=now(), deep=True)["healthy"]


@pytest.fixture(scope="module")
def to_drop(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything is in archives, each of a segment, that are to be dropped a day after they were made."""
    data_dir = copy_of(original, tmp_path_factory.mktemp("dropping"))
    experiment = Experiment.open(data_dir, "test")
    experiment.change(
        settings(retention={"compact_after_days": 1.0, "drop_after_days": 5.0}), now=EPOCH + timedelta(minutes=10)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_module, "ARCHIVE_BYTES_MAX", 1)
        assert _operate(data_dir, retain)["archives"] > 1
    return data_dir


def _cut_short(patch: pytest.MonkeyPatch, where: object, name: str, *, after: int = 0, kind: str | None = None) -> None:
    """Let a function end everything, as a kill does, when it is called once more than `after` times (with `kind`)."""
    calls, whole = 0, getattr(where, name)

    def cut_short(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += kind is None or kind in arguments
        if calls > after:
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    patch.setattr(where, name, cut_short)


@pytest.mark.parametrize(
    ("where", "name", "how"),
    [
        (archive_module, "fsync_directory", {}),
        (archive_module, "fsync_directory", {"after": 1}),
        (History, "record", {"kind": "drop"}),
        (workspace_module, "rebuild", {}),
        (workspace_module, "forget_dropped", {}),
    ],
)
def test_a_drop_that_was_cut_short_is_finished_by_the_next_retention_with_its_line_of_history(
    to_drop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, name: str, how: dict[str, Any]
) -> None:
    data_dir, later = copy_of(to_drop, tmp_path), LATER + timedelta(days=1)
    with monkeypatch.context() as patch:
        _cut_short(patch, where, name, **how)
        with pytest.raises(KeyboardInterrupt):
            _operate(data_dir, retain, at=later)
    findings = _operate(data_dir, doctor, at=now())["findings"]
    owes = any(finding["wrong"] and "that retention dropped are still in it" in finding["what"] for finding in findings)
    assert owes == (name != "forget_dropped")
    _operate(data_dir, lambda workspace: retain_as_of(workspace, None))  # whatever the clock shows
    assert _operate(data_dir, doctor, at=now(), deep=True)["healthy"]
    _operate(data_dir, retain, at=later)
    assert _operate(data_dir, lambda workspace: workspace.warehouse.counts()["interactions"]) == 0
    told = ModelRegistry(paths_of(data_dir)).history.entries("drop")
    assert sum(entry["events"] for entry in told) == 480
    assert list(paths_of(data_dir).archive.iterdir()) == []


def test_a_drop_that_a_full_disk_cuts_short_is_finished_once_there_is_room(
    to_drop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = copy_of(to_drop, tmp_path)
    workspace = Workspace(Experiment.open(data_dir, "test"), lambda: LATER + timedelta(days=1))
    assert workspace.warehouse.counts()["interactions"] > 0
    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "checkpoint", _no_room)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                retain(workspace)
    assert not list(paths_of(data_dir).archive.rglob(PARQUET)), "what is dropped makes room"
    assert retain(workspace)["dropped"] == 480
    assert workspace.warehouse.counts()["interactions"] == retain(workspace)["dropped"] == 0
    assert [entry["events"] for entry in workspace.registry.history.entries("drop")] == [480]
    workspace.close()


def _no_room(warehouse: Warehouse) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_learner_finishes_a_drop_before_it_can_believe_its_clock(
    to_drop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = copy_of(to_drop, tmp_path)
    with monkeypatch.context() as patch:
        _cut_short(patch, workspace_module, "rebuild")
        with pytest.raises(KeyboardInterrupt):
            _operate(data_dir, retain, at=LATER + timedelta(days=1))
    with _learner(data_dir, Clocks(LATER + timedelta(days=1)), hours=0) as service:
        service.retain()
        assert (service.failures, service.cycles["test"].workspace.warehouse.counts()["interactions"]) == ({}, 0)


def test_making_the_database_anew_by_hand_finishes_a_drop_too(
    to_drop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = copy_of(to_drop, tmp_path)
    with monkeypatch.context() as patch:
        _cut_short(patch, History, "record", kind="drop")
        with pytest.raises(KeyboardInterrupt):
            _operate(data_dir, retain, at=LATER + timedelta(days=1))
    assert _operate(data_dir, rebuild_database)["segments"] == 0
    assert [entry["events"] for entry in ModelRegistry(paths_of(data_dir)).history.entries("drop")] == [480]
    assert list(paths_of(data_dir).archive.iterdir()) == []


@pytest.mark.parametrize("removed", ["the manifest", "the name"])
def test_an_archive_that_was_half_removed_does_not_stop_the_next_compaction(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    before = _segments(data_dir)
    _operate(data_dir, retain)
    paths = paths_of(data_dir)
    (archive,) = archives(paths)
    if removed == "the name":
        with monkeypatch.context() as patch:
            _cut_short(patch, archive_module, "fsync_directory")
            with pytest.raises(KeyboardInterrupt):
                unpack_into_log(paths, archive)
    else:  # as versions before this did it
        unpack(archive, paths.events)
        (archive.folder / MANIFEST).unlink()
    assert (_segments(data_dir), archives(paths)) == (before, [])
    _operate(data_dir, retain)
    assert [again.folder for again in archives(paths)] == list(paths.archive.iterdir()) == [archive.folder]
    assert _segments(data_dir) == {}
    assert _operate(data_dir, doctor, at=now(), deep=True)["healthy"]


def test_an_archive_without_its_manifest_stays_and_is_told_of_unless_the_log_has_all_of_it(data_dir: Path) -> None:
    before = _segments(data_dir)
    _operate(data_dir, retain)
    paths = paths_of(data_dir)
    (archive,) = archives(paths)
    manifest = (archive.folder / MANIFEST).read_bytes()
    (archive.folder / MANIFEST).unlink()
    remove_leftovers(paths)
    _operate(data_dir, retain)
    assert list(archive.folder.iterdir()) == [archive.folder / PARQUET], "it may be the only copy"
    report = _operate(data_dir, doctor, at=now())
    told = f"archive {archive.folder.name} has no manifest, so nothing reads its events"
    assert told in {finding["what"] for finding in report["findings"] if finding["wrong"]}
    (archive.folder / MANIFEST).write_bytes(manifest)
    assert _operate(data_dir, doctor, at=now(), deep=True)["healthy"]

    unpack(archive, paths.events)
    (archive.folder / MANIFEST).unlink()
    remove_leftovers(paths)
    assert (list(paths.archive.iterdir()), _segments(data_dir)) == ([], before)


class Clocks:
    """A wall clock and one that runs since the machine's start: both go on with time, only the first can be moved."""

    def __init__(self, wall: datetime) -> None:
        self.wall, self.since_boot_s, self.boot = wall, 0.0, "first"

    def go_on(self, **time: float) -> None:
        self.wall += timedelta(**time)
        self.since_boot_s += timedelta(**time).total_seconds()

    def move(self, **time: float) -> None:
        self.wall += timedelta(**time)

    def reboot(self, **off: float) -> None:
        """Start the machine again; by the wall clock it was off for so long."""
        self.boot += ", then another"
        self.since_boot_s = 20.0
        self.move(**off)

    def watch(self, data_dir: Path) -> ClockWatch:
        """As a learner has one that starts now."""
        (data_dir / "run").mkdir(exist_ok=True)
        return ClockWatch(lambda: self.wall, Boot(self.boot, lambda: self.since_boot_s), data_dir)

    def look_for(self, watch: ClockWatch, *, hours: float) -> datetime | None:
        """Look every few minutes for some hours; what is believed then."""
        for _ in range(round(hours * 12)):
            self.go_on(minutes=5)
            assert watch.look() is None
        return watch.believed()


@contextmanager
def _learner(data_dir: Path, clocks: Clocks, *, hours: float = 8) -> Iterator[LearnerService]:
    """A learner that drops what is two days old; it has run for some hours, and looked at its clocks."""
    target = Experiment.open(data_dir, "test")
    target.change(settings(retention={"compact_after_days": 1.0, "drop_after_days": 2.0}), now=clocks.wall)
    boot = Boot(clocks.boot, lambda: clocks.since_boot_s)
    service = LearnerService(data_dir, clock=lambda: clocks.wall, boot=boot)
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
    told = ModelRegistry(paths_of(data_dir)).history.entries("clock")
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
    assert (len(archives(paths_of(data_dir))), ModelRegistry(paths_of(data_dir)).history.entries("drop")) == (1, [])


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


def test_a_learner_that_is_often_started_anew_comes_to_retention(data_dir: Path) -> None:
    clocks, before = Clocks(EPOCH + timedelta(days=3)), _segments(data_dir)
    with _learner(data_dir, clocks, hours=5) as service:
        service.retain()
    assert _segments(data_dir) == before
    clocks.go_on(minutes=2)
    with _learner(data_dir, clocks, hours=1) as service:
        service.retain()
    assert (len(archives(paths_of(data_dir))), _segments(data_dir)) == (1, {})


def test_a_leap_between_two_learners_is_told_and_nothing_is_believed_before_hours_have_passed(data_dir: Path) -> None:
    clocks, before = Clocks(EPOCH + timedelta(minutes=10)), _segments(data_dir)
    with _learner(data_dir, clocks):
        pass
    clocks.move(days=3)
    with _learner(data_dir, clocks, hours=0) as service:
        for _ in range(5):
            service.retain()
            clocks.go_on(hours=1)
    assert _segments(data_dir) == before
    assert [entry["leap_s"] for entry in ModelRegistry(paths_of(data_dir)).history.entries("clock")] == [259200.0]


def test_hours_of_several_boots_count_together_after_an_hour_of_the_present_one(tmp_path: Path) -> None:
    clocks = Clocks(EPOCH)
    for _ in range(2):
        assert clocks.look_for(clocks.watch(tmp_path), hours=2.75) is None
        clocks.reboot(days=2)
    watch = clocks.watch(tmp_path)
    assert watch.believed() is None
    assert clocks.look_for(watch, hours=0.75) is None
    again = clocks.watch(tmp_path)  # in the same boot
    assert clocks.look_for(again, hours=0.25) == clocks.wall
    clocks.move(hours=1)
    assert again.look() == timedelta(hours=1)
    clocks.reboot(hours=1)
    assert clocks.look_for(clocks.watch(tmp_path), hours=5) is None


@pytest.mark.parametrize(("off", "hours"), [({"seconds": -90.0}, 6), ({"days": 4.0}, 6), ({"hours": 1.0}, 1)])
def test_a_clock_that_another_boot_cannot_vouch_for_has_to_keep_pace_anew(
    tmp_path: Path, off: dict[str, float], hours: int
) -> None:
    clocks = Clocks(EPOCH)
    assert clocks.look_for(clocks.watch(tmp_path), hours=8) is not None
    clocks.reboot(**off)
    watch = clocks.watch(tmp_path)
    assert clocks.look_for(watch, hours=hours - 0.25) is None
    assert clocks.look_for(watch, hours=0.25) is not None


def test_starts_count_as_boots_where_the_system_does_not_tell_these_apart(tmp_path: Path) -> None:
    clocks = Clocks(EPOCH)
    clocks.boot = ""
    assert clocks.look_for(clocks.watch(tmp_path), hours=8) is not None
    watch = clocks.watch(tmp_path)
    assert clocks.look_for(watch, hours=0.75) is None
    assert clocks.look_for(watch, hours=0.25) is not None


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[1]", b'{"boot": "fir', {"since": -1e9}, {"at": 1e9}, {"wall": "2026-01-01T00:00:00"}]
)
def test_a_note_that_is_damaged_counts_for_nothing(tmp_path: Path, damage: bytes | dict[str, Any]) -> None:
    clocks = Clocks(EPOCH)
    assert clocks.look_for(clocks.watch(tmp_path), hours=8) is not None
    note = pace_path(tmp_path)
    whole = msgspec.json.decode(note.read_bytes())
    note.write_bytes(damage if isinstance(damage, bytes) else msgspec.json.encode(whole | damage))
    watch = clocks.watch(tmp_path)
    assert clocks.look_for(watch, hours=5.75) is None
    assert clocks.look_for(watch, hours=0.25) is not None


def test_a_note_that_cannot_be_written_stops_no_look(tmp_path: Path) -> None:
    clocks = Clocks(EPOCH)
    watch = clocks.watch(tmp_path)
    pace_path(tmp_path).mkdir()
    assert clocks.look_for(watch, hours=6) == clocks.wall
    assert [path.name for path in (tmp_path / "run").iterdir()] == [pace_path(tmp_path).name]


def test_a_note_is_written_each_minute_and_at_each_leap(tmp_path: Path) -> None:
    clocks = Clocks(EPOCH)
    watch = clocks.watch(tmp_path)
    written = []
    for _ in range(180):
        clocks.go_on(seconds=1)
        watch.look()
        written.append(pace_path(tmp_path).stat().st_mtime_ns)
    clocks.move(days=1)
    watch.look()
    written.append(pace_path(tmp_path).stat().st_mtime_ns)
    assert len(set(written)) == 4


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts suspension")
def test_a_suspended_machine_is_no_leap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall, monotonic_s, suspended_s = EPOCH, 1000.0, 0.0
    seen = {time.CLOCK_BOOTTIME: lambda: monotonic_s + suspended_s, time.CLOCK_MONOTONIC: lambda: monotonic_s}
    monkeypatch.setattr(time, "clock_gettime", lambda which: seen[which]())
    monkeypatch.setattr(time, "monotonic", lambda: monotonic_s)
    (tmp_path / "run").mkdir()
    watch = ClockWatch(lambda: wall, this_boot(), tmp_path)
    for _ in range(2):
        monotonic_s += 2 * 3600
        suspended_s += 3600
        wall += timedelta(hours=3)
        assert watch.look() is None
    assert watch.believed() == wall


def test_doctor_and_status_say_until_when_retention_waits(data_dir: Path) -> None:
    clocks = Clocks(EPOCH + timedelta(days=3))
    with _learner(data_dir, clocks, hours=2) as service:
        until = clocks.wall + timedelta(hours=4)
        cycle = service.cycles["test"]
        said = f"retention waits until {until:%Y-%m-%d %H:%M} UTC"
        assert any(finding["what"].startswith(said) for finding in doctor(cycle.workspace)["findings"])
        assert experiment_status(cycle)["retention_waits_until"] == until
        clocks.go_on(hours=5)
        service.compare_clocks()
        assert "retention waits" not in str(doctor(cycle.workspace)["findings"])
        assert experiment_status(cycle)["retention_waits_until"] is None
        clocks.move(days=1)
        service.compare_clocks()
        assert experiment_status(cycle)["retention_waits_until"] == clocks.wall + timedelta(hours=6)
        cycle.workspace.experiment.change(settings(), now=clocks.wall)
        assert experiment_status(cycle)["retention_waits_until"] is None


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


def _counts(workspace: Workspace) -> dict[str, Any]:
    return erase(workspace, subject="cold")


def test_what_an_erasure_would_take_is_counted_once_where_a_compaction_was_killed(data_dir: Path) -> None:
    before, counted = _segments(data_dir), _operate(data_dir, _counts)
    _operate(data_dir, retain)
    assert _operate(data_dir, _counts) == counted
    for name, content in before.items():
        (paths_of(data_dir).events / name).write_bytes(content)
    assert _operate(data_dir, _counts) == counted


@pytest.mark.parametrize("compacted", [False, True])
def test_counting_copes_with_other_counts_and_with_whatever_moves_or_rewrites_the_log_meanwhile(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, compacted: bool
) -> None:
    if compacted:
        _operate(data_dir, retain)
    workspace, marked = Workspace(Experiment.open(data_dir, "test"), lambda: LATER), erase_module.mark
    answers: list[dict[str, Any]] = []

    def meanwhile(segments: list[Path], **named: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(erase_module, "mark", marked)
            answers.append(_counts(workspace))
            retain(workspace)
            answers.append(_counts(workspace))
            answers.append(erase(workspace, subject="cold", confirmed=True))
        return marked(segments, **named)

    monkeypatch.setattr(erase_module, "mark", meanwhile)
    answers.insert(0, _counts(workspace))
    assert {(answer["events"], answer["records"]) for answer in answers} == {
        (answers[0]["events"], answers[0]["records"])
    }
    monkeypatch.undo()
    assert answers[0]["records"] > _counts(workspace)["records"] == 0
    assert list(paths_of(data_dir).scratch.iterdir()) == []
    workspace.close()


def test_dropping_needs_an_earlier_compaction() -> None:
    for rules in ({"drop_after_days": 5.0}, {"compact_after_days": 6.0, "drop_after_days": 5.0}):
        with pytest.raises(InvalidSettings, match="compact_after_days"):
            settings(retention=rules)


def test_whoever_reads_the_database_reads_to_the_end_before_it_is_made_anew(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(Experiment.open(data_dir, "test"), now)
    before, rows = workspace.warehouse.digest(), len(workspace.warehouse.interactions())
    reads, read = threading.Event(), list[int]()

    def look() -> None:
        cursor = workspace.warehouse.cursor()
        cursor.execute("SELECT event_id FROM interactions")
        reads.set()
        time.sleep(1)
        read.append(len(cursor.fetchall()))

    reader = threading.Thread(target=look)
    reader.start()
    reads.wait()
    rebuilt = rebuild_database(workspace)
    assert read == [rows]
    reader.join()
    assert rebuilt["digest"] == workspace.warehouse.digest() == before
    late = workspace.warehouse
    monkeypatch.setattr("serving.learner.workspace.READERS_S", 0.1)
    cursor = late.cursor()
    with pytest.raises(Busy, match="is being read"):
        rebuild_database(workspace)
    assert workspace.warehouse.digest() == before  # it goes on as it was
    del cursor
    rebuild_database(workspace)
    with pytest.raises(Busy, match="has just been closed"):
        late.counts()
    workspace.close()


def test_nothing_is_dropped_from_the_log_while_the_database_cannot_be_made_anew(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.learner.workspace.READERS_S", 0.1)
    experiment = Experiment.open(data_dir, "test")
    experiment.change(
        settings(retention={"compact_after_days": 1.0, "drop_after_days": 5.0}), now=EPOCH + timedelta(minutes=10)
    )
    assert _operate(data_dir, retain)["segments"] > 0
    kept = archives(experiment.paths)
    workspace = Workspace(experiment, lambda: LATER + timedelta(days=1))
    cursor = workspace.warehouse.cursor()
    with pytest.raises(Busy, match="is being read"):
        retain(workspace)
    assert kept and archives(experiment.paths) == kept
    del cursor
    assert retain(workspace)["dropped"] == 480
    assert workspace.warehouse.counts()["interactions"] == 0
    workspace.close()
