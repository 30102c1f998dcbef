"""`rewardloop bench`: what this machine and this disk can do, in a few seconds, before anybody relies on it.

It makes a scratch experiment with a trained policy beside the data, decides durably with many questions at once
and measures disk, prediction and whole decisions. HTTP is left out: its cost is the client's and the network's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from serving.cli.common import Common, Number, common_with, now, print_json, print_table

ACTIONS = 7
FEATURES = 9
ROWS = 500
SYNCS = 200
PREDICTIONS = 2000


@click.command()
@click.option("--seconds", type=Number(0.1, 600), default=3.0, show_default=True, help="How long to decide.")
@click.option("--at-once", type=click.IntRange(1, 1000), default=32, show_default=True, help="Questions under way.")
@common_with(experiment=None)
def command(common: Common, *, seconds: float, at_once: int) -> None:
    """Measure this machine: sync of the disk, prediction, durable decisions per second."""
    # beside the data, because it is that disk which counts
    existed = common.data_dir.exists()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=common.make_data_dir()) as folder:
        answer = measure(Path(folder), seconds=seconds, at_once=at_once)
    if not existed:
        with contextlib.suppress(OSError):  # somebody else has put something there meanwhile
            common.data_dir.rmdir()
    if common.as_json:
        print_json(answer)
        return
    rows = [
        ("fdatasync of 4 KiB", f"{answer['sync_p50_ms']:.3f} ms", f"99% within {answer['sync_p99_ms']:.3f} ms"),
        ("prediction", f"{answer['prediction_us']:.0f} µs", f"{ACTIONS} actions, {FEATURES} context features"),
        ("durable decisions", f"{answer['decisions_per_s']:,.0f} a second", f"one process, {at_once} at once"),
        ("  time to answer", f"{answer['p50_ms']:.2f} ms", f"99% within {answer['p99_ms']:.2f} ms"),
    ]
    print_table(None, ("what", "measured", ""), rows)


def measure(folder: Path, *, seconds: float, at_once: int) -> dict[str, Any]:
    """All measurements, in an empty folder on the disk in question."""
    syncs = _syncs(folder)
    contexts = [_context(random.Random(number)) for number in range(256)]
    _prepare(folder)
    prediction_s, took = asyncio.run(_decide(folder, contexts, seconds, at_once))
    return {
        "sync_p50_ms": 1000 * _quantile(syncs, 0.5),
        "sync_p99_ms": 1000 * _quantile(syncs, 0.99),
        "prediction_us": 1e6 * prediction_s,
        "decisions_per_s": len(took) / seconds,
        "p50_ms": 1000 * _quantile(took, 0.5),
        "p99_ms": 1000 * _quantile(took, 0.99),
        "at_once": at_once,
        "cores": os.cpu_count(),
    }


def _syncs(folder: Path) -> list[float]:
    took = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - started)
    return took


def _prepare(folder: Path) -> None:
    """An experiment whose champion learnt from uniformly decided rows."""
    from bandit.experiment import Experiment
    from bandit.registry import ModelRegistry
    from bandit.settings import parse_settings
    from bandit.training import Learning
    from bandit.types import Action, Interaction

    catalogue = [{"id": f"action-{number}"} for number in range(ACTIONS)]
    experiment = Experiment.create(folder, "bench", parse_settings({"actions": catalogue}), now=now())
    actions = tuple(Action(entry["id"]) for entry in catalogue)
    rng = random.Random(0)
    rows = [
        Interaction(
            event_id=str(number),
            decided_at=now() - timedelta(hours=1),
            model_id="imported",
            context=_context(rng),
            actions=actions,
            index=(index := rng.randrange(ACTIONS)),
            propensity=1 / ACTIONS,
            pmf=tuple([1 / ACTIONS] * ACTIONS),
            reward=float(index == 0),
        )
        for number in range(ROWS)
    ]
    learning = Learning.fresh(experiment.settings, rows)
    learning.step(rows, champion=None, champion_id=None, score=False)
    registry = ModelRegistry(experiment.paths)
    manifest = registry.publish(
        learning.files(),
        now=now(),
        parent=None,
        kind="initial",
        options=learning.options(),
        settings_version=experiment.settings_version,
        data={"rows": ROWS},
        canaries=learning.canaries(rows[:3]),
    )
    learning.close()
    registry.swap(manifest.model_id, expected=None, now=now(), reason="bench")


async def _decide(
    folder: Path, contexts: Sequence[dict[str, Any]], seconds: float, at_once: int
) -> tuple[float, list[float]]:
    """Seconds a prediction takes, and how long each durable decision took."""
    from serving.api.hosting import Hosting
    from serving.api.requests import RecommendRequest

    hosting = Hosting(folder, writer_id="bench", clock=now)
    await hosting.start()
    hosted = hosting.get("bench")
    state = hosted.server.state
    started = time.perf_counter()
    for number in range(PREDICTIONS):
        state.model.policy.pmf(contexts[number % len(contexts)], state.catalogue or ())
    prediction_s = (time.perf_counter() - started) / PREDICTIONS
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while (begun := time.perf_counter()) < until:
            number += 1
            await hosted.decide(RecommendRequest(context=contexts[number % len(contexts)]))
            took.append(time.perf_counter() - begun)

    await asyncio.gather(*[client(number) for number in range(at_once)])
    await hosting.stop()
    return prediction_s, took


def _context(rng: random.Random) -> dict[str, Any]:
    return {f"x{number}": round(rng.gauss(0, 10), 1) for number in range(FEATURES)}


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
