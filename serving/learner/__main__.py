"""`python -m serving.learner` is the learner's process: the hosted experiments, the admin API, and the way down.

The supervisor hands it a listening socket. SIGTERM ends the HTTP server first, then the schedule, then training.
Training processes are spawned from here and do not import this file again (its name is what multiprocessing leaves
out), so they start without the web server.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from bandit.errors import RewardloopError
from bandit.service_log import log_to_stderr
from serving.learner.address import Address, write_address
from serving.learner.admin.routes import create_admin
from serving.learner.hosting import LearnerService
from serving.learner.training.priority import lower_learner


def serve(data_dir: Path, *, listener: socket.socket, host: str) -> int:
    """Run the learner with its admin API on a listening socket until SIGTERM or SIGINT; returns the exit code."""
    try:
        service = LearnerService(data_dir)
    except RewardloopError as error:
        sys.stderr.write(f"rewardloop: {error}\n")
        return 2
    try:
        bound = listener.getsockname()[1]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        app = create_admin(service, host=shown)
        server = _Server(
            service,
            uvicorn.Config(
                app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2, loop="asyncio"
            ),
        )
        service.start()
        # who reads the address may connect at once, and waits until the server accepts
        write_address(data_dir, Address(f"http://{shown}:{bound}", service.token, os.getpid()))
        # uvicorn raises the signal again after its shutdown; the process must live on to close the warehouses
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener])
    except OSError as error:  # a full disk, say: the supervisor tries again
        sys.stderr.write(f"rewardloop: the learner cannot run: {error}\n")
        return 1
    finally:
        service.close()
    return 0


class _Server(uvicorn.Server):
    """An HTTP server that, when it stops, lets those answer who wait for an evaluation, before it is ended itself."""

    def __init__(self, service: LearnerService, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop as uvicorn does."""
        await asyncio.to_thread(self._service.evaluator.close)
        await super().shutdown(sockets)


def main() -> int:
    """Entry point of the learner's process."""
    parser = argparse.ArgumentParser(prog="rewardloop learn")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True, help="an inherited listening socket")
    parser.add_argument("--host", default="127.0.0.1", help="the address that it listens on")
    arguments = parser.parse_args()
    lower_learner()
    log_to_stderr()
    for noisy in ("apscheduler", "httpx", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    return serve(arguments.data_dir, listener=socket.socket(fileno=arguments.fd), host=arguments.host)


if __name__ == "__main__":
    sys.exit(main())
