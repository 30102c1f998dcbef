"""How long a simulated run takes in one process: the Statlog protocol, and a table of many classes at its defaults.

Both play 7,500 interactions with 15 cycles through the real functions: decide, append, join, train, evaluate, promote.
Each is played three times, and the median counts; Statlog also with the second process that `rewardloop simulate`
gives a single seed where a core is spare, turn and turn about. Then several seeds of Statlog are played at once, one a
core, as `rewardloop simulate --seeds 0-3 --jobs 2` does. The times are those of the machine that the results name. Run
with `python -m benchmarks.simulation_bench`.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bandit.settings import ExperimentSettings
from benchmarks.claims import claim
from serving.cli.worlds import statlog_world
from serving.simulation import Job, run_job, run_jobs, simulated_settings
from simulator.environment import Environment
from simulator.runner import Script
from simulator.tables import LabelledTable

ROWS, COLUMNS, CLASSES = 20_000, 16, 26
TIMES, SEEDS = 3, 4


def letters() -> LabelledTable:
    """20,000 rows of 16 whole numbers from 0 to 15 and one of 26 classes, each class a cloud of its own."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2.2, (CLASSES, COLUMNS))
    label = rng.integers(0, CLASSES, ROWS)
    cells = np.clip(np.round(centres[label] + rng.normal(0, 1.6, (ROWS, COLUMNS)) + 7), 0, 15).astype(int)
    columns = {f"x{number}": cells[:, number].tolist() for number in range(COLUMNS)}
    return LabelledTable(columns, [chr(65 + place) for place in label.tolist()], name="26 classes")


def play(world: Environment, *, helper: bool = False) -> tuple[float, float]:
    """Seconds for one run, with a process for its declared challengers or without, and its mean expected reward."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-bench-") as folder:
        begun = time.perf_counter()
        run = run_job(world, job_of(world), Path(folder), lambda _: None, helper=helper)
        return time.perf_counter() - begun, float(run.expected.mean())


def play_at_once(world: Environment, processes: int) -> float:
    """Seconds for each of several seeds, that many at a time, the start of the processes included."""
    jobs = [job_of(world, seed) for seed in range(SEEDS)]
    with tempfile.TemporaryDirectory(prefix="rewardloop-bench-") as folder:
        begun = time.perf_counter()
        run_jobs([world], jobs, Path(folder), processes=processes)
        return (time.perf_counter() - begun) / len(jobs)


def job_of(world: Environment, seed: int = 0) -> Job:
    """The protocol with default settings."""
    settings = simulated_settings(world, ExperimentSettings())
    return Job(f"bench-{seed}", settings, Script(interactions=7500, seed=seed))


def main() -> None:
    """Print what each world took."""
    statlog, table = statlog_world(), letters()
    pairs = [(play(statlog), play(statlog, helper=True)) for _ in range(TIMES)]
    alone, helped = zip(*pairs, strict=True)
    tell(statlog.name, "Statlog, 7,500 interactions in one process", alone, limit=8.0)
    tell(f"{statlog.name}, with a second process", "the same with a process for the challengers", helped, limit=8.0)
    runs = [play(table) for _ in range(TIMES)]
    what = f"a table of {ROWS:,} rows and {CLASSES} classes, 7,500 interactions in one process"
    tell(table.name, what, runs, limit=30.0)
    cores = os.cpu_count() or 1
    took = play_at_once(statlog, cores)
    print(f"Statlog, {SEEDS} seeds, {cores} at a time: {took:.1f} s a seed")


def tell(name: str, what: str, runs: Sequence[tuple[float, float]], *, limit: float) -> None:
    """Print how long runs took, and whether their median keeps within `limit` seconds."""
    took = statistics.median(seconds for seconds, _ in runs)
    each = ", ".join(f"{seconds:.1f}" for seconds, _ in runs)
    print(f"{name}: {took:.1f} s (the median of {each}), mean reward {runs[0][1]:.3f}")
    claim(what, took, at_most=limit, unit="s")


if __name__ == "__main__":
    main()
