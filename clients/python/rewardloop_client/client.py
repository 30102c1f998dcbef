"""The synchronous client: one connection pool, two calls that matter.

    client = Client("http://127.0.0.1:8000", experiment="default")
    choice = client.recommend({"hour": 9, "device": "phone"}, actions=["a", "b"])
    …
    client.reward(choice.event_id, 1.0)

Every event_id is chosen here when the caller gives none, so that a retry after a lost answer is the same
question and gets the same answer. Errors are raised; `Recommender` is the one that gives a default instead.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import httpx

from rewardloop_client import wire
from rewardloop_client.forks import begins_anew_when_forked
from rewardloop_client.types import Offer, Recommendation
from rewardloop_client.wire import CONNECTIONS_MAX, RETRIES_DEFAULT, RETRY_PAUSE_S, TIMEOUT_S


class Client:
    """A thread-safe client of one experiment. Use it as a context manager, or call `close`.

    `timeout_s` bounds each attempt; `retries` is how many more attempts follow a lost connection, a timeout,
    408, 425, 429, 502, 503 or 504, with a pause that doubles. `transport` lets tests mount an application directly.
    A process that is forked opens connections of its own. Raises ValueError for a `base_url` that is no address.
    """

    def __init__(
        self,
        base_url: str,
        experiment: str = "default",
        *,
        api_key: str | None = None,
        timeout_s: float | httpx.Timeout = TIMEOUT_S,
        retries: int = RETRIES_DEFAULT,
        connections_max: int = CONNECTIONS_MAX,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.experiment = experiment
        self._retries = retries
        self._path = f"/v1/experiments/{experiment}"
        self._transport = transport
        options = wire.connection_options(base_url, api_key, timeout_s, connections_max)
        self._connect = partial(httpx.Client, transport=transport, **options)
        self._http: httpx.Client | None = self._connect()
        begins_anew_when_forked(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            self._http.close()

    def begin_anew(self) -> None:
        """In a forked process: leave the parent's connections alone and open others when they are needed."""
        if self._transport is None:
            self._http = None

    def recommend(
        self,
        context: Mapping[str, Any],
        actions: Sequence[Offer] | None = None,
        *,
        event_id: str | None = None,
        excluded: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> Recommendation:
        """Ask which action to show; the decision is on the service's disk when this returns.

        `actions` may be left out where the experiment declares a catalogue. Each is an id, an `Action` or a mapping
        `{"id": …, "features": …}`; anything else raises TypeError or ValueError before it is sent. Raises `Rejected`
        (with the fields at fault) or `Unavailable`.
        """
        body = wire.question(context, actions, event_id, excluded, deferred)
        return wire.read_recommendation(self._post("/recommend", body))

    def recommend_slots(
        self,
        context: Mapping[str, Any],
        slots: int,
        actions: Sequence[Offer] | None = None,
        *,
        event_id: str | None = None,
        excluded: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> list[Recommendation]:
        """Ask for `slots` distinct actions in order, each with an event_id of its own, by which it is rewarded."""
        body = wire.question(context, actions, event_id, excluded, deferred)
        return wire.read_slots(self._post("/recommend", {**body, "slots": slots}))

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
        self.rewards([wire.reward_item(event_id, reward, event=event, value=value, reward_id=reward_id, action=action)])

    def rewards(self, items: Sequence[Mapping[str, Any]]) -> int:
        """Report several rewards (objects as the API takes them); returns how many were accepted.

        Raises `InvalidRequest` when the service refused one or more of them: its `accepted` says how many others are
        recorded, and is None where the list as a whole was refused, as too long or too large, and nothing was recorded.
        Raises `UnexpectedAnswer` when the answer does not account for every reward that was sent.
        """
        return wire.read_accepted(self._post("/rewards", wire.rewards_body(items)), len(items))

    def activate(self, event_id: str) -> None:
        """Say that a deferred decision was shown after all."""
        self._post(f"/events/{wire.path_segment(event_id)}/activate", None)

    def _post(self, path: str, body: Any) -> Any:
        content = None if body is None else wire.encode(body)
        headers = None if body is None else wire.JSON_HEADERS
        response: httpx.Response | None = None
        reason = ""
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(RETRY_PAUSE_S * 2 ** (attempt - 1))
            try:
                http = self._http = self._http or self._connect()
                response = http.post(self._path + path, content=content, headers=headers)
            except httpx.RequestError as error:
                response, reason = None, type(error).__name__
                continue
            reason = f"status {response.status_code}"
            if response.status_code not in wire.WORTH_RETRYING:
                break
        return wire.outcome(response, reason, attempt + 1)
