"""The recommender for asynchronous hosts keeps the same promises as the other."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from rewardloop_client import AsyncRecommender, Choice, wire

from tests.clients.conftest import DRIP
from tests.clients.test_recommender import DECISION, Service, deep, fail, logging_that, rewards_seen, taken

SHOWN = Choice("b", "e1", learnable=True)


def test_it_decides_in_time_and_reports_together(server: Any) -> None:
    server.script = [(200, DECISION), taken]

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


def test_what_is_no_list_of_actions_is_told_at_once_and_never_taken_for_an_outage(server: Any) -> None:
    async def host() -> None:
        async with AsyncRecommender(server.url, "shop") as recommender:
            with pytest.raises(TypeError, match=r"^actions"):
                await recommender.recommend({}, "ab", default="a")
            with pytest.raises(TypeError, match=r"^actions"):
                await recommender.recommend_slots({}, "ab", defaults=["a"])
            with pytest.raises(TypeError, match=r"^defaults"):
                await recommender.recommend_slots({}, ["a", "b"], defaults="ab")
            assert recommender.counters.defaults == 0

    asyncio.run(host())
    assert server.seen == []


def test_rewards_are_sent_again_under_the_same_id_and_the_queue_is_bounded(server: Any) -> None:
    server.script = [(503, {}), taken]

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


def test_a_full_queue_lets_go_of_what_waits_and_not_of_what_is_on_its_way(server: Any) -> None:
    server.script, server.delay_s = [taken], 0.3

    async def host() -> AsyncRecommender:
        async with AsyncRecommender(server.url, "shop", rewards_max=1) as recommender:
            recommender.reward(SHOWN, 0.0)
            while not server.seen:
                await asyncio.sleep(0.01)
            recommender.reward(SHOWN, 1.0)
            assert not await recommender.flush(timeout_s=0.01) and await recommender.flush()
        return recommender

    counters = asyncio.run(host()).counters
    assert [reward["reward"] for reward in rewards_seen(server)] == [0.0, 1.0]
    assert (counters.rewards_sent, counters.rewards_dropped) == (2, 0)


def test_a_batch_refused_as_a_whole_goes_in_halves_in_order_and_the_next_ones_are_smaller(server: Any) -> None:
    service = Service(422, items_max=30, poison="e37")
    server.script = [service]

    async def host(recommender: AsyncRecommender, first: int) -> None:
        for number in range(first, first + 100):
            recommender.reward(Choice("a", f"e{number}", learnable=True), 1.0)
        assert await recommender.flush()

    async def both() -> AsyncRecommender:
        async with AsyncRecommender(server.url, "shop") as recommender:
            await host(recommender, 100)
            await host(recommender, 0)
        return recommender

    counters = asyncio.run(both()).counters
    everything = [*range(100, 200), *range(100)]
    assert service.event_ids == [f"e{number}" for number in everything if number != 37]
    assert (counters.rewards_sent, counters.rewards_refused) == (199, 1)
    assert [len(body) for _, body, _ in server.seen[:8]] == [100, 50, 25, 25, 50, 25, 25, 25]


def test_rewards_that_arrive_do_not_shorten_the_pauses_of_a_service_that_is_down(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [(503, {})]

    async def host() -> None:
        async with AsyncRecommender(server.url, "shop") as recommender:
            until = time.monotonic() + 1.2
            while time.monotonic() < until:
                recommender.reward(SHOWN, 1.0)
                await asyncio.sleep(0.001)
            await recommender.close(timeout_s=0.0)

    asyncio.run(host())
    assert 2 <= len(server.seen) <= 6  # after pauses of 0.05, 0.1, 0.2, 0.4 and 0.8 s
    assert len(caplog.records) <= len(server.seen)


def test_an_outage_is_told_once_for_each_pause_with_the_number_of_defaults_and_when_it_is_over(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [(503, {})]

    async def host() -> AsyncRecommender:
        async with AsyncRecommender(server.url, "shop") as recommender:
            until = time.monotonic() + 1.2
            while time.monotonic() < until:
                await recommender.recommend_slots({}, ["a", "b"], defaults=["a", "b"])
            server.script = [(200, DECISION)]
            assert (await recommender.recommend({}, ["a", "b"], default="a")).learnable
        return recommender

    counters = asyncio.run(host()).counters
    told = [record.message for record in caplog.records if record.name == "rewardloop_client"]
    assert told[0].startswith("the default is shown: Unavailable") and told[-1].startswith("decisions are back")
    assert 2 <= len(told) <= 7  # after pauses of 0.05, 0.1, 0.2, 0.4 and 0.8 s
    counts = [int(number) for line in told for number in re.findall(r"\((\d+) since", line)]
    assert 2 + sum(counts) == counters.defaults


def test_slots_and_activations_never_raise_either(server: Any) -> None:
    slots = {"decisions": [DECISION | {"event_id": "e:1"}, DECISION | {"event_id": "e:2"}]}
    server.script = [(200, slots), (200, {"event_id": "e:1"}), (503, {})]

    async def host() -> None:
        async with AsyncRecommender(server.url, "shop") as recommender:
            found = await recommender.recommend_slots({}, ["a", "b"], defaults=["a", "b"], deferred=True)
            assert [choice.event_id for choice in found] == ["e:1", "e:2"]
            assert await recommender.activate(found[0])
            assert not await recommender.activate(found[1])
            instead = await recommender.recommend_slots({}, ["a", "b"], defaults=["a", "b"])
            assert [(choice.action, choice.learnable) for choice in instead] == [("a", False), ("b", False)]
            assert not await recommender.activate(instead[0])
            assert (recommender.counters.decisions, recommender.counters.defaults) == (2, 2)

    asyncio.run(host())


def test_rewards_that_json_cannot_say_or_that_no_loop_can_take_yet_hold_up_nothing(server: Any) -> None:
    server.script = [taken]
    recommender = AsyncRecommender(server.url, "shop")
    for reward in (1.0, float("nan"), deep()):
        recommender.reward(SHOWN, reward)
    asyncio.run(recommender.close())
    assert [item["reward"] for item in rewards_seen(server)] == [1.0]
    assert (recommender.counters.rewards_refused, recommender.counters.rewards_sent) == (2, 1)


def test_a_reward_needs_no_more_than_the_event_id_that_an_application_kept(server: Any) -> None:
    server.script = [taken]
    recommender = AsyncRecommender(server.url, "shop")
    recommender.reward("kept", 1.0)
    with pytest.raises(TypeError, match=r"^choice: must be what `recommend` gave, or the event_id"):
        recommender.reward(7, 1.0)  # type: ignore[arg-type]
    asyncio.run(recommender.close())
    assert [item["event_id"] for item in rewards_seen(server)] == ["kept"]


def test_an_error_that_nobody_foresaw_does_not_end_the_reporting(server: Any) -> None:
    server.script = [(404, {})]

    async def host() -> AsyncRecommender:
        async with AsyncRecommender(server.url, "shop") as recommender:
            for _ in range(5):
                recommender.reward(SHOWN, 1.0)
            while not server.seen:
                await asyncio.sleep(0.01)
            assert not await recommender.flush(0.1)  # all of them still wait
            server.script = [taken]
            assert await recommender.flush(2)
        return recommender

    with logging_that(fail):
        counters = asyncio.run(host()).counters
    assert counters.rewards_sent == 5 and counters.reports_failed >= 1


def test_an_answer_that_drips_holds_up_rewards_no_longer_than_the_timeout(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TIMEOUT_S", 0.3)
    server.script = [(DRIP, {}), taken]

    async def host() -> AsyncRecommender:
        async with AsyncRecommender(server.url, "shop") as recommender:
            recommender.reward(SHOWN, 1.0)
            assert await recommender.flush(1.5)
        return recommender

    counters = asyncio.run(host()).counters
    assert (counters.rewards_sent, counters.reports_failed) == (1, 1)


def test_what_cannot_be_sent_before_the_end_is_counted_as_dropped() -> None:
    async def host() -> AsyncRecommender:
        recommender = AsyncRecommender("http://127.0.0.1:9")
        recommender.reward(SHOWN, 1.0)
        await recommender.close(timeout_s=0.1)
        return recommender

    assert asyncio.run(host()).counters.rewards_dropped == 1


def test_closing_that_is_cancelled_counts_what_is_left_and_leaves_no_connection_open(server: Any) -> None:
    server.script, server.delay_s = [taken], 0.5

    async def host() -> AsyncRecommender:
        recommender = AsyncRecommender(server.url)
        recommender.reward(SHOWN, 1.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await recommender.close()
        return recommender

    recommender = asyncio.run(host())
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_dropped) == (0, 1)
    for client in (recommender._asking, recommender._reporting):
        assert client._http is not None and client._http.is_closed


def test_a_worker_forked_after_the_recommender_was_used_has_connections_and_a_queue_of_its_own(server: Any) -> None:
    server.script = [taken]
    program = (
        "import asyncio, os\n"
        "from rewardloop_client import AsyncClient, AsyncRecommender, Choice\n"
        f"plain, recommender = AsyncClient({server.url!r}), AsyncRecommender({server.url!r}, timeout_s=5)\n"
        "async def work(who):\n"
        "    await plain.recommend({'who': who}, ['a', 'b'])\n"
        "    assert (await recommender.recommend({'who': who}, ['a', 'b'], default='a')).learnable\n"
        "    recommender.reward(Choice('a', who, True), 1.0)\n"
        "async def end(count):\n"
        "    await recommender.close()\n"
        "    await plain.close()\n"
        "    assert recommender.counters.rewards_sent == count, recommender.counters\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.run_until_complete(work('before'))\n"
        "child = os.fork()\n"
        "loop = loop if child else asyncio.new_event_loop()\n"
        "loop.run_until_complete(work('parent' if child else 'child'))\n"
        "loop.run_until_complete(end(2 if child else 1))\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert sorted(item["event_id"] for item in rewards_seen(server)) == ["before", "child", "parent"]
    # asking, asking plainly and reporting: three connections for each of the two processes
    assert len(server.connections) == 6
