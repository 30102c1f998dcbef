"""Azure Personalizer's published Python client, unchanged, works against the compatible routes."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandit.events import ActivationEvent, DecisionEvent, RewardEvent
from bandit.keys import create_key, keys_path, list_keys, revoke_key
from bandit.settings import Limits
from serving.api.personalizer import merge_features, parse_rank
from tests.serving.api.support import JSON, free_port, logged, make_experiment, run, served, worker

CONTEXT = [{"timeOfDay": "morning"}, {"device": {"mobile": True, "windows": False}}, {"location": "park"}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    data_dir = tmp_path_factory.mktemp("personalizer")
    make_experiment(data_dir, serving={"seal_interval_s": 0.2})
    make_experiment(data_dir, "other")
    port = free_port()
    with worker(data_dir, port):
        yield f"http://127.0.0.1:{port}", data_dir


def make_client(endpoint: str, key: str = "0" * 32) -> Any:
    from azure.cognitiveservices.personalizer import PersonalizerClient
    from msrest.authentication import CognitiveServicesCredentials

    client = PersonalizerClient(endpoint, CognitiveServicesCredentials(key))
    client.config.retry_policy.policy.total = 0
    return client


def rank_request(**more: Any) -> Any:
    from azure.cognitiveservices.personalizer.models import RankableAction, RankRequest

    actions = [
        RankableAction(id="pasta", features=[{"taste": "salty", "spice": "medium"}, {"nutrition": {"calories": 400}}]),
        RankableAction(id="ice cream", features=[{"taste": "sweet"}]),
        RankableAction(id="juice", features=[{"taste": "sweet"}, {"cold": True}]),
    ]
    return RankRequest(**{"actions": actions, "context_features": CONTEXT} | more)


def sealed_events(data_dir: Path, event_id: str, count: int) -> list[Any]:
    deadline = time.monotonic() + 15
    while True:
        found = [event for event in logged(data_dir) if event.event_id == event_id]
        if len(found) == count:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_rank_reward_and_activate_with_the_published_client(service: tuple[str, Path]) -> None:
    endpoint, data_dir = service
    client = make_client(endpoint)
    request = rank_request(excluded_actions=["juice"], event_id="first", defer_activation=True)
    response = client.rank(rank_request=request)
    assert response.event_id == "first" and response.reward_action_id in ("pasta", "ice cream")
    assert [action.id for action in response.ranking][2] == "juice"  # excluded: stays where it was
    assert response.ranking[0].id == response.reward_action_id
    assert [action.probability for action in response.ranking] == [0.5, 0.5, 0.0]
    assert client.rank(rank_request=request).reward_action_id == response.reward_action_id
    assert client.events.activate(event_id="first") is None
    assert client.events.reward(event_id="first", value=0.75) is None
    decision, activation, reward = sealed_events(data_dir, "first", 3)
    assert isinstance(decision, DecisionEvent) and decision.deferred
    assert decision.context == {
        "timeOfDay": "morning",
        "device": {"mobile": True, "windows": False},
        "location": "park",
    }
    assert decision.actions and decision.actions[0].features == {
        "taste": "salty",
        "spice": "medium",
        "nutrition": {"calories": 400},
    }
    assert isinstance(activation, ActivationEvent)
    assert isinstance(reward, RewardEvent) and reward.reward == 0.75


def test_the_client_may_leave_the_event_id_and_the_context_out(service: tuple[str, Path]) -> None:
    client = make_client(service[0])
    response = client.rank(rank_request=rank_request(context_features=None))
    assert len(response.event_id) == 36
    client.events.reward(event_id=response.event_id, value=1.0)


def test_actions_ranked_or_batched_by_id_have_the_features_of_the_catalogue(tmp_path: Path) -> None:
    pasta = {"id": "pasta", "features": {"taste": "salty"}}
    make_experiment(tmp_path, actions=[pasta, {"id": "juice", "features": {"cold": True}}])

    async def ask() -> None:
        async with served(tmp_path) as (client, _):
            body = {"eventId": "ranked", "actions": [{"id": "pasta", "features": []}, {"id": "tea"}]}
            assert (await client.post("/personalizer/v1.0/rank", json=body)).status_code == 201
            question = {"context": {}, "event_id": "batched", "actions": [{"id": "pasta"}, {"id": "tea"}]}
            batch = {"requests": [question]}
            answer = await client.post("/v1/experiments/default/recommend/batch", json=batch)
            assert "error" not in answer.json()["results"][0]

    run(ask())
    for event_id in ("ranked", "batched"):
        (decision,) = sealed_events(tmp_path, event_id, 1)
        assert [action.features for action in decision.actions] == [{"taste": "salty"}, {}]


def test_errors_arrive_as_the_clients_own_exceptions(service: tuple[str, Path]) -> None:
    from azure.cognitiveservices.personalizer.models import ErrorResponseException
    from msrest.exceptions import HttpOperationError

    client = make_client(service[0])
    with pytest.raises(ErrorResponseException) as nothing_left:
        client.rank(rank_request=rank_request(excluded_actions=["pasta", "ice cream", "juice"]))
    error = nothing_left.value.error.error
    assert nothing_left.value.response.status_code == 400
    assert error.code == "BadRequest" and error.target == "excludedActions" and "no action" in error.message
    with pytest.raises(ErrorResponseException) as twice:
        client.rank(rank_request=rank_request(actions=[*rank_request().actions, *rank_request().actions]))
    assert twice.value.error.error.details[0].target == "actions[3].id"
    client.rank(rank_request=rank_request(event_id="clash"))
    with pytest.raises(ErrorResponseException) as clash:
        client.rank(rank_request=rank_request(event_id="clash", excluded_actions=["juice"]))
    assert clash.value.response.status_code == 409 and clash.value.error.error.code == "Conflict"
    with pytest.raises(HttpOperationError) as too_much:
        client.events.reward(event_id="clash", value=7.0)
    assert too_much.value.response.status_code == 400
    assert "rewards.max" in too_much.value.response.json()["error"]["message"]


def test_hostile_bodies_get_that_apis_error_body(service: tuple[str, Path]) -> None:
    bodies = [b"", b"{", b"[]", b"{}", b'{"actions":[]}', b'{"actions":[{"id":"a","features":[{"x":NaN}]}]}', b"\xff"]
    bodies += [b'{"actions":[{"id":"a"}],"contextFeatures":[{"x":1},{"x":2}]}', b'{"actions":[{"id":"a\\u0000"}]}']
    with httpx.Client(base_url=service[0], trust_env=False) as client:
        for body in bodies:
            response = client.post("/personalizer/v1.0/rank", content=body, headers=JSON)
            assert response.status_code == 400, body
            assert set(response.json()["error"]) >= {"code", "message", "target", "details"}
        response = client.post("/personalizer/v1.0/events/x/reward", content=b'{"value":"1"}', headers=JSON)
        assert response.json()["error"]["target"] == "value"
        response = client.post("/personalizer/v1.0/events/x%0Ay/reward", content=b'{"value":1}', headers=JSON)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "ResourceNotFound")
        assert client.get("/personalizer/v1.0/rank").json()["error"]["target"] == "method"


def test_the_key_chooses_the_experiment_and_wrong_keys_are_refused(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    make_experiment(tmp_path, "other")
    now = datetime.now(UTC)
    _, ranker = create_key(tmp_path, name="app", scopes=["recommend"], experiments=["other"], now=now)
    _, wide = create_key(tmp_path, name="wide", scopes=["recommend", "reward", "read"], now=now)
    body = {"actions": [{"id": "a", "features": []}], "contextFeatures": [{"x": 1}]}

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            url = "/personalizer/v1.0/rank"
            missing = await client.post(url, json=body)
            assert missing.status_code == 401 and missing.json()["error"]["code"] == "Unauthorized"
            assert missing.headers["www-authenticate"].startswith("Bearer")
            for key, status in (("nonsense", 401), (ranker, 201), (wide, 201)):
                response = await client.post(url, json=body, headers={"ocp-apim-subscription-key": key})
                assert response.status_code == status, response.text
            bearer = {"authorization": f"Bearer {ranker}"}
            assert (await client.post(url, json=body, headers=bearer)).status_code == 201
            reward = await client.post(
                "/personalizer/v1.0/events/e/reward", json={"value": 1}, headers={"ocp-apim-subscription-key": ranker}
            )
            assert reward.status_code == 403 and reward.json()["error"]["code"] == "Forbidden"

    run(scenario())
    assert len(logged(tmp_path, "other")) == 2 and len(logged(tmp_path, "default")) == 1


def test_keys_open_what_their_scopes_say_and_close_within_seconds(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=[{"id": "a"}])
    make_experiment(tmp_path, "other", actions=[{"id": "a"}])

    async def scenario() -> None:
        import asyncio

        async with served(tmp_path, allowed_hosts=frozenset({"127.0.0.1"})) as (client, _):
            url = "/v1/experiments/default/recommend"

            async def ask(key: str | None, path: str = url) -> int:
                headers = {"authorization": f"Bearer {key}"} if key else {}
                return (await client.post(path, json={"context": {}}, headers=headers)).status_code

            assert await ask(None) == 200 and await ask("any key is ignored") == 200
            now = datetime.now(UTC)
            scopes = ["recommend", "reward"]
            _, first = create_key(tmp_path, name="app", scopes=scopes, experiments=["default"], now=now)
            _, second = create_key(tmp_path, name="app", scopes=scopes, experiments=["default"], now=now)
            for _ in range(100):
                if await ask(None) == 401:
                    break
                await asyncio.sleep(0.05)
            assert [await ask(key) for key in (None, "x", first, second)] == [401, 401, 200, 200]
            elsewhere = await client.post(
                "/v1/experiments/other/recommend", json={"context": {}}, headers={"authorization": f"Bearer {first}"}
            )
            assert elsewhere.status_code == 403 and "other experiments" in elsewhere.json()["detail"]
            assert (await client.get("/metrics", headers={"authorization": f"Bearer {first}"})).status_code == 403
            assert (await client.get("/livez")).status_code == 200
            other_host = {"authorization": f"Bearer {first}", "host": "bandit.example"}
            assert (await client.post(url, json={"context": {}}, headers=other_host)).status_code == 200
            revoke_key(tmp_path, list_keys(tmp_path)[0].id, now=datetime.now(UTC))
            started = time.monotonic()
            while await ask(first) != 401:
                assert time.monotonic() - started < 5
                await asyncio.sleep(0.05)
            assert await ask(second) == 200

    run(scenario())


def test_while_the_keys_cannot_be_read_those_known_go_on_and_a_worker_that_starts_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_experiment(tmp_path, actions=[{"id": "a"}])
    _, secret = create_key(tmp_path, name="app", scopes=["recommend"], now=datetime.now(UTC))
    content = keys_path(tmp_path).read_bytes()
    keys_path(tmp_path).unlink()
    keys_path(tmp_path).mkdir()

    async def scenario() -> None:
        async with served(tmp_path) as (client, app):

            async def ask(key: str | None) -> httpx.Response:
                headers = {"authorization": f"Bearer {key}"} if key else {}
                return await client.post("/v1/experiments/default/recommend", json={"context": {}}, headers=headers)

            for key in (None, "x", secret):
                refused = await ask(key)
                assert refused.status_code == 503 and refused.headers["retry-after"]
                assert refused.json()["type"].endswith("keys-unreadable") and "keys.json" in refused.json()["detail"]
            assert (await client.get("/livez")).status_code == 200
            ready = await client.get("/readyz")
            assert ready.status_code == 503 and "keys" in ready.json()["reason"]
            keys_path(tmp_path).rmdir()
            keys_path(tmp_path).write_bytes(content)
            async with asyncio.timeout(5):
                while (await ask(secret)).status_code != 200:
                    await asyncio.sleep(0.02)
            assert (await client.get("/readyz")).status_code == 200
            keys_path(tmp_path).write_bytes(content[:-5])
            await app.api.hosting.look()
            await app.api.hosting.look()
            assert [(await ask(key)).status_code for key in (None, "x", secret)] == [401, 401, 200]

    run(scenario())
    told = [record.levelname for record in caplog.records if "API keys" in record.getMessage()]
    assert told == ["ERROR", "WARNING", "ERROR"]


def test_a_key_reads_the_metrics_of_its_own_experiments_only(tmp_path: Path) -> None:
    names = ("default", "other", "third")
    for name in names:
        make_experiment(tmp_path, name)
    reaches: list[list[str] | None] = [None, ["other"], ["default", "third"]]
    keys = [
        create_key(tmp_path, name=f"k{number}", scopes=["read"], experiments=reach, now=datetime.now(UTC))[1]
        for number, reach in enumerate(reaches)
    ]

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            for key, reach in zip(keys, reaches, strict=True):
                told = (await client.get("/metrics", headers={"authorization": f"Bearer {key}"})).text
                assert [name for name in names if f'experiment="{name}"' in told] == (reach or list(names))

    run(scenario())


def test_a_port_that_others_reach_stays_closed_without_keys(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=[{"id": "a"}])

    async def scenario() -> None:
        async with served(tmp_path, closed=True) as (client, _):
            refused = await client.post("/v1/experiments/default/recommend", json={"context": {}})
            assert refused.status_code == 401
            assert (await client.get("/livez")).status_code == 200

    run(scenario())


def test_feature_objects_of_one_name_are_merged_and_clashes_are_refused() -> None:
    assert merge_features([{"a": {"x": 1}}, {"a": {"y": 2}}, {"t": "p"}, {"t": ["q"]}]) == {
        "a": {"x": 1, "y": 2},
        "t": ["p", "q"],
    }
    body = b'{"contextFeatures":[{"a":1},{"a":1}],"actions":[{"id":"x","features":[{"b":true}]}],"future":1}'
    assert parse_rank(body, Limits()).context == {"a": 1}


def test_refusals_name_the_fields_of_that_api(service: tuple[str, Path]) -> None:
    rank = {"actions": [{"id": "a"}, {"id": "b"}]}
    bad = [
        (rank | {"excludedActions": ["a", "b"]}, "excludedActions"),
        (rank | {"excludedActions": ["a", ""]}, "excludedActions[1]"),
        (rank | {"eventId": "x\n"}, "eventId"),
        (rank | {"contextFeatures": [{"age": [1]}]}, "contextFeatures.age"),
        (rank | {"contextFeatures": [{"age": 1}, {"age": 2}]}, "contextFeatures"),
        ({"actions": [{"id": "a"}, {"id": "b", "features": [{"x": 1}, {"x": 2}]}]}, "actions[1].features"),
    ]
    with httpx.Client(base_url=service[0] + "/personalizer/v1.0", trust_env=False) as client:
        told = [(client.post("/rank", json=body), field) for body, field in bad]
        told.append((client.post("/events/e/reward", json={"value": 7}), "value"))
        told.append((client.post(f"/events/{'e' * 300}/activate"), "eventId"))
        told.append((client.post("/events/e%FF/activate"), "eventId"))
        told.append((client.post("/events/e%FF/reward", json={"value": 1}), "eventId"))
        for response, field in told:
            error = response.json()["error"]
            assert (response.status_code, error["target"]) == (400, field)
            assert error["message"].startswith(f"{field}:") and error["details"][0]["target"] == field
        client.post("/rank", json=rank | {"eventId": "once"})
        clash = client.post("/rank", json={"actions": [{"id": "c"}], "eventId": "once"})
        assert (clash.status_code, clash.json()["error"]["target"]) == (409, "eventId")


def test_only_the_root_is_redirected_to_the_page_that_explains(service: tuple[str, Path]) -> None:
    answer = httpx.get(service[0] + "/", trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
    assert httpx.get(service[0] + "/docs/", trust_env=False).status_code == 404


def test_an_address_with_a_slash_at_its_end_is_not_redirected(service: tuple[str, Path]) -> None:
    with httpx.Client(base_url=service[0] + "/personalizer/v1.0", trust_env=False) as client:
        for address in ("/rank/", "/events/e/reward/", "/events/e/activate/"):
            response = client.post(address, json={})
            assert (response.status_code, response.json()["error"]["code"]) == (404, "ResourceNotFound")
            assert "without the slash" in response.json()["error"]["message"]


@pytest.mark.external
def test_the_published_javascript_client_works_unchanged(service: tuple[str, Path], tmp_path: Path) -> None:
    here = Path(__file__).parent / "npm"
    for name in ("package.json", "package-lock.json", "client.cjs"):
        shutil.copy(here / name, tmp_path / name)
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        ["node", "client.cjs", service[0], "0" * 32], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    seen = json.loads(done.stdout)
    assert seen["status"] == 201 and seen["eventId"] == "js-1"
    assert seen["ranking"][1] == {"id": "juice", "probability": 0}
    assert seen["ranking"][0] == {"id": seen["rewardActionId"], "probability": 0.5}
    assert (seen["activated"], seen["rewarded"]) == (204, 204)
    assert seen["error"]["isRestError"] and seen["error"]["status"] == 400
    assert seen["error"]["body"]["error"]["code"] == "BadRequest"
    assert seen["rewardError"] == {"isRestError": True, "status": 400}
    decision, activation, reward = sealed_events(service[1], "js-1", 3)
    assert decision.deferred and activation.event_id == "js-1" and reward.reward == 0.5
