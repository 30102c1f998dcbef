"""The writer: what it acknowledges is on disk, and when it can no longer promise that it says so."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from bandit.errors import Busy, Conflict, DurabilityLost, InvalidSettings
from bandit.eventlog import (
    AHEAD_S_MAX,
    EventLogWriter,
    beat,
    live_heartbeats,
    open_segment,
    read_events,
    survey,
    verify_segment,
)
from bandit.eventlog.segment import whole_commits
from bandit.events import Event, stamped_at
from bandit.files import fsync_directory
from tests.bandit.eventlog_support import START, HandClock, logged_ids, new_paths, reward, utc_now


def _wait_until(condition: object, seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.002)


def test_an_acknowledged_event_is_in_a_whole_commit_on_disk(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now)
    seen: list[bool] = []

    def done(error: Exception | None) -> None:
        (segment,) = paths.events.glob("*.open")
        data = segment.read_bytes()
        groups = whole_commits(data)
        seen.append(error is None and b'"event_id":"a"' in data[: groups[-1].end])

    writer.submit([reward(writer, "a")], done)
    writer.close()
    assert seen == [True]


def test_an_acknowledgement_comes_only_after_the_sync_of_its_bytes_and_of_the_new_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = new_paths(tmp_path)
    synced: dict[str, bytes] = {}
    named: set[str] = set()

    def append(descriptor: int, data: memoryview) -> None:
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC
        kept(descriptor, data)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced[path.name] = path.read_bytes()

    def sync_directory(directory: Path) -> None:
        fsync_directory(directory)
        named.update(path.name for path in directory.iterdir())

    kept = open_segment._append
    monkeypatch.setattr(open_segment, "_append", append)
    monkeypatch.setattr("bandit.eventlog.open_segment.fsync_directory", sync_directory)
    writer = EventLogWriter(paths, "w0", clock=utc_now, segment_bytes_max=4096)
    durable: list[bool] = []

    def done(event_id: str) -> None:
        durable.append(any(b'"event_id":"%s"' % event_id.encode() in synced[name] for name in named & synced.keys()))

    for number in range(200):
        event_id = f"event-{number}"
        writer.submit([reward(writer, event_id)], lambda error, event_id=event_id: done(event_id))
        if number % 20 == 0:
            time.sleep(0.002)
    writer.close()
    assert durable == [True] * 200
    sealed = {path.name.replace(".jsonl", ".open"): path.read_bytes() for path in paths.events.iterdir()}
    assert len(sealed) > 1
    assert sealed == synced, "a segment is synced whole before it gets its final name"


def test_one_sync_serves_many_events_and_all_keep_their_order(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now)
    acknowledged: list[int] = []
    for number in range(2000):
        writer.submit([reward(writer, str(number))], lambda error, number=number: acknowledged.append(number))
    writer.close()
    assert acknowledged == list(range(2000))
    assert logged_ids(survey(paths, now=utc_now()).segments) == [str(number) for number in range(2000)]
    assert writer.counters.events == 2000
    assert writer.counters.commits < 1000


def test_events_submitted_together_share_one_commit(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now)
    writer.append([reward(writer, "a"), reward(writer, "b"), reward(writer, "c")])
    (segment,) = paths.events.glob("*.open")
    assert [group.events for group in whole_commits(segment.read_bytes())] == [3]
    writer.close()


def test_stamps_increase_strictly_even_when_the_clock_jumps_back(tmp_path: Path) -> None:
    clock = HandClock()
    writer = EventLogWriter(new_paths(tmp_path), "w0", clock=clock)
    stamps = []
    for seconds in (0, 1, -3600, 0, 5, 7200, -1):
        clock.move(seconds)
        stamps += [writer.stamp(), writer.stamp()]
    writer.close()
    assert all(later > earlier for earlier, later in itertools.pairwise(stamps))
    assert all(stamp.utcoffset() is not None for stamp in stamps)


def test_a_writer_that_starts_after_the_clock_was_set_back_never_stamps_before_a_watermark(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    clock = HandClock()
    watermark = survey(paths, now=clock()).watermark
    assert watermark == clock()
    clock.move(-3600)
    writer = EventLogWriter(paths, "w1", clock=clock)
    assert writer.stamp() > watermark
    assert writer.complete_until() > watermark
    writer.close()


def test_living_writers_go_on_from_the_latest_of_their_clocks(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    clocks = HandClock(), HandClock()
    ahead, other = (
        EventLogWriter(paths, f"w{number}", clock=clock, seal_interval_s=1000) for number, clock in enumerate(clocks)
    )
    ahead.append([reward(ahead, "not sealed yet")])
    clocks[0].move(AHEAD_S_MAX - 1)
    latest = ahead.stamp()
    clocks[0].move(1 - AHEAD_S_MAX)
    beat(paths, ahead.heartbeat())
    assert other.stamp() < latest
    beat(paths, other.heartbeat())
    assert latest < other.stamp() < latest + timedelta(seconds=1)
    for writer, clock in zip((ahead, other), clocks, strict=True):
        clock.move(3601)
        beat(paths, writer.heartbeat())
        assert writer.stamp() > latest + timedelta(seconds=0.5), "the clock has caught up"
        writer.close()


def test_a_writer_whose_clock_alone_jumped_far_ahead_is_not_followed_by_any_other(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    clocks = HandClock(), HandClock(), HandClock(START + timedelta(seconds=60))
    writers = [EventLogWriter(paths, f"w{number}", clock=clock) for number, clock in enumerate(clocks)]
    clocks[0].move(86400)
    latest = writers[0].stamp()
    clocks[0].move(-86400)
    for writer in (*writers, *writers):
        beat(paths, writer.heartbeat())
    minute = timedelta(seconds=60)
    assert writers[0].stamp() > latest, "its own stamps never go back"
    assert minute < writers[1].complete_until() - START < 2 * minute, "one less far ahead is followed all the same"
    for clock in clocks:
        clock.move(120)
    newcomer = EventLogWriter(paths, "w3", clock=clocks[1])
    for writer in (*writers, newcomer):
        beat(paths, writer.heartbeat())
    now = START + 2 * minute
    assert now <= newcomer.complete_until() < now + 2 * minute
    assert survey(paths, now=now).watermark == now, "nothing waits for the writer that is ahead"
    for writer in (*writers, newcomer):
        writer.close()
    afterwards = EventLogWriter(paths, "w0", clock=clocks[1])
    assert now <= afterwards.stamp() < now + 2 * minute, "nor does it begin where the one before it was"
    afterwards.close()


def test_writers_whose_clock_was_set_back_far_share_the_time_at_which_they_stand_still(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    clock = HandClock()
    writers = [EventLogWriter(paths, f"w{number}", clock=clock) for number in range(2)]
    clock.move(2)
    latest = writers[0].stamp()
    clock.move(-86400)
    for writer in writers:
        beat(paths, writer.heartbeat())
    assert latest < writers[1].stamp() < latest + timedelta(seconds=1)
    for writer in writers:
        writer.close()


def test_many_threads_never_share_a_stamp(tmp_path: Path) -> None:
    writer = EventLogWriter(new_paths(tmp_path), "w0", clock=HandClock())
    stamps: list[object] = []
    threads = [threading.Thread(target=lambda: stamps.extend([writer.stamp() for _ in range(500)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert len(set(stamps)) == 2000


def test_complete_until_never_passes_an_unsealed_event_and_moves_on_when_idle(tmp_path: Path) -> None:
    clock = HandClock()
    writer = EventLogWriter(new_paths(tmp_path), "w0", clock=clock, seal_interval_s=1000.0)
    clock.move(10)
    assert writer.complete_until() >= clock()
    clock.move(10)
    event = reward(writer, "a")
    writer.append([event])
    clock.move(100)
    assert writer.complete_until() == stamped_at(event)
    writer.seal()
    assert writer.complete_until() >= clock()
    writer.close()


def test_complete_until_waits_for_a_stamp_that_is_not_submitted_yet(tmp_path: Path) -> None:
    clock = HandClock()
    writer = EventLogWriter(new_paths(tmp_path), "w0", clock=clock)
    event = reward(writer, "a")
    clock.move(10)
    assert writer.complete_until() == stamped_at(event)
    writer.append([event])
    writer.close()


def test_an_event_stamped_before_the_reported_time_is_refused(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    clock = HandClock()
    writer = EventLogWriter(paths, "w0", clock=clock)
    late = reward(writer, "late")
    time.sleep(1.05)  # the grace for a stamp that was never used
    clock.move(10)
    assert writer.complete_until() > stamped_at(late)
    with pytest.raises(Conflict):
        writer.append([late])
    writer.close()
    assert survey(paths, now=clock()).segments == []


def test_whatever_threads_submit_meanwhile_everything_before_complete_until_is_sealed(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now, seal_interval_s=0.01)
    stop = threading.Event()

    def log(name: str) -> None:
        number = 0
        while not stop.is_set():
            writer.append([reward(writer, f"{name}-{number}-{part}") for part in range(3)])
            number += 1

    threads = [threading.Thread(target=log, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    looks = []
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        looks.append((writer.complete_until(), {path.name for path in paths.events.glob("*.jsonl")}))
        time.sleep(0.003)
    stop.set()
    for thread in threads:
        thread.join()
    writer.close()
    segments = survey(paths, now=utc_now()).segments
    first_stamps = {segment.name: min(map(stamped_at, read_events(segment))) for segment in segments}
    assert len({instant for instant, _ in looks}) > 10
    assert [instant for instant, _ in looks] == sorted(instant for instant, _ in looks)
    for instant, sealed in looks:
        assert [name for name, first in first_stamps.items() if name not in sealed and first < instant] == []


def test_a_queue_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    writer = EventLogWriter(new_paths(tmp_path), "w0", clock=utc_now, queue_bytes_max=500)
    blocked, release = threading.Event(), threading.Event()

    def block(error: Exception | None) -> None:
        blocked.set()
        release.wait()

    writer.submit([reward(writer, "first")], block)
    assert blocked.wait(5)
    with pytest.raises(Busy, match="500 bytes"):
        for number in range(50):
            writer.submit([reward(writer, str(number))], lambda error: None)
    release.set()
    writer.close()


def test_a_commit_is_bounded_and_what_is_larger_becomes_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bandit.eventlog.writer.COMMIT_BYTES_MAX", 1000)
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now)
    for number in range(100):
        writer.submit([reward(writer, str(number))], lambda error: None)
    writer.close()
    (segment,) = survey(paths, now=utc_now()).segments
    groups = whole_commits(segment.read_bytes())
    assert sum(group.events for group in groups) == 100
    assert max(group.end - group.start for group in groups) < 1300


def test_a_segment_seals_by_itself_after_its_interval(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    sealed = threading.Event()
    writer = EventLogWriter(paths, "w0", clock=utc_now, seal_interval_s=0.05, on_seal=sealed.set)
    writer.append([reward(writer, "a")])
    assert sealed.wait(5)
    assert logged_ids(survey(paths, now=utc_now()).segments) == ["a"]
    time.sleep(0.1)
    assert len(list(paths.events.iterdir())) == 1, "an idle writer makes no empty segments"
    writer.close()


def test_a_segment_seals_when_it_reaches_its_size(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now, seal_interval_s=1000.0, segment_bytes_max=4096)
    for number in range(100):
        writer.append([reward(writer, str(number))])
    writer.close()
    segments = survey(paths, now=utc_now()).segments
    assert len(segments) >= 3
    assert all(verify_segment(segment).bytes < 5000 for segment in segments)
    assert logged_ids(segments) == [str(number) for number in range(100)]


def test_a_full_queue_refuses_with_busy_and_loses_nothing_it_took(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now, queue_events_max=10)
    blocked, release = threading.Event(), threading.Event()

    def block(error: Exception | None) -> None:
        blocked.set()
        release.wait()

    acknowledged: list[str] = []
    writer.submit([reward(writer, "first")], block)
    assert blocked.wait(5)
    taken = 0
    with pytest.raises(Busy, match="limit: 10 events"):
        for number in range(50):
            writer.submit([reward(writer, str(number))], lambda error, n=str(number): acknowledged.append(n))
            taken += 1
    assert (taken, writer.queue_depth) == (10, 10)
    release.set()
    writer.close()
    assert acknowledged == [str(number) for number in range(10)]
    assert logged_ids(survey(paths, now=utc_now()).segments) == ["first", *acknowledged]


def test_an_acknowledgement_that_raises_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    writer = EventLogWriter(new_paths(tmp_path), "w0", clock=utc_now)

    def broken(error: Exception | None) -> None:
        raise RuntimeError("the caller is gone")

    writer.submit([reward(writer, "a")], broken)
    writer.append([reward(writer, "b")])
    writer.close()
    assert (writer.counters.callback_errors, writer.counters.events) == (1, 2)


def test_after_a_failed_sync_nothing_is_acknowledged_until_a_new_writer_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now)
    writer.append([reward(writer, "kept")])

    def failing(descriptor: int, data: memoryview) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as broken_disk:
        broken_disk.setattr(open_segment, "_append", failing)
        with pytest.raises(DurabilityLost):
            writer.append([reward(writer, "unknown")])
    for attempt in (lambda: writer.append([reward(writer, "refused")]), writer.seal):
        with pytest.raises(DurabilityLost):
            attempt()
    assert writer.failed
    assert live_heartbeats(paths) == [], "a failed writer no longer holds the log's completeness up"
    successor = EventLogWriter(paths, "w0", clock=utc_now)
    successor.append([reward(successor, "after")])
    successor.close()
    writer.close()
    ids = logged_ids(survey(paths, now=utc_now()).segments)
    assert [event_id for event_id in ids if event_id != "unknown"] == ["kept", "after"]


def test_everything_that_waits_when_the_disk_fails_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = EventLogWriter(new_paths(tmp_path), "w0", clock=utc_now)
    answers: list[Exception | None] = []

    def slow_and_failing(descriptor: int, data: memoryview) -> None:
        time.sleep(0.05)
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(open_segment, "_append", slow_and_failing)
    for number in range(20):
        writer.submit([reward(writer, str(number))], answers.append)
    _wait_until(lambda: writer.failed and len(answers) == 20)
    assert all(isinstance(answer, DurabilityLost) for answer in answers)
    writer.close()


def test_a_disk_that_takes_no_more_bytes_ends_in_refusals_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    writer = subprocess.run(
        [sys.executable, "-m", "tests.bandit.writer_process", str(tmp_path), "w0", "e", "16", "20000"],
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert writer.returncode == 3
    acknowledged = writer.stdout.decode().split()
    ids = logged_ids(survey(paths, now=utc_now()).segments)
    assert len(acknowledged) > 20
    assert set(acknowledged) <= set(ids)
    assert len(set(ids)) == len(ids)
    assert not any("after" in event_id for event_id in ids)


def test_a_second_process_cannot_take_a_living_writers_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandit.eventlog.writer.LOCK_WAIT_S", 0.05)
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now)
    with pytest.raises(Busy):
        EventLogWriter(paths, "w0", clock=utc_now)
    writer.close()
    EventLogWriter(paths, "w0", clock=utc_now).close()


def test_a_writers_name_is_checked(tmp_path: Path) -> None:
    for name in ("", "../up", "A", "a/b", "x" * 64):
        with pytest.raises(InvalidSettings):
            EventLogWriter(new_paths(tmp_path / str(len(name)) / str(hash(name))), name, clock=utc_now)


def test_a_closed_writer_refuses_and_can_be_closed_again(tmp_path: Path) -> None:
    writer = EventLogWriter(new_paths(tmp_path), "w0", clock=utc_now)
    event: list[Event] = [reward(writer, "a")]
    writer.close()
    writer.close()
    with pytest.raises(DurabilityLost):
        writer.append(event)
    with pytest.raises(DurabilityLost):
        writer.seal()


def test_segment_names_are_never_used_twice_even_when_old_segments_are_gone(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    names = []
    for number in range(3):
        writer = EventLogWriter(paths, "w0", clock=utc_now)
        writer.append([reward(writer, str(number))])
        writer.close()
        (segment,) = survey(paths, now=utc_now()).segments
        names.append(segment.name)
        segment.unlink()
    assert len(set(names)) == 3


def test_a_trial_of_the_disk_writes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = new_paths(tmp_path)
    written = []
    kept = open_segment._append

    def synced(descriptor: int, data: memoryview) -> None:
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC
        kept(descriptor, data)
        written.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(open_segment, "_append", synced)
    open_segment.try_disk(paths.events, "w0", durable=True)
    assert written == [open_segment.TRIAL_BYTES] and list(paths.events.iterdir()) == []
    paths.events.rmdir()
    paths.events.write_bytes(b"in its place")
    with pytest.raises(FileExistsError):
        open_segment.try_disk(paths.events, "w0", durable=True)


def test_a_simulated_log_is_written_without_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsynced(descriptor: int, data: memoryview) -> None:
        assert not fcntl.fcntl(descriptor, fcntl.F_GETFL) & (os.O_DSYNC | os.O_SYNC)
        kept(descriptor, data)

    kept = open_segment._append
    monkeypatch.setattr(open_segment, "_append", unsynced)
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=HandClock(), durable=False)
    writer.append([reward(writer, "a")])
    writer.close()
    assert logged_ids(survey(paths, now=utc_now()).segments) == ["a"]


def test_the_writer_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    writer = EventLogWriter(new_paths(tmp_path), "w0", clock=utc_now)
    writer.append([reward(writer, "a")])
    writer.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
