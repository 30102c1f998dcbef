"""History tells each change of the settings: when, which keys, whose API key, and who learns anew because of it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from bandit.experiment import Experiment
from bandit.keys import create_key
from bandit.settings import merge_settings, patch_settings
from serving.cli import cli
from serving.cli.common import Common, now
from serving.cli.config import load_configuration
from serving.cli.start import prepare_experiments
from serving.learner.admin.board import board
from serving.learner.challengers.remembered import _told
from serving.learner.operations.status import run as status_of
from serving.learner.settings_told import SETTINGS, learning_anew
from serving.learner.told import in_words
from serving.learner.workspace import Workspace
from tests.serving.learner_support import World, settings, world
from tests.serving.service_support import served
from tests.serving.test_cycle import learn_until_promoted


def change(here: World, **sections: Any) -> None:
    experiment = here.transport.experiment
    experiment.change(merge_settings(experiment.settings, sections), now=here.transport.clock())


def told(here: World) -> list[dict[str, Any]]:
    here.transport.cycle.tick()
    return here.transport.cycle.workspace.registry.history.entries(SETTINGS)


def test_each_version_is_told_once_by_its_keys_and_without_values(tmp_path: Path) -> None:
    with world(tmp_path, gate={"margin": 0.01}) as here:
        assert told(here) == []
        change(here, gate={"alpha": 0.0123}, rewards={"window_s": 2.0})
        change(here, exploration={"algorithm": "softmax"})
        here.transport.clock.advance(1.0)
        change(here, exploration={"algorithm": "softmax"})
        first, second = told(here)
        assert (first["version"], first["changed"], first["learns_anew"]) == (2, ["rewards.window_s", "gate.alpha"], [])
        assert second["changed"] == ["exploration.algorithm"]
        assert second["learns_anew"] == ["standing", "recent"]
        assert "0.0123" not in json.dumps([first, second]) and "softmax" not in json.dumps([first, second])
        here.transport.cycle.workspace.settings_told = None  # as of a learner that has just started
        assert told(here) == [first, second]


def test_versions_of_a_backup_that_go_on_from_an_earlier_one_are_told_too(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        paths = here.transport.experiment.paths
        backup = paths.settings.read_bytes()
        change(here, gate={"alpha": 0.01})
        assert [entry["changed"] for entry in told(here)] == [["gate.alpha"]]
        paths.settings.write_bytes(backup)
        here.transport.experiment.refresh()
        here.transport.clock.advance(60.0)
        change(here, gate={"margin": 0.1})
        assert [(entry["version"], entry["changed"]) for entry in told(here)] == [
            (2, ["gate.alpha"]),
            (2, ["gate.margin"]),
        ]


def test_a_challenger_that_declares_its_own_learns_anew_by_its_own() -> None:
    was = settings()
    assert learning_anew(was, patch_settings(was, {"gate": {"alpha": 0.01}})) == []
    own = patch_settings(was, {"challengers": {"bold": {"exploration": {"algorithm": "egreedy"}}}})
    assert learning_anew(was, own) == []  # it is new
    other = patch_settings(own, {"exploration": {"algorithm": "softmax"}})
    assert learning_anew(own, other) == ["standing", "recent"]
    changed = patch_settings(own, {"challengers": {"bold": {"exploration": {"epsilon": 0.3}}}})
    assert learning_anew(own, changed) == ["bold"]


def test_a_configuration_laid_in_before_a_learner_runs_and_a_command_are_told_by_the_next_learner(
    tmp_path: Path,
) -> None:
    file, data_dir = tmp_path / "rewardloop.toml", tmp_path / "data"
    common = Common(data_dir=data_dir, config=file, experiment=None, as_json=False)
    for window_s in (5, 6):
        file.write_text(f'[rewards]\nwindow_s = {window_s}\n\n[[actions]]\nid = "tea"\n')
        prepare_experiments(common, load_configuration(file, {}))
    done = CliRunner().invoke(cli, ["actions", "put", "soup", "--data-dir", str(data_dir)])
    assert done.exit_code == 0
    workspace = Workspace(Experiment.open(data_dir, "default"), now)
    status_of(workspace)
    workspace.close()
    laid, put = workspace.registry.history.entries(SETTINGS)
    assert (laid["origin"], laid["changed"], laid["version"]) == ("configuration", ["rewards.window_s"], 2)
    assert (put["origin"], put["changed"], put["version"]) == ("command", ["actions"], 3)
    shown = CliRunner().invoke(cli, ["history", "--data-dir", str(data_dir), "--kind", "settings", "--newest", "1"])
    assert "version 3 by command: actions" in shown.output and "version 2" not in shown.output


def test_what_this_tenure_spent_of_alpha_is_remembered_beyond_changes_of_the_settings(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        learn_until_promoted(here)
        here.play(200)
        here.transport.settle()
        workspace, experiment = here.transport.cycle.workspace, here.transport.experiment
        champion = workspace.registry.champion()
        before = _told(workspace, champion)
        assert champion is not None and before
        for alpha, at in ((0.04, champion.since - timedelta(days=1)), (0.03, here.transport.clock())):
            experiment.change(merge_settings(experiment.settings, {"gate": {"alpha": alpha}}), now=at)
        assert len(told(here)) == 2
        assert _told(workspace, champion) == before
        shown = board(here.transport.cycle)["changes"]
        assert [entry["said"] for entry in shown[:2]] == ["version 3: gate.alpha", "version 2: gate.alpha"]


@pytest.mark.slow
def test_history_names_the_api_key_of_whoever_changed_something_and_never_the_key(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        service.admin.post("/pause").raise_for_status()
        _, secret = create_key(tmp_path, name="ops", scopes=["admin"], now=now())
        service.wait("the key is noticed", lambda: service.admin.get("/status").status_code == 401)
        keyed = httpx.Client(base_url=service.admin.base_url, auth=("console", secret), trust_env=False, timeout=60)
        keyed.post("/resume").raise_for_status()
        keyed.patch(
            str(service.admin.base_url).rstrip("/"),
            json={"actions": [{"id": "a"}], "exploration": {"algorithm": "softmax"}},
        ).raise_for_status()
        keyed.put("/actions/b", json={"price": 4}).raise_for_status()
        keyed.delete("/actions/a").raise_for_status()
        rows = [
            {"context": {}, "actions": ["a", "b"], "action": action, "probability": 0.5, "reward": reward}
            for action, reward in (("a", 1.0), ("b", 0.0))
        ]
        content = "\n".join(json.dumps(row) for row in rows * 30)
        keyed.post("/import", content=content, headers={"content-type": "application/json"}).raise_for_status()
        champion = service.wait("the first model", lambda: keyed.get("/status").json()["champion"])
        keyed.post("/pin").raise_for_status()
        assert keyed.post(f"{service.learner.url}/experiments/test/unpin").status_code == 303  # by the console's form
        service.cli("models", "pin")
        entries = keyed.get("/history").json()["history"]
        page = keyed.get(f"{service.learner.url}/experiments/test").text
        keyed.close()
    kinds = [(entry["kind"], entry.get("key")) for entry in entries if entry["kind"] not in ("run", "initial")]
    assert kinds == [
        ("pause", None),
        ("resume", "ops"),
        *[("settings", "ops")] * 3,
        ("pin", "ops"),
        ("unpin", "ops"),
        ("pin", None),
    ]
    changed = [entry for entry in entries if entry["kind"] == "settings"]
    assert [(entry["version"], entry["origin"]) for entry in changed] == [(2, "api"), (3, "api"), (4, "api")]
    assert [entry["learns_anew"] for entry in changed] == [["standing", "recent"], [], []]
    assert in_words(changed[0]) == (
        "version 2 over the API: exploration.algorithm, actions; learn anew: standing, recent"
    )
    assert in_words(changed[0]) in page and ">ops<" in page and f"{champion}: by hand" in page
    assert secret not in (tmp_path / "experiments/test/history.jsonl").read_text() + page
