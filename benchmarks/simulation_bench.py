"""How long a simulated run takes in one process: the Statlog protocol, and a table of many classes at its defaults.

Both play 7,500 interactions with 15 cycles through the real functions: decide, append, join, train, evaluate, promote.
The times are those of the machine that the results name. Run with `python -m benchmarks.simulation_bench`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from bandit.settings import ExperimentSettings
from benchmarks.claims import claim
from serving.cli.worlds import statlog_world
from serving.simulation import Job, run_job, simulated_settings
from simulator.environment import Environment
from simulator.runner import Script
from simulator.tables import LabelledTable

ROWS, COLUMNS, CLASSES = 20_000, 16, 26


def letters() -> LabelledTable:
    """20,000 rows of 16 whole numbers from 0 to 15 and one of 26 classes, each class a cloud of its own."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2.2, (CLASSES, COLUMNS))
    label = rng.integers(0, CLASSES, ROWS)
    cells = np.clip(np.round(centres[label] + rng.normal(0, 1.6, (ROWS, COLUMNS)) + 7), 0, 15).astype(int)
    columns = {f"x{number}": cells[:, number].tolist() for number in range(COLUMNS)}
    return LabelledTable(columns, [chr(65 + place) for place in label.tolist()], name="26 classes")


def play(world: Environment) -> tuple[float, float]:
    """Seconds for one run, and its mean expected reward."""
    job = Job("bench", simulated_settings(world, ExperimentSettings()), Script(interactions=7500))
    with tempfile.TemporaryDirectory(prefix="rewardloop-bench-") as folder:
        begun = time.perf_counter()
        run = run_job(world, job, Path(folder), lambda _: None)
        return time.perf_counter() - begun, float(run.expected.mean())


def main() -> None:
    """Print one line for each world."""
    for world, what, limit in (
        (statlog_world(), "Statlog, 7,500 interactions in one process", 8.0),
        (letters(), f"a table of {ROWS:,} rows and {CLASSES} classes, 7,500 interactions in one process", 30.0),
    ):
        took, mean = play(world)
        print(f"{world.name}: {took:.1f} s, mean reward {mean:.3f}")
        claim(what, took, at_most=limit, unit="s")


if __name__ == "__main__":
    main()
