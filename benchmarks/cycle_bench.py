"""What one turn of the loop takes with much stored, and whether decisions notice that a full retrain is under way.

A log of so many interactions with ten actions and five numbers goes through the real ingest and join. The first run
learns and evaluates all of it (a full retrain), while a decision worker answers in the same data directory; the
next ones take 500 new interactions each, from trigger to champion, and a decision worker's reload after them. All of it
with one core for training, which is the default, and with two.
Run with `python -m benchmarks.cycle_bench --rows 1000000`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from bandit.eventlog.segment import commit_line, header_line, seal_line, segment_name
from bandit.events import Event
from bandit.experiment import Experiment
from bandit.settings import ExperimentSettings, merge_settings
from bandit.types import COLD_START_MODEL_ID
from benchmarks.claims import claim
from joiner.history import import_history
from serving.api.decider import ExperimentServer
from serving.api.requests import RecommendRequest, RewardItem
from serving.learner.cycle import Cycle
from serving.learner.reports import RunReport
from serving.learner.training.priority import lower_learner
from serving.learner.training.trainer import TrainerPool
from serving.learner.workspace import Workspace
from serving.supervisor import ONE_THREAD

ACTIONS = [{"id": f"action-{number}"} for number in range(10)]
FEATURES = 5
NAMES = [f"x{number}" for number in range(FEATURES)]
CHUNK = 100_000
STEP_US = 20_000
WINDOW_S = 60.0
NEW = 500
ROUNDS = 3
JSON = {"content-type": "application/json"}
RATE = 100.0
"""Questions a second while latencies are taken."""


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def settings_for(**changes: object) -> ExperimentSettings:
    """The defaults with ten actions and a reward window of a minute."""
    base = {"actions": ACTIONS, "rewards": {"window_s": WINDOW_S, "min": 0.0, "max": 1.0}}
    return merge_settings(merge_settings(ExperimentSettings(), base), changes)


def write_log(experiment: Experiment, count: int, start: datetime, seed: int = 0) -> None:
    """Sealed segments of `count` decisions drawn uniformly from `start` on, each with a reward."""
    rng = np.random.default_rng(seed)
    pmf = "[" + ",".join(["0.1"] * 10) + "]"
    for sequence, first in enumerate(range(0, count, CHUNK), start=1):
        size = min(CHUNK, count - first)
        x = np.round(rng.normal(size=(size, FEATURES)), 4).tolist()
        chosen = rng.integers(10, size=size).tolist()
        luck = rng.random(size).tolist()
        lines = []
        for n in range(size):
            at = start + timedelta(microseconds=(first + n) * STEP_US)
            reward = float(luck[n] < chance(x[n], chosen[n]))
            lines.append(
                f'{{"type":"decision","event_id":"e{first + n:08d}","decided_at":"{at.isoformat()}",'
                f'"model_id":"{COLD_START_MODEL_ID}","context":{json.dumps(dict(zip(NAMES, x[n], strict=True)))},'
                f'"action":"action-{chosen[n]}","index":{chosen[n]},"probability":0.1,"pmf":{pmf},'
                '"catalogue_version":1}\n'
                f'{{"type":"reward","event_id":"e{first + n:08d}","received_at":"{at.isoformat()}",'
                f'"reward":{reward}}}\n'
            )
        group = "".join(lines).encode()
        data = header_line("bench", sequence, start) + group + commit_line(group, 2 * size)
        data += seal_line(sha256(data), 2 * size, len(data))
        (experiment.paths.events / f"{segment_name('bench', sequence)}.jsonl").write_bytes(data)


def context(rng: np.random.Generator) -> dict[str, float]:
    """Five numbers."""
    return dict(zip(NAMES, np.round(rng.normal(size=FEATURES), 4).tolist(), strict=True))


def chance(x: list[float], action: int) -> float:
    """The probability of a reward."""
    return 0.1 + 0.4 * (x[0] * (action - 4.5) > 0) + 0.3 * (action == int(abs(x[1]) * 5) % 10)


def decide_and_reward(server: ExperimentServer, clock: Clock, count: int, rng: np.random.Generator) -> None:
    """Decisions by the champion as it serves, their rewards, and the end of the last one's window."""
    events: list[Event] = []
    for _ in range(count):
        clock.now += timedelta(milliseconds=20)
        x = np.round(rng.normal(size=FEATURES), 4).tolist()
        asked = RecommendRequest(context=dict(zip(NAMES, x, strict=True)), event_id=f"n{rng.integers(1 << 62)}")
        made, _ = server.decide(asked)
        events += made
        reward = float(rng.random() < chance(x, made[0].index))
        events += server.reward_events([RewardItem(event_id=made[0].event_id, reward=reward)])
    server.writer.append(events)
    clock.now += timedelta(seconds=WINDOW_S + 1)
    server.writer.seal()
    server.heartbeat()


@contextmanager
def decision_worker(data_dir: Path) -> Iterator[int]:
    """A decision worker in a process of its own; its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "serving.cli", "serve", "--data-dir", str(data_dir), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/readyz")
                connection.getresponse().read()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def ask(port: int, experiment: str) -> None:
    """Ask at a steady pace until standard input ends; print when and for how many ms as a JSON list of pairs."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    rng = np.random.default_rng(0)
    took: list[tuple[float, float]] = []
    begun = time.perf_counter()
    while not select.select([sys.stdin], [], [], 0)[0]:
        body = json.dumps({"context": context(rng)})
        wait = begun + len(took) / RATE - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        started = time.perf_counter()
        connection.request(
            "POST", f"/v1/experiments/{experiment}/recommend", body, {"content-type": "application/json"}
        )
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        took.append((time.time(), (time.perf_counter() - started) * 1000))
    print(json.dumps(took))


@contextmanager
def asking(port: int, into: list[tuple[float, float]]) -> Iterator[None]:
    """Ask a worker from another process for as long as the block lasts; its latencies go to `into`."""
    command = [sys.executable, "-m", "benchmarks.cycle_bench", "--ask", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        said, _ = process.communicate(b"\n")
        into += json.loads(said)


def p99(took: list[tuple[float, float]], since: float = 0.0, until: float = math.inf) -> float:
    """The 99th percentile in ms of what was answered between two times."""
    within = [ms for at, ms in took if since <= at < until]
    return statistics.quantiles(within, n=100)[98] if len(within) > 1 else math.nan


def show(name: str, seconds: float, steps: dict[str, float] | None = None) -> None:
    """One line of the table."""
    detail = ", ".join(f"{step} {took:.2f}" for step, took in (steps or {}).items())
    print(f"{name:58s} {seconds:8.2f} s   {detail}", flush=True)


def run(cycle: Cycle) -> tuple[float, RunReport]:
    """One run of the loop: its seconds and what it says."""
    started = time.perf_counter()
    report = cycle.run(force=True, trigger="rows")
    took = time.perf_counter() - started
    assert report.outcome != "failed", report.reason
    return took, report


def traffic_experiment(data_dir: Path, pool: TrainerPool, start: datetime) -> None:
    """A small experiment beside the large one, with a model that answers."""
    experiment = Experiment.create(data_dir, "traffic", settings_for(), now=start)
    rng = np.random.default_rng(1)
    lines = [
        msgspec.json.encode(
            {
                "event_id": f"h{number}",
                "context": context(rng),
                "action": f"action-{number % 10}",
                "probability": 0.1,
                "reward": float(rng.random() < 0.3),
            }
        )
        for number in range(300)
    ]
    import_history(experiment, lines, clock=lambda: start)
    workspace = Workspace(experiment, Clock(start + timedelta(hours=1)))
    run(Cycle(workspace, pool))
    workspace.close()


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--cores", type=int, choices=(1, 2), help="training.cores of the full retrain; both without it")
    parser.add_argument("--ask", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask is not None:
        ask(given.ask, "traffic")
        return
    if given.cores is None or os.getsid(0) != os.getpid():
        # each a learner of its own, which leads a session, as under the supervisor
        for cores in (given.cores,) if given.cores else (1, 2):
            command = [sys.executable, "-m", "benchmarks.cycle_bench", "--rows", str(given.rows), "--cores", str(cores)]
            subprocess.run(command, start_new_session=True, check=True, env=ONE_THREAD | os.environ)
        return
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), given.rows, given.cores)


def measure(data_dir: Path, rows: int, cores: int) -> None:
    """Fill a data directory and run the loop in it."""
    print(f"training.cores = {cores}", flush=True)
    pool = TrainerPool.of(2)
    # the log ends now: a worker's clock and the learner's must not be far apart
    start = datetime.now(UTC) - timedelta(microseconds=rows * STEP_US, seconds=2 * WINDOW_S)
    traffic_experiment(data_dir, pool, start)
    experiment = Experiment.create(data_dir, "stored", settings_for(training={"cores": cores}), now=start)
    started = time.perf_counter()
    write_log(experiment, rows, start)
    show(f"writing a log of {rows:,} interactions", time.perf_counter() - started)
    clock = Clock(datetime.now(UTC))
    cycle = Cycle(Workspace(experiment, clock), pool)
    started = time.perf_counter()
    cycle.tick()
    show("ingest and join of all of them", time.perf_counter() - started)

    idle: list[tuple[float, float]] = []
    busy: list[tuple[float, float]] = []
    with decision_worker(data_dir) as port:
        with asking(port, idle):
            time.sleep(30)
        with asking(port, busy):
            lower_learner()  # what was started before is not concerned
            begun = time.time()
            took, report = run(cycle)
    show(f"full retrain and evaluation: {report.outcome}", took, report.steps)
    print(f"{'decisions, p99 in ms: idle':58s} {p99(idle):8.2f}")
    for step in ("train", "evaluate", "promote"):
        print(f"{f'  while the learner does: {step}':58s} {p99(busy, begun, begun + report.steps[step]):8.2f}")
        begun += report.steps[step]
    if cores == 2:  # one takes what it takes, and leaves the other to decisions
        claim(f"full retrain and evaluation, {rows:,} interactions, 2 cores", took, at_most=90, unit="s")
    claim(f"p99 of decisions during a full retrain / idle, {cores} core(s)", p99(busy) / p99(idle), at_most=2)
    if cores == 1:  # so few rows take no second core
        new_rows(data_dir, cycle, clock, rows)
    cycle.close()
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    print(f"{'largest training process':58s} {largest:8.2f} GiB")


def new_rows(data_dir: Path, cycle: Cycle, clock: Clock, rows: int) -> None:
    """Runs over 500 new interactions each: undecided ones, then ones that publish a champion each time."""
    experiment = cycle.workspace.experiment
    clock.now = datetime.now(UTC) + timedelta(seconds=1)
    server = ExperimentServer(data_dir, "stored", writer_id="new", clock=clock)
    rng = np.random.default_rng(2)
    for name, gate in (("gated", True), ("promoted", False)):
        experiment.change(settings_for(gate={"enabled": gate}), now=clock())
        server.refresh()
        whole, learning = [], []
        for _ in range(ROUNDS):
            decide_and_reward(server, clock, NEW, rng)
            took, report = run(cycle)
            started = time.perf_counter()
            server.refresh()
            reload = time.perf_counter() - started
            show(f"{NEW} new, {name}: {report.outcome}", took + reload, report.steps | {"reload": reload})
            whole.append(took + reload)
            learning.append(report.steps["train"] + report.steps["promote"])
    claim(
        f"step over {NEW} new, {rows:,} stored, trigger to published", statistics.median(learning), at_most=1, unit="s"
    )
    claim(f"whole cycle over {NEW} new, {rows:,} stored", statistics.median(whole), at_most=3, unit="s")
    server.close()


if __name__ == "__main__":
    main()
