"""A catalogue changes one action at a time, over the admin API and by command, as settings change."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandit.keys import create_key
from serving.cli import run
from serving.cli.common import now
from tests.serving.service_support import Service, served


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("data")) as running:
        yield running


def start_with(service: Service, actions: list[dict[str, Any]] | None) -> tuple[int, int | None]:
    """Declare this catalogue whole; gives the versions of settings and catalogue."""
    shown = (
        service.admin.patch(str(service.admin.base_url).rstrip("/"), json={"actions": actions})
        .raise_for_status()
        .json()
    )
    return shown["settings_version"], shown["catalogue_version"]


def ids(answer: httpx.Response) -> list[str]:
    return [action["id"] for action in answer.json()["actions"]]


def test_actions_are_put_replaced_and_removed_each_as_a_new_version_of_the_catalogue(service: Service) -> None:
    settings, catalogue = start_with(service, [{"id": "tea", "features": {"price": 2}}, {"id": "soup"}])
    assert catalogue is not None
    added = service.admin.put("/actions/salad", json={"price": 5, "cold": True})
    assert added.status_code == 201 and ids(added) == ["tea", "soup", "salad"]
    assert (added.json()["settings_version"], added.json()["catalogue_version"]) == (settings + 1, catalogue + 1)
    replaced = service.admin.put("/actions/tea", json={"price": 3})
    assert replaced.status_code == 200 and ids(replaced) == ["tea", "soup", "salad"]
    assert replaced.json()["actions"][0] == {"id": "tea", "features": {"price": 3}}
    removed = service.admin.delete("/actions/soup")
    assert removed.status_code == 200 and ids(removed) == ["tea", "salad"]
    assert removed.json()["catalogue_version"] == catalogue + 3
    assert service.admin.get("/actions").json() == removed.json()
    service.wait("the worker offers the new catalogue", lambda: offered(service) == 2)


def offered(service: Service) -> int:
    """How many actions the worker draws from where a request names none; 0 while it knows of no catalogue."""
    answer = service.api.post("/v1/experiments/test/recommend", json={"context": {}})
    return 0 if answer.status_code == 422 else round(1 / float(answer.raise_for_status().json()["probability"]))


def test_putting_what_is_there_makes_no_new_version(service: Service) -> None:
    settings, catalogue = start_with(service, [{"id": "tea", "features": {"price": 2, "hot": True}}])
    for body in ({"price": 2, "hot": True}, {"hot": True, "price": 2}):
        same = service.admin.put("/actions/tea", json=body)
        assert same.status_code == 200
        assert (same.json()["settings_version"], same.json()["catalogue_version"]) == (settings, catalogue)
    other = service.admin.put("/actions/tea", json={"price": 2, "hot": 1}).json()
    assert other["catalogue_version"] == (catalogue or 0) + 1


@pytest.mark.parametrize("body", [{"features": {"price": 4}}, {"id": "tea", "features": {}}])
def test_a_whole_action_in_place_of_its_features_is_refused_and_says_what_the_body_is(
    service: Service, body: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    told = "features: must be the features themselves"
    settings, _ = start_with(service, [{"id": "tea", "features": {"price": 2}}])
    refused = service.admin.put("/actions/tea", json=body)
    assert refused.status_code == 422 and refused.json()["detail"].startswith(told)
    put = ["actions", "put", "tea", "--data-dir", str(service.data_dir), "--features", json.dumps(body)]
    assert run([*put, "--experiment", "test"]) == 2
    assert told in capsys.readouterr().err
    kept = service.admin.put("/actions/tea", json={"features": ["hot"], "price": 2})
    assert kept.status_code == 200 and kept.json()["settings_version"] == settings + 1


def test_the_first_action_that_is_put_declares_a_catalogue_and_one_without_a_body_has_no_features(
    service: Service,
) -> None:
    start_with(service, None)
    assert service.admin.get("/actions").json()["actions"] is None
    assert service.admin.delete("/actions/tea").status_code == 404
    added = service.admin.put("/actions/tea")
    assert added.status_code == 201 and added.json()["actions"] == [{"id": "tea", "features": {}}]


@pytest.mark.parametrize("name", ["a/b", "a b", "é%2F?", "100%", "..x"])
def test_an_id_may_be_any_text_that_an_address_can_say(service: Service, name: str) -> None:
    start_with(service, [{"id": "tea"}])
    address = "/actions/" + "".join(f"%{byte:02X}" for byte in name.encode())
    assert ids(service.admin.put(address, json={})) == ["tea", name]
    assert ids(service.admin.delete(address)) == ["tea"]


def test_the_last_action_and_an_unknown_one_are_not_removed(service: Service) -> None:
    versions = start_with(service, [{"id": "tea"}])
    last = service.admin.delete("/actions/tea")
    assert last.status_code == 422 and last.headers["content-type"] == "application/problem+json"
    (wrong,) = last.json()["errors"]
    assert wrong["field"] == "id" and wrong["problem"].startswith("is the last action")
    unknown = service.admin.delete("/actions/soup")
    assert unknown.status_code == 404 and unknown.json()["detail"] == "the catalogue holds no action of this id"
    shown = service.admin.get("/actions").json()
    assert (shown["settings_version"], shown["catalogue_version"]) == versions


@pytest.mark.parametrize(
    ("path", "options", "field"),
    [
        ("/actions/tea", {"json": [1]}, "body"),
        ("/actions/tea", {"content": b"{", "headers": {"content-type": "application/json"}}, "body"),
        ("/actions/tea", {"content": b"{}", "headers": {"content-type": "text/plain"}}, "content-type"),
        ("/actions/", {"json": {}}, "id"),
        ("/actions/tea", {"json": {"sizes": [1, 2]}}, "features.sizes"),
        ("/actions/tea", {"json": {"name": "a\x00b"}}, "features.name"),
        (f"/actions/{'x' * 5000}", {"json": {}}, "id"),
    ],
)
def test_what_cannot_be_put_is_refused_by_its_field(
    service: Service, path: str, options: dict[str, Any], field: str
) -> None:
    refused = service.admin.put(path, **options)
    assert refused.status_code == 422
    assert [wrong["field"] for wrong in refused.json()["errors"]] == [field]


def test_actions_that_are_put_at_once_are_all_there(service: Service) -> None:
    start_with(service, [{"id": "tea"}])
    names = [f"dish-{number}" for number in range(12)]

    def put(name: str) -> None:
        with httpx.Client(base_url=service.admin.base_url, trust_env=False, timeout=60) as client:
            client.put(f"/actions/{name}", json={}).raise_for_status()

    threads = [threading.Thread(target=put, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for name in ("rice", "beans"):  # and from another process's side of the lock
        assert service.cli("actions", "put", name).returncode == 0
    for thread in threads:
        thread.join()
    assert sorted(ids(service.admin.get("/actions"))) == sorted(["tea", "rice", "beans", *names])


def test_commands_list_put_and_remove_and_refuse_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.toml").write_text('[[actions]]\nid = "tea"\n')
    data = ["--data-dir", str(tmp_path / "data")]
    (tmp_path / "rows.ndjson").write_text('{"context": {}, "action": "tea", "probability": 1.0}\n')
    assert run(["import", str(tmp_path / "rows.ndjson"), "--config", str(tmp_path / "c.toml"), *data]) == 0
    told = capsys.readouterr()
    assert "without event_id" in told.out
    assert "Rows that were in the log before count once, and so do rows without event_id" in " ".join(told.err.split())
    assert run(["actions", "put", "soup", "--features", '{"price": 4}', *data]) == 0
    assert capsys.readouterr().out == "Catalogue 2 is in force: 2 actions\n"
    assert run(["actions", "list", "--json", *data]) == 0
    assert json.loads(capsys.readouterr().out)["actions"][1] == {"id": "soup", "features": {"price": 4}}
    assert run(["actions", "remove", "tea", *data]) == 0
    assert run(["actions", "list", *data]) == 0
    assert '{"price": 4}' in capsys.readouterr().out
    for arguments, told in (
        (["remove", "soup"], "id: is the last action"),
        (["remove", "rice"], "the catalogue holds no action of this id"),
        (["put", "rice", "--features", "[]"], "--features: must be a JSON object"),
        (["put", "rice", "--features", "{"], "--features: is not valid JSON"),
        (["put", "\udcff"], "ACTION_ID: is not UTF-8 text"),
        (["put", ""], "id: must be the id of an action"),
    ):
        assert run(["actions", *arguments, *data]) == 2
        assert capsys.readouterr().err.startswith(f"rewardloop: {told}")


def test_a_key_that_may_look_lists_actions_and_changes_none(tmp_path: Path) -> None:
    with served(tmp_path / "data") as service:
        _, secret = create_key(service.data_dir, name="look", scopes=["read"], now=now())
        shown = {"authorization": f"Bearer {secret}"}
        service.wait("the key holds", lambda: service.admin.get("/actions").status_code == 401)
        assert service.admin.get("/actions", headers=shown).status_code == 200
        assert service.admin.put("/actions/tea", json={}, headers=shown).status_code == 403
        assert service.admin.delete("/actions/tea", headers=shown).status_code == 403
