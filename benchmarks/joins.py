"""The warehouse against polars and against DuckDB itself, in the same run on the same rows.

Three questions: how much does ingest add to DuckDB reading the same bytes into a file; how does the join of a whole
log compare with polars joining the same rows in memory; and does joining one more window of 60,000 decisions cost
the same when ten times as many are stored. polars is a yardstick only: `pip install -r
benchmarks/requirements.lock`. Memory is the peak of a process that does nothing but the join.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import duckdb

from bandit.eventlog.segment import commit_line, header_line, seal_line, segment_name
from bandit.eventlog.survey import sealed_segments
from bandit.experiment import Experiment
from bandit.settings import parse_settings
from benchmarks.claims import claim
from joiner import statements
from joiner.warehouse import Warehouse

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW_S = 60.0
STEP_US = 1000
SEGMENT_EVENTS = 100_000
WINDOW_DECISIONS = 60_000
REPEATS = 3
T = TypeVar("T")
TABLES = ("decision_records", "reward_records")


def log_lines(first: int, count: int) -> list[bytes]:
    """Decisions one per millisecond, and for two in three a reward 20 ms later, as log lines."""
    lines = []
    for n in range(first, first + count):
        event_id = sha256(b"%d" % n).hexdigest()[:32]
        at = START + timedelta(microseconds=n * STEP_US)
        lines.append(
            f'{{"type":"decision","event_id":"{event_id}","decided_at":"{at.isoformat()}","model_id":"m1",'
            f'"context":{{"x1":{n % 97},"x2":{n % 1013 / 7},"hour":{n % 24},"country":"de","device":"phone"}},'
            f'"action":"a{n % 7}","index":{n % 7},"probability":0.14285714285714285,'
            '"pmf":[0.14285714285714285,0.14285714285714285,0.14285714285714285,0.14285714285714285,'
            '0.14285714285714285,0.14285714285714285,0.14285714285714285],"catalogue_version":1}\n'.encode()
        )
        if n % 3:
            received = at + timedelta(milliseconds=20, microseconds=500)
            lines.append(
                f'{{"type":"reward","event_id":"{event_id}","received_at":"{received.isoformat()}",'
                f'"reward":{n % 11 / 10}}}\n'.encode()
            )
    return lines


def write_segment(events: Path, sequence: int, lines: list[bytes]) -> None:
    """One sealed segment of whole lines."""
    group = b"".join(lines)
    data = header_line("bench", sequence, START) + group + commit_line(group, len(lines))
    data += seal_line(sha256(data), len(lines), len(data))
    (events / f"{segment_name('bench', sequence)}.jsonl").write_bytes(data)


def make_experiment(folder: Path) -> Experiment:
    """An experiment of seven actions whose reward window is a minute."""
    actions = [{"id": f"a{n}"} for n in range(7)]
    settings = parse_settings({"rewards": {"window_s": WINDOW_S}, "actions": actions})
    return Experiment.create(folder, "bench", settings, now=START - timedelta(days=1))


def fill(warehouse: Warehouse, count: int) -> None:
    """Put `count` decisions with their rewards straight into the tables, without a log, to have much stored."""
    cursor = warehouse.cursor()
    cursor.execute(
        f"""
INSERT INTO decision_records BY NAME
SELECT i AS record_id, hash(id) AS event_key, id AS event_id, t AS decided_at, t AS stamped_at,
       t + to_microseconds({round(WINDOW_S * 1e6)}) AS matures_at, 'm1' AS model_id, 1 AS settings_version,
       1 AS catalogue_version, 'online' AS mode, 'policy' AS slice, false AS deferred, 'a' || (i % 7) AS action,
       (i % 7)::INTEGER AS index, 1 / 7 AS probability, [1 / 7, 1 / 7, 1 / 7, 1 / 7, 1 / 7, 1 / 7, 1 / 7] AS pmf,
       '{{"x1":' || (i % 97) || ',"hour":' || (i % 24) || '}}' AS context, 'w' AS writer_id,
       1 AS sequence, i AS position
FROM (SELECT i, md5(i::VARCHAR) AS id, $start + to_microseconds(i * {STEP_US}) AS t FROM range({count}) r(i))
""",
        {"start": START.replace(tzinfo=None)},
    )
    cursor.execute(
        """
INSERT INTO reward_records BY NAME
SELECT event_id, decided_at + INTERVAL 20 MILLISECOND AS received_at, received_at AS stamped_at,
       (record_id % 11) / 10 AS reward, writer_id, sequence, position
FROM decision_records WHERE record_id % 3 > 0
"""
    )
    cursor.close()
    warehouse.checkpoint()


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bench_ingest(folder: Path, decisions: int) -> None:
    """Ingest of sealed segments against DuckDB's own reading of the same bytes into a file."""
    experiment = make_experiment(folder / "ingest")
    lines_each = SEGMENT_EVENTS * 3 // 5
    for sequence, first in enumerate(range(0, decisions, lines_each), start=1):
        write_segment(experiment.paths.events, sequence, log_lines(first, min(lines_each, decisions - first)))
    segments = sealed_segments(experiment.paths.events)
    size = sum(path.stat().st_size for path in segments)
    bare_s, ours_s = [], []
    for _ in range(REPEATS):
        file = folder / "bare.duckdb"
        for stale in (file, experiment.paths.warehouse):
            stale.unlink(missing_ok=True)
        with duckdb.connect(str(file)) as bare:
            reading: str = statements.READ_SEGMENTS.replace("TEMP TABLE", "TABLE").replace(
                "$1", str([str(p) for p in segments])
            )
            started = time.perf_counter()
            bare.execute(reading)
            bare.execute("CHECKPOINT")
            bare_s.append(time.perf_counter() - started)
        with Warehouse(experiment) as warehouse:
            started = time.perf_counter()
            warehouse.ingest(segments)
            warehouse.checkpoint()
            ours_s.append(time.perf_counter() - started)
    about = f"{size / 1e6:.0f} MB of sealed segments, verified, into a file; bare read_json of the same bytes"
    report("ingest / read_json", about, ours_s, bare_s, limit=2.0)
    shutil.rmtree(folder / "ingest")


def bench_join(root: Path, decisions: int, *, limit: float, limit_gb: float) -> None:
    """The join of a whole log to a table, against polars joining the same rows in memory to the same columns.

    Each side runs in a process of its own, so that its memory is its own.
    """
    if importlib.util.find_spec("polars") is None:
        sys.stdout.write("join: left out, because the yardstick is not installed (pip install polars)\n")
        return
    ours, theirs = alone(join_here, root), alone(join_with_polars, root)
    assert ours.found == theirs.found, f"{ours.found} against {theirs.found}"
    about = (
        f"{decisions:,} decisions, {ours.found[1]:,} rewarded, to a table in a file, {ours.threads} threads; "
        f"polars in memory, {theirs.threads} threads"
    )
    report(f"join of {decisions / 1e6:g}M / polars", about, ours.seconds, theirs.seconds, limit=limit)
    sys.stdout.write(f"  polars had {theirs.peak_gb:.2f} GB at most\n")
    claim(f"memory of the join of {decisions / 1e6:g}M", ours.peak_gb, at_most=limit_gb, unit="GB")


@dataclass(frozen=True, slots=True)
class JoinRun:
    """Seconds of each repeat, what was found (rows, rewarded, sum of rewards, reports counted), threads, peak RSS."""

    seconds: list[float]
    found: tuple[int, int, float, int]
    threads: int
    peak_gb: float


def alone(work: Callable[..., T], *arguments: object) -> T:
    """The result of `work` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_gb() -> float:
    """The most memory that this process had at once, in GB (10⁹ bytes)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def fill_for_join(root: Path, decisions: int) -> None:
    """A warehouse with everything to join, and its two tables as Parquet files beside it."""
    with Warehouse(make_experiment(root)) as warehouse:
        fill(warehouse, decisions)
        for table in TABLES:
            warehouse.cursor().execute(f"COPY {table} TO '{warehouse.scratch}/{table}.parquet'")


def join_here(root: Path) -> JoinRun:
    """Join all of it as the learner would, several times over."""
    seconds = []
    with Warehouse(Experiment.open(root, "bench")) as warehouse:
        cursor = warehouse.cursor()
        for _ in range(REPEATS):
            forget(warehouse)
            seconds.append(timed(lambda: warehouse.join(START + timedelta(days=365))))
        rows, rewarded, total, counted, threads = cursor.execute(
            "SELECT count(*), count(*) FILTER (rewarded), sum(reward), sum(rewards_counted), "
            "current_setting('threads') FROM joined"
        ).fetchone() or (0, 0, 0.0, 0, 0)
    return JoinRun(seconds, (rows, rewarded, round(total, 3), int(counted)), threads, peak_gb())


def forget(warehouse: Warehouse) -> None:
    """Make the warehouse one in which nothing is joined yet."""
    warehouse.cursor().execute("DELETE FROM joined")
    warehouse.cursor().execute("UPDATE state SET joined_until = NULL, swept_until = NULL")
    warehouse.checkpoint()


def join_with_polars(root: Path) -> JoinRun:
    """The same join by polars, from tables in memory: reports in the window, the first of each, default 0."""
    import polars as pl

    scratch = Experiment.open(root, "bench").paths.root / "scratch"
    left, right = (pl.read_parquet(scratch / f"{table}.parquet").lazy() for table in TABLES)

    def join() -> pl.DataFrame:
        windows = left.select("event_id", "matures_at", pl.col("action").alias("decided"))
        first = (
            right.join(windows, on="event_id")
            .filter(pl.col("stamped_at") < pl.col("matures_at"))
            .filter(pl.col("action").is_null() | (pl.col("action") == pl.col("decided")))
            .sort("stamped_at", "writer_id", "sequence", "position")
            .group_by("event_id")
            .agg(pl.col("reward").first(), pl.len().alias("n"), pl.col("stamped_at").first().alias("rewarded_at"))
        )
        origin = pl.when(pl.col("imported_at").is_null()).then(pl.lit("live")).otherwise(pl.lit("import"))
        return (
            left.join(first, on="event_id", how="left")
            .select(
                "record_id",
                "matures_at",
                pl.col("reward").fill_null(0.0),
                pl.col("n").is_not_null().alias("rewarded"),
                pl.col("n").fill_null(0).alias("rewards_counted"),
                "rewarded_at",
                origin.alias("origin"),
            )
            .collect()
        )

    seconds = [timed(join) for _ in range(REPEATS)]
    table = join()
    total = round(float(table["reward"].sum()), 3)
    found = (len(table), int(table["rewarded"].sum()), total, int(table["rewards_counted"].sum()))
    return JoinRun(seconds, found, pl.thread_pool_size(), peak_gb())


def join_windows(root: Path, stored: int) -> list[float]:
    """Seconds for each of the last windows of the log, joined one after the other, all before them being joined."""
    end = START + timedelta(seconds=WINDOW_S, microseconds=STEP_US * stored)
    step = timedelta(microseconds=STEP_US * WINDOW_DECISIONS)
    with Warehouse(Experiment.open(root, "bench")) as warehouse:
        forget(warehouse)
        warehouse.join(end - (REPEATS + 2) * step)
        warehouse.join(end - (REPEATS + 1) * step)  # the first tick after a whole join also looks for early rewards
        untils = [end - left * step for left in range(REPEATS, -1, -1)]
        return [timed(lambda until=until: warehouse.join(until)) for until in untils]  # type: ignore[misc]


def report(name: str, about: str, ours_s: list[float], yardstick_s: list[float], *, limit: float) -> None:
    """One line: medians and their ratio; and the claim that the ratio is within `limit`."""
    ours, yardstick = statistics.median(ours_s), statistics.median(yardstick_s)
    sys.stdout.write(f"{name}: {ours:.3f} s / {yardstick:.3f} s = {ours / yardstick:.2f}; {about}\n")
    claim(name, ours / yardstick, at_most=limit)
    sys.stdout.flush()


def main() -> int:
    """Run all three; `--small` leaves out what needs 8 GB of memory and minutes."""
    parser = argparse.ArgumentParser(description="Measure ingest and join.")
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--small", action="store_true", help="leave out the join of ten times as many, and the window")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="joins-"))
    try:
        bench_ingest(folder, options.decisions)
        few, many = folder / "few", folder / "many"
        alone(fill_for_join, few, options.decisions)
        bench_join(few, options.decisions, limit=1.2, limit_gb=1.0)
        if not options.small:
            alone(fill_for_join, many, options.decisions * 10)
            bench_join(many, options.decisions * 10, limit=1.0, limit_gb=4.0)
            took_few = alone(join_windows, few, options.decisions)
            took_many = alone(join_windows, many, options.decisions * 10)
            about = (
                f"one more window of {WINDOW_DECISIONS:,} decisions with {options.decisions:,} and ten times as many"
            )
            report("window, ten times as many stored / stored", about, took_many, took_few, limit=1.5)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
