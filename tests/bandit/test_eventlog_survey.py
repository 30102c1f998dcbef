"""The survey: the watermark is safe whoever dies, starts, stalls or tears a file meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from bandit.errors import CorruptLog
from bandit.eventlog import (
    EventLogWriter,
    Heartbeat,
    beat,
    live_heartbeats,
    quarantine_segment,
    read_events,
    survey,
    verify_segment,
)
from bandit.events import stamped_at
from bandit.files import FileLock, locked
from tests.bandit.eventlog_support import START, HandClock, logged_ids, new_paths, reward, utc_now, write_segment


def test_with_no_writer_alive_the_log_is_complete_until_now(tmp_path: Path) -> None:
    assert survey(new_paths(tmp_path), now=START).watermark == START


def test_the_slowest_living_writer_holds_the_watermark(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    clock = HandClock()
    idle = EventLogWriter(paths, "idle", clock=clock)
    slow = EventLogWriter(paths, "slow", clock=clock, seal_interval_s=1000.0)
    clock.move(10)
    waiting = reward(slow, "a")
    slow.append([waiting])
    clock.move(50)
    for writer in (idle, slow):
        beat(paths, writer.heartbeat(model_id="m1"))
    found = survey(paths, now=clock())
    assert found.watermark == waiting.received_at
    assert [heartbeat.writer_id for heartbeat in found.live] == ["idle", "slow"]
    slow.seal()
    beat(paths, slow.heartbeat())
    assert survey(paths, now=clock()).watermark == clock()
    idle.close()
    slow.close()


def test_a_writer_that_lives_but_has_not_reported_hides_the_watermark(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    lock = FileLock(paths.workers / "w9.lock")
    lock.acquire()
    found = survey(paths, now=START)
    assert found.watermark is None
    assert found.unknown == ["writer w9 lives but has not reported yet"]
    lock.release()
    assert survey(paths, now=START).watermark == START


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b'{"writer_id":"\xff"}'),
        lambda path: path.write_bytes(b'{"writer_id":'),
        lambda path: path.write_text(
            '{"writer_id":"w9","kind":"worker","pid":1,"at":"2026-03-01T12:00:00","complete_until":"2026-03-01T12:00:00"}'
        ),
        Path.mkdir,
        _link_to_itself,
    ],
    ids=["not UTF-8", "cut off", "without a zone", "a folder", "a link to itself"],
)
def test_a_heartbeat_that_cannot_be_read_counts_as_none_and_silences_nobody(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    paths = new_paths(tmp_path)
    clock = HandClock()
    writer = EventLogWriter(paths, "w0", clock=clock)
    spoil(paths.workers / "w9.json")
    clock.move(10)
    beat(paths, writer.heartbeat())
    assert survey(paths, now=clock()).watermark == clock()
    assert [heartbeat.writer_id for heartbeat in live_heartbeats(paths)] == ["w0"]
    EventLogWriter(paths, "w1", clock=clock).close()
    with locked(paths.workers / "w9.lock"):
        assert survey(paths, now=clock()).unknown == ["writer w9 lives but has not reported yet"]
    writer.close()


def test_the_last_words_of_a_dead_writer_do_not_hold_the_watermark(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    dead = Heartbeat(writer_id="w0", kind="worker", pid=1, at=START, complete_until=START)
    beat(paths, dead)
    later = START + timedelta(hours=1)
    assert survey(paths, now=later).watermark == later
    assert live_heartbeats(paths) == []


def test_the_watermark_never_lies_after_now_whatever_a_heartbeat_says(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    clock = HandClock()
    writer = EventLogWriter(paths, "w0", clock=clock)
    clock.move(3600)
    beat(paths, writer.heartbeat())
    assert survey(paths, now=START + timedelta(seconds=5)).watermark == START + timedelta(seconds=5)
    writer.close()


def test_a_living_writers_open_segment_is_left_alone(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    writer = EventLogWriter(paths, "w0", clock=utc_now, seal_interval_s=1000.0)
    writer.append([reward(writer, "a")])
    found = survey(paths, now=utc_now())
    assert (found.segments, found.recovered) == ([], [])
    writer.append([reward(writer, "b")])
    writer.close()
    assert logged_ids(survey(paths, now=utc_now()).segments) == ["a", "b"]


def test_a_torn_end_is_cut_counted_and_kept_aside(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    segment = write_segment(paths, [["a", "b"], ["c"]], seal=False, clock=HandClock())
    whole = segment.read_bytes()
    segment.write_bytes(whole + b'{"type":"reward","event_id":"torn"')
    found = survey(paths, now=START)
    (recovered,) = found.recovered
    assert (recovered.events, recovered.cut_bytes) == (3, 34)
    assert logged_ids(found.segments) == ["a", "b", "c"]
    assert [path.name for path in found.quarantined] == [f"w0-00000001.open.{len(whole)}.torn"]
    assert survey(paths, now=START).recovered == []


def test_damage_before_a_whole_commit_is_told_from_a_torn_end(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    segment = write_segment(paths, [["a"], ["b"], ["c"]], seal=False, clock=HandClock())
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b'"event_id":"b"', b'"event_id":"x"'))
    found = survey(paths, now=START)
    assert logged_ids(found.segments) == ["a", "c"]
    assert [path.suffix for path in found.quarantined] == [".damaged"]


def test_without_recovery_a_dead_writers_open_segment_hides_the_watermark(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    segment = write_segment(paths, [["a"]], seal=False, clock=HandClock())
    found = survey(paths, now=START, recover=False)
    assert found.watermark is None
    assert segment.exists()


def test_files_that_are_no_segments_are_left_alone(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    for name in ("notes.open", "notes.jsonl", ".w0-00000001.jsonl.12.tmp", "README"):
        (paths.events / name).write_text("x")
    found = survey(paths, now=START)
    assert (found.segments, found.recovered, found.watermark) == ([], [], START)


def test_nothing_is_kept_of_a_dead_writer_whose_name_is_never_used_again(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    writers = {
        name: EventLogWriter(paths, name, clock=HandClock(), reused=name == "again") for name in ("once", "again")
    }
    for writer in writers.values():
        writer.append([reward(writer, writer.writer_id)])
    survey(paths, now=START)
    assert len(list(paths.workers.glob("*.lock"))) == 2
    for writer in writers.values():
        writer.close()
    assert logged_ids(survey(paths, now=START).segments) == ["again", "once"]
    assert sorted(path.name for path in paths.workers.iterdir()) == ["again.json", "again.lock", "clock"]


def test_what_killed_processes_left_half_written_is_removed(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    write_segment(paths, [["a"]], seal=False, clock=HandClock())
    leftovers = [paths.events / ".w0-00000001.jsonl.12-34.tmp", paths.workers / ".w0.json.12-34.tmp"]
    for path in leftovers:
        path.write_text("half")
        os.utime(path, (0, 0))
    (paths.workers / ".w1.json.12-34.tmp").write_text("being written")
    assert logged_ids(survey(paths, now=START).segments) == ["a"]
    assert [path.exists() for path in leftovers] == [False, False]
    assert (paths.workers / ".w1.json.12-34.tmp").exists()


def test_known_segments_are_left_out_of_the_answer(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    for event_id in ("a", "b"):
        writer = EventLogWriter(paths, "w0", clock=HandClock())
        writer.append([reward(writer, event_id)])
        writer.close()
    first, second = survey(paths, now=START).segments
    assert survey(paths, now=START, known={first.name}).segments == [second]


def test_a_segment_that_cannot_be_recovered_hides_the_watermark_and_says_why(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    segment = write_segment(paths, [["a"]], seal=False, clock=HandClock())
    (paths.events / "w0-00000001.jsonl").write_text("something else")
    found = survey(paths, now=START)
    assert found.watermark is None
    assert "does not end in a seal" in found.unknown[0]
    assert segment.exists()


def test_a_corrupt_segment_can_be_moved_out_of_the_log_and_a_sound_one_cannot(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    segment = write_segment(paths, [["a"]], seal=True, clock=HandClock())
    with pytest.raises(CorruptLog, match="sound"):
        quarantine_segment(segment)
    segment.write_bytes(segment.read_bytes()[:-1])
    moved = quarantine_segment(segment)
    found = survey(paths, now=START)
    assert (found.segments, found.quarantined) == ([], [moved])


def test_a_writer_killed_at_any_moment_loses_nothing_acknowledged_and_doubles_nothing(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    rng = random.Random(7)
    acknowledged: list[str] = []
    for life in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.bandit.writer_process", str(tmp_path), "w0", f"life{life}", "16", "0"],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        for _ in range(rng.randrange(1, 1500)):
            acknowledged.append(writer.stdout.readline().decode().strip())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().decode()
        acknowledged += rest[: rest.rfind("\n") + 1].split()
        writer.wait()
        writer.stdout.close()
        if life % 2:  # otherwise the next life of the same writer recovers it
            survey(paths, now=utc_now())
    found = survey(paths, now=utc_now())
    ids = logged_ids(found.segments)
    assert found.watermark is not None
    assert list(paths.events.glob("*.open")) == []
    assert len(ids) == len(set(ids))
    assert set(acknowledged) <= set(ids)
    assert len({verify_segment(segment).sequence for segment in found.segments}) == len(found.segments)


def test_no_event_ever_turns_up_behind_a_watermark_while_writers_start_and_die(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    rng = random.Random(11)
    running: dict[str, subprocess.Popen[bytes]] = {}
    looks: list[tuple[datetime, set[str]]] = []
    lives = 0
    until = time.monotonic() + 4.0
    while time.monotonic() < until:
        writer_id = f"w{rng.randrange(3)}"
        if writer_id in running and rng.random() < 0.3:
            running[writer_id].kill()
            running.pop(writer_id).wait()
        elif writer_id not in running:
            lives += 1
            running[writer_id] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.bandit.writer_process",
                    str(tmp_path),
                    writer_id,
                    f"life{lives}",
                    "2",
                    "0",
                ],
                stdout=subprocess.DEVNULL,
            )
        for _ in range(3):
            found = survey(paths, now=utc_now())
            if found.watermark is not None:
                looks.append((found.watermark, {segment.name for segment in found.segments}))
            time.sleep(rng.random() * 0.05)
    for process in running.values():
        process.kill()
        process.wait()
    segments = survey(paths, now=utc_now()).segments
    first_stamps = {segment.name: min(map(stamped_at, read_events(segment))) for segment in segments}
    assert len(looks) > 20
    assert lives > 4
    for watermark, seen in looks:
        behind = [name for name, first in first_stamps.items() if name not in seen and first < watermark]
        assert behind == [], f"stamped before {watermark}, but not in the log at that time"


def test_a_living_writer_that_hangs_is_named_as_what_holds_the_watermark(tmp_path: Path) -> None:
    paths = new_paths(tmp_path)
    clock = HandClock()
    writer = EventLogWriter(paths, "w0", clock=clock)
    clock.move(30)
    assert survey(paths, now=clock()).silent == []
    clock.move(1)
    found = survey(paths, now=clock())
    assert found.watermark == found.live[0].complete_until < START + timedelta(seconds=1)
    assert found.unknown == []
    assert found.silent == [f"writer w0 (process {os.getpid()}) lives but is silent since 12:00:00"]
    beat(paths, writer.heartbeat())
    assert survey(paths, now=clock()).silent == []
    writer.close()
    clock.move(60)
    assert survey(paths, now=clock()).silent == []
