"""What the SDK costs its host: beside a raw httpx call, and when the service is down or hangs.

`python -m benchmarks.sdk_bench` prints the difference of two medians over alternating calls to the same service, and
how many of 1,000 calls got the default in time from a service that refuses connections, takes them and says nothing,
leaves them in a full queue, or answers a byte at a time.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from rewardloop_client import Client, Recommender

from benchmarks.api_bench import CATALOGUE, context, started, train
from benchmarks.claims import claim

PORT = 8936
PATH = "/v1/experiments/catalogue/recommend"
CALLS = 3000
FAILING = 1000
TIMEOUT_S = 0.1
MARGIN_S = 0.05
THREADS = 4


@contextlib.contextmanager
def service() -> Iterator[str]:
    """One worker with a trained champion over a catalogue of seven actions."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-bench-") as name:
        train(Path(name) / "data", "catalogue", {"actions": CATALOGUE}, lambda rng: CATALOGUE)
        command = ["serving.api.run", "--data-dir", str(Path(name) / "data"), "--port", str(PORT)]
        url = f"http://127.0.0.1:{PORT}"
        with started(command, f"{url}/livez"):
            yield url


def overhead(url: str, calls: int = CALLS) -> dict[str, float]:
    """Medians in ms of a raw httpx call, the client and the recommender, taken in turns."""
    rng = random.Random(3)
    with httpx.Client() as raw, Client(url, "catalogue") as client, Recommender(url, "catalogue") as recommender:

        def plain(features: dict[str, Any]) -> None:
            assert raw.post(url + PATH, json={"context": features}).json()["action"]

        def shown(features: dict[str, Any]) -> None:
            assert recommender.recommend(features, default="class-1").learnable

        ways: dict[str, Callable[[dict[str, Any]], Any]] = {
            "raw": plain,
            "client": client.recommend,
            "recommender": shown,
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(calls):
            features = context(rng)
            for name, ask in ways.items():
                begun = time.perf_counter()
                ask(features)
                took[name].append(time.perf_counter() - begun)
    return {name: 1000 * statistics.median(seconds) for name, seconds in took.items()}


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """Nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """Connections are taken, questions never answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def full() -> Iterator[str]:
    """The queue of connections is full, as when a process stands still: connecting itself hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        address = server.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


@contextlib.contextmanager
def dripping() -> Iterator[str]:
    """Answers arrive a byte at a time, each sooner than any single wait would end."""
    answer = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"event_id": "'
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            connection.sendall(answer)
            while not ended.wait(TIMEOUT_S / 3):
                connection.sendall(b"x")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)


def failing(url: str, calls: int = FAILING) -> dict[str, float]:
    """How many of the calls showed the default within timeout and margin, and the longest time in ms."""
    with Recommender(url, timeout_s=TIMEOUT_S) as recommender, ThreadPoolExecutor(THREADS) as pool:

        def ask(number: int) -> tuple[bool, float]:
            begun = time.perf_counter()
            choice = recommender.recommend({"x": number}, ["a", "b"], default="a")
            return choice.action == "a" and not choice.learnable, time.perf_counter() - begun

        answers = list(pool.map(ask, range(calls)))
    in_time = sum(default and took <= TIMEOUT_S + MARGIN_S for default, took in answers)
    return {"in_time": in_time, "calls": calls, "longest_ms": 1000 * max(took for _, took in answers)}


def main() -> None:
    """Print the figures, one line each."""
    logging.disable(logging.WARNING)
    with service() as url:
        medians = overhead(url)
    for name, median in medians.items():
        print(f"{name:12} p50 {median:6.3f} ms")
    for name in ("client", "recommender"):
        claim(f"SDK: {name} over a raw httpx call, p50", medians[name] - medians["raw"], at_most=0.3, unit="ms")
    for make in (refusing, silent, full, dripping):
        with make() as url:
            told = failing(url)
        print(f"{make.__name__:12} the longest of {told['calls']} calls took {told['longest_ms']:.1f} ms")
        what = f"SDK: default within {1000 * TIMEOUT_S:.0f} + {1000 * MARGIN_S:.0f} ms from a {make.__name__} service"
        claim(what, told["in_time"], at_least=told["calls"], unit=f"of {told['calls']} calls")


if __name__ == "__main__":
    main()
