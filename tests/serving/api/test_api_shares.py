"""Workers that share a listener share its connections evenly, and wait for none that hangs or is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Sequence

from serving.api.server import LEAVE_S, Acceptor
from serving.api.shares import ConnectionShares
from tests.serving.api.support import run


class Held(asyncio.Protocol):
    """Counts a worker's connections."""

    def __init__(self, held: list[asyncio.BaseTransport]) -> None:
        self._held = held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._held.append(transport)


async def connect(working: Sequence[int], shares: ConnectionShares, connections: int) -> dict[int, int]:
    """Open connections, one when the one before was taken, to workers with these numbers; how many each has then."""
    held: dict[int, list[asyncio.BaseTransport]] = {worker: [] for worker in working}
    acceptors = []
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        for worker, own in held.items():
            acceptors.append(
                Acceptor(
                    opened.enter_context(listener.dup()),
                    lambda own=own: Held(own),  # type: ignore[misc]
                    held=lambda own=own: len(own),  # type: ignore[misc]
                    worker=worker,
                    shares=shares,
                )
            )
        for number in range(1, connections + 1):
            opened.enter_context(socket.create_connection(listener.getsockname()))
            async with asyncio.timeout(5):
                while sum(map(len, held.values())) < number:
                    await asyncio.sleep(0)
        for acceptor in acceptors:
            acceptor.close()
        for transport in (each for own in held.values() for each in own):
            transport.close()
    return {worker: len(own) for worker, own in held.items()}


def test_each_connection_goes_to_a_worker_that_has_fewest() -> None:
    taken = run(connect([0, 1, 2], ConnectionShares.among(3), 30)).values()
    assert sum(taken) == 30 and max(taken) - min(taken) <= 2


def test_a_worker_that_has_just_started_catches_up_with_the_others() -> None:
    shares = ConnectionShares.among(2)
    shares.tell(1, 20)
    assert run(connect([0], shares, 15)) == {0: 15}


def test_a_worker_that_hangs_keeps_one_connection_waiting_for_a_moment_and_no_other() -> None:
    shares = ConnectionShares.among(2)
    shares.tell(1, 0)

    async def timed() -> float:
        begun = time.perf_counter()
        assert await connect([0], shares, 200) == {0: 200}
        return time.perf_counter() - begun

    assert run(timed()) < 200 * LEAVE_S


def test_nothing_is_left_to_a_worker_that_is_gone() -> None:
    shares = ConnectionShares.among(2)
    shares.tell(0, 3)
    shares.tell(1, 1)
    assert shares.fewer(0) == {1: 1} and shares.fewer(1) == {}
    shares.absent(1)
    assert shares.fewer(0) == {}


def test_a_worker_gives_up_what_is_clearly_more_than_its_share_and_counts_on_nobody_who_takes_none() -> None:
    shares = ConnectionShares.among(3)
    for worker, connections in enumerate((8, 0, 0)):
        shares.tell(worker, connections)
    assert [shares.excess(worker) for worker in range(3)] == [5, 0, 0]
    assert shares.excess(0, beside={1, 2}) == 0
    shares.tell(1, 7)
    shares.absent(2)
    assert shares.excess(0) == shares.excess(1) == 0


def test_counts_are_those_of_the_memory_that_was_inherited() -> None:
    shares = ConnectionShares.among(2)
    inherited = ConnectionShares(os.dup(shares.descriptor))
    inherited.tell(1, 4)
    shares.tell(0, 5)
    assert shares.fewer(0) == {1: 4} and inherited.fewer(1) == {}
    for each in (shares, inherited):
        each.close()
