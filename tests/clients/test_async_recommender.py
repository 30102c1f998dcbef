"""The recommender for asynchronous hosts keeps the same promises as the other."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest
from rewardloop_client import AsyncRecommender, Choice

from tests.clients.test_recommender import DECISION, TAKEN, rewards_seen

SHOWN = Choice("b", "e1", learnable=True)


def test_it_decides_in_time_and_reports_together(server: Any) -> None:
    server.script = [(200, DECISION), (200, {"accepted": 2, "errors": []})]

    async def host() -> AsyncRecommender:
        async with AsyncRecommender(server.url, "shop") as recommender:
            choice = await recommender.recommend({"x": 1}, ["a", "b"], default="a")
            assert (choice.action, choice.learnable, choice.probability) == ("b", True, 0.75)
            recommender.reward(choice, 1.0)
            recommender.reward(choice, 0.5)
            recommender.reward(Choice("a", "e2", learnable=False), 1.0)
        return recommender

    recommender = asyncio.run(host())
    assert [item["reward"] for item in rewards_seen(server)] == [1.0, 0.5]
    assert len({item["reward_id"] for item in rewards_seen(server)}) == 2
    assert (recommender.counters.decisions, recommender.counters.rewards_sent) == (1, 2)


@pytest.mark.parametrize("context", [{"x": 1}, {"x": object()}, None])
def test_a_service_that_is_down_or_hangs_costs_no_more_than_the_timeout(context: Any) -> None:
    async def host(url: str) -> None:
        async with AsyncRecommender(url, timeout_s=0.1) as recommender:
            started = time.perf_counter()
            choice = await recommender.recommend(context, ["a"], default="a")
            assert choice.action == "a" and not choice.learnable and recommender.counters.defaults == 1
            assert time.perf_counter() - started < 0.1 + 0.25  # the margin is for a busy machine

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        for url in (f"http://127.0.0.1:{silent.getsockname()[1]}", "http://127.0.0.1:9"):
            asyncio.run(host(url))


def test_rewards_are_sent_again_under_the_same_id_and_the_queue_is_bounded(server: Any) -> None:
    server.script = [(503, {}), (200, TAKEN)]

    async def host() -> AsyncRecommender:
        async with AsyncRecommender(server.url, "shop", rewards_max=1) as recommender:
            recommender.reward(SHOWN, 0.0)
            recommender.reward(SHOWN, 1.0)
            assert await recommender.flush()
        recommender.reward(SHOWN, 1.0)
        return recommender

    recommender = asyncio.run(host())
    first, again = rewards_seen(server)
    assert first == again and first["reward"] == 1.0
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_dropped) == (1, 2)


def test_what_cannot_be_sent_before_the_end_is_counted_as_dropped() -> None:
    async def host() -> AsyncRecommender:
        recommender = AsyncRecommender("http://127.0.0.1:9")
        recommender.reward(SHOWN, 1.0)
        await recommender.close(timeout_s=0.1)
        return recommender

    assert asyncio.run(host()).counters.rewards_dropped == 1
