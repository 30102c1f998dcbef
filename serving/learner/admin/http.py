"""The admin API's manners: who may ask, how bodies are read, and how errors are told (RFC 9457).

A request must show the learner's token or an API key of scope `admin` (`read` is enough to look), unless no key was
ever made and the learner listens on loopback: then it is open, but only to its own host name and, when a browser
sends it, to its own origin. Bodies are parsed here, strictly.
"""

from __future__ import annotations

import base64
import hmac
import logging
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bandit.errors import (
    Busy,
    Conflict,
    CorruptLog,
    CorruptModel,
    CorruptSecret,
    DurabilityLost,
    InvalidInput,
    MemoryFull,
    NotFound,
    NotYet,
    Problem,
    Refused,
    RewardloopError,
    TrainingFailed,
    one_of,
)
from bandit.files import NO_ROOM
from bandit.keys import KeyRing
from serving.learner.asked_with import KEY_NAME

log = logging.getLogger("rewardloop.learner")

KEYS_REFRESH_S = 1.0
BODY_BYTES_MAX = 4 * 1024 * 1024

_STATUS: tuple[tuple[type[RewardloopError], int, str], ...] = (
    (InvalidInput, 422, "The input cannot be accepted"),
    (NotFound, 404, "Not found"),
    (Conflict, 409, "Conflict"),
    (NotYet, 409, "Refused"),
    (Refused, 403, "Refused"),
    (Busy, 423, "Busy"),
    (DurabilityLost, 503, "Durability is lost"),
    (CorruptSecret, 500, "The secret of the draws is damaged"),
    (CorruptModel, 500, "A stored model is damaged"),
    (CorruptLog, 500, "The event log is damaged"),
    (TrainingFailed, 500, "Training failed"),
    (MemoryFull, 507, "The database's memory is full"),
)


class JSONResponse(Response):
    """JSON by msgspec: times as ISO 8601, not-a-number as null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def problem(status: int, title: str, detail: str, errors: list[dict[str, Any]] | None = None) -> Response:
    """An `application/problem+json` answer."""
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return Response(msgspec.json.encode(body), status, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Let `app` tell every error of ours, and every other, as a problem."""

    @app.exception_handler(RewardloopError)
    def _ours(request: Request, error: RewardloopError) -> Response:
        del request
        errors = None
        if isinstance(error, InvalidInput):
            errors = [
                {"field": p.field, "problem": p.problem, "limit": p.limit and str(p.limit)} for p in error.problems
            ]
        for kind, status, title in _STATUS:
            if isinstance(error, kind):
                return problem(status, title, str(error), errors)
        return problem(500, "Failed", str(error))

    @app.exception_handler(HTTPException)
    def _starlette(request: Request, error: HTTPException) -> Response:
        if error.status_code != 404:
            return problem(error.status_code, str(error.detail), str(error.detail))
        wrong = Problem("path", "is no address of the admin API; see /docs")
        if _known(app, request, request.scope["path"].rstrip("/")):
            wrong = Problem("path", "is an address of the admin API only without the slash at its end")
        return problem(404, "Not found", str(wrong), [msgspec.to_builtins(wrong)])

    @app.exception_handler(CodedBody)
    def _coded(request: Request, error: CodedBody) -> Response:
        del request
        answer = problem(error.status, "The encoding is not accepted", str(error), [msgspec.to_builtins(error.wrong)])
        answer.headers["accept-encoding"] = "identity"
        return answer

    @app.exception_handler(OSError)
    def _system(request: Request, error: OSError) -> Response:
        if error.errno not in NO_ROOM:
            return _other(request, error)
        log.error("%s %r failed: %s", request.method, request.scope["path"], error)
        return problem(503, "The disk is full", "nothing that was acknowledged is lost; make room, then ask again")

    @app.exception_handler(Exception)
    def _other(request: Request, error: Exception) -> Response:
        log.error("%s %r failed", request.method, request.scope["path"], exc_info=error)
        answer = problem(500, "Failed", f"{type(error).__name__}; the learner's log has the details")
        answer.headers["connection"] = "close"  # the server closes it whatever is said: the error goes on to it
        return answer


def _known(app: FastAPI, request: Request, path: str) -> bool:
    """Whether `path` would be an address for this request."""
    return any(route.matches({**request.scope, "path": path})[0] != Match.NONE for route in app.routes)


class CodedBody(Exception):
    """A body that would have to be decoded before it could be read."""

    def __init__(self, status: int, header: str, accepted: str) -> None:
        self.status = status
        self.wrong = Problem(header, "is not accepted: the body must be sent without compression", accepted)
        super().__init__(str(self.wrong))


class Doorkeeper:
    """ASGI middleware that refuses whoever may not ask."""

    def __init__(self, app: Any, *, token: str, keys: KeyRing, loopback: bool, hosts: frozenset[str]) -> None:
        self.app = app
        self.token = token
        self.keys = keys
        self.loopback = loopback
        self.hosts = hosts
        self._refreshed = time.monotonic()
        self._told: str | None = None
        self._tell()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Request(scope))
        await (self.app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        KEY_NAME.set(None)
        if request.scope["path"] in ("/livez", "/readyz"):
            return None
        shown = _bearer(request)
        if hmac.compare_digest(shown.encode(), self.token.encode()):
            return None
        parts = request.scope["path"].strip("/").split("/")
        if parts[3:4] == ["operations"]:
            return problem(401, "Not authorised", "operations need the learner's own token")
        changes = request.method not in ("GET", "HEAD")
        self._refresh_keys()
        if not (self.keys.empty and self.loopback):
            named = parts[1:] if parts[:1] == ["v1"] else parts
            experiment = named[1] if named[:1] == ["experiments"] and len(named) > 1 else None
            key = self.keys.find(shown)
            if key is None and self.keys.blind:
                return problem(
                    503, "The API keys cannot be read", "nobody is let in until keys.json can be read; the log says why"
                )
            if key is None:
                refused = problem(401, "Not authorised", "show an API key as `Authorization: Bearer …`")
                refused.headers["www-authenticate"] = 'Basic realm="rewardloop (password: an API key)"'
                return refused
            if not (key.allows("admin", experiment) or (not changes and key.allows("read", experiment))):
                return problem(403, "Refused", "this API key does not allow that")
            KEY_NAME.set(key.name)
            return _foreign_origin(request) if changes else None
        if _host_name(request.headers.get("host", "")) not in self.hosts:
            return problem(403, "Refused", "the Host header is not an address of this learner")
        return _foreign_origin(request) if changes else None

    def _refresh_keys(self) -> None:
        if time.monotonic() - self._refreshed > KEYS_REFRESH_S:
            self._refreshed = time.monotonic()
            self.keys.refresh()
            self._tell()

    def _tell(self) -> None:
        """Log once that the keys cannot be read, and once that they can again."""
        if self.keys.trouble != self._told:
            self._told = self.keys.trouble
            if self._told is None:
                log.warning("the API keys can be read again")
            else:
                log.error("the API keys cannot be read, those known go on: %s", self._told)


def _foreign_origin(request: Request) -> Response | None:
    """A refusal when a browser sends a request from a page of another site (which could use its stored password)."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return problem(403, "Refused", "the request comes from another site")
    return None


def _bearer(request: Request) -> str:
    """The token or key shown: as Bearer, or as the password of Basic (what a browser sends to the console)."""
    scheme, _, shown = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(shown, validate=True).decode("utf-8").partition(":")[2]
        except ValueError:
            return ""
    return shown.strip() if scheme.lower() == "bearer" else ""


def _host_name(host: str) -> str:
    """A Host header without its port; brackets of an IPv6 address stay."""
    return host.rsplit(":", 1)[0].lower() if not host.endswith("]") else host


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object of the body ({} where there is none); raises `InvalidInput`."""
    body = await read_body(request, BODY_BYTES_MAX)
    if not body.strip():
        return {}
    check_content_type(request, "application/json")
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidInput("body", "is not valid JSON") from None
    except RecursionError:
        raise InvalidInput("body", "is nested too deeply") from None
    if not isinstance(decoded, dict):
        raise InvalidInput("body", "must be a JSON object")
    return decoded


def check_content_type(request: Request, *accepted: str) -> None:
    """Raise `InvalidInput` for a body of another type: a page of another site can send only such without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in accepted:
        raise InvalidInput("content-type", f"must be {' or '.join(accepted)}")


def refuse_unknown(body: dict[str, Any], *known: str) -> None:
    """Raise `InvalidInput` for a key that is not known here: one with a typing error must not be as if left out."""
    unknown = body.keys() - set(known)
    if unknown:
        raise InvalidInput(min(unknown), "is not known here", one_of(known))


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, counted while it is read; raises `InvalidInput` beyond `limit` bytes, `CodedBody`."""
    for status, header, accepted in ((415, "content-encoding", "identity"), (501, "transfer-encoding", "chunked")):
        codings = ",".join(request.headers.getlist(header)).split(",")
        if any(coding.strip().lower() not in ("", accepted) for coding in codings):
            raise CodedBody(status, header, accepted)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise InvalidInput("body", "is too large", f"{limit} bytes")
        parts.append(part)
    return b"".join(parts)
