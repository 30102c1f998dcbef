"""The short way from a socket to the two hot addresses, inside uvicorn's own protocol.

ASGI costs as much as a decision: a scope, an event, a body read by message, two writes and a timer for each request.
A plain POST of modest size to *recommend* or *rewards*, on a connection that stays open, is answered without them,
by the same endpoint functions; whatever is not that plain goes uvicorn's usual way.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bandit.errors import Problem
from serving.api.access import Headers
from serving.api.app import DecisionApp, HotRoute
from serving.api.endpoints import Api
from serving.api.http import DISCARDED_BYTES_MAX, JSON_TYPE, Reply, problem_reply
from serving.api.problems import ProblemBody, problem

CLOSE = (b"connection", b"close")
HEAD_BYTES_MAX = 64 * 1024
PIPELINED_MAX = 512


class HotProtocol(HttpToolsProtocol):
    """One connection; `cycle` is uvicorn's for a usual request and a `HotCycle` for one that goes the short way."""

    cycle: Any
    since: float
    """When the client's turn began (monotonic seconds of the loop); infinite while it is ours."""
    unwritten_since: float = math.inf
    unread: int = 0
    """Bytes that came since anything of a request was last complete: an endless head is refused by them."""

    is_given_up: bool = False
    """The next answer asks the client to connect anew: another worker has fewer connections."""

    ended: bool = False
    refused: ProblemBody | None = None
    """The connection's last answer; what still comes is thrown away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client's turn begins."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.flow = _Flow(self)
        self.since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what refers back here: the garbage collector, which runs rarely, need not look for it."""
        super().connection_lost(exc)
        self.pipeline.clear()
        self.cycle = None

    def data_received(self, data: bytes) -> None:
        """Parse what came; what has no end is refused."""
        self.unread += len(data)
        if self.refused is not None:
            if self.unread > DISCARDED_BYTES_MAX:
                self.transport.close()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("is malformed")
        if self.unread > HEAD_BYTES_MAX and self.refused is None:
            self._refuse(_head_too_large())

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """No other protocol is offered, so a wish for one is ignored: read the same request again without it.

        Java's own client asks every server for HTTP/2 in this way.
        """
        if self.parser.get_method() == b"CONNECT":
            self.send_400_response("asks for a tunnel")
            return
        lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [name + b": " + value for name, value in self.headers if name not in (b"connection", b"upgrade")]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client will send nothing more; what it has asked for in full is still answered."""
        self.ended = self.since == math.inf
        return self.ended

    def on_message_begin(self) -> None:
        """A request has begun to arrive; uvicorn's part is left for when it turns out to be needed."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Choose the way, by method, address and headers."""
        if self.unread > HEAD_BYTES_MAX:  # a lot came at once: was it the head, or was a body with it?
            self.unread = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if self.unread > HEAD_BYTES_MAX:
                raise ValueError("the head is too large")
        self.unread = 0
        if self.parser.should_upgrade():
            return  # see `_go_on_without_upgrade`
        cycle = self.cycle
        if (
            (cycle is None or cycle.response_complete)
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self.parser.get_method() == b"POST"
        ):
            app: DecisionApp = self.config.loaded_app
            route = app.hot(self.url)
            if route is not None:
                headers = Headers.of(self.headers)
                length = headers.content_length
                if (
                    length is not None
                    and length.isdigit()
                    and int(length[:18]) <= HIGH_WATER_LIMIT
                    and self.parser.should_keep_alive()
                    and self.parser.get_http_version() == "1.1"
                ):
                    self.cycle = HotCycle(self, app.api, route, headers)
                    return
        url, read, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers += read  # the list that is in the scope by now
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED_MAX:
            self.transport.abort()
            raise ValueError("too many requests ahead of their answers")

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body; on the short way its length was declared and is bounded."""
        self.unread = 0
        cycle = self.cycle
        if type(cycle) is HotCycle:
            cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: answer it."""
        if self.parser.should_upgrade():
            return
        self.unread = 0
        self.since = math.inf
        cycle = self.cycle
        if type(cycle) is HotCycle:
            cycle.begin()
        else:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets its answer in the same shape as every other refusal."""
        if self.transport.is_closing():
            return
        if self.unread > HEAD_BYTES_MAX:
            self._refuse(_head_too_large())
        else:
            self._refuse(problem("malformed-request", "The request is not valid HTTP.", [Problem("request", msg)]))

    def _refuse(self, body: ProblemBody) -> None:
        """Give a last answer, after those that are still owed."""
        if self.pipeline:
            self.transport.abort()  # what is refused here may be among those that wait, and would wait for ever
            return
        self.refused = body
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            self._give_refusal(body)

    def _give_refusal(self, body: ProblemBody) -> None:
        reply = problem_reply(body, (CLOSE,))
        self.transport.write(encoded(reply, self.server_state.default_headers))
        # closed at once with something unread, the connection would be reset, and the answer might be lost
        self.transport.write_eof()
        self.since = self.loop.time()

    def pause_writing(self) -> None:
        """The client does not read what it asked for."""
        super().pause_writing()
        self.unwritten_since = self.loop.time()

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self.unwritten_since = math.inf

    def on_response_complete(self) -> None:
        """The client's turn again, or that of a request which is waiting; as uvicorn's, but without a timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.refused is not None:
            self._give_refusal(self.refused)
        elif self.ended:
            self.transport.close()
        else:
            self.since = self.loop.time()

    def close_if_stale(self, now: float) -> None:
        """Close a connection on which the client has owed a request, the rest of one, or reading, for too long."""
        if now - self.unwritten_since > self.timeout_keep_alive:
            self.transport.abort()  # closing would wait for the client to read
        elif now - self.since > self.timeout_keep_alive:
            self.transport.close()


class _Flow(FlowControl):
    """uvicorn's, but for one thing: nothing more is read while requests wait for the answers to earlier ones."""

    def __init__(self, protocol: HotProtocol) -> None:
        super().__init__(protocol.transport)
        self._pipeline = protocol.pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


def _head_too_large() -> ProblemBody:
    detail = "The request line and its headers are larger than this server accepts."
    return problem("head-too-large", detail, [Problem("headers", "are too large", f"{HEAD_BYTES_MAX} bytes")])


class _NoEvent:
    """Stands where uvicorn tells a waiting request that something happened: here none ever waits for that."""

    def set(self) -> None:
        """Nothing to tell."""


class HotCycle:
    """One request on the short way, with what uvicorn's protocol looks at in its own cycles."""

    __slots__ = (
        "api",
        "begun",
        "begun_s",
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "more_body",
        "protocol",
        "response_complete",
        "route",
    )
    message_event = _NoEvent()

    def __init__(self, protocol: HotProtocol, api: Api, route: HotRoute, headers: Headers) -> None:
        self.protocol = protocol
        self.api = api
        self.route = route
        self.headers = headers
        self.body = b""
        self.keep_alive = True
        self.more_body = True
        self.disconnected = False
        self.response_complete = False

    def begin(self) -> None:
        """Check access and decide; the answer is given when its commit is settled."""
        self.more_body = False
        self.begun_s = time.perf_counter()
        route, experiment, begin = self.route
        try:
            self.api.authority.check(self.headers, route.scope, experiment)
            self.begun = begin(experiment, self.headers, self.body)
        except Exception as error:  # as in `Api.run`
            self._give(self.api.refusal(route, experiment, error))
            return
        if self.begun.commit is None:
            self.finish()
        else:
            self.begun.commit.then(self.finish)

    def finish(self) -> None:
        """The commit is settled: answer."""
        try:
            reply = self.begun.finish()
        except Exception as error:  # as in `Api.run`
            reply = self.api.refusal(self.route.route, self.route.experiment, error)
        self._give(reply)

    def _give(self, reply: Reply) -> None:
        """Write the reply, and let the connection's next request begin."""
        self.api.observe(self.route.route, self.route.experiment, self.begun_s)
        self.response_complete = True
        protocol = self.protocol
        transport = protocol.transport
        if self.disconnected or transport.is_closing():
            return
        if protocol.is_given_up and not protocol.pipeline:
            self.keep_alive = False
        if reply.status == 200 and self.keep_alive and not reply.headers and reply.content_type == JSON_TYPE:
            transport.write(_good.encoded(reply, protocol.server_state.default_headers))
            protocol.on_response_complete()
            return
        closes = CLOSE in reply.headers
        transport.write(encoded(reply, protocol.server_state.default_headers, close=not (self.keep_alive or closes)))
        if closes or not self.keep_alive:
            transport.close()
        protocol.on_response_complete()


def encoded(reply: Reply, headers: Sequence[tuple[bytes, bytes]], *, close: bool = False) -> bytes:
    """The bytes of a whole answer; `close` adds that the connection ends with it."""
    parts = [STATUS_LINE[reply.status]]
    for name, value in (*headers, *reply.headers):
        parts += (name, b": ", value, b"\r\n")
    if close:
        parts.append(b"connection: close\r\n")
    parts += (b"content-type: ", reply.content_type, b"\r\ncontent-length: ", b"%d" % len(reply.body))
    return b"".join((*parts, b"\r\n\r\n", reply.body))


class _GoodAnswers:
    """The heads of plain 200 answers, made once for each second's Date."""

    def __init__(self) -> None:
        self._headers: Sequence[tuple[bytes, bytes]] | None = None
        self._head = b""

    def encoded(self, reply: Reply, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """What `encoded` gives for a 200 in JSON without further headers."""
        if headers is not self._headers:
            self._headers = headers
            self._head = encoded(Reply(200, b""), headers).removesuffix(b"0\r\n\r\n")
        return b"%b%d\r\n\r\n%b" % (self._head, len(reply.body), reply.body)


_good = _GoodAnswers()
