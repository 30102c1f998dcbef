"""One decision worker: a process with one event loop, one core's worth of decisions, and its own log segments.

Everything long-lived is frozen out of the garbage collector after the start, and the collector runs rarely:
with its default threshold the 99th percentile is several times as long. SIGTERM stops accepting, answers what
has arrived, seals the log and ends with exit code 0.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bandit.loopback import LOOPBACK_NAMES, is_loopback
from bandit.service_log import log_to_stderr
from serving.api.app import create_app
from serving.api.server import HotServer, configure
from serving.api.shares import ConnectionShares
from serving.api.sparing_log import SparingFilter

GC_THRESHOLD = (50_000, 50, 100)
SWITCH_INTERVAL_S = 0.001
BACKLOG = 2048


def run_worker(
    data_dir: Path,
    *,
    worker: int = 0,
    fd: int | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: Sequence[str] = (),
    default_experiment: str | None = None,
    insecure: bool = False,
    shares: ConnectionShares | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, on an inherited listening socket (`fd`) or a new one; raises `OSError`.

    `shares` are those of the workers that have the same socket.
    Where other machines can connect nobody may ask without a key, unless `insecure` says so.
    """
    _raise_file_limit()
    listener = socket.socket(fileno=fd) if fd is not None else _listen(host, port)
    names = LOOPBACK_NAMES | {name.lower() for name in (*allowed_hosts, host)}
    app = create_app(
        data_dir,
        writer_id=new_writer_id(worker),
        allowed_hosts=names if is_loopback(host) else None,
        default_experiment=default_experiment,
        closed=not is_loopback(host) and not insecure,
    )
    server = _Server(configure(app))
    server.worker, server.shares = worker, shares
    # uvicorn raises the signal again when it is done; without a handler that would end the process by signal
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    if not server.started:
        raise SystemExit(1)


class _Server(HotServer):
    """The server, with the process tuned once the application has started."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)


def new_writer_id(worker: int) -> str:
    """An id that no earlier process had: a dead writer's segments are told from a living one's by it."""
    return f"w{worker}-{time.time_ns() // 1_000_000:x}-{os.getpid():x}"


def _raise_file_limit() -> None:
    """Allow as many open connections as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(BACKLOG)
    return listener


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m serving.api.run`: what the supervisor starts for each worker."""
    parser = argparse.ArgumentParser(prog="rewardloop-worker", description="one worker of the decision API")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--worker", type=int, default=0, help="the worker's number")
    parser.add_argument("--fd", type=int, help="an inherited listening socket")
    parser.add_argument("--shares", type=int, help="inherited memory in which workers tell their connections")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--allow-host", action="append", default=[], help="a further Host header to answer for")
    parser.add_argument("--core", type=int, help="keep the worker on this core")
    parser.add_argument("--default-experiment", help="what Personalizer's routes mean where the key does not say it")
    parser.add_argument("--insecure", action="store_true", help="answer other machines although no key exists")
    chosen = parser.parse_args(arguments)
    if chosen.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {chosen.core})
    log_to_stderr()
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # below that, any client could fill the log
    logging.getLogger("rewardloop.api").addFilter(SparingFilter())
    run_worker(
        chosen.data_dir,
        worker=chosen.worker,
        fd=chosen.fd,
        host=chosen.host,
        port=chosen.port,
        allowed_hosts=chosen.allow_host,
        default_experiment=chosen.default_experiment,
        insecure=chosen.insecure,
        shares=ConnectionShares(chosen.shares) if chosen.shares is not None else None,
    )


if __name__ == "__main__":
    main()
