"""The asynchronous client says and hears the same as the synchronous one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rewardloop_client import AsyncClient, Client, Conflict, Unavailable, UnexpectedAnswer

DECISION = {"event_id": "e1", "action": "b", "probability": 0.75, "model_id": "m1", "ranking": []}


def test_both_clients_send_the_same_and_read_the_same(server: Any) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(server.url, "shop", api_key="k") as client:
            server.script = [(200, DECISION)]
            choice = await client.recommend({"x": 1}, ["a", "b"], event_id="e1", excluded=["c"], deferred=True)
            server.script = [(200, {"decisions": [DECISION]})]
            slots = await client.recommend_slots({}, 1, event_id="e2")
            server.script = [(200, {"accepted": 1, "errors": []})]
            await client.reward("e1", 1.0, reward_id="r")
            await client.activate("a/b ?")
            return [choice, slots]

    there = asyncio.run(ask())
    sent, server.seen = server.seen, []
    with Client(server.url, "shop", api_key="k") as client:
        server.script = [(200, DECISION)]
        here = [client.recommend({"x": 1}, ["a", "b"], event_id="e1", excluded=["c"], deferred=True)]
        server.script = [(200, {"decisions": [DECISION]})]
        here.append(client.recommend_slots({}, 1, event_id="e2"))
        server.script = [(200, {"accepted": 1, "errors": []})]
        client.reward("e1", 1.0, reward_id="r")
        client.activate("a/b ?")
    assert here == there
    assert [(path, body) for path, body, _ in sent] == [(path, body) for path, body, _ in server.seen]
    assert sent[-1][0] == "/v1/experiments/shop/events/a%2Fb%20%3F/activate"


def test_it_refuses_alike_what_is_no_list_of_actions(server: Any) -> None:
    async def ask() -> None:
        async with AsyncClient(server.url, "shop") as client:
            for actions in ("sport", [7]):
                with pytest.raises(TypeError, match=r"^actions"):
                    await client.recommend({}, actions)  # type: ignore[arg-type]
                with pytest.raises(TypeError, match=r"^actions"):
                    await client.recommend_slots({}, 2, actions)  # type: ignore[arg-type]
            server.script = [(200, DECISION)]
            await client.recommend({}, [{"id": "a", "features": {"price": 3}}])

    asyncio.run(ask())
    assert [body["actions"] for _, body, _ in server.seen] == [[{"id": "a", "features": {"price": 3}}]]


def test_it_retries_and_raises_alike(server: Any) -> None:
    async def ask(script: list[tuple[int, Any]]) -> Any:
        server.script = script
        async with AsyncClient(server.url, timeout_s=1.0) as client:
            return await client.recommend({})

    assert asyncio.run(ask([(503, {}), (200, DECISION)])).action == "b"
    with pytest.raises(Conflict):
        asyncio.run(ask([(409, {"title": "no"})]))
    with pytest.raises(Unavailable):
        asyncio.run(ask([(503, {})]))


def test_a_reward_that_the_answer_does_not_account_for_is_not_said_to_be_taken(server: Any) -> None:
    server.script = [(200, {"accepted": 0, "errors": []})]

    async def report() -> None:
        async with AsyncClient(server.url) as client:
            await client.reward("e1", 1.0)

    with pytest.raises(UnexpectedAnswer):
        asyncio.run(report())
