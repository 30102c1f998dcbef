"""How fast training rows become a model, against VW reading a ready text file by itself in the same run.

Measured: from the joiner's NDJSON to the trained model (policy alone, as the yardstick; then policy and reward
model with every row scored first, which is what a full retrain with its evaluation costs), and the standing
challenger's step over 500 new rows. Run with `python -m benchmarks.training_bench --rows 1000000`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from vowpalwabbit import Workspace

from bandit.bulk import write_texts
from bandit.policies import UniformPolicy
from bandit.rows import read_interactions
from bandit.scoring import RewardScale
from bandit.settings import ExperimentSettings
from bandit.training import Learning
from bandit.types import Action, Interaction
from bandit.vw_file import learn_file, learnt_model, run_pass

ACTIONS = tuple(Action(f"action-{number}") for number in range(10))
FEATURES = 5
CHUNK = 100_000


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Rows as the joiner writes them: five numbers, ten actions of a catalogue, uniformly logged."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            numbers = np.round(rng.normal(size=(count, FEATURES)), 4)
            chosen = rng.integers(10, size=count)
            rewards = (rng.random(count) < 0.1 + 0.4 * (numbers[:, 0] * (chosen - 4.5) > 0)).astype(float)
            for position in range(count):
                row = {
                    "event_id": f"event-{start + position}",
                    "decided_at": "2026-01-01T00:00:00Z",
                    "model_id": "m",
                    "context": {f"x{j}": float(numbers[position, j]) for j in range(FEATURES)},
                    "actions": None,
                    "catalogue_version": 1,
                    "index": int(chosen[position]),
                    "propensity": 0.1,
                    "pmf": [0.1] * 10,
                    "reward": float(rewards[position]),
                }
                file.write(msgspec.json.encode(row) + b"\n")


def chunks(path: Path) -> Iterator[list[Interaction]]:
    """The rows of the file, a hundred thousand at a time."""
    rows = read_interactions(path, {1: ACTIONS})
    while part := list(islice(rows, CHUNK)):
        yield part


def main() -> None:
    """Print seconds, µs per row and the ratio to the yardstick."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    count: int = parser.parse_args().rows
    settings = ExperimentSettings()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "rows.ndjson"
        write_rows(path, count)
        first = next(chunks(path))
        learning = Learning.fresh(settings, first[:50_000])

        # the yardstick: the text is there already, VW reads it and learns the policy
        text = folder / "ready.txt"
        with text.open("w") as file:
            for row in read_interactions(path, {1: ACTIONS}):
                lines = [learning.encoder.context_line(row.context), *map(learning.encoder.action_line, row.actions)]
                lines[row.index + 1] = f"0:{-row.reward!r}:{row.propensity!r} {lines[row.index + 1]}"
                file.write("\n".join(lines) + "\n\n")
        started = time.perf_counter()
        workspace = Workspace(arg_list=[*learning.policy.arguments, "--random_seed", "0", "--data", str(text)])
        assert workspace.get_weighted_examples() == count
        workspace.finish()
        yardstick = time.perf_counter() - started
        print(f"{'':52s} {'seconds':>8s} {'µs/row':>7s} {'yardstick/it':>12s}")
        show("VW reading a ready text file (-d), policy", yardstick, count, yardstick)

        started = time.perf_counter()
        for part in chunks(path):
            write_texts(part, learning.policy, RewardScale(settings.rewards), folder)
            model = learning.policy.to_bytes()
            ready = folder / "policy.txt"
            job = learn_file(
                learning.policy.arguments, model, ready, examples=len(part), folder=folder / "out", predictions=False
            )
            run_pass(job)
            learning.policy.replace(learnt_model(job))
        show("export and training, NDJSON to policy", time.perf_counter() - started, count, yardstick)

        learning.close()
        learning = Learning.fresh(settings, first[:50_000])
        started = time.perf_counter()
        for part in chunks(path):
            learning.step(part, champion=UniformPolicy(), champion_id="m")
        show("policy and reward model, every row scored first", time.perf_counter() - started, count, yardstick)

        files = learning.files()
        learning.close()
        started = time.perf_counter()
        again = Learning.resume(files, settings)
        again.step(first[:500], champion=UniformPolicy(), champion_id="m")
        again.files()
        again.canaries(first[:100])
        print(f"{'standing challenger: resume, 500 rows, save':52s} {time.perf_counter() - started:8.2f}")
        again.close()


def show(name: str, seconds: float, rows: int, yardstick: float) -> None:
    """One line of the table."""
    print(f"{name:52s} {seconds:8.2f} {seconds / rows * 1e6:7.1f} {yardstick / seconds:12.2f}", flush=True)


if __name__ == "__main__":
    main()
