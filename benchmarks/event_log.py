"""Events per second and time until acknowledged, by how many wait at once; and the speed of verifying.

One thread submits decisions of nine numeric features and a pmf of four, one by one, and keeps a fixed number in
flight. Every acknowledgement waits for a real sync, so the figures are those of this disk. The yardstick in the same
run is the disk's own limit: a bare loop that appends as many ready-made lines at a time and syncs them; for
verifying, SHA-256 over the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from bandit.eventlog import EventLogWriter, survey, verify_segment
from bandit.events import DecisionEvent
from bandit.experiment import ExperimentPaths


def utc_now() -> datetime:
    return datetime.now(UTC)


def measure(folder: Path, events: int, in_flight: int) -> dict[str, float]:
    """Log `events` decisions with `in_flight` waiting at a time; rates per second, times in milliseconds."""
    paths = ExperimentPaths(folder)
    writer = EventLogWriter(paths, "bench", clock=utc_now)
    free = threading.Semaphore(in_flight)
    waited_s: list[float] = []

    def decision(number: int) -> DecisionEvent:
        return DecisionEvent(
            event_id=f"e{number}",
            decided_at=writer.stamp(),
            model_id="m1",
            context={f"feature_{index}": index * 0.5 for index in range(9)},
            action="a",
            index=0,
            probability=0.25,
            pmf=[0.25] * 4,
            catalogue_version=1,
        )

    started = time.perf_counter()
    for number in range(events):
        free.acquire()
        submitted = time.perf_counter()

        def done(error: Exception | None, submitted: float = submitted) -> None:
            waited_s.append(time.perf_counter() - submitted)
            free.release()

        writer.submit([decision(number)], done)
    for _ in range(in_flight):
        free.acquire()
    took_s = time.perf_counter() - started
    writer.close()
    segments = survey(paths, now=utc_now()).segments
    started = time.perf_counter()
    size = sum(verify_segment(segment).bytes for segment in segments)
    verify_s = time.perf_counter() - started
    quantiles = statistics.quantiles(waited_s, n=100)
    with segments[0].open("rb") as file:
        line = next(line for line in file if line.startswith(b'{"type":"decision"'))
    bare = bare_events_per_s(folder, events, in_flight, line)
    return {
        "in_flight": in_flight,
        "events_per_s": events / took_s,
        "ratio": events / took_s / bare,
        "p50_ms": quantiles[49] * 1e3,
        "p99_ms": quantiles[98] * 1e3,
        "sync_ms": writer.counters.fsync_s_total / max(1, writer.counters.commits) * 1e3,
        "verify_mb_per_s": size / verify_s / 1e6,
        "verify_ratio": size / verify_s / 1e6 / hash_mb_per_s(segments),
    }


def bare_events_per_s(folder: Path, events: int, in_flight: int, line: bytes) -> float:
    """The yardstick: append `in_flight` ready-made lines and sync, again and again; nothing else."""
    descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    group = line * in_flight
    started = time.perf_counter()
    for _ in range(events // in_flight):
        os.write(descriptor, group)
        os.fdatasync(descriptor)
    took_s = time.perf_counter() - started
    os.close(descriptor)
    return events // in_flight * in_flight / took_s


def hash_mb_per_s(segments: list[Path]) -> float:
    """The yardstick of verifying: read the same files and hash them."""
    started = time.perf_counter()
    size = 0
    for segment in segments:
        with segment.open("rb") as file:
            hashlib.file_digest(file, "sha256")
            size += file.tell()
    return size / (time.perf_counter() - started) / 1e6


def main() -> int:
    """Print one row of a Markdown table for each number in flight: medians of three alternating runs."""
    print("| events in flight | events/s | of bare append + sync | p50 | p99 | mean sync | verify | of bare SHA-256 |")
    print("|---|---|---|---|---|---|---|---|")
    for in_flight in (1, 8, 32, 256):
        runs = []
        for _ in range(3):
            folder = Path(tempfile.mkdtemp(prefix="event-log-", dir=Path.cwd()))
            try:
                runs.append(measure(folder, min(20_000, in_flight * 1000), in_flight))
            finally:
                shutil.rmtree(folder)
        found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"| {in_flight} | {found['events_per_s']:,.0f} | {found['ratio']:.2f} | {found['p50_ms']:.2f} ms "
            f"| {found['p99_ms']:.2f} ms | {found['sync_ms']:.2f} ms | {found['verify_mb_per_s']:,.0f} MB/s "
            f"| {found['verify_ratio']:.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
