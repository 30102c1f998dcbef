"""Requests and answers of the decision API, apart from how they travel: what both clients share.

Nothing here waits or connects; a client builds a body, sends its bytes, and hands back the answer.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from rewardloop_client.arguments import check_address, listed, offered, to_wire
from rewardloop_client.errors import NotEncodable, Rejected, Unavailable, UnexpectedAnswer, rejection
from rewardloop_client.types import Offer, Recommendation
from rewardloop_client.unsayable import unsayable

RETRIES_DEFAULT = 2
RETRY_PAUSE_S = 0.05
TIMEOUT_S = 2.0
CONNECTIONS_MAX = 64
WORTH_RETRYING = frozenset({408, 425, 429, 502, 503, 504})
JSON_HEADERS = {"Content-Type": "application/json"}
_TOO_LATE_OR_EARLY = frozenset({408, 425})  # 4xx by number, but they say "again" and refuse nothing

_T = TypeVar("_T")


def connection_options(
    base_url: str, api_key: str | None, timeout_s: float | httpx.Timeout, connections_max: int
) -> dict[str, Any]:
    """What httpx's clients are made with, synchronous or not, apart from their transport.

    Raises ValueError for a `base_url` that is no address.
    """
    return {
        "base_url": check_address(base_url, "base_url").rstrip("/"),
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": timeout_s,
        "limits": httpx.Limits(max_connections=connections_max, max_keepalive_connections=connections_max),
        "trust_env": False,
    }


def new_event_id() -> str:
    """An id for a decision whose caller gave none; chosen here, so that a retry asks the same question."""
    return str(uuid.uuid4())


def question(
    context: Mapping[str, Any],
    actions: Sequence[Offer] | None,
    event_id: str | None,
    excluded: Sequence[str] | None,
    deferred: bool,
) -> dict[str, Any]:
    """The body of a recommend request; raises TypeError or ValueError for actions that are none."""
    body: dict[str, Any] = {"context": context, "event_id": event_id or new_event_id()}
    if (offer := offered(actions)) is not None:
        body["actions"] = [to_wire(action) for action in offer]
    if excluded:
        body["excluded"] = listed(excluded, "excluded", "ids")
    if deferred:
        body["deferred"] = True
    return body


def path_segment(text: str) -> str:
    """`text` as one segment of a path, whatever it contains; `.` and `..` would otherwise name other segments."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


def reward_item(
    event_id: str,
    reward: float | None = None,
    *,
    event: str | None = None,
    value: float | None = None,
    reward_id: str | None = None,
    action: str | None = None,
) -> dict[str, Any]:
    """One reward as the API takes it: only what was given."""
    given = {"reward": reward, "event": event, "value": value, "reward_id": reward_id, "action": action}
    return {"event_id": event_id, **{name: field for name, field in given.items() if field is not None}}


def rewards_body(items: Sequence[Mapping[str, Any]]) -> Any:
    """One object, or a list of several."""
    return dict(items[0]) if len(items) == 1 else [dict(item) for item in items]


def encode(body: Any) -> bytes:
    """JSON bytes; raises `NotEncodable` that says what cannot be written, and where it is."""
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        found = None
        with contextlib.suppress(Exception):  # whatever a host's object does when it is read
            found = unsayable(body)
        raise NotEncodable(f"the request cannot be written as JSON: {found or type(error).__name__}") from None


def outcome(response: httpx.Response | None, reason: str, attempts: int) -> Any:
    """The decoded body of a good answer; raises `Rejected`, `Unavailable` or `UnexpectedAnswer` for others."""
    if response is not None and response.is_success:
        return _decode(response)
    error: Unavailable | Rejected
    if response is None or not response.is_client_error or response.status_code in _TOO_LATE_OR_EARLY:
        error = Unavailable(f"no usable answer after {attempts} attempt{'s' * (attempts != 1)} ({reason})")
    else:
        error = _refusal(response)
    error.retry_after_s = None if response is None else _retry_after_s(response)
    raise error


def read_recommendation(body: Any) -> Recommendation:
    """One decision; raises `UnexpectedAnswer`."""
    return _read(Recommendation.from_wire, body)


def read_slots(body: Any) -> list[Recommendation]:
    """The decisions of several slots, in order (one slot is answered without a list); raises `UnexpectedAnswer`."""
    return _read(lambda wire: [Recommendation.from_wire(entry) for entry in wire.get("decisions", [wire])], body)


def read_accepted(body: Any, sent: int) -> int:
    """How many of the `sent` rewards were taken; raises `InvalidRequest` when one of them was not.

    Raises `UnexpectedAnswer` when those taken and those refused are not as many as were sent: nothing is known then.
    """
    accepted, errors = _read(lambda wire: (_whole(wire["accepted"]), list(wire["errors"])), body)
    if accepted + len(errors) != sent:
        raise UnexpectedAnswer(f"{sent} rewards were sent, and the answer accounts for {accepted + len(errors)}")
    if errors:
        refused = {"title": "rewards were refused", "detail": str(errors[0]), "errors": errors, "accepted": accepted}
        raise rejection(422, refused)
    return accepted


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError("not a whole number of rewards")
    return number


def _decode(response: httpx.Response) -> Any:
    if response.status_code == 204 or not response.content:
        return {}
    try:
        return response.json()
    except (ValueError, RecursionError):
        raise UnexpectedAnswer("the answer is not JSON; is the address that of a decision API?") from None


def _retry_after_s(response: httpx.Response) -> float | None:
    """The pause that an answer asks for in seconds; None where it names none, or a date by a clock of its own."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else None


def _refusal(response: httpx.Response) -> Rejected:
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    return rejection(response.status_code, body)


def _read(read: Callable[[Any], _T], body: Any) -> _T:
    try:
        return read(body)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        raise UnexpectedAnswer("the answer lacks a field that the decision API promises") from None
