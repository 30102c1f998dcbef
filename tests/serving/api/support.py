"""What the tests of the decision API share: experiments on disk, small real models, the log read back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from starlette.datastructures import URL
from starlette.requests import HTTPConnection

from bandit.eventlog import read_events
from bandit.events import DecisionEvent, Event
from bandit.experiment import Experiment, ExperimentPaths
from bandit.registry import ModelRegistry
from bandit.sampling import draw_index, uniform_draw
from bandit.settings import parse_settings
from bandit.training import Learning
from bandit.types import Action, Interaction
from serving.api.app import DecisionApp, create_app

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SEVEN = [{"id": f"a{number}"} for number in range(7)]
JSON = {"content-type": "application/json"}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime = T0) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def make_experiment(data_dir: Path, name: str = "default", **settings: Any) -> Experiment:
    """An experiment that polls ten times a second, with `settings` as given."""
    raw = {"schedule": {"poll_s": 0.1}, **settings}
    return Experiment.create(data_dir, name, parse_settings(raw), now=T0, secret=bytes(range(32)))


def publish_model(
    experiment: Experiment, *, seed: int = 0, actions: list[dict[str, Any]] | None = None, promote: bool = True
) -> str:
    """Train a small policy on rows in which the last action is best, publish it, and make it champion."""
    rng = random.Random(seed)
    offered = tuple(Action(entry["id"], entry.get("features", {})) for entry in actions or SEVEN)
    rows = [
        Interaction(
            event_id=f"h{seed}-{number}",
            decided_at=T0 + timedelta(seconds=number),
            model_id="imported",
            context={"x": rng.random(), "device": rng.choice(["phone", "desk"])},
            actions=offered,
            index=(index := rng.randrange(len(offered))),
            propensity=1 / len(offered),
            pmf=tuple([1 / len(offered)] * len(offered)),
            reward=float(index == len(offered) - 1),
        )
        for number in range(150)
    ]
    learning = Learning.fresh(experiment.settings, rows)
    learning.step(rows, champion=None, champion_id=None)
    registry = ModelRegistry(experiment.paths)
    champion = registry.champion()
    manifest = registry.publish(
        learning.files(),
        now=datetime.now(UTC),
        parent=None,
        kind="initial",
        options=learning.options(),
        settings_version=experiment.settings_version,
        data={"rows": len(rows)},
        canaries=learning.canaries(rows[:5]),
    )
    learning.close()
    if promote:
        expected = champion.model_id if champion else None
        registry.swap(manifest.model_id, expected=expected, now=datetime.now(UTC), reason="test")
    return manifest.model_id


@contextlib.asynccontextmanager
async def served(
    data_dir: Path, *, clock: Any = None, **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, DecisionApp]]:
    """The application in this process, with a client connected to it; sealed and closed at the end."""
    app = create_app(data_dir, writer_id="w0-test", clock=clock or (lambda: datetime.now(UTC)), **options)
    await app.api.hosting.start()
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1:8000"
        ) as client:
            yield client, app
    finally:
        await app.api.hosting.stop()


def run(coroutine: Any) -> Any:
    """Run a coroutine to its end, in an event loop of its own."""
    return asyncio.run(coroutine)


def logged(data_dir: Path, name: str = "default") -> list[Event]:
    """Every event in an experiment's sealed segments, verified, in writing order."""
    segments = sorted(ExperimentPaths(data_dir / "experiments" / name).events.glob("*.jsonl"))
    return [event for segment in segments for event in read_events(segment)]


def decisions(data_dir: Path, name: str = "default") -> list[DecisionEvent]:
    """The logged decisions."""
    return [event for event in logged(data_dir, name) if isinstance(event, DecisionEvent)]


def replays(experiment: Experiment, event: DecisionEvent) -> bool:
    """Whether a logged decision follows from the secret, its event_id and its pmf, bit for bit."""
    assert event.pmf is not None
    index = draw_index(event.pmf, uniform_draw(experiment.secret, event.event_id))
    return index == event.index and event.pmf[index] == event.probability


@contextlib.contextmanager
def worker(data_dir: Path, port: int, *options: str, **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker process on `port`, ready to be asked; killed at the end if it still runs."""
    command = [sys.executable, "-m", "serving.api.run", "--data-dir", str(data_dir), "--port", str(port), *options]
    process = subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, **popen})
    try:
        wait_for(lambda: _alive(port), process)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


def wait_for(condition: Any, process: subprocess.Popen[bytes] | None = None, seconds: float = 20.0) -> None:
    """Wait until `condition()` holds; fails the test when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the worker ended early"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def url_as_older_starlette_reads_it(request: HTTPConnection) -> URL:
    """The Host header and the path, joined as text and read again: some versions of Starlette did so."""
    return URL(f"http://{request.headers['host']}{request.scope['path']}")


def free_port() -> int:
    """A port that nobody uses at the moment."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _alive(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
