"""What the OpenAPI document says is what the service does."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit.settings import Limits
from serving.api.docs_page import WIDTH, addressed, render_docs
from serving.api.openapi import document
from tests.serving.api.support import make_experiment, run, served

GENERATED = int(os.environ.get("GENERATED_REQUESTS", "200"))


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        said = {key: value for key, value in schema.items() if key != "$ref"}
        schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]] | said
    return schema


def matches(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value fits a schema: the part of JSON Schema that the document uses."""
    schema = resolve(schema)
    if "anyOf" in schema:
        return any(matches(value, option) for option in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return bool(value == schema["const"])
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    found = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
        type(None): "null",
    }[type(value)]
    if kinds and found not in kinds and not (found == "integer" and "number" in kinds):
        return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        if not set(schema.get("required", [])) <= set(value):
            return False
        extra = schema.get("additionalProperties", {})
        for name, below in value.items():
            where = properties.get(name, extra)
            if where is False or not matches(below, where):
                return False
    if isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", 10**9)
        return low <= len(value) <= high and all(matches(entry, schema.get("items", {})) for entry in value)
    if isinstance(value, str):
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True


def strategy(schema: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that fit a schema."""
    schema = resolve(schema)
    if "anyOf" in schema:
        options = schema["anyOf"] if depth < 4 else [option for option in schema["anyOf"] if "$ref" not in option]
        return st.one_of([strategy(option, depth + 1) for option in options])
    kinds = schema.get("type", "null")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return st.one_of([_of_kind(kind, schema, depth) for kind in kinds])


def _of_kind(kind: str, schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if kind == "object":
        properties = {name: strategy(below, depth + 1) for name, below in schema.get("properties", {}).items()}
        required = {name: properties.pop(name) for name in schema.get("required", [])}
        if properties or required:
            return st.fixed_dictionaries(required, optional=properties)
        return st.dictionaries(_name(), strategy(schema["additionalProperties"], depth + 1), max_size=3)
    if kind == "array":
        return st.lists(strategy(schema["items"], depth + 1), min_size=schema.get("minItems", 0), max_size=4)
    return {
        "string": st.text(min_size=schema.get("minLength", 0), max_size=min(20, schema.get("maxLength", 20))),
        "integer": st.integers(schema.get("minimum"), schema.get("maximum")),
        "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
        "boolean": st.booleans(),
        "null": st.none(),
    }[kind]


def _name() -> st.SearchStrategy[str]:
    return st.text(min_size=1, max_size=8)


def test_every_address_is_described_and_every_description_has_an_address(tmp_path: Path) -> None:
    make_experiment(tmp_path)

    async def scenario() -> None:
        async with served(tmp_path) as (client, app):
            routes = {
                (re.sub(r":path\}", "}", route.path), method.lower())
                for route in app.fastapi.routes
                if isinstance(route, APIRoute) and route.include_in_schema
                for method in route.methods - {"HEAD"}
            }
            description = (await client.get("/openapi.json")).json()
            described = {(path, method) for path, methods in description["paths"].items() for method in methods}
            assert routes == described
            assert description == json.loads(json.dumps(document()))

    run(scenario())


def test_the_page_needs_no_network_and_names_every_field(tmp_path: Path) -> None:
    make_experiment(tmp_path)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            page = await client.get("/docs")
            assert page.headers["content-type"].startswith("text/html")
            assert "<script" not in page.text and "cdn" not in page.text.lower()
            assert not re.findall(r'(?:src|href)="https?:', page.text)
            for schema in document()["components"]["schemas"].values():
                for field in schema.get("properties", {}):
                    assert f"<code>{field}</code>" in page.text
            for limit in ("body_bytes_max", "batch_items_max", "batch_bytes_max", "features_max", "slots_max"):
                assert f"limits.{limit}" in page.text

    run(scenario())


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1:25001", "http://127.0.0.1:25001"),
        ("localhost", "http://localhost"),
        ("[::1]:25001", "http://[::1]:25001"),
        ("<script>", "http://127.0.0.1:9"),
        ("a; rm -rf ~", "http://127.0.0.1:9"),
        ("$(id):80", "http://127.0.0.1:9"),
        (None, "http://127.0.0.1:9"),
    ],
)
def test_commands_of_the_page_ask_the_address_that_the_page_was_asked_at(host: str | None, address: str) -> None:
    page = addressed(render_docs(document()), "http", host, ("127.0.0.1", 9))
    asked = re.findall(r"curl -s -X \w+ (\S+?)/(?:v1|personalizer)/", page)
    assert len(asked) >= 5 and set(asked) == {address}


def test_commands_of_the_page_are_the_examples_in_lines_that_can_be_read_at_once(tmp_path: Path) -> None:
    make_experiment(tmp_path)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            page = await client.get("/docs", headers={"host": "localhost:25001"})
            assert "curl -s -X POST http://localhost:25001/v1/experiments/default/recommend" in page.text
            found = [html.unescape(body) for body in re.findall(r"-d &#x27;(.*?)&#x27;</code>", page.text, re.S)]
            examples = [
                operation["requestBody"]["content"]["application/json"]["example"]
                for methods in document()["paths"].values()
                for operation in methods.values()
                if "example" in operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            ]
            for example in examples:
                assert example in [json.loads(body) for body in found]
            assert max(len(line) for body in found for line in body.splitlines()) <= WIDTH

    run(scenario())


def test_the_described_limits_are_the_declared_ones() -> None:
    schemas, limits = document()["components"]["schemas"], Limits()
    assert schemas["RecommendRequest"]["properties"]["actions"]["maxItems"] == limits.actions_max
    assert schemas["RecommendRequest"]["properties"]["slots"]["maximum"] == limits.slots_max
    assert schemas["BatchRequest"]["properties"]["requests"]["maxItems"] == limits.batch_items_max
    assert schemas["Action"]["properties"]["id"]["maxLength"] == limits.name_length_max


def test_every_example_is_accepted_and_answered_as_described(tmp_path: Path) -> None:
    make_experiment(tmp_path)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            for path, methods in document()["paths"].items():
                for method, operation in methods.items():
                    address = path.replace("{experiment}", "default").replace("{event_id}", "e")
                    body = (
                        operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
                    )
                    response = await client.request(method, address, json=body)
                    assert response.status_code in (200, 201, 204), (path, response.text)
                    described = operation["responses"][str(response.status_code)]
                    for media, content in described.get("content", {}).items():
                        if media == "application/json":
                            assert matches(response.json(), content["schema"]), (path, response.text)

    run(scenario())


def test_requests_generated_from_the_description_get_described_answers(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    make_experiment(tmp_path, "catalogue", actions=[{"id": f"a{n}"} for n in range(12)])
    posts = [
        (path, operation, strategy(operation["requestBody"]["content"]["application/json"]["schema"]))
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        if method == "post" and "requestBody" in operation
    ]
    cases: list[tuple[str, dict[str, Any], Any]] = []

    @settings(
        max_examples=GENERATED, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def generate(data: st.DataObject) -> None:
        path, operation, bodies = data.draw(st.sampled_from(posts))
        name = data.draw(st.sampled_from(["default", "catalogue"]))
        cases.append((path.replace("{experiment}", name), operation, data.draw(bodies)))

    generate()

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            good = 0
            for path, operation, body in cases:
                address = path.replace("{event_id}", "e")
                content = json.dumps(body).encode()
                response = await client.post(address, content=content, headers={"content-type": "application/json"})
                status = str(response.status_code)
                assert status in operation["responses"] and status != "500", (address, body, response.text)
                good += response.status_code < 300
                for media, described in operation["responses"][status].get("content", {}).items():
                    if media == response.headers["content-type"]:
                        assert matches(response.json(), described["schema"]), (address, body, response.text)
            assert good > len(cases) / 5

    run(scenario())
