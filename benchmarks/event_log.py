"""Events per second and time until acknowledged, by how many wait at once; and the speed of verifying.

One thread submits decisions of nine numeric features and a pmf of four, one by one, and keeps a fixed number in
flight. Every acknowledgement waits for a real sync, so the figures are those of this disk: its cost is printed.
"""

from __future__ import annotations

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
    return {
        "in_flight": in_flight,
        "events_per_s": events / took_s,
        "p50_ms": quantiles[49] * 1e3,
        "p99_ms": quantiles[98] * 1e3,
        "sync_ms": writer.counters.fsync_s_total / max(1, writer.counters.commits) * 1e3,
        "verify_mb_per_s": size / verify_s / 1e6,
    }


def main() -> int:
    """Print one row of a Markdown table for each number in flight."""
    print("| events in flight | events/s | p50 | p99 | mean sync | verify |")
    print("|---|---|---|---|---|---|")
    for in_flight in (1, 8, 32, 256):
        folder = Path(tempfile.mkdtemp(prefix="event-log-", dir=Path.cwd()))
        try:
            found = measure(folder, min(40_000, in_flight * 2000), in_flight)
        finally:
            shutil.rmtree(folder)
        print(
            f"| {in_flight} | {found['events_per_s']:,.0f} | {found['p50_ms']:.2f} ms | {found['p99_ms']:.2f} ms "
            f"| {found['sync_ms']:.2f} ms | {found['verify_mb_per_s']:,.0f} MB/s |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
