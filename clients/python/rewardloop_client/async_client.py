"""The asynchronous client: the same calls as `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import httpx

from rewardloop_client import wire
from rewardloop_client.forks import begins_anew_when_forked
from rewardloop_client.types import Offer, Recommendation
from rewardloop_client.wire import CONNECTIONS_MAX, RETRIES_DEFAULT, RETRY_PAUSE_S, TIMEOUT_S


class AsyncClient:
    """An asynchronous client of one experiment; `async with` it, or await `close`. Options as for `Client`.

    A process that is forked opens connections of its own, in an event loop of its own.
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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.experiment = experiment
        self._retries = retries
        self._transport = transport
        options = wire.connection_options(base_url, api_key, timeout_s, connections_max)
        self._connect = partial(httpx.AsyncClient, transport=transport, **options)
        self._http: httpx.AsyncClient | None = self._connect()
        self._path = f"/v1/experiments/{experiment}"
        begins_anew_when_forked(self)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()

    def begin_anew(self) -> None:
        """In a forked process: leave the parent's connections alone and open others when they are needed."""
        if self._transport is None:
            self._http = None

    async def recommend(
        self,
        context: Mapping[str, Any],
        actions: Sequence[Offer] | None = None,
        *,
        event_id: str | None = None,
        excluded: Sequence[str] | None = None,
        deferred: bool = False,
    ) -> Recommendation:
        """Ask which action to show; see `Client.recommend`."""
        body = wire.question(context, actions, event_id, excluded, deferred)
        return wire.read_recommendation(await self._post("/recommend", body))

    async def recommend_slots(
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
        return wire.read_slots(await self._post("/recommend", {**body, "slots": slots}))

    async def reward(
        self,
        event_id: str,
        reward: float | None = None,
        *,
        event: str | None = None,
        value: float | None = None,
        reward_id: str | None = None,
        action: str | None = None,
    ) -> None:
        """Report a number or a named event; see `Client.reward`."""
        await self.rewards(
            [wire.reward_item(event_id, reward, event=event, value=value, reward_id=reward_id, action=action)]
        )

    async def rewards(self, items: Sequence[Mapping[str, Any]]) -> int:
        """Report several rewards; see `Client.rewards`."""
        return wire.read_accepted(await self._post("/rewards", wire.rewards_body(items)), len(items))

    async def activate(self, event_id: str) -> None:
        """Say that a deferred decision was shown after all."""
        await self._post(f"/events/{wire.path_segment(event_id)}/activate", None)

    async def _post(self, path: str, body: Any) -> Any:
        content = None if body is None else wire.encode(body)
        headers = None if body is None else wire.JSON_HEADERS
        response: httpx.Response | None = None
        reason = ""
        client = self._http = self._http or self._connect()
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(RETRY_PAUSE_S * 2 ** (attempt - 1))
            try:
                response = await client.post(self._path + path, content=content, headers=headers)
            except httpx.RequestError as error:
                response, reason = None, type(error).__name__
                continue
            reason = f"status {response.status_code}"
            if response.status_code not in wire.WORTH_RETRYING:
                break
        return wire.outcome(response, reason, attempt + 1)
