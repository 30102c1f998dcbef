"""The few pieces of HTTP that the hot paths need: read a body up to a bound, give a reply, name a problem."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import msgspec

from serving.api.access import Headers
from serving.api.problems import PROBLEM_TYPE, ApiProblem, ProblemBody

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_encoder = msgspec.json.Encoder()


JSON_TYPE = b"application/json"
DISCARDED_BYTES_MAX = 4 * 1024 * 1024


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class Reply(NamedTuple):
    """A response: status, body, its content type, further headers."""

    status: int
    body: bytes
    content_type: bytes = JSON_TYPE
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def read_body(receive: Receive, headers: Headers, bytes_max: int, setting: str) -> bytes:
    """The request's body, counted while it is read; raises `ApiProblem` (413) and `ClientGone`."""
    declared = headers.content_length
    if declared is not None and declared.isdigit() and (length := int(declared[:18])) > bytes_max:
        if headers.expect is None and length <= DISCARDED_BYTES_MAX:  # else the client waits for leave to send it
            await _discard(receive)
        raise too_large(bytes_max, setting)
    message = await _next(receive)
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        chunks = bytearray(body)
        while message.get("more_body", False) and len(chunks) <= bytes_max:
            message = await _next(receive)
            chunks += message.get("body", b"")
        body = bytes(chunks)
    if len(body) > bytes_max:
        if message.get("more_body", False):
            await _discard(receive)
        raise too_large(bytes_max, setting)
    return body


async def _next(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


async def _discard(receive: Receive) -> None:
    """Read on for a while: a connection that is closed on unread data is reset, and the refusal may be lost."""
    left = DISCARDED_BYTES_MAX
    while left > 0:
        message = await _next(receive)
        if not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))


def too_large(bytes_max: int, setting: str) -> ApiProblem:
    """The refusal of a body above a limit; the connection is closed, since the rest is not read."""
    return ApiProblem(
        "body-too-large",
        "The body is larger than this server accepts.",
        field="body",
        limit=f"{setting} = {bytes_max}",
        headers=[(b"connection", b"close")],
    )


def problem_reply(body: ProblemBody, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """A problem as a reply."""
    if body.status == 503:
        headers = (*headers, (b"retry-after", b"1"))
    return Reply(body.status, _encoder.encode(body), PROBLEM_TYPE, headers)


async def send_reply(send: Send, reply: Reply) -> None:
    """Send a reply over ASGI (a 204 has neither content type nor length)."""
    headers = [*reply.headers]
    if reply.status != 204:
        headers += ((b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
