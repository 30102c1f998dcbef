"""How fast the joined log becomes a model, against VW reading a ready text file by itself in the same run.

Measured: from the warehouse's tables to the trained models (export, encoding, training), where the yardstick learns
the policy alone; and the same with every row scored before it is learnt, which is what a full retrain does before
the gate. Ten actions of a catalogue, five numbers, every decision rewarded. Run with
`python -m benchmarks.training_bench --rows 1000000`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from vowpalwabbit import Workspace

from bandit.eventlog.survey import sealed_segments
from bandit.example_text import RowTexts
from bandit.experiment import Experiment
from bandit.policies import UniformPolicy
from bandit.rows import read_interactions
from bandit.scoring import RewardScale
from bandit.settings import ExperimentSettings
from bandit.training import Learning
from bandit.types import Action, Interaction
from benchmarks.claims import claim
from benchmarks.cycle_bench import ACTIONS, settings_for, write_log
from joiner.warehouse import Warehouse

START = datetime(2026, 1, 1, tzinfo=UTC)
CATALOGUE = {1: tuple(Action(action["id"]) for action in ACTIONS)}
CHUNK = 50_000


def chunks(path: Path) -> Iterator[list[Interaction]]:
    """The rows of the file, so many at a time as in a training job."""
    rows = read_interactions(path, CATALOGUE)
    while part := list(islice(rows, CHUNK)):
        yield part


def main() -> None:
    """Print seconds, µs per row and the ratio to the yardstick."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    count: int = parser.parse_args().rows
    settings = settings_for()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment = Experiment.create(folder, "bench", settings, now=START)
        write_log(experiment, count, START)
        with Warehouse(experiment) as warehouse:
            warehouse.ingest(sealed_segments(experiment.paths.events))
            until = START + timedelta(days=3650)
            warehouse.join(until)
            measure(warehouse, settings, folder, count, until)


def measure(warehouse: Warehouse, settings: ExperimentSettings, folder: Path, count: int, until: datetime) -> None:
    """The yardstick, then what is measured by it."""
    path = folder / "rows.ndjson"
    started = time.perf_counter()
    assert warehouse.write_training_rows(path, after=None, until=until) == count
    export = time.perf_counter() - started
    first = next(chunks(path))
    learning = Learning.fresh(settings, first)

    # the yardstick: the text is there already, VW reads it and learns the policy
    text = folder / "ready.txt"
    texts, scale = RowTexts(learning.encoder), RewardScale.of(settings.rewards)
    with text.open("w") as file:
        for row in read_interactions(path, CATALOGUE):
            example = texts.of(row.context, row.actions, row.index)
            file.write(example.labelled(scale.cost(row.reward), row.propensity) + "\n\n")
    started = time.perf_counter()
    workspace = Workspace(arg_list=[*learning.policy.arguments, "--data", str(text)])
    assert workspace.get_weighted_examples() == count
    workspace.finish()
    yardstick = time.perf_counter() - started
    text.unlink()
    print(f"{'':58s} {'seconds':>8s} {'µs/row':>7s} {'yardstick/it':>12s}")
    show("VW reading a ready text file (-d), policy", yardstick, count, yardstick)
    show("export of the training rows", export, count, yardstick)

    learning.close()
    for cores in (1, 2):
        learning = Learning.fresh(settings_for(training={"cores": cores}), first)
        started = time.perf_counter()
        for part in chunks(path):
            learning.step(part, champion=None, champion_id=None, score=False)
        learning.files()
        trained = export + time.perf_counter() - started
        show(f"export and training, warehouse to both models, {cores} core(s)", trained, count, yardstick)
        learning.close()

        learning = Learning.fresh(settings_for(training={"cores": cores}), first)
        started = time.perf_counter()
        for part in chunks(path):
            learning.step(part, champion=UniformPolicy(), champion_id="m")
        learning.files()
        scored = time.perf_counter() - started
        show(f"both models, every row scored first, {cores} core(s)", scored, count, yardstick)
        learning.close()
    claim(f"export and training of {count:,} interactions, 2 cores / VW -d", yardstick / trained, at_least=0.4)


def show(name: str, seconds: float, rows: int, yardstick: float) -> None:
    """One line of the table."""
    print(f"{name:58s} {seconds:8.2f} {seconds / rows * 1e6:7.1f} {yardstick / seconds:12.2f}", flush=True)


if __name__ == "__main__":
    main()
