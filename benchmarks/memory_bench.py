"""What stays: resident memory of a worker over a million requests, and of a client over a hundred thousand calls.

One request in a hundred is bad, because refusals take other paths than answers. The slope is a straight line through
all but the first fifth of the points, as a share of what was held at its start. The client reports a reward for each
decision, and its threads and descriptors are counted too.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

from rewardloop_client import Recommender

from benchmarks.api_bench import context, load, offered, prepare, started
from benchmarks.claims import claim
from benchmarks.sdk_bench import service

PORT = 8935
SLOPE_MAX = 0.01
POINTS = 20
BAD = (
    '{"context": {"x": NaN}}',
    "{",
    '{"context": []}',
    '{"context": {}, "slots": 99}',
    '{"context": {}, "actions": []}',
)


class Point(NamedTuple):
    """What a process held after so many requests."""

    requests: int
    resident_kib: int
    threads: int
    descriptors: int


def held(requests: int, pid: int) -> Point:
    """A process at this moment."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    resident, threads = int(status["VmRSS"].split()[0]), int(status["Threads"])
    return Point(requests, resident, threads, len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208


def growth(points: list[Point]) -> float:
    """By what share of itself resident memory grows over the whole run, the first fifth left out."""
    steady = points[len(points) // 5 :]
    xs, ys = [point.requests for point in steady], [point.resident_kib for point in steady]
    slope, _ = statistics.linear_regression(xs, ys)
    return slope * points[-1].requests / ys[0]


def worker(requests: int) -> list[Point]:
    """A worker that answers at least so many requests, ten actions of ten features each."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-bench-") as name:
        folder = Path(name)
        prepare(folder / "data")
        rng = random.Random(13)
        lines = [json.dumps({"context": context(rng), "actions": offered(rng)}) for _ in range(99 * len(BAD))]
        lines += BAD
        rng.shuffle(lines)
        bodies = folder / "mixed.ndjson"
        bodies.write_text("\n".join(lines))
        command = ["serving.api.run", "--data-dir", str(folder / "data"), "--port", str(PORT)]
        points: list[Point] = []
        answered = 0
        with started(command, f"http://127.0.0.1:{PORT}/livez"):
            (beat,) = (folder / "data" / "experiments" / "request" / "workers").glob("*.json")
            pid = int(json.loads(beat.read_text())["pid"])
            seconds = 1.0
            while answered < requests:
                path = "/v1/experiments/request/recommend"
                told = load(
                    PORT, path, bodies, connections=32, seconds=seconds, core=None, statuses=("200", "400", "422")
                )
                answered += sum(told["statuses"].values())
                points.append(held(answered, pid))
                seconds = max(1.0, requests / POINTS / told["requests_per_s"])
        return points


def client(calls: int) -> list[Point]:
    """This process, after so many decisions and rewards."""
    points = []
    rng = random.Random(4)
    with service() as url, Recommender(url, "catalogue") as recommender:
        for number in range(1, calls + 1):
            choice = recommender.recommend(context(rng), default="class-1")
            recommender.reward(choice, number % 2)
            if number % (calls // POINTS) == 0:
                recommender.flush()
                points.append(held(number, os.getpid()))
        if recommender.counters.defaults or recommender.counters.rewards_sent != calls:
            raise SystemExit(f"not everything was answered and taken: {recommender.counters}")
    return points


def main() -> None:
    """Print what was held at each point, and the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the worker")
    parser.add_argument("--calls", type=int, default=100_000, help="of the client")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    for what, points in (
        (f"a worker over {chosen.requests:,} requests, 1% bad", worker(chosen.requests)),
        (f"a client over {chosen.calls:,} decisions and rewards", client(chosen.calls)),
    ):
        print(f"{what}: requests, resident KiB, threads, descriptors")
        for point in points[:: max(1, len(points) // 10)]:
            print("{:>10,} {:>10,} {:>4} {:>4}".format(*point))
        claim(f"growth of resident memory, {what}", growth(points), at_most=SLOPE_MAX)


if __name__ == "__main__":
    main()
