"""What each address takes and answers: batches, rewards, activations, and the same question twice at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from bandit.events import ActivationEvent, RewardEvent
from tests.serving.api.support import SEVEN, decisions, logged, make_experiment, run, served

QUESTION = {"context": {"x": 0.4, "device": "desk"}}
URL = "/v1/experiments/default/recommend"


def test_a_batch_is_judged_one_by_one_and_answered_in_order(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            requests = [QUESTION | {"event_id": f"e{n}"} for n in range(5)] + [{"context": 3}, QUESTION | {"slots": 2}]
            requests += [QUESTION | {"event_id": "e0"}, QUESTION | {"event_id": "e1", "deferred": True}]
            response = await client.post(f"{URL}/batch", json={"requests": requests})
            assert response.status_code == 200
            results = response.json()["results"]
            assert [result["event_id"] for result in results[:5]] == [f"e{n}" for n in range(5)]
            assert results[5]["error"]["errors"][0]["field"] == "context"
            assert len(results[6]["decisions"]) == 2
            assert results[7] == results[0]
            assert results[8]["error"]["status"] == 409
            lines = b'{"context":{}}\n\nnonsense\n{"context":{"x":1}}\n'
            ndjson = await client.post(f"{URL}/batch", content=lines, headers={"content-type": "application/x-ndjson"})
            first, second, third = ndjson.text.splitlines()
            assert ndjson.headers["content-type"] == "application/x-ndjson"
            assert '"error"' in second and '"action"' in first and '"action"' in third
            too_many = await client.post(f"{URL}/batch", json={"requests": [QUESTION] * 1001})
            assert too_many.status_code == 422 and "limits.batch_items_max" in too_many.text

    run(scenario())
    assert len(decisions(tmp_path)) == 9


def test_rewards_come_one_by_one_in_lists_and_in_lines(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN, rewards={"events": {"click": {"value": 0.5}}})

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            url = "/v1/experiments/default/rewards"
            one = await client.post(
                url, json={"event_id": "never decided", "reward": 1, "reward_id": "r", "action": "a"}
            )
            assert (one.status_code, one.json()) == (200, {"accepted": 1, "errors": []})
            some = await client.post(url, json=[{"event_id": "e", "event": "click"}, {"event_id": "e", "reward": 9}, 4])
            assert some.status_code == 200 and some.json()["accepted"] == 1
            assert [error["index"] for error in some.json()["errors"]] == [1, 2]
            assert some.json()["errors"][0]["limit"] == "rewards.max = 1"
            lines = b'{"event_id":"e","reward":1}\n{"event_id":"e","reward":NaN}\n{"event_id":"f","reward":0}\n'
            many = await client.post(url, content=lines, headers={"content-type": "application/x-ndjson"})
            assert many.json()["accepted"] == 2 and many.json()["errors"][0]["index"] == 1
            none = await client.post(url, json=[{"event_id": "e", "reward": 9}])
            assert none.status_code == 422 and none.json()["accepted"] == 0

    run(scenario())
    rewards = [event for event in logged(tmp_path) if isinstance(event, RewardEvent)]
    assert [(event.event_id, event.reward) for event in rewards] == [
        ("never decided", 1.0),
        ("e", 0.5),
        ("e", 1.0),
        ("f", 0.0),
    ]
    assert (rewards[0].reward_id, rewards[0].action, rewards[1].event) == ("r", "a", "click")


def test_activation_needs_neither_body_nor_content_type(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            await client.post(URL, json=QUESTION | {"event_id": "a/b:1", "deferred": True})
            done = await client.post("/v1/experiments/default/events/a%2Fb%3A1/activate")
            assert done.status_code == 200 and done.json() == {"event_id": "a/b:1"}
            again = await client.post("/v1/experiments/default/events/x/activate", json={})
            assert again.status_code == 200
            refused = await client.post("/v1/experiments/default/events/x/activate", content=b"x")
            assert refused.status_code == 415

    run(scenario())
    decision, activation, _ = logged(tmp_path)
    assert decision.deferred and isinstance(activation, ActivationEvent)  # type: ignore[union-attr]
    assert activation.event_id == decision.event_id == "a/b:1"


def test_a_compressed_body_is_refused_at_every_address(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    base, rank = "/v1/experiments/default", "/personalizer/v1.0"

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            headers = {"content-type": "application/json", "content-encoding": "gzip"}
            for path in ("recommend", "recommend/batch", "rewards", "events/e/activate"):
                response = await client.post(f"{base}/{path}", content=b"{}", headers=headers)
                assert response.status_code == 415 and "compression" in response.json()["detail"], path
            for path in ("rank", "events/e/reward", "events/e/activate"):
                response = await client.post(f"{rank}/{path}", content=b"{}", headers=headers)
                assert response.status_code == 415, path
                assert response.json()["error"]["code"] == "UnsupportedMediaType"

    run(scenario())


def test_two_equal_questions_at_once_are_one_decision(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            question = QUESTION | {"event_id": "same"}
            responses = await asyncio.gather(*[client.post(URL, json=question) for _ in range(20)])
            assert {response.status_code for response in responses} == {200}
            assert len({response.text for response in responses}) == 1

    run(scenario())
    assert len(decisions(tmp_path)) == 1


@pytest.mark.parametrize("plain_first", [True, False])
def test_a_request_that_is_called_like_a_slot_of_another_is_refused_whichever_comes_second(
    tmp_path: Path, plain_first: bool
) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    asked = [QUESTION | {"event_id": "s:1"}, QUESTION | {"event_id": "s", "slots": 2}]
    asked = asked if plain_first else asked[::-1]

    async def ask() -> list[httpx.Response]:
        async with served(tmp_path) as (client, _):
            return [await client.post(URL, json=body) for body in (*asked, asked[0])]

    first, second, again = run(ask())
    assert (first.status_code, second.status_code) == (200, 409)
    assert again.content == first.content
    assert len(decisions(tmp_path)) == (1 if plain_first else 2)
