"""A closed-loop HTTP load generator: n connections, each sending its next request when the last is answered.

It runs in a process of its own (`python -m benchmarks.load`), so that it never shares a core's time slice or a
garbage collector with what it measures. Requests are built beforehand; a response is read by its length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

import uvloop


class Connection(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, until it is told to stop."""

    def __init__(self, requests: list[bytes], offset: int, state: State) -> None:
        self.requests = requests
        self.next = offset
        self.state = state
        self.buffer = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.next = (self.next + 1) % len(self.requests)
        self.sent = time.perf_counter()
        self.transport.write(self.requests[self.next])  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = self.buffer[:head].lower()
        place = lower.find(b"content-length: ")
        length = int(lower[place + 16 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(self.buffer) < head + 4 + length:
            return
        status = self.buffer[9:12]
        self.buffer = self.buffer[head + 4 + length :]
        self.state.answered(status, time.perf_counter() - self.sent)
        if self.state.running:
            self._send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.state.running:
            self.state.lost += 1


class State:
    """What all connections share: whether to go on, and what was measured."""

    def __init__(self) -> None:
        self.running = True
        self.measuring = False
        self.seconds: list[float] = []
        self.statuses: dict[bytes, int] = {}
        self.lost = 0

    def answered(self, status: bytes, seconds: float) -> None:
        if self.measuring:
            self.seconds.append(seconds)
            self.statuses[status] = self.statuses.get(status, 0) + 1


async def generate(port: int, requests: list[bytes], *, connections: int, warm_s: float, measure_s: float) -> dict:
    """Requests per second, latency quantiles in ms, statuses and lost connections."""
    loop = asyncio.get_running_loop()
    state = State()
    for number in range(connections):
        offset = number * len(requests) // connections
        await loop.create_connection(lambda offset=offset: Connection(requests, offset, state), "127.0.0.1", port)
    await asyncio.sleep(warm_s)
    state.measuring = True
    started = time.perf_counter()
    await asyncio.sleep(measure_s)
    state.measuring = False
    took = time.perf_counter() - started
    state.running = False
    await asyncio.sleep(0.1)
    ordered = sorted(state.seconds)
    return {
        "requests_per_s": len(ordered) / took,
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[int(len(ordered) * 0.99)],
        "statuses": {status.decode(): count for status, count in state.statuses.items()},
        "lost": state.lost,
    }


def http_request(path: str, body: bytes) -> bytes:
    """The bytes of one POST on a connection that stays open."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    )
    return head.encode() + b"\r\n" + body


def main() -> None:
    """Read request bodies (one per line) from a file, measure, print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--warm", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--core", type=int)
    chosen = parser.parse_args()
    if chosen.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {chosen.core})
    requests = [http_request(chosen.path, body) for body in chosen.bodies.read_bytes().split(b"\n") if body]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(
            generate(
                chosen.port,
                requests,
                connections=chosen.connections,
                warm_s=chosen.warm,
                measure_s=chosen.seconds,
            )
        )
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
