"""Who may ask: the Host header and content type on loopback, API keys everywhere else.

A web page open in someone's browser can send requests to 127.0.0.1. It cannot choose the Host header or,
without a preflight that nobody answers, send application/json; so both are checked as long as no key is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from serving.api.problems import ApiProblem

JSON = "application/json"
NDJSON = "application/x-ndjson"
IDENTITY = "identity"
CHUNKED = "chunked"


@dataclass(slots=True)
class Headers:
    """The request headers that the decision API looks at, decoded once."""

    host: str | None = None
    content_type: str = ""
    content_length: str | None = None
    authorization: str | None = None
    subscription_key: str | None = None
    expect: str | None = None
    content_encoding: str | None = None
    transfer_encoding: str | None = None

    @classmethod
    def of(cls, raw: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Pick them out of an ASGI scope's headers."""
        headers = cls()
        for name, value in raw:
            field = _FIELDS.get(name)
            if field is None:
                continue
            if field in _LISTED and (before := getattr(headers, field)) is not None:
                setattr(headers, field, f"{before},{value.decode('latin-1')}")  # two hosts: no name that anyone allows
            else:
                setattr(headers, field, value.decode("latin-1"))
        return headers

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case; empty where none was sent."""
        return self.content_type.partition(";")[0].strip().lower()


_FIELDS = {
    b"host": "host",
    b"content-type": "content_type",
    b"content-length": "content_length",
    b"authorization": "authorization",
    b"ocp-apim-subscription-key": "subscription_key",
    b"expect": "expect",
    b"content-encoding": "content_encoding",
    b"transfer-encoding": "transfer_encoding",
}
_LISTED = frozenset({"host", "content_encoding", "transfer_encoding"})


def check_host(headers: Headers, allowed: frozenset[str] | None) -> None:
    """Refuse a request for another host than `allowed` (None allows all); raises `ApiProblem`."""
    if allowed is None:
        return
    if headers.host is None:
        raise ApiProblem("bad-host", "The request has no Host header.", field="host")
    if _without_port(headers.host) not in allowed:
        raise ApiProblem(
            "misdirected",
            "This server answers for the loopback names only, as long as it has no API key.",
            field="host",
            limit="localhost, 127.0.0.1, [::1], or a name given with --allow-host",
        )


@lru_cache(maxsize=64)
def _without_port(host: str) -> str:
    name = host.lower()
    if not name.endswith("]"):
        head, colon, port = name.rpartition(":")
        if colon and port.isdigit():
            return head
    return name


def check_content_type(headers: Headers, *, ndjson: bool = False) -> bool:
    """Whether the body is NDJSON; raises `ApiProblem` where it is neither that nor JSON, or is compressed."""
    if headers.content_encoding is not None or headers.transfer_encoding is not None:
        _check_codings(headers)
    if headers.content_type == JSON:
        return False
    media_type = headers.media_type
    if media_type == JSON:
        return False
    if ndjson and media_type == NDJSON:
        return True
    accepted = f"{JSON} or {NDJSON}" if ndjson else JSON
    raise ApiProblem(
        "wrong-content-type", f"The body must be sent as {accepted}.", field="content-type", limit=accepted
    )


def _check_codings(headers: Headers) -> None:
    """Refuse a body that would have to be decoded before it could be read; raises `ApiProblem` (415, 501)."""
    if not _all_are(headers.content_encoding, IDENTITY):
        raise ApiProblem(
            "wrong-content-encoding",
            "The body must be sent as it is, without compression.",
            field="content-encoding",
            limit=IDENTITY,
            headers=[(b"accept-encoding", IDENTITY.encode())],
        )
    if not _all_are(headers.transfer_encoding, CHUNKED):
        raise ApiProblem(
            "wrong-transfer-encoding",
            "The body may be sent in chunks, but not compressed.",
            field="transfer-encoding",
            limit=CHUNKED,
        )


def _all_are(listed: str | None, accepted: str) -> bool:
    """Whether a header that lists codings names none but the accepted one."""
    return listed is None or all(coding.strip().lower() in ("", accepted) for coding in listed.split(","))
