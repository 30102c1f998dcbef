"""Whatever a client sends gets an answer that names the field: never a 500, never an echo."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from fastapi import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.api.http import DISCARDED_BYTES_MAX
from serving.api.problems import TITLES
from tests.serving.api.support import (
    JSON,
    SEVEN,
    decisions,
    make_experiment,
    run,
    served,
    url_as_older_starlette_reads_it,
)

MARKER = "zzyzx"
"""A string that must never come back."""

BAD: list[tuple[bytes, int, str]] = [
    (b"", 400, "body"),
    (b"   ", 400, "body"),
    (b"{", 400, "body"),
    (b"\xff\xfe", 400, "body"),
    (b'{"context":{}}trailing', 400, "body"),
    (b"[" * 100_000, 422, "body"),
    (b'{"context":' + b'{"a":' * 30_000, 400, "body"),
    (b"[]", 422, "body"),
    (b"5", 422, "body"),
    (b'"zzyzx"', 422, "body"),
    (b"null", 422, "body"),
    (b"NaN", 422, "body"),
    (b"{}", 422, "context"),
    (b'{"context":null}', 422, "context"),
    (b'{"context":[]}', 422, "context"),
    (b'{"context":"zzyzx"}', 422, "context"),
    (b'{"context":{},"unknown":1}', 422, "unknown"),
    (b'{"context":{"age":NaN}}', 422, "context.age"),
    (b'{"context":{"age":Infinity}}', 422, "context.age"),
    (b'{"context":{"age":-Infinity}}', 422, "context.age"),
    (b'{"context":{"age":1e400}}', 422, "context.age"),
    (b'{"context":{"age":' + b"9" * 400 + b"}}", 422, "context.age"),
    (b'{"context":{"age":' + b"9" * 5000 + b"}}", 422, "context"),
    (b'{"context":{"t":"\\ud800zzyzx"}}', 422, "context.t"),
    (b'{"context":{"t":"\\u0000zzyzx"}}', 422, "context.t"),
    (b'{"context":{"zzyzx\\ud800":1}}', 422, "context.(member 1)"),
    (b'{"context":{"zzyzx\\u0007":1}}', 422, "context.(member 1)"),
    (b'{"context":{"zzyzx\\n":1}}', 422, "context.(member 1)"),
    (b'{"context":{"":1}}', 422, "context.(member 1)"),
    (b'{"context":{"' + b"n" * 257 + b'":1}}', 422, "context.(member 1)"),
    (b'{"context":{"t":"' + b"n" * 1025 + b'"}}', 422, "context.t"),
    (b'{"context":{"t":[1]}}', 422, "context.t"),
    (b'{"context":{"t":[["x"]]}}', 422, "context.t"),
    (b'{"context":{"t":[null]}}', 422, "context.t"),
    (b'{"context":{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":{"i":1}}}}}}}}}}', 422, "context.a.b.c.d.e.f.g.h"),
    (json.dumps({"context": {f"f{n}": n for n in range(1001)}}).encode(), 422, "context"),
    (json.dumps({"context": {"many": ["x"] * 1001}}).encode(), 422, "context"),
    (b'{"context":{},"actions":[]}', 422, "actions"),
    (b'{"context":{},"actions":{}}', 422, "actions"),
    (b'{"context":{},"actions":["zzyzx"]}', 422, "actions[0]"),
    (b'{"context":{},"actions":[{"id":1}]}', 422, "actions[0].id"),
    (b'{"context":{},"actions":[{}]}', 422, "actions[0].id"),
    (b'{"context":{},"actions":[{"id":""}]}', 422, "actions[0].id"),
    (b'{"context":{},"actions":[{"id":"a","feature":{"price":1}}]}', 422, "actions[0].feature"),
    (b'{"context":{},"actions":[{"id":"a"},{"id":"b\\u001fzzyzx"}]}', 422, "actions[1].id"),
    (b'{"context":{},"actions":[{"id":"a"},{"id":"a"}]}', 422, "actions[1].id"),
    (b'{"context":{},"actions":[{"id":"a","features":{"x":NaN}}]}', 422, "actions[0].features.x"),
    (b'{"context":{},"actions":[{"id":"a","features":[1]}]}', 422, "actions[0].features"),
    (json.dumps({"context": {}, "actions": [{"id": str(n)} for n in range(1001)]}).encode(), 422, "actions"),
    (b'{"context":{},"excluded":"a0"}', 422, "excluded"),
    (b'{"context":{},"excluded":["a0","a1","a2","a3","a4","a5","a6"]}', 422, "excluded"),
    (b'{"context":{},"event_id":""}', 422, "event_id"),
    (b'{"context":{},"event_id":7}', 422, "event_id"),
    (b'{"context":{},"event_id":"zzyzx\\n"}', 422, "event_id"),
    (b'{"context":{},"slots":0}', 422, "slots"),
    (b'{"context":{},"slots":11}', 422, "slots"),
    (b'{"context":{},"slots":8}', 422, "slots"),
    (b'{"context":{},"slots":1.5}', 422, "slots"),
    (b'{"context":{},"deferred":"yes"}', 422, "deferred"),
]

BAD_REWARDS: list[tuple[bytes, int, str]] = [
    (b"", 400, "body"),
    (b"[]", 422, "body"),
    (b"{}", 422, "event_id"),
    (b'{"event_id":"e"}', 422, "reward"),
    (b'{"event_id":"e","reward":NaN}', 422, "reward"),
    (b'{"event_id":"e","reward":1e400}', 422, "reward"),
    (b'{"event_id":"e","reward":"1"}', 422, "reward"),
    (b'{"event_id":"e","reward":2}', 422, "reward"),
    (b'{"event_id":"e","reward":-2}', 422, "reward"),
    (b'{"event_id":"e","event":"zzyzx"}', 422, "event"),
    (b'{"event_id":"zz\\u0000yzx","reward":1}', 422, "event_id"),
    (b'{"event_id":"e","reward":1,"reward_id":""}', 422, "reward_id"),
    (b'{"event_id":"e","reward":1,"action":"\\ud800"}', 422, "action"),
    (b'[{"event_id":"e","reward":5}]', 422, "reward"),
]


def check_problem(response: httpx.Response, status: int, field: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status and body["type"].rpartition(":")[2] in TITLES
    assert body["title"] and body["detail"]
    assert body["errors"][0]["field"].startswith(field), body
    assert body["errors"][0]["problem"]
    assert MARKER not in response.text


def test_every_bad_question_is_refused_by_the_name_of_its_field(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            for body, status, field in BAD:
                response = await client.post("/v1/experiments/default/recommend", content=body, headers=JSON)
                check_problem(response, status, field)
            for body, status, field in BAD_REWARDS:
                response = await client.post("/v1/experiments/default/rewards", content=body, headers=JSON)
                check_problem(response, status, field)

    run(scenario())


def test_every_event_id_that_an_answer_gives_is_accepted_back(tmp_path: Path) -> None:
    for name, length in (("default", 256), ("short", 10)):
        make_experiment(tmp_path, name, actions=SEVEN, limits={"name_length_max": length})

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            for name, fitting in (("default", "e" * 254), ("default", None), ("short", "e" * 8), ("short", None)):
                url = f"/v1/experiments/{name}"
                question = {"context": {}, "slots": 2} | ({"event_id": fitting} if fitting else {})
                answer = await client.post(f"{url}/recommend", json=question)
                for decision in answer.json()["decisions"]:
                    reward = {"event_id": decision["event_id"], "reward": 1}
                    assert (await client.post(f"{url}/rewards", json=reward)).json()["accepted"] == 1
                    activated = await client.post(f"{url}/events/{decision['event_id']}/activate")
                    assert activated.status_code == 200
                if fitting:
                    longer = question | {"event_id": fitting + "e"}
                    check_problem(await client.post(f"{url}/recommend", json=longer), 422, "event_id")
                    alone = await client.post(f"{url}/recommend", json=longer | {"slots": 1})
                    assert alone.status_code == 200

    run(scenario())


@pytest.mark.parametrize(
    "name",
    ["a b", "a|b", "a:b", "a'b\"c", "é", "日本語", "👨‍👩‍👧", "a\u00a0b", "=+-@", "</script>", "%", "\\", "a" * 256],
)
def test_names_may_hold_anything_that_can_be_printed(tmp_path: Path, name: str) -> None:
    make_experiment(tmp_path)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            question = {"context": {name: 1, "t": name, "s": [name]}, "actions": [{"id": name, "features": {name: 1}}]}
            response = await client.post("/v1/experiments/default/recommend", json=question | {"event_id": name})
            assert response.status_code == 200, response.text
            assert response.json()["action"] == name and response.json()["event_id"] == name

    run(scenario())


def test_what_a_question_may_leave_out_it_may_also_send_as_null(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    left_out = {"context": {}, "event_id": "e"}

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            first = await client.post("/v1/experiments/default/recommend", json=left_out)
            for name in ("actions", "excluded", "slots"):
                again = await client.post("/v1/experiments/default/recommend", json={**left_out, name: None})
                assert (again.status_code, again.json()) == (200, first.json())

    run(scenario())


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({"context": 5}, "context", "must be of type object, not integer"),
        ({"context": {}, "event_id": 5}, "event_id", "must be of type string | null, not integer"),
        ({"context": {}, "excluded": "a0"}, "excluded", "must be of type array | null, not string"),
        ({"context": {}, "slots": "2"}, "slots", "must be of type integer | null, not string"),
        ({"context": {}, "deferred": 0.5}, "deferred", "must be of type boolean, not number"),
    ],
)
def test_types_are_named_as_json_names_them(tmp_path: Path, body: dict[str, object], field: str, problem: str) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            response = await client.post("/v1/experiments/default/recommend", json=body)
            assert response.json()["errors"] == [{"field": field, "problem": problem}]

    run(scenario())


@pytest.mark.parametrize(
    ("path", "body", "field", "known"),
    [
        ("recommend", {"context": {}, "slot": 2}, "slot", "context, actions, event_id, excluded, slots, deferred"),
        ("recommend", {"context": {}, "actions": [{"id": "a", "feature": {}}]}, "actions[0].feature", "id, features"),
        ("rewards", {"event_id": "e", "score": 1}, "score", "event_id, reward, event, value, reward_id, action"),
        ("recommend/batch", {"request": []}, "request", "requests"),
    ],
)
def test_an_unknown_field_is_refused_with_those_there_are(
    tmp_path: Path, path: str, body: dict[str, object], field: str, known: str
) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            response = await client.post(f"/v1/experiments/default/{path}", json=body)
            assert response.json()["errors"] == [{"field": field, "problem": "is not known here", "limit": known}]

    run(scenario())


@pytest.mark.parametrize("name", ["x - at `$.actions[0].y", "x - at `$.y`", "x` - at `$", "`", "x - at `$[0].y"])
def test_an_unknown_field_may_be_named_as_a_decoder_names_places(tmp_path: Path, name: str) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            for path, body in (("recommend", {"context": {}}), ("rewards", {"event_id": "e"}), ("recommend/batch", {})):
                response = await client.post(f"/v1/experiments/default/{path}", json={**body, name: 1})
                [error] = response.json()["errors"]
                assert error["problem"] == "is not known here" and name not in response.text

    run(scenario())


def test_a_text_may_hold_line_breaks(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            response = await client.post("/v1/experiments/default/recommend", json={"context": {"t": "a\nb\tc\r\n"}})
            assert response.status_code == 200

    run(scenario())


def test_what_is_not_a_request_is_refused_in_the_same_shape(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path, allowed_hosts=frozenset({"localhost", "127.0.0.1", "[::1]"})) as (client, _):
            url = "/v1/experiments/default/recommend"
            good = b'{"context":{}}'
            cases = [
                (await client.post("/v1/experiments/none/recommend", content=good, headers=JSON), 404),
                (await client.post("/v1/experiments/..%2f/recommend", content=good, headers=JSON), 404),
                (await client.post("/nowhere", content=good, headers=JSON), 404),
                (await client.get(url), 405),
                (await client.post(url, content=good), 415),
                (await client.post(url, content=good, headers={"content-type": "text/plain"}), 415),
                (await client.post(url, content=good, headers=JSON | {"host": "evil.example"}), 421),
                (await client.get("/livez", headers={"host": "evil.example"}), 421),
                (await client.post(url, content=b" " * 300_000 + good, headers=JSON), 413),
            ]
            for response, status in cases:
                assert response.status_code == status, response.text
                assert response.headers["content-type"] == "application/problem+json"
                assert response.json()["status"] == status
            two = [*JSON.items(), ("host", "evil.example"), ("host", "localhost")]
            assert (await client.post(url, content=good, headers=two)).status_code == 421
            assert (await client.head("/livez")).status_code == 200
            for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]", "[::1]:8000"):
                response = await client.post(url, content=good, headers=JSON | {"host": host})
                assert response.status_code == 200
            charset = {"content-type": "Application/JSON; charset=UTF-8"}
            assert (await client.post(url, content=good, headers=charset)).status_code == 200

    run(scenario())


def test_an_address_with_a_slash_at_its_end_says_which_one_is_meant(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            for name in ("recommend", "recommend/batch", "rewards", "events/e/activate"):
                response = await client.post(f"/v1/experiments/default/{name}/", json={"context": {}})
                check_problem(response, 404, "path")
                assert "without the slash" in response.json()["detail"]
            check_problem(await client.get("/readyz//"), 404, "path")
            nowhere = await client.post("/v1/experiments/default/nowhere/", json={})
            check_problem(nowhere, 404, "path")
            assert "slash" not in nowhere.json()["detail"]

    run(scenario())


def test_no_host_header_makes_one_address_pass_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Request, "url", property(url_as_older_starlette_reads_it))
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            response = await client.post("/nowhere/", headers={"host": "x/personalizer/?"})
            check_problem(response, 404, "path")
            response = await client.get("/nowhere", headers={"host": "x/readyz/?"})
            assert "slash" not in response.json()["detail"]

    run(scenario())


def test_an_event_id_in_an_address_must_be_utf_8(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            for ident in ("%FF", "e%C3", "%ED%A0%80", "a%2F%FE"):
                response = await client.post(f"/v1/experiments/default/events/{ident}/activate")
                check_problem(response, 422, "event_id")
            for ident in ("%EF%BF%BD", "%C3%A9", "%25FF"):  # what was meant may be anything, this character too
                assert (await client.post(f"/v1/experiments/default/events/{ident}/activate")).status_code == 200

    run(scenario())


def test_of_a_name_that_an_object_holds_twice_the_last_one_counts(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    body = b'{"context":{"x":1,"x":2},"event_id":"no","event_id":"yes","actions":[{"id":"b","id":"a"}]}'

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            for _ in range(2):  # the second time the action is known already
                response = await client.post("/v1/experiments/default/recommend", content=body, headers=JSON)
                assert (response.json()["event_id"], response.json()["action"]) == ("yes", "a")

    run(scenario())
    assert decisions(tmp_path)[0].context == {"x": 2}


def test_a_body_without_a_declared_length_is_counted_while_it_is_read(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN, limits={"body_bytes_max": 2048})

    async def scenario() -> None:
        async with served(tmp_path) as (_, app):
            given: list[int] = []

            async def receive() -> dict[str, object]:
                given.append(1)
                return {"type": "http.request", "body": b" " * 1000, "more_body": True}

            sent: list[dict[str, object]] = []

            async def send(message: dict[str, object]) -> None:
                sent.append(message)

            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v1/experiments/default/recommend",
                "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
            }
            await app(scope, receive, send)  # type: ignore[arg-type]
            assert sent[0]["status"] == 413 and len(given) <= 4 + DISCARDED_BYTES_MAX // 1000
            assert b"limits.body_bytes_max = 2048" in sent[1]["body"]  # type: ignore[operator]

    run(scenario())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=6), children, max_size=3),
    max_leaves=12,
)
nearly = st.fixed_dictionaries(
    {},
    optional={
        "context": anything,
        "actions": st.lists(st.fixed_dictionaries({}, optional={"id": anything, "features": anything}), max_size=3)
        | anything,
        "event_id": anything,
        "excluded": anything,
        "slots": anything,
        "deferred": anything,
        "reward": anything,
        "event": anything,
        "reward_id": anything,
    },
)


def test_no_generated_body_makes_the_server_fail(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            loop_bodies: list[bytes] = []

            @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
            @given(nearly.map(json.dumps).map(str.encode) | anything.map(json.dumps).map(str.encode) | st.binary())
            def collect(body: bytes) -> None:
                loop_bodies.append(body)

            collect()
            for body in loop_bodies:
                for route in ("recommend", "rewards", "recommend/batch"):
                    response = await client.post(f"/v1/experiments/default/{route}", content=body, headers=JSON)
                    assert response.status_code in (200, 400, 409, 422), (body, response.text)
                    if response.status_code != 200:
                        assert response.json()["status"] == response.status_code

    run(scenario())
