"""The service as people run it: `rewardloop up` with its admin API, over HTTP, with real processes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from bandit.keys import KeyRing, create_key, keys_path
from serving.cli.common import now
from serving.learner.address import Address, running_learner
from serving.learner.admin.http import Doorkeeper, install
from tests.serving.api.support import url_as_older_starlette_reads_it
from tests.serving.learner_support import BEST, history
from tests.serving.service_support import Service, served

pytestmark = pytest.mark.slow

ALERTS = Path(__file__).parents[2] / "examples/deployment/alerts.yml"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that was given history, made its first model of it, and has learnt from 200 decisions under it."""
    with served(tmp_path_factory.mktemp("service")) as running:
        past = history(120, random.Random(0), lambda sky, action: float(BEST[sky] == action))
        rows = "\n".join(json.dumps(row) for row in past)
        imported = running.admin.post("/import", content=rows, headers={"content-type": "application/x-ndjson"})
        assert imported.json()["imported"] == 120
        running.wait("the initial model", lambda: running.status()["runs"])
        initial = running.status()["champion"]
        assert running.status()["last_run"]["outcome"] == "initial"
        running.wait("the worker serves it", lambda: running.status()["workers"][0]["model_id"] == initial)
        assert running.play(200) > 0.4
        running.wait("a run by rows", lambda: running.status()["runs"] >= 2)
        yield running


def at_rest(service: Service, read: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What was read, and the state, which was the same before and after: decisions of other tests may be maturing."""

    def attempt() -> tuple[Any, dict[str, Any]] | None:
        before = service.status()
        found = read()
        after = service.status()
        same = all(before[key] == after[key] for key in ("counts", "runs", "waiting", "new_interactions"))
        return (found, after) if same else None

    return service.wait("the state to be at rest", attempt)  # type: ignore[no-any-return]


def test_the_loop_turns_from_history_over_decisions_to_a_verdict(service: Service) -> None:
    report = service.admin.post("/models/train").json()
    assert report["outcome"] in ("promote", "hold", "insufficient", "nothing")
    state = service.status()
    assert state["counts"]["interactions"] == 200 and state["counts"]["imported"] == 120
    assert state["next"] and state["why"]


def test_status_says_the_same_on_the_command_line(service: Service) -> None:
    done = service.cli("status", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"] == service.status()["runs"]
    shown = service.cli("status").stdout
    assert shown.startswith("test: ")


def test_models_are_listed_compared_promoted_by_hand_and_rolled_back(service: Service) -> None:
    listed = json.loads(service.cli("models", "list", "--json").stdout)
    assert listed["champion"] == service.status()["champion"]
    model_id = listed["models"][-1]["model_id"]
    assert service.admin.get(f"/models/{model_id}").json()["kind"] == "initial"
    shown = service.cli("models", "show", model_id)
    assert shown.returncode == 0 and "How each feature is encoded" in shown.stdout and "sky" in shown.stdout
    trained = json.loads(service.cli("models", "train", "--json").stdout)
    assert trained["trigger"] == "forced"
    assert service.cli("models", "pin").returncode == 0
    assert service.cli("models", "rollback").returncode == 1
    assert service.cli("models", "unpin").returncode == 0
    assert service.admin.get(f"/models/{model_id}/diff/{model_id}").json()["identical"] is True
    assert service.admin.get("/models/none").status_code == 404
    if listed["champion"] != model_id:
        assert service.admin.post(f"/models/{model_id}/promote", json={}).status_code == 200
    again = service.admin.post(f"/models/{model_id}/promote", json={})
    assert again.status_code == 409


def test_evaluations_are_listed_and_shown_as_json_and_as_a_page(service: Service) -> None:
    found = service.admin.get("/evaluations").json()["evaluations"]
    assert found
    shown = service.admin.get(f"/evaluations/{found[0]['id']}")
    assert shown.json()["verdict"]["reason"]
    page = service.admin.get(f"/evaluations/{found[0]['id']}", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html") and "<html" in page.text
    assert service.admin.get("/evaluations/none").status_code == 404
    assert service.admin.get("/evaluations/..%2f..%2fmodels").status_code == 404


def test_an_evaluation_whose_page_went_with_what_was_erased_says_so(service: Service) -> None:
    found = service.admin.get("/evaluations").json()["evaluations"][0]["id"]
    report = service.data_dir / "experiments/test/evaluations" / found / "report.html"
    aside = report.rename(report.with_name("aside"))
    try:
        page = service.admin.get(f"/evaluations/{found}?format=html")
        assert (page.status_code, "went with what was erased" in page.json()["detail"]) == (404, True)
        assert service.admin.get(f"/evaluations/{found}").json()["verdict"]["reason"]
    finally:
        aside.rename(report)


def test_a_new_experiment_is_served_and_learnt_within_seconds(service: Service) -> None:
    root = service.admin
    url = service.learner.url
    made = root.post(f"{url}/v1/experiments", json={"name": "second", "settings": {"rewards": {"window_s": 2}}})
    assert made.status_code == 201
    assert root.post(f"{url}/v1/experiments", json={"name": "second"}).status_code == 409
    assert (
        root.post(f"{url}/v1/experiments", json={"name": "third", "settings": {"rewards": {"window": 2}}}).status_code
        == 422
    )
    assert root.get(f"{url}/v1/experiments/second/status").json()["champion"] is None
    changed = root.patch(f"{url}/v1/experiments/second", json={"rewards": {"window_s": 3}}).json()
    assert changed["settings"]["rewards"]["window_s"] == 3 and changed["settings_version"] == 2
    body = {"context": {}, "actions": [{"id": "a"}, {"id": "b"}]}
    asked = lambda: service.api.post("/v1/experiments/second/recommend", json=body).status_code == 200  # noqa: E731
    service.wait("the worker serves the new experiment", asked)


def test_a_patch_of_named_events_and_challengers_leaves_the_others_and_null_removes_one(service: Service) -> None:
    url = f"{service.learner.url}/v1/experiments"
    events = {"click": {"value": 0.1}, "buy": {"scale": 0.01, "max": 1.0}}
    made = service.admin.post(url, json={"name": "named", "settings": {"rewards": {"events": events}}})
    assert made.status_code == 201

    def patched(change: dict[str, Any]) -> dict[str, Any]:
        settings = service.admin.patch(f"{url}/named", json=change).raise_for_status().json()["settings"]
        return {"events": settings["rewards"]["events"], "challengers": settings["challengers"]}

    added = patched({"rewards": {"events": {"share": {"value": 0.2}}}})["events"]
    assert {name: event["value"] for name, event in added.items()} == {"click": 0.1, "buy": None, "share": 0.2}
    changed = patched({"rewards": {"events": {"buy": {"scale": 0.02}, "click": None}}})["events"]
    assert set(changed) == {"buy", "share"}
    assert (changed["buy"]["scale"], changed["buy"]["max"]) == (0.02, 1.0)
    field = patched({"challengers": {"recent": {"every_interactions": 500}, "wide": {"window_interactions": 9000}}})
    assert field["challengers"]["recent"]["every_interactions"] == 500
    assert field["challengers"]["recent"]["window_interactions"] == 2000
    assert set(patched({"challengers": {"recent": None, "gone": None}})["challengers"]) == {"wide"}


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/experiments/none/status", {}, 404),
        ("GET", "/v1/experiments/test/status", {"headers": {"host": "evil.example"}}, 403),
        ("POST", "/v1/experiments/test/retrain", {"headers": {"origin": "https://evil.example"}}, 403),
        ("POST", "/v1/experiments/test/operations/status", {}, 401),
        ("POST", "/v1/experiments", {"content": b"{", "headers": {"content-type": "application/json"}}, 422),
        ("POST", "/v1/experiments", {"content": b"[]", "headers": {"content-type": "application/json"}}, 422),
        ("POST", "/v1/experiments", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 422),
        ("POST", "/v1/experiments/default/import", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 422),
        ("POST", "/v1/experiments", {"json": {"name": 3}}, 422),
        ("POST", "/v1/experiments", {"content": b"[" * 10**5, "headers": {"content-type": "application/json"}}, 422),
        ("POST", "/v1/experiments/test/join", {"json": {"last": 5}}, 422),
        ("POST", "/v1/experiments/test/join", {"json": {"slice": {"a": 1}}}, 422),
        ("POST", "/v1/experiments/test/join", {"json": {"workspace": "x"}}, 422),
        ("POST", "/v1/experiments/test/export", {"json": {"what": 5}}, 422),
        ("POST", "/v1/experiments/test/export", {"json": {"format": []}}, 422),
        ("POST", "/v1/experiments/test/export", {"json": {"format": {}}}, 422),
        ("POST", "/v1/experiments", {"json": {"name": "../x"}}, 422),
        ("POST", "/v1/experiments", {"json": {"name": "lost", "rewards": {"window_s": 2}}}, 422),
        ("POST", "/v1/experiments/test/evaluations", {"json": {}}, 422),
        ("POST", "/v1/experiments/test/evaluations", {"json": {"policies": 3}}, 422),
        ("POST", "/v1/experiments/test/evaluations", {"json": {"policies": ["best"]}}, 422),
        ("POST", "/v1/experiments/test/evaluations", {"json": {"policies": ["table:/etc/passwd"]}}, 422),
        ("DELETE", "/v1/experiments", {}, 405),
        ("POST", "/v1/experiments", {"json": {"name": "typo", "setings": {}}}, 422),
        ("POST", "/v1/experiments/test/models/m/promote", {"json": {"overide": True}}, 422),
        ("GET", "/v1/experiment", {}, 404),
    ],
)
def test_the_admin_api_refuses_in_words_and_never_with_a_500(
    service: Service, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    answer = httpx.request(method, service.learner.url + path, trust_env=False, **options)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_the_admin_api_refuses_compressed_bodies(service: Service) -> None:
    body = gzip.compress(b'{"what": "decisions"}')
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    for path in ("/export", "/import"):
        answer = service.admin.post(path, content=body, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (415, "application/problem+json")
        assert answer.headers["accept-encoding"] == "identity"
        assert answer.json()["errors"][0] == {
            "field": "content-encoding",
            "problem": "is not accepted: the body must be sent without compression",
            "limit": "identity",
        }
    chunked = {"content-type": "application/json", "transfer-encoding": "gzip, chunked"}
    connection = HTTPConnection(service.admin.base_url.host, service.admin.base_url.port or 80)
    path = f"{service.admin.base_url.path}export"
    connection.request("POST", path, iter([body]), chunked, encode_chunked=True)
    told = connection.getresponse()
    assert (told.status, json.loads(told.read())["errors"][0]["field"]) == (501, "transfer-encoding")
    connection.close()
    plain = {"content-type": "application/json", "content-encoding": "identity"}
    assert service.admin.post("/export", content=b'{"what": 5}', headers=plain).status_code == 422


@pytest.mark.parametrize("wrong", ["\0", "../x", "m\n", "é", "9" * 5000], ids=["nul", "up", "line", "letter", "long"])
def test_an_id_that_nothing_can_have_is_told_to_be_none(service: Service, wrong: str) -> None:
    name = quote(wrong, safe="")
    try:
        for method, path, options in (
            ("POST", "/steps/evaluate", {"json": {"model_id": wrong}}),
            ("POST", "/steps/deploy", {"json": {"model_id": wrong, "override": True}}),
            ("DELETE", f"/models/{name}/offer", {}),
            ("POST", f"/models/{name}/offer", {}),
            ("GET", f"/models/{name}", {}),
            ("GET", f"/models/{name}/verdict", {}),
            ("GET", f"/evaluations/{name}", {}),
        ):
            answer = service.admin.request(method, path, timeout=60, **options)
            assert answer.status_code == 404, (path, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
    finally:
        assert service.admin.post("/resume").status_code == 200  # a step pauses the schedule


def test_a_failure_of_the_admin_api_says_that_its_connection_ends() -> None:
    app = FastAPI()
    install(app)

    @app.get("/fails")
    def fails() -> None:
        raise RuntimeError("on purpose")

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        answer = httpx.get(f"http://127.0.0.1:{port}/fails", trust_env=False)
    finally:
        server.should_exit = True
        thread.join()
    assert (answer.status_code, answer.headers["connection"]) == (500, "close")
    assert answer.headers["content-type"] == "application/problem+json"


def test_policies_are_evaluated_over_the_admin_api_as_on_the_command_line(service: Service) -> None:
    answer = service.admin.post("/evaluations", json={"policies": ["uniform", "action:north"]}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert {entry["policy"] for entry in answer.json()["policies"]} == {"uniform", "action:north"}


@pytest.mark.parametrize("path", ["/v1/experiments/", "/v1/experiments/test/", "/v1/experiments/test/status/"])
def test_an_address_with_a_slash_at_its_end_is_told_to_be_none(service: Service, path: str) -> None:
    answer = httpx.get(service.learner.url + path, trust_env=False)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == "path"
    assert "without the slash" in answer.json()["detail"]


@pytest.mark.parametrize("event_id", ["a/b", "/", "ü é?x=1#y", "a%2Fb"])
def test_the_ledger_of_any_event_id_is_found_under_its_address(service: Service, event_id: str) -> None:
    body = {"context": {}, "actions": [{"id": "a"}, {"id": "b"}], "event_id": event_id}
    assert service.api.post("/v1/experiments/test/recommend", json=body).status_code == 200
    answer = service.admin.get(f"{service.learner.url}/v1/experiments/test/events/{quote(event_id, safe='')}")
    assert (answer.status_code, answer.json()["event_id"]) == (200, event_id)


def test_the_console_shows_the_loop_and_steers_it_without_anything_from_elsewhere(service: Service) -> None:
    url = service.learner.url
    overview = service.admin.get(f"{url}/")
    assert overview.status_code == 200 and ">test<" in overview.text  # its own page where it is the only one
    page, state = at_rest(service, lambda: service.admin.get(f"{url}/experiments/test"))
    assert state["next"].split(" in ")[0] in page.text and state["champion"].partition("-")[2] in page.text
    for shown in (overview, page):
        assert "http://" not in shown.text and "https://" not in shown.text
        assert shown.text.count("<script>") == 1  # which the policy names by its digest, and no other
        script = shown.text.partition("<script>")[2].partition("</script>")[0]
        digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in shown.headers["content-security-policy"]
    report = re.search(r'href="(/v1/[^"]+format=html)"', page.text)
    assert report is not None and "<html" in service.admin.get(url + report[1]).text
    done = service.admin.post(f"{url}/experiments/test/pause")
    assert done.status_code == 303
    assert "schedule is paused" in service.admin.get(url + done.headers["location"]).text
    assert service.status()["paused"] is True
    service.admin.post(f"{url}/experiments/test/resume")
    assert service.status()["paused"] is False
    refused = service.admin.post(f"{url}/experiments/test/promote?model_id=none")
    assert "Not done" in service.admin.get(url + refused.headers["location"]).text
    assert service.admin.post(f"{url}/experiments/test/nonsense").status_code == 404
    assert (
        service.admin.post(f"{url}/experiments/test/run", headers={"origin": "https://evil.example"}).status_code == 403
    )
    hostile = service.admin.get(f"{url}/experiments/test", params={"said": "<script>alert(1)</script>"})
    assert "<script>alert" not in hostile.text


def test_the_admin_port_describes_its_addresses_on_a_page_of_its_own(service: Service) -> None:
    url = service.learner.url
    page = httpx.get(f"{url}/docs", trust_env=False)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    description = httpx.get(f"{url}/openapi.json", trust_env=False).json()
    assert len(description["paths"]) > 25
    for path, methods in description["paths"].items():
        assert f"<code>{path}</code>" in page.text
        for method, operation in methods.items():
            assert operation["description"].endswith("."), f"{method} {path} says nothing of what it is for"
    assert "Make a model the champion by hand" in page.text and "<code>override</code>" in page.text
    lost = httpx.get(f"{url}/doc", trust_env=False)
    assert lost.status_code == 404 and "/docs" in lost.json()["detail"]


def test_the_learner_tells_its_metrics(service: Service) -> None:
    text, state = at_rest(service, lambda: service.admin.get(f"{service.learner.url}/metrics").text)
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['rewardloop_learner_imported{experiment="test"}'] == "120"
    assert float(values['rewardloop_learner_interactions{experiment="test"}']) == state["counts"]["interactions"]
    assert values['rewardloop_learner_runs_total{experiment="test",outcome="initial"}'] == "1"
    assert values['rewardloop_learner_runs_total{experiment="test",outcome="failed"}'] == "0"
    assert float(values['rewardloop_learner_log_lag_seconds{experiment="test"}']) >= 0
    look = 'experiment="test",challenger="standing"'
    lift = float(values[f"rewardloop_learner_challenger_lift{{{look}}}"])
    lower, upper = (float(values[f"rewardloop_learner_challenger_{end}{{{look}}}"]) for end in ("lower", "upper"))
    assert lower <= float(values[f"rewardloop_learner_challenger_weighed{{{look}}}"]) <= upper
    worth = [float(values[f'rewardloop_learner_value{{{look},role="{role}"}}']) for role in ("challenger", "champion")]
    assert worth[0] - worth[1] == pytest.approx(lift, abs=1e-9)
    told = values['rewardloop_learner_reward_delay_seconds_bucket{experiment="test",le="+Inf"}']
    assert told == values['rewardloop_learner_reward_delay_seconds_count{experiment="test"}']


def test_alerts_name_metrics_that_a_running_service_tells(service: Service) -> None:
    told = service.api.get("/metrics").text + service.admin.get(f"{service.learner.url}/metrics").text
    samples = set(re.findall(r"^(\w+)\{", told, re.M))
    outcomes = set(re.findall(r'outcome="(\w+)"', told))
    rules = re.sub(r"summary: .*", "", ALERTS.read_text("utf-8"))
    named = set(re.findall(r"\brewardloop_\w+", rules))
    assert len(named) > 5
    assert named <= samples
    assert set(re.findall(r'outcome="(\w+)"', rules)) <= outcomes


def test_a_second_learner_leaves_with_one_clear_line(service: Service) -> None:
    done = service.cli("learn", "--admin-port", "0")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("rewardloop: ") and "another learner" in line


def test_a_port_of_the_learner_that_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.cli", "up", "--data-dir", str(tmp_path), "--port", "0", "--admin-port"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*command, port], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"rewardloop: --admin-port: {port} cannot be used")


def test_a_killed_learner_is_back_within_seconds_and_nothing_is_lost(service: Service) -> None:
    service.wait("nothing to wait for its window", lambda: not service.status()["counts"]["waiting"])
    before = service.status()
    os.kill(service.learner.pid, signal.SIGKILL)

    def back() -> Address | None:
        address = running_learner(service.data_dir)
        return address if address is not None and address.pid != service.learner.pid else None

    service.learner = service.wait("the learner is back", back)
    service.admin.close()
    service.admin = httpx.Client(base_url=service.learner.url + "/v1/experiments/test", trust_env=False, timeout=60)
    service.wait("it answers", lambda: running_learner(service.data_dir))
    after = service.status()
    assert after["counts"] == before["counts"]
    assert after["champion"] == before["champion"] and after["runs"] >= before["runs"]


def test_no_host_header_makes_the_admin_api_take_one_address_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Request, "url", property(url_as_older_starlette_reads_it))
    create_key(tmp_path, name="ops", scopes=["admin"], now=now())
    doorkeeper = Doorkeeper(None, token="t", keys=KeyRing(tmp_path), loopback=True, hosts=frozenset({"x"}))
    for host in (b"x/livez?", b"x/readyz#", b"x"):
        for path in ("/v1/experiments", "/v1/experiments/test/operations/sql"):
            scope = {"type": "http", "method": "POST", "scheme": "http", "path": path, "headers": [(b"host", host)]}
            refusal = doorkeeper._refusal(Request(scope))
            assert refusal is not None and refusal.status_code == 401
    with_operations = {**scope, "path": "/livez", "headers": [(b"host", b"x/v1/experiments/test/operations")]}
    assert doorkeeper._refusal(Request(with_operations)) is None


def test_once_a_key_exists_the_admin_api_wants_one(service: Service) -> None:
    _, secret = create_key(service.data_dir, name="ops", scopes=["admin"], now=now())
    _, reader = create_key(service.data_dir, name="looker", scopes=["read"], now=now())
    service.wait("the key is noticed", lambda: service.admin.get("/status").status_code == 401)
    assert service.admin.get("/status", headers={"authorization": f"Bearer {secret}"}).status_code == 200
    assert service.admin.get("/status", headers={"authorization": f"Bearer {reader}"}).status_code == 200
    assert service.admin.post("/pause", headers={"authorization": f"Bearer {reader}"}).status_code == 403
    assert service.admin.post("/pause", headers={"authorization": f"Bearer {secret}"}).status_code == 200
    assert service.admin.get("/status", auth=("anyone", secret)).status_code == 200  # as a browser does
    other = {"origin": "https://evil.example"}
    assert service.admin.post("/pause", auth=("anyone", secret), headers=other).status_code == 403
    assert service.cli("status").returncode == 0


def test_while_the_keys_cannot_be_read_the_admin_api_goes_on_with_those_it_knows(service: Service) -> None:
    _, secret = create_key(service.data_dir, name="night", scopes=["read"], now=now())
    shown = {"authorization": f"Bearer {secret}"}
    service.wait("keys are noticed", lambda: service.admin.get("/status").status_code == 401)
    service.wait("this one, too", lambda: service.admin.get("/status", headers=shown).status_code == 200)
    content = keys_path(service.data_dir).read_bytes()
    keys_path(service.data_dir).write_bytes(content[:-5])
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert service.admin.get("/models", headers=shown).status_code == 200
            assert service.admin.get("/models").status_code == 401
    finally:
        keys_path(service.data_dir).write_bytes(content)


def test_an_admin_api_that_starts_without_readable_keys_is_closed_until_they_can_be_read(tmp_path: Path) -> None:
    keys_path(tmp_path).mkdir()
    doorkeeper = Doorkeeper(None, token="t", keys=KeyRing(tmp_path), loopback=True, hosts=frozenset({"127.0.0.1"}))
    asked = {"type": "http", "method": "GET", "path": "/v1/experiments", "headers": [(b"host", b"127.0.0.1")]}
    refusal = doorkeeper._refusal(Request(asked))
    assert refusal is not None and refusal.status_code == 503 and b"keys.json" in bytes(refusal.body)
    assert doorkeeper._refusal(Request({**asked, "path": "/livez"})) is None
    assert doorkeeper._refusal(Request({**asked, "headers": [(b"authorization", b"Bearer t")]})) is None
    keys_path(tmp_path).rmdir()
    _, secret = create_key(tmp_path, name="ops", scopes=["read"], now=now())
    doorkeeper._refreshed -= 2
    shown = [(b"authorization", f"Bearer {secret}".encode())]
    assert doorkeeper._refusal(Request({**asked, "headers": shown})) is None


def test_up_answers_for_the_further_hosts_that_it_is_given(tmp_path: Path) -> None:
    body = {"context": {}, "actions": [{"id": "a"}]}
    with served(tmp_path, "--allow-host", "shop.internal", "--allow-host", "other.internal") as service:
        for host in ("shop.internal", "OTHER.internal:8000", "localhost"):
            answer = service.api.post("/v1/experiments/test/recommend", json=body, headers={"host": host})
            assert answer.status_code == 200, host
        refused = service.api.post("/v1/experiments/test/recommend", json=body, headers={"host": "evil.example"})
        assert refused.status_code == 421 and "--allow-host" in refused.json()["errors"][0]["limit"]
        told = service.admin.post("/steps/train", json={"speed": 1}).json()
        assert told["errors"] == [
            {"field": "speed", "problem": "is not an argument of the step train", "limit": "none"}
        ]
        told = service.admin.post("/steps/evaluate", json={"speed": 1}).json()
        assert told["detail"].endswith("(one of: model_id)") and told["errors"][0]["limit"] == "model_id"
