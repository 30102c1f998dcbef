"""How fast the decision API is, as ratios to FastAPI's hello world in the same run: `make bench` prints them.

Every decision measured is durable: acknowledged after fdatasync, drawn from a trained VW policy. Runs alternate
between yardstick and product, and each ratio is the median of the rounds' own ratios, because a machine's speed
drifts. The sync cost of the disk is printed beside them, since a slower disk moves them. The load comes from wrk
where it is installed, else from `benchmarks.load`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from bandit.settings import parse_settings
from bandit.training import Learning
from bandit.types import Action, Interaction
from benchmarks import wrk
from benchmarks.bench import sync_ms
from benchmarks.claims import claim

CATALOGUE = [{"id": f"class-{number}"} for number in range(1, 8)]
ROWS = 2000
BODIES = 512
SERVER_CORE, CLIENT_CORE = 0, 1


def context(rng: random.Random) -> dict[str, Any]:
    """Nine features, as Statlog has."""
    return {f"x{number}": round(rng.gauss(0, 10), 1) for number in range(9)}


def offered(rng: random.Random) -> list[dict[str, Any]]:
    """Ten actions of ten features each, out of a stock of 200."""
    stock = rng.sample(range(200), 10)
    return [{"id": f"item-{n}", "features": {f"f{i}": (n * (i + 3)) % 17 for i in range(10)}} for n in stock]


def prepare(data_dir: Path) -> None:
    """Two experiments with trained champions: a catalogue, and per-request actions."""
    train(data_dir, "catalogue", {"actions": CATALOGUE}, lambda rng: CATALOGUE)
    train(data_dir, "request", {}, offered)


def train(
    data_dir: Path, name: str, settings: dict[str, Any], actions: Any, *, secret: bytes | None = None
) -> Experiment:
    """An experiment whose champion learnt from rows decided uniformly; `actions(rng)` gives what each row offers."""
    now = datetime.now(UTC)
    experiment = Experiment.create(data_dir, name, parse_settings(settings), now=now, secret=secret)
    model_id = publish(experiment, rows(actions, now), now)
    ModelRegistry(experiment.paths).swap(model_id, expected=None, now=now, reason="benchmark")
    return experiment


def rows(actions: Any, now: datetime, *, seed: int = 7, rewarded: str = "x0") -> list[Interaction]:
    """What a uniform policy would have logged; actions of even positions pay when the feature `rewarded` is above 0."""
    rng = random.Random(seed)
    logged = []
    for number in range(ROWS):
        features = context(rng)
        choices = tuple(Action(entry["id"], entry.get("features", {})) for entry in actions(rng))
        index = rng.randrange(len(choices))
        logged.append(
            Interaction(
                event_id=f"h{number}",
                decided_at=now - timedelta(hours=2) + timedelta(seconds=number),
                model_id="imported",
                context=features,
                actions=choices,
                index=index,
                propensity=1 / len(choices),
                pmf=tuple([1 / len(choices)] * len(choices)),
                reward=float(features[rewarded] > 0 and index % 2 == 0),
            )
        )
    return logged


def publish(experiment: Experiment, logged: list[Interaction], now: datetime) -> str:
    """The id of a model that learnt from these rows, stored and ready to serve."""
    learning = Learning.fresh(experiment.settings, logged)
    learning.step(logged, champion=None, champion_id=None)
    manifest = ModelRegistry(experiment.paths).publish(
        learning.files(),
        now=now,
        parent=None,
        kind="initial",
        options=learning.options(),
        settings_version=1,
        data={"rows": len(logged)},
        canaries=learning.canaries(logged[:5]),
    )
    return manifest.model_id


def write_bodies(folder: Path) -> dict[str, Path]:
    """Files of request bodies by what they ask."""
    rng = random.Random(11)
    bodies: dict[str, list[Any]] = {
        "hello": [{}],
        "catalogue": [{"context": context(rng)} for _ in range(BODIES)],
        "request": [{"context": context(rng), "actions": offered(rng)} for _ in range(BODIES)],
        "rewards": [{"event_id": f"01890000-0000-7000-8000-{n:012d}", "reward": n % 2} for n in range(BODIES)],
    }
    files = {}
    for name, entries in bodies.items():
        files[name] = folder / f"{name}.ndjson"
        files[name].write_text("\n".join(json.dumps(entry) for entry in entries))
    return files


@contextlib.contextmanager
def started(command: Sequence[str], url: str) -> Iterator[None]:
    """A server process, ready when `url` answers."""
    process = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(url, timeout=1):
                    break
            except OSError as error:
                if getattr(error, "code", None):
                    break
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def load(
    port: int,
    path: str,
    bodies: Path,
    *,
    connections: int,
    seconds: float,
    core: int | None = CLIENT_CORE,
    statuses: Sequence[str] = ("200",),
) -> dict[str, Any]:
    """One run of the load generator in its own process; every answer must have one of `statuses`."""
    if wrk.available() and statuses == ("200",):
        result = wrk.load(port, path, bodies, connections=connections, seconds=seconds, core=core)
    else:
        result = _load(port, path, bodies, connections=connections, seconds=seconds, core=core)
    if not set(result["statuses"]) <= set(statuses) or result["lost"]:
        raise SystemExit(f"{path}: not every request was answered as it should be: {result}")
    return result


def _load(port: int, path: str, bodies: Path, *, connections: int, seconds: float, core: int | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(port), "--path", path, "--bodies", str(bodies)]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    command += [] if core is None else ["--core", str(core)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(*, seconds: float = 1.0, rounds: int = 11) -> dict[str, Any]:
    """All runs; returns medians and the ratios that matter."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-bench-") as name:
        folder = Path(name)
        prepare(folder / "data")
        bodies = write_bodies(folder)
        sync = sync_ms(folder)
        hello = 8931
        api = 8932
        runs: dict[str, list[dict[str, Any]]] = {}
        plan = [
            ("hello", hello, "/hello", 32),
            ("catalogue", api, "/v1/experiments/catalogue/recommend", 32),
            ("request", api, "/v1/experiments/request/recommend", 32),
            ("rewards", api, "/v1/experiments/catalogue/rewards", 32),
            ("hello, 1 connection", hello, "/hello", 1),
            ("catalogue, 1 connection", api, "/v1/experiments/catalogue/recommend", 1),
        ]
        hello_command = ["benchmarks.hello", "--port", str(hello), "--core", str(SERVER_CORE)]
        api_command = ["serving.api.run", "--data-dir", str(folder / "data"), "--port", str(api)]
        api_command += ["--core", str(SERVER_CORE)]
        with (
            started(hello_command, f"http://127.0.0.1:{hello}/docs"),
            started(api_command, f"http://127.0.0.1:{api}/livez"),
        ):
            for _ in range(rounds):
                for label, port, path, connections in plan:
                    file = bodies[label.partition(",")[0]]
                    result = load(port, path, file, connections=connections, seconds=seconds)
                    runs.setdefault(label, []).append(result)
        return _summary(runs, sync)


def measure_workers(*, seconds: float = 1.0, rounds: int = 11) -> dict[str, Any]:
    """Two workers against one, on all cores, the load generator beside them; medians and their ratio."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-bench-") as name:
        folder = Path(name)
        bodies = write_bodies(folder)
        rates: dict[int, list[float]] = {1: [], 2: []}
        servers = {}
        with contextlib.ExitStack() as stack:
            for workers, port in ((1, 8933), (2, 8934)):
                data_dir = folder / f"data{workers}"
                prepare(data_dir)
                command = ["serving.cli", "serve", "--data-dir", str(data_dir), "--port", str(port)]
                command += ["--workers", str(workers)]
                stack.enter_context(started(command, f"http://127.0.0.1:{port}/livez"))
                servers[workers] = port
            time.sleep(2)  # until every worker accepts, not only the one that answered
            for _ in range(rounds):
                for workers, port in servers.items():
                    path = "/v1/experiments/catalogue/recommend"
                    result = load(port, path, bodies["catalogue"], connections=64, seconds=seconds, core=None)
                    rates[workers].append(result["requests_per_s"])
        medians = {workers: statistics.median(values) for workers, values in rates.items()}
        ratio = statistics.median(two / one for one, two in zip(rates[1], rates[2], strict=True))
        return {"medians": medians, "ratios": {"two workers / one": ratio}}


def _summary(runs: dict[str, list[dict[str, Any]]], sync: float) -> dict[str, Any]:
    medians = {
        label: {key: statistics.median(run[key] for run in results) for key in ("requests_per_s", "p50_ms", "p99_ms")}
        for label, results in runs.items()
    }

    def ratio(label: str, key: str = "requests_per_s") -> float:
        return statistics.median(ours[key] / hello[key] for ours, hello in zip(runs[label], runs["hello"], strict=True))

    one = medians["catalogue, 1 connection"]["p50_ms"] - medians["hello, 1 connection"]["p50_ms"]
    ratios = {
        "recommend, catalogue of 7 / hello": ratio("catalogue"),
        "recommend, catalogue of 7: p99 / hello p99": ratio("catalogue", "p99_ms"),
        "recommend, 10 actions of 10 features / hello": ratio("request"),
        "rewards / hello": ratio("rewards"),
        "one connection: (p50 - hello p50) / sync": one / sync,
    }
    return {"sync_ms": sync, "medians": medians, "ratios": ratios}


BOUNDS: dict[str, dict[str, float]] = {
    "recommend, catalogue of 7 / hello": {"at_least": 0.80},
    "recommend, catalogue of 7: p99 / hello p99": {"at_most": 1.5},
    "recommend, 10 actions of 10 features / hello": {"at_least": 0.45},
    "rewards / hello": {"at_least": 0.9},
    "one connection: (p50 - hello p50) / sync": {"at_most": 4.0},
    "two workers / one": {"at_least": 1.4},
}


def main() -> None:
    """Print the tables, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    result = measure(seconds=chosen.seconds, rounds=chosen.rounds)
    workers = measure_workers(seconds=chosen.seconds, rounds=chosen.rounds)
    result["workers"] = workers["medians"]
    result["ratios"] |= workers["ratios"]
    if chosen.json:
        print(json.dumps(result))
        return
    generator = "wrk" if wrk.available() else "benchmarks.load"
    print(f"fdatasync of this disk: {result['sync_ms']:.3f} ms (median); load from {generator}")
    for label, numbers in result["medians"].items():
        rate, p50, p99 = (numbers[key] for key in ("requests_per_s", "p50_ms", "p99_ms"))
        print(f"{label:28} {rate:9.0f} requests/s   p50 {p50:7.3f} ms   p99 {p99:7.3f} ms")
    for count, rate in result["workers"].items():
        print(f"{count} worker(s), all cores        {rate:9.0f} requests/s")
    for label, ratio in result["ratios"].items():
        claim(label, ratio, **BOUNDS[label])


if __name__ == "__main__":
    main()
