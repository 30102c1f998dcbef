"""A deadline for a whole call, where httpx bounds each wait: an answer that drips would otherwise take for ever.

Every connect, read and write on a connection gets what is left of the call's time, and no more. Only looking up a
host's name is not bounded; the system does that by rules of its own.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx


class DeadlineTransport(httpx.HTTPTransport):
    """httpx's transport, in which all that happens inside `within` ends with it or raises a timeout."""

    def __init__(self, *, connections_max: int) -> None:
        context = httpx.create_ssl_context(trust_env=False)
        super().__init__(verify=context, trust_env=False)
        self._time = _Time()
        self._pool = httpcore.ConnectionPool(  # in place of the one that was just made, which has opened nothing
            ssl_context=context,
            max_connections=connections_max,
            max_keepalive_connections=connections_max,
            network_backend=_Backend(self._time),
        )

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What this thread asks in here is over after `seconds`.

        A signal handler may ask in the midst of another call, which has its own deadline again afterwards.
        """
        before = self._time.ends
        self._time.ends = time.monotonic() + seconds
        try:
            yield
        finally:
            self._time.ends = before


class _Time(threading.local):
    """When the call of each thread has to be over; None outside of calls."""

    ends: float | None = None

    def left(self, timeout: float | None, late: type[Exception]) -> float | None:
        """The shorter of `timeout` and what is left; raises `late` when nothing is."""
        if self.ends is None:
            return timeout
        left = self.ends - time.monotonic()
        if left <= 0:
            raise late("the time for the whole call is over")
        return left if timeout is None else min(timeout, left)


class _Backend(httpcore.NetworkBackend):
    """Connections whose every wait is bounded by the call's time."""

    def __init__(self, time_: _Time) -> None:
        self._time = time_
        self._real = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._time.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._real.connect_tcp(host, port, left, local_address, socket_options), self._time)


class _Stream(httpcore.NetworkStream):
    def __init__(self, real: httpcore.NetworkStream, time_: _Time) -> None:
        self._real = real
        self._time = time_

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._real.read(max_bytes, self._time.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._real.write(buffer, self._time.left(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._time.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._real.start_tls(ssl_context, server_hostname, left), self._time)

    def get_extra_info(self, info: str) -> Any:
        return self._real.get_extra_info(info)

    def close(self) -> None:
        self._real.close()
