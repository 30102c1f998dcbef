"""uvicorn's server with two differences that many connections and several workers ask for.

Connections are taken one at a time, by the worker that has fewest, so that workers which share a listener share its
connections too. And instead of a timer for each request, one look a second closes connections that have kept the server
waiting.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from serving.api.app import DecisionApp
from serving.api.protocol import HotProtocol
from serving.api.shares import ConnectionShares

log = logging.getLogger("rewardloop.api")

ACCEPT_AGAIN_S = 1.0
LEAVE_S = 0.001
"""A worker that has more connections than others leaves a new one to them for so long."""

SLOW_S = 2.0
"""Nothing more is left for so long to those who did not take it: they are busy, or hang."""

DRAIN_S_MAX = 5
PATIENCE_S = 75
"""So long may a client keep a connection idle, a request unfinished, or answers unread."""


def configure(app: DecisionApp, *, patience_s: int = PATIENCE_S) -> uvicorn.Config:
    """uvicorn's settings for the decision API."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=HotProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_S_MAX,
        timeout_keep_alive=patience_s,
    )


class Acceptor:
    """Takes connections one at a time from a listener that several workers share, in turn with them by `shares`.

    A loop's own server takes all that wait at once: of connections that arrive together one worker would have most.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        *,
        held: Callable[[], int] = lambda: 0,
        worker: int = 0,
        shares: ConnectionShares | None = None,
    ) -> None:
        """Take connections from now on; `held` gives how many this worker has, beside those it is just taking."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make = make
        self._held = held
        self._worker = worker
        self._shares = shares
        self._slow: dict[int, int] = {}
        self._slow_until = 0.0
        self.opening: set[asyncio.Task[Any]] = set()
        self._closed = False
        listener.setblocking(False)
        self._loop.add_reader(listener, self._ready)
        self.tell()

    def tell(self) -> None:
        """Let the other workers know how many connections this one has."""
        if self._shares is not None and not self._closed:
            self._shares.tell(self._worker, self._held() + len(self.opening))

    def excess(self) -> int:
        """How many connections this worker should give up to others, as far as these take any."""
        return self._shares.excess(self._worker, self._known_as_slow()) if self._shares is not None else 0

    def _ready(self) -> None:
        """Take a connection, or leave it to those that have fewer and took the last one that was left to them."""
        self.tell()
        fewer = self._shares.fewer(self._worker) if self._shares is not None else {}
        if fewer.items() <= self._known_as_slow().items():
            self._accept()
        else:
            self._loop.remove_reader(self._listener)
            self._loop.call_later(LEAVE_S, self._accept_what_was_left, fewer)

    def _accept_what_was_left(self, fewer: dict[int, int]) -> None:
        """Take what those with `fewer` have not, and remember it where they took none."""
        assert self._shares is not None
        unmoved = all(self._shares.count(worker) == connections for worker, connections in fewer.items())
        if unmoved:
            self._slow, self._slow_until = fewer, self._loop.time() + SLOW_S
        if not self._closed:
            self._listen_again()
            self._accept()

    def _known_as_slow(self) -> dict[int, int]:
        """The workers that lately took nothing when it was left to them, and how many connections they had."""
        return self._slow if self._loop.time() < self._slow_until else {}

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker was faster, or the client has left
        except OSError as error:
            log.error("connections cannot be taken for the moment: %s", error)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(ACCEPT_AGAIN_S, self._listen_again)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._make, connection))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)
        self.tell()

    def _listen_again(self) -> None:
        if not self._closed and self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._ready)

    def close(self) -> None:
        """Take no more."""
        self._closed = True
        self._loop.remove_reader(self._listener)
        if self._shares is not None:
            self._shares.absent(self._worker)

    async def wait_closed(self) -> None:
        """Wait until every connection taken is among the server's: only those does a drain reach."""
        if self.opening:
            await asyncio.wait(self.opening)


class HotServer(uvicorn.Server):
    """uvicorn's server over such connections; `timeout_keep_alive` bounds every wait for a client.

    `shares` are those of the service that it is a `worker` of.
    """

    worker: int = 0
    shares: ConnectionShares | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then take connections from the given listeners."""
        await super().startup(sockets=[])
        for listener in sockets or []:
            acceptor = Acceptor(
                listener,
                lambda: HotProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state),
                held=lambda: len(self.server_state.connections),
                worker=self.worker,
                shares=self.shares,
            )
            self.servers.append(acceptor)  # type: ignore[arg-type]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, see to it that the last one taken is known, then drain."""
        for acceptor in self.servers:
            acceptor.close()
            await acceptor.wait_closed()
        await super().shutdown(sockets=sockets)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second tell the other workers what connections are left; each second look for some to close."""
        excess = 0
        for acceptor in self.servers:
            assert isinstance(acceptor, Acceptor)
            acceptor.tell()
            excess += acceptor.excess()
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                assert isinstance(connection, HotProtocol)
                connection.close_if_stale(now)
                connection.is_given_up = excess > 0
                excess -= 1
        return await super().on_tick(counter)
