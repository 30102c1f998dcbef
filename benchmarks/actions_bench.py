"""What ten, a hundred and a thousand actions cost: time per decision and per training row, memory, bytes of a row.

Each action has three features, given with every request or once in a catalogue. Every case runs in a process of its
own: so many rows are learnt by policy and reward model, each scored first, as in a full retrain, and then questions
are answered by the policy. Memory is what the rows take as objects, of which all are there whenever everything is
learnt anew. Run with `python -m benchmarks.actions_bench`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bandit.policies import UniformPolicy
from bandit.rows import read_interactions
from bandit.settings import ExperimentSettings
from bandit.training import Learning
from bandit.types import Action

QUESTIONS = 50
CLASSES = 10


class Cost(NamedTuple):
    """One line of the table."""

    decision_ms: float
    row_ms: float
    row_bytes: float
    held_bytes: float


def features(rng: random.Random) -> dict[str, Any]:
    """Of one action."""
    category = f"c{rng.randrange(CLASSES)}"
    return {"cat": category, "price": round(rng.random() * 50, 2), "fresh": rng.random() < 0.5}


def write_rows(path: Path, catalogue: list[dict[str, Any]] | None, k: int, rows: int, rng: random.Random) -> None:
    """Rows as the warehouse gives them to a training job; uniform draws from `k` of ten times as many actions."""
    with path.open("w") as file:
        for number in range(rows):
            offered = catalogue or [
                {"id": f"item-{item}", "features": features(rng)} for item in rng.sample(range(10 * k), k)
            ]
            likes, index = f"c{rng.randrange(CLASSES)}", rng.randrange(k)
            chance = 0.1 + 0.5 * (offered[index]["features"]["cat"] == likes)
            row = {
                "event_id": f"e{number}",
                "decided_at": "2026-01-01T00:00:00Z",
                "model_id": "m",
                "context": {"likes": likes, "hour": rng.randrange(24)},
                "index": index,
                "propensity": 1 / k,
                "pmf": [1 / k] * k,
                "reward": float(rng.random() < chance),
            }
            row |= {"catalogue_version": 1} if catalogue else {"actions": offered}
            file.write(json.dumps(row, separators=(",", ":")) + "\n")


def measure(k: int, rows: int, stored: bool) -> Cost:
    """One case, in this process."""
    rng = random.Random(k)
    catalogue = [{"id": f"item-{item}", "features": features(rng)} for item in range(k)] if stored else None
    offers = {1: tuple(Action(**action) for action in catalogue or ())}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.ndjson"
        write_rows(path, catalogue, k, rows, rng)
        row_bytes = path.stat().st_size / rows
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        interactions = list(read_interactions(path, offers))
        held = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / rows
    learning = Learning.fresh(ExperimentSettings(), interactions[: rows // 2])
    started = time.perf_counter()
    learning.step(interactions, champion=UniformPolicy(), champion_id="m")
    row_ms = (time.perf_counter() - started) / rows * 1e3
    took = []
    for row in interactions[-QUESTIONS:]:
        started = time.perf_counter()
        learning.policy.pmf(row.context, row.actions)
        took.append(time.perf_counter() - started)
    learning.close()
    return Cost(statistics.median(took) * 1e3, row_ms, row_bytes, held)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000)
    rows: int = parser.parse_args().rows
    print(f"{'':40s} {'ms/decision':>11s} {'ms/row':>7s} {'kB/row, file':>12s} {'kB/row, memory':>14s}")
    for stored in (False, True):
        for k in (10, 100, 1_000):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                cost = pool.submit(measure, k, rows, stored).result()
            name = f"{k:,} actions, {'a stored catalogue' if stored else 'features per request'}"
            print(
                f"{name:40s} {cost.decision_ms:11.2f} {cost.row_ms:7.2f} {cost.row_bytes / 1e3:12.1f} "
                f"{cost.held_bytes / 1e3:14.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
