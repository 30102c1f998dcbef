"""What people see of models: how two of them differ in what they would choose."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bandit.errors import NotFound, Refused
from bandit.types import COLD_START_MODEL_ID
from serving.cli import run
from serving.learner import models
from serving.learner.operations import run_operation
from serving.learner.training.trainer import ChildTrainer, InlineTrainer
from serving.learner.workspace import Workspace
from tests.serving.learner_support import begun, world
from tests.serving.test_tenure import crown_a_bad_model


def test_two_models_that_learnt_different_rows_are_compared_on_the_canaries_of_both(tmp_path: Path) -> None:
    with begun(tmp_path, 60) as here:
        here.play(60)
        here.transport.settle()
        bad, good = crown_a_bad_model(here)
        workspace = here.transport.cycle.workspace
        manifests = [workspace.registry.manifest(model_id) for model_id in (good, bad)]
        answer = run_operation(workspace, "models", {"action": "diff", "model_id": good, "other": bad})
        questions = {
            json.dumps([canary["context"], canary["actions"]], sort_keys=True)
            for manifest in manifests
            for canary in manifest.canaries
        }
        assert len(answer["choices"]) == len(questions)
        for choice in answer["choices"]:
            assert choice["actions"] == ["north", "east", "south", "west"]
            assert sum(choice["left"]) == pytest.approx(1) and sum(choice["right"]) == pytest.approx(1)
        assert max(choice["distance"] for choice in answer["choices"]) > 0.3
        run_operation(workspace, "models", {"action": "rollback"})
        with pytest.raises(NotFound, match="no such operation"):
            run_operation(workspace, "models\n", {"action": "rollback"})
        with pytest.raises(Refused, match="--override"):
            run_operation(workspace, "models", {"action": "promote", "model_id": bad, "override": False})


def test_on_a_terminal_a_difference_is_a_row_per_question_with_what_each_model_favours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with begun(tmp_path, 60) as here:
        (model_id,) = here.transport.cycle.workspace.registry.model_ids()
        data_dir = here.transport.experiment.paths.root.parent.parent
    assert run(["models", "diff", model_id, model_id, "--data-dir", str(data_dir)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith('{"sky"')]
    assert rows
    for row in rows:
        assert re.fullmatch(r'{"sky": "\w+"}\s+(\w+ 0\.\d{4})\s+\1\s+0\.0000\s*', row)


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    with begun(tmp_path, 60) as here:
        workspace = here.transport.cycle.workspace
        (model_id,) = workspace.registry.model_ids()
        answer = models.diff(workspace, InlineTrainer(), model_id, model_id)
        assert answer["identical"] and answer["choices"]
        assert {choice["distance"] for choice in answer["choices"]} == {0.0}


def test_a_learner_loads_no_model_itself_to_compare_promote_and_roll_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begun(tmp_path, 60) as here:
        here.play(60)
        here.transport.settle()
        bad, good = crown_a_bad_model(here)
        running, children = here.transport.cycle.workspace, ChildTrainer()
        learner = Workspace(running.experiment, running.clock, warehouse=running.warehouse, trainer=children)
        monkeypatch.setattr("serving.learner.training.desk.Desk._load", _never)
        try:
            assert run_operation(learner, "models", {"action": "diff", "model_id": good, "other": bad})["choices"]
            back = run_operation(learner, "models", {"action": "rollback"})
            assert back["champion"] == good
            again = run_operation(learner, "models", {"action": "promote", "model_id": bad, "override": True})
            assert again["champion"] == bad
            assert children.restarts == 1
            assert children.run("ping") == 0, "the learner's processes outlive an operation"
        finally:
            children.close()


def test_without_a_champion_that_cannot_be_read_the_whole_log_is_learnt_anew(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        for _ in range(2):
            here.play(200)
            here.transport.settle()
        cycle = here.transport.cycle
        registry = cycle.workspace.registry
        champion = registry.champion()
        assert champion is not None
        (registry.paths.models / champion.model_id / "encoder.json").write_bytes(b"{}")
        here.play(200)
        here.transport.settle()
        assert cycle.last_run is not None and cycle.last_run.outcome == "failed"
        answer = run_operation(cycle.workspace, "models", {"action": "unset"})
        assert answer["previous"] == champion.model_id and registry.champion() is None
        assert registry.champions()[0].model_id == champion.model_id
        with pytest.raises(Refused, match="no champion"):
            run_operation(cycle.workspace, "models", {"action": "unset"})
        assert here.transport.server.refresh()
        here.play(400)
        assert here.transport.server.heartbeat().model_id == COLD_START_MODEL_ID
        here.transport.settle()
        after = registry.champion()
        assert after is not None and after.generation == champion.generation + 1
        assert registry.manifest(after.model_id).data["rows"] == 1000


def _never(*arguments: object) -> None:
    raise AssertionError("a model was loaded in the learner's own process")
