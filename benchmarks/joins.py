"""The warehouse against polars and against DuckDB itself, in the same run on the same rows.

Three questions: how much does ingest add to DuckDB reading the same bytes into a file; how does the join of a whole
log compare with polars joining the same rows in memory; and does joining one more window of 60,000 decisions cost
the same when ten times as many are stored. polars is a yardstick only: `pip install polars`.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import duckdb

from bandit.eventlog.segment import commit_line, header_line, seal_line, segment_name
from bandit.eventlog.survey import sealed_segments
from bandit.experiment import Experiment
from bandit.settings import parse_settings
from joiner import statements
from joiner.warehouse import LONG_AGO, Warehouse

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW_S = 60.0
STEP_US = 1000
SEGMENT_EVENTS = 100_000
WINDOW_DECISIONS = 60_000
REPEATS = 3


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
            ours_s.append(timed(lambda: (warehouse.ingest(segments), warehouse.checkpoint())))
    report("ingest", f"{size / 1e6:.0f} MB, verified, against bare read_json into a file", ours_s, bare_s, limit=2.0)
    shutil.rmtree(folder / "ingest")


def bench_join(folder: Path, decisions: int, limit: float) -> None:
    """The join of a whole log to a table against polars joining the same rows in memory."""
    try:
        import polars as pl
    except ModuleNotFoundError:
        sys.stdout.write("join: left out, because the yardstick is not installed (pip install polars)\n")
        return
    experiment = make_experiment(folder / "join")
    until = START + timedelta(days=365)
    with Warehouse(experiment) as warehouse:
        fill(warehouse, decisions)
        ours_s, theirs_s = [], []
        cursor = warehouse.cursor()
        bounds = {"after": LONG_AGO, "until": until.replace(tzinfo=None), "reach": LONG_AGO}
        for table in ("decision_records", "reward_records"):
            cursor.execute(f"COPY {table} TO '{warehouse.scratch}/{table}.parquet'")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(REPEATS):
            cursor.execute("DELETE FROM joined")
            ours_s.append(timed(lambda: cursor.execute(statements.INSERT_INTERACTIONS_PLAINLY, bounds)))
        rows = cursor.execute("SELECT count(*), sum(reward) FROM joined").fetchone() or (0, 0.0)
        ours_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        left = pl.read_parquet(warehouse.scratch / "decision_records.parquet")
        right = pl.read_parquet(warehouse.scratch / "reward_records.parquet")

    def with_polars() -> pl.DataFrame:
        first = (
            right.sort("stamped_at", "writer_id", "sequence", "position")
            .group_by("event_id")
            .agg(pl.col("reward").first(), pl.col("stamped_at").first().alias("rewarded_at"))
        )
        joined = left.join(first, on="event_id", how="left")
        return joined.with_columns(pl.col("reward").fill_null(0.0)).sort("matures_at", "decided_at", "event_id")

    for _ in range(REPEATS):
        theirs_s.append(timed(with_polars))
    theirs = with_polars()
    assert (len(theirs), round(float(theirs["reward"].sum()), 3)) == (rows[0], round(rows[1], 3))
    report(
        "join", f"{decisions:,} decisions to a table in a file, against polars in memory", ours_s, theirs_s, limit=limit
    )
    sys.stdout.write(f"  memory at most {ours_kb / 1e6:.2f} GB (of which {before / 1e6:.2f} GB before the join)\n")
    shutil.rmtree(folder / "join")


def bench_window(folder: Path, few: int, many: int) -> None:
    """One more window of 60,000 decisions, with few and with many stored."""
    took: dict[int, list[float]] = {}
    for stored in (few, many):
        experiment = make_experiment(folder / f"window{stored}")
        with Warehouse(experiment) as warehouse:
            fill(warehouse, stored)
            end = START + timedelta(seconds=WINDOW_S, microseconds=STEP_US * stored)
            step = timedelta(microseconds=STEP_US * WINDOW_DECISIONS)
            warehouse.join(end - (REPEATS + 2) * step)
            warehouse.join(end - (REPEATS + 1) * step)
            took[stored] = []
            for left in range(REPEATS, -1, -1):
                until = end - left * step
                took[stored].append(timed(lambda until=until: warehouse.join(until)))  # type: ignore[misc]
        shutil.rmtree(folder / f"window{stored}")
    report(f"window of {WINDOW_DECISIONS:,}", f"{many:,} stored against {few:,}", took[many], took[few], limit=1.5)


def report(name: str, about: str, ours_s: list[float], yardstick_s: list[float], *, limit: float) -> None:
    """One line: medians, their ratio and the limit it is held against."""
    ours, yardstick = statistics.median(ours_s), statistics.median(yardstick_s)
    sys.stdout.write(
        f"{name}: {ours:.3f} s against {yardstick:.3f} s, ratio {ours / yardstick:.2f} (limit {limit}); {about}\n"
    )
    sys.stdout.flush()


def main() -> int:
    """Run all three; `--large` adds the join of ten million."""
    parser = argparse.ArgumentParser(description="Measure ingest and join.")
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--stored", type=int, default=10_000_000, help="how many are stored in the large window bench")
    parser.add_argument("--large", action="store_true", help="also join ten times as many")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="joins-"))
    try:
        bench_ingest(folder, options.decisions)
        bench_join(folder, options.decisions, 1.2)
        if options.large:
            bench_join(folder, options.decisions * 10, 1.0)
        bench_window(folder, options.decisions, options.stored)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
