"""The short way from socket to answer keeps to HTTP: in order, in pieces, in a pipeline, and to the end of a drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serving.api.app import create_app
from serving.api.protocol import HEAD_BYTES_MAX, PIPELINED_MAX
from serving.api.server import DRAIN_S_MAX, Acceptor, HotServer, configure
from tests.serving.api.support import SEVEN, logged, make_experiment, run

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
RECOMMEND = "/v1/experiments/default/recommend"


@contextlib.asynccontextmanager
async def listening(data_dir: Path, *, patience_s: int = 60) -> AsyncIterator[tuple[Callable[[], Any], HotServer]]:
    """The server in this event loop, and a function that connects to it; it has drained when the context ends."""
    app = create_app(data_dir, writer_id="w0-test", clock=lambda: datetime.now(UTC), durable=False)
    server = HotServer(configure(app, patience_s=patience_s))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield lambda: asyncio.open_connection("127.0.0.1", port), server
        finally:
            server.should_exit = True
            await serving


def post(body: bytes, *headers: str, path: str = RECOMMEND, length: bool = True) -> bytes:
    """The bytes of one request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    lines += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def question(event_id: str, size: int = 0) -> bytes:
    """A body; `size` pads it with that many bytes of white space."""
    return json.dumps({"context": {"x": 1}, "event_id": event_id}).encode() + b" " * size


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """Status, headers and decoded body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, json.loads(body)


def talk(data_dir: Path, conversation: Callable[[Connection, HotServer], Awaitable[None]], **options: Any) -> None:
    """Run one conversation on one connection to a server over a catalogue of seven actions."""
    make_experiment(data_dir, actions=SEVEN)

    async def scenario() -> None:
        async with listening(data_dir, **options) as (connect, server):
            connection = await connect()
            try:
                async with asyncio.timeout(20):
                    await conversation(connection, server)
            finally:
                connection[1].close()

    run(scenario())


def test_requests_in_a_pipeline_are_answered_in_order_whichever_way_they_go(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(question("c")), question("c"))
        writer.write(
            post(question("a"))
            + post(question("b"))
            + post(chunked, "Transfer-Encoding: chunked", length=False)
            + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
            + post(b"{", path="/v1/experiments/default/rewards")
            + post(question("d"))
        )
        said = [await answer(reader) for _ in range(6)]
        assert [status for status, _, _ in said] == [200, 200, 200, 200, 400, 200]
        assert [body.get("event_id") for _, _, body in said] == ["a", "b", "c", None, None, "d"]

    talk(tmp_path, conversation)
    assert {event.event_id for event in logged(tmp_path)} == {"a", "b", "c", "d"}


@pytest.mark.parametrize("length", [True, False], ids=["short way", "usual way"])
def test_a_compressed_body_is_refused_by_the_header_that_says_so(tmp_path: Path, length: bool) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        plain, packed = question("plain"), gzip.compress(question("packed"))

        async def ask(body: bytes, *headers: str) -> tuple[int, dict[str, str], Any]:
            if not length:
                headers = (*headers, "Transfer-Encoding: chunked")
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            writer.write(post(body, *headers, length=length))
            return await answer(reader)

        for body, codings in (
            (packed, ["Content-Encoding: gzip"]),
            (plain, ["content-encoding: GZIP"]),
            (plain, ["Content-Encoding: identity, br"]),
            (plain, ["Content-Encoding: gzip", "Content-Encoding: identity"]),
        ):
            status, headers, told = await ask(body, *codings)
            assert (status, headers["content-type"]) == (415, "application/problem+json")
            assert headers["accept-encoding"] == "identity"
            assert (told["errors"][0]["field"], told["errors"][0]["limit"]) == ("content-encoding", "identity")
        assert (await ask(plain, "Content-Encoding: Identity"))[0] == 200
        assert (await ask(plain, "Accept-Encoding: gzip"))[0] == 200
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)
        writer.write(post(chunked, "Transfer-Encoding: gzip, chunked", length=False))
        status, _, told = await answer(reader)
        assert (status, told["errors"][0]["field"]) == (501, "transfer-encoding")

    talk(tmp_path, conversation)


def test_a_request_may_come_in_pieces_and_be_large(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        for name, size in (("small", 0), ("short-way", 60_000), ("long-way", 200_000)):
            request = post(question(name, size))
            for start in range(0, len(request), 1 + len(request) // 7):
                writer.write(request[start : start + 1 + len(request) // 7])
                await writer.drain()
                await asyncio.sleep(0.002)
            status, _, body = await answer(reader)
            assert (status, body["event_id"]) == (200, name)
        writer.write(post(b" " * 300_000))
        status, headers, body = await answer(reader)
        assert (status, headers["connection"], body["errors"][0]["limit"]) == (
            413,
            "close",
            "limits.body_bytes_max = 262144",
        )

    talk(tmp_path, conversation)


def test_what_is_no_http_is_refused_in_the_same_shape(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        writer.write(b"zzyzx\r\n\r\n")
        status, headers, body = await answer(reader)
        assert (status, headers["content-type"]) == (400, "application/problem+json")
        assert body["errors"][0]["problem"] and "zzyzx" not in json.dumps(body)
        assert await reader.read() == b""

    talk(tmp_path, conversation)


def test_what_was_asked_before_the_nonsense_is_answered_first(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        writer.write(post(question("a")) + b"zzyzx\r\n\r\n")
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 400]
        assert await reader.read() == b""

    talk(tmp_path, conversation)


@pytest.mark.parametrize("pieces", [1, 40])
def test_an_endless_head_is_refused(tmp_path: Path, pieces: int) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        header = f"X-Long: {'x' * (HEAD_BYTES_MAX // pieces)}"
        request = post(question("a"), *[header] * (pieces + 1))
        for start in range(0, len(request), 1 + len(request) // pieces):
            writer.write(request[start : start + 1 + len(request) // pieces])
            await asyncio.sleep(0.001)
        status, _, body = await answer(reader)
        assert (status, body["errors"][0]["limit"]) == (431, "65536 bytes")

    talk(tmp_path, conversation)
    assert logged(tmp_path) == []


def test_a_client_that_never_reads_its_answers_is_closed(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * (PIPELINED_MAX // 2))
        while server.server_state.connections:
            await asyncio.sleep(0.05)

    talk(tmp_path, conversation, patience_s=1)


def test_a_client_that_runs_far_ahead_of_its_answers_is_closed(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        writer.write(post(question("same")) * (4 * PIPELINED_MAX))
        with contextlib.suppress(ConnectionError):
            await reader.read()
        assert not server.server_state.connections

    talk(tmp_path, conversation)


def test_a_client_that_stops_sending_still_gets_its_answers(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        writer.write(post(question("a")) + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        writer.write_eof()
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 200]
        assert await reader.read() == b""

    talk(tmp_path, conversation)


def test_half_a_request_and_then_nothing_is_closed_at_once(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        writer.write(post(question("a"))[:-4])
        writer.write_eof()
        assert await reader.read() == b""

    talk(tmp_path, conversation)
    assert logged(tmp_path) == []


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_a_wish_for_another_protocol_is_ignored(tmp_path: Path, protocol: str) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        request = post(question("a"), f"Upgrade: {protocol}", "Connection: Upgrade, HTTP2-Settings")
        writer.write(request[:-9])
        await asyncio.sleep(0.01)
        writer.write(request[-9:] + post(question("b")))
        said = [await answer(reader) for _ in range(2)]
        assert [(status, body["event_id"]) for status, _, body in said] == [(200, "a"), (200, "b")]
        writer.write(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await answer(reader))[0] == 400

    talk(tmp_path, conversation)


def test_a_client_that_asks_for_it_gets_its_connection_closed(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        writer.write(post(question("last"), "Connection: close"))
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await reader.read() == b""

    talk(tmp_path, conversation)


def test_a_client_that_leaves_before_its_answer_disturbs_nobody_and_its_decision_is_kept(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        _, writer = connection
        writer.write(post(question("gone")))
        await writer.drain()
        writer.transport.abort()

    talk(tmp_path, conversation)
    assert [event.event_id for event in logged(tmp_path)] in ([], ["gone"])


def test_what_has_arrived_when_the_server_drains_is_answered_and_the_connection_closed(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        writer.write(post(question("first")))
        await answer(reader)
        writer.write(post(question("second")))
        await asyncio.sleep(0.05)
        server.should_exit = True
        status, _, body = await answer(reader)
        assert (status, body["event_id"]) == (200, "second")
        assert await reader.read() == b""

    talk(tmp_path, conversation)
    assert [event.event_id for event in logged(tmp_path)] == ["first", "second"]


def test_a_connection_taken_in_the_moment_of_a_drain_does_not_hold_it_up(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> float:
        config = configure(create_app(tmp_path, writer_id="w0-test", clock=lambda: datetime.now(UTC), durable=False))
        config.load()
        server = HotServer(config)
        server.lifespan = config.lifespan_class(config)
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await server.startup(sockets=[listener])
            (acceptor,) = server.servers
            assert isinstance(acceptor, Acceptor)
            with socket.create_connection(listener.getsockname()):
                while not acceptor.opening:
                    await asyncio.sleep(0)
                started = loop.time()
                await server.shutdown()
                return loop.time() - started

    assert run(scenario()) < DRAIN_S_MAX / 2


def test_a_connection_that_keeps_the_server_waiting_is_closed(tmp_path: Path) -> None:
    async def conversation(connection: Connection, server: HotServer) -> None:
        reader, writer = connection
        writer.write(post(question("a")))
        await answer(reader)
        writer.write(post(question("b"))[:-5])  # the rest never comes
        assert await reader.read() == b""
        assert not server.server_state.connections

    talk(tmp_path, conversation, patience_s=1)
    assert [event.event_id for event in logged(tmp_path)] == ["a"]


def test_clients_that_send_a_byte_now_and_then_are_closed_in_time_and_hold_nobody_up(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def drip(connect: Callable[[], Any], sent: bytes, dripped: bytes) -> None:
        reader, writer = await connect()
        writer.write(sent)
        for place in range(len(dripped)):
            writer.write(dripped[place : place + 1])
            try:
                assert await asyncio.wait_for(reader.read(1), 0.1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                pass  # closed while a byte was under way: a reset instead of an end
            writer.close()
            return
        writer.close()
        raise AssertionError("the connection stayed open as long as bytes came")

    async def scenario() -> None:
        async with listening(tmp_path, patience_s=1) as (connect, _):
            whole = post(question("never"))
            large = post(question("never", size=100_000), path=RECOMMEND + "/batch")
            drips = [
                *[drip(connect, b"", whole[:-1]) for _ in range(40)],  # the request line, byte by byte
                *[drip(connect, whole[:-40], whole[-40:-1]) for _ in range(40)],  # the body, on the short way
                *[drip(connect, large[:-100], large[-100:-1]) for _ in range(40)],  # the body, on the other one
            ]
            attack = asyncio.gather(*drips)
            reader, writer = await connect()
            answered = 0
            while not attack.done():
                writer.write(post(question(f"honest {answered}")))
                status, _, _ = await asyncio.wait_for(answer(reader), 5)
                assert status == 200
                answered += 1
                await asyncio.sleep(0.02)
            await attack
            writer.close()
            assert answered > 10

    run(scenario())
    assert not any(event.event_id == "never" for event in logged(tmp_path))


def test_a_closed_connection_leaves_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> list[object]:
        async with listening(tmp_path) as (connect, server):
            left = []
            for request in (post(question("a")), b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                reader, writer = await connect()
                writer.write(request)
                await answer(reader)
                (connection,) = server.server_state.connections
                left.append(weakref.ref(connection))
                del connection
                writer.close()
                while server.server_state.connections:
                    await asyncio.sleep(0.01)
            return [reference() for reference in left]

    gc.disable()
    try:
        assert run(scenario()) == [None, None]
    finally:
        gc.enable()


def test_workers_that_share_a_listener_share_its_connections(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> list[int]:
        with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
            servers, serving = [], []
            for number, own in enumerate((listener, listener.dup())):
                app = create_app(tmp_path, writer_id=f"w{number}-test", clock=lambda: datetime.now(UTC), durable=False)
                servers.append(HotServer(configure(app)))
                serving.append(asyncio.create_task(servers[-1].serve(sockets=[own])))
            while not all(server.started for server in servers):
                await asyncio.sleep(0.01)
            port = listener.getsockname()[1]
            clients = await asyncio.gather(*[asyncio.open_connection("127.0.0.1", port) for _ in range(40)])
            for _, writer in clients:
                writer.write(post(question("same")))
            assert {(await answer(reader))[0] for reader, _ in clients} == {200}
            shares = [len(server.server_state.connections) for server in servers]
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*serving)
            for _, writer in clients:
                writer.close()
            return shares

    shares = run(scenario())
    assert sum(shares) == 40 and min(shares) >= 10
