"""What people see of models: how two of them differ in what they would choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.learner import models
from serving.learner.operations import run_operation
from serving.learner.trainer import InlineTrainer
from tests.serving.learner_support import world
from tests.serving.test_tenure import crown_a_bad_model


def test_two_models_that_learnt_different_rows_are_compared_on_the_canaries_of_both(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
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


def test_a_model_does_not_differ_from_itself(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        workspace = here.transport.cycle.workspace
        (model_id,) = workspace.registry.model_ids()
        answer = models.diff(workspace, InlineTrainer(), model_id, model_id)
        assert answer["identical"] and answer["choices"]
        assert {choice["distance"] for choice in answer["choices"]} == {0.0}
