"""The synchronous client: one connection pool, two calls that matter.

    client = Client("http://127.0.0.1:8000", experiment="default")
    choice = client.recommend({"hour": 9, "device": "phone"}, actions=["a", "b"])
    …
    client.reward(choice.event_id, 1.0)

Every event_id is chosen here when the caller gives none, so that a retry after a lost answer is the same
question and gets the same answer. Retries happen only where the outcome cannot be doubled by them.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from rewardloop_client.errors import NotEncodable, Unavailable, UnexpectedAnswer, rejection
from rewardloop_client.types import Action, Recommendation

RETRIES_DEFAULT = 2
RETRY_PAUSE_S = 0.05
CONNECTIONS_MAX = 64

_T = TypeVar("_T")
_WORTH_RETRYING = frozenset({429, 502, 503, 504})


class Client:
    """A thread-safe client of one experiment. Use it as a context manager, or call `close`.

    `timeout_s` bounds each attempt; `retries` is how many more attempts follow a lost connection, a timeout,
    429, 502, 503 or 504, with a pause that doubles. `transport` lets tests mount an application directly.
    """

    def __init__(
        self,
        base_url: str,
        experiment: str = "default",
        *,
        api_key: str | None = None,
        timeout_s: float = 2.0,
        retries: int = RETRIES_DEFAULT,
        connections_max: int = CONNECTIONS_MAX,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.experiment = experiment
        self._retries = retries
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=connections_max, max_keepalive_connections=connections_max)
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"),
            headers=headers,
            timeout=timeout_s,
            limits=limits,
            transport=transport,
            trust_env=False,
        )
        self._path = f"/v1/experiments/{experiment}"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- asking ------------------------------------------------------------------------------------------

    def recommend(
        self,
        context: Mapping[str, Any],
        actions: Sequence[Action | str] | None = None,
        *,
        event_id: str | None = None,
        excluded: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> Recommendation:
        """Ask which action to show; the decision is on the service's disk when this returns.

        `actions` may be left out where the experiment declares a catalogue. Raises `Rejected` (with the
        fields at fault) or `Unavailable`.
        """
        body = _question(context, actions, event_id, excluded, deferred)
        return _read(Recommendation.from_wire, self._post(f"{self._path}/recommend", body))

    def recommend_slots(
        self,
        context: Mapping[str, Any],
        slots: int,
        actions: Sequence[Action | str] | None = None,
        *,
        event_id: str | None = None,
        excluded: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> list[Recommendation]:
        """Ask for `slots` distinct actions in order, each with its own event_id."""
        body = _question(context, actions, event_id, excluded, deferred)
        body["slots"] = slots
        answer = self._post(f"{self._path}/recommend", body)
        return _read(lambda wire: [Recommendation.from_wire(entry) for entry in wire["decisions"]], answer)

    # -- reporting ---------------------------------------------------------------------------------------

    def reward(
        self,
        event_id: str,
        reward: float | None = None,
        *,
        event: str | None = None,
        value: float | None = None,
        reward_id: str | None = None,
        action: str | None = None,
    ) -> None:
        """Report a number, or a named event (with its value) that the experiment's settings give a worth.

        The reward is on the service's disk when this returns. Raises `Rejected` or `Unavailable`.
        """
        given = {"reward": reward, "event": event, "value": value, "reward_id": reward_id, "action": action}
        self.rewards([{"event_id": event_id, **{name: field for name, field in given.items() if field is not None}}])

    def rewards(self, items: Sequence[Mapping[str, Any]]) -> int:
        """Report several rewards (objects as the API takes them); returns how many were accepted.

        Raises `InvalidRequest` when the service refused one or more of them; the others are recorded.
        """
        body: Any = dict(items[0]) if len(items) == 1 else [dict(item) for item in items]
        answer = self._post(f"{self._path}/rewards", body)
        errors = _read(lambda wire: list(wire["errors"]), answer)
        if errors:
            raise rejection(422, {"title": "rewards were refused", "detail": str(errors[0]), "errors": errors})
        return _read(lambda wire: int(wire["accepted"]), answer)

    def activate(self, event_id: str) -> None:
        """Say that a deferred decision was shown after all."""
        self._post(f"{self._path}/events/{event_id}/activate", None)

    # -- sending -----------------------------------------------------------------------------------------

    def _post(self, path: str, body: Any) -> Any:
        content = None if body is None else _encode(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        response: httpx.Response | None = None
        reason = ""
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(RETRY_PAUSE_S * 2 ** (attempt - 1))
            try:
                response = self._http.post(path, content=content, headers=headers)
            except httpx.TransportError as error:
                response, reason = None, type(error).__name__
                continue
            if response.is_success:
                return _decode(response)
            reason = f"status {response.status_code}"
            if response.status_code not in _WORTH_RETRYING:
                break
        if response is None or not response.is_client_error:
            raise Unavailable(f"no usable answer after {attempt + 1} attempts ({reason})")
        raise rejection(response.status_code, _problem(response))


def _question(
    context: Mapping[str, Any],
    actions: Sequence[Action | str] | None,
    event_id: str | None,
    excluded: Sequence[str] | None,
    deferred: bool,
) -> dict[str, Any]:
    body: dict[str, Any] = {"context": context, "event_id": event_id or str(uuid.uuid4())}
    if actions is not None:
        body["actions"] = [{"id": action} if isinstance(action, str) else action.to_wire() for action in actions]
    if excluded:
        body["excluded"] = list(excluded)
    if deferred:
        body["deferred"] = True
    return body


def _encode(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise NotEncodable(f"the request cannot be written as JSON ({type(error).__name__})") from None


def _decode(response: httpx.Response) -> Any:
    if response.status_code == 204 or not response.content:
        return {}
    try:
        return response.json()
    except ValueError:
        raise UnexpectedAnswer("the answer is not JSON; is the address that of a decision API?") from None


def _problem(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None


def _read(read: Callable[[Any], _T], body: Any) -> _T:
    try:
        return read(body)
    except (KeyError, TypeError, ValueError):
        raise UnexpectedAnswer("the answer lacks a field that the decision API promises") from None
