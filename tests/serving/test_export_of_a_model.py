"""The export of what a model has learnt: VW, trained on it with the arguments given, comes to that stored model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vowpalwabbit import Workspace

from bandit.registry import ModelRegistry
from serving.cli import run
from tests.serving.learner_support import copy_of, paths_of, played


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose initial model learnt 60 rows, and in which 180 more were decided and rewarded."""
    return played(tmp_path_factory.mktemp("export") / "data", 3, exploration={"algorithm": "egreedy", "epsilon": 0.02})


def weights(arguments: list[str]) -> dict[int, float]:
    workspace = Workspace(arg_list=[*arguments, "--quiet", "--no_stdin"])
    found = {place: workspace.get_weight(place) for place in range(2**18)}
    workspace.finish()
    return {place: weight for place, weight in found.items() if weight != 0.0}


def exported(data_dir: Path, model_id: str, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    command = ["export", "--format", "dsjson", "--model", model_id, "--out", str(out), "--json"]
    assert run([*command, "--data-dir", str(data_dir)]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def model_ids(data_dir: Path) -> list[str]:
    return sorted(folder.name for folder in paths_of(data_dir).models.iterdir() if folder.is_dir())


def test_vw_trained_on_the_export_comes_to_the_weights_of_the_stored_model(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = copy_of(original, tmp_path)
    for model_id in model_ids(data_dir):
        stored = paths_of(data_dir).models / model_id
        learnt = json.loads((stored / "manifest.json").read_text())["data"]["rows"]
        out = tmp_path / f"{model_id}.dsjson"
        answer = exported(data_dir, model_id, out, capsys)
        assert (answer["rows"], answer["complete"], answer["order_known"]) == (learnt, True, True)
        assert len(out.read_text().splitlines()) > learnt >= 60  # the first rows were read twice
        theirs = weights([*answer["vw_arguments"].split(), "--dsjson", "-d", str(out)])
        ours = weights(["--initial_regressor", str(stored / "policy.vw"), "--testonly"])
        assert len(ours) > 10 and theirs.keys() == ours.keys()
        assert max(abs(ours[place] - theirs[place]) for place in ours) < 1e-6


def test_rows_that_were_learnt_and_are_gone_are_told(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = copy_of(original, tmp_path)
    [first, *_] = model_ids(data_dir)
    row = json.loads(_interactions(data_dir, tmp_path / "rows.ndjson").splitlines()[0])
    assert run(["erase", "--event-id", row["event_id"], "--yes", "--data-dir", str(data_dir)]) == 0
    answer = exported(data_dir, first, tmp_path / "out.dsjson", capsys)
    assert (answer["rows"], answer["complete"]) == (59, False)


def test_a_model_that_does_not_note_how_often_it_read_its_rows_is_not_promised_again(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = copy_of(original, tmp_path)
    [first, *_] = model_ids(data_dir)
    older = published_without_rereading(data_dir, first)
    out = tmp_path / "out.dsjson"
    answer = exported(data_dir, older, out, capsys)
    assert (answer["complete"], answer["order_known"]) == (True, False)
    assert len(out.read_text().splitlines()) == answer["rows"]
    command = ["export", "--format", "dsjson", "--model", older, "--out", str(out), "--data-dir", str(data_dir)]
    assert run(command) == 0
    told = capsys.readouterr().err
    assert "same weights" not in told and "earlier release" in told


def published_without_rereading(data_dir: Path, model_id: str) -> str:
    """A stored model again, as releases wrote it that did not have `reread_rows` in its state; its new id."""
    registry = ModelRegistry(paths_of(data_dir))
    stored = registry.load(model_id)
    state = json.loads(stored.files["state.json"])
    assert state.pop("reread_rows") > 0
    manifest = stored.manifest
    return registry.publish(
        {**stored.files, "state.json": json.dumps(state).encode()},
        now=manifest.created_at,
        parent=manifest.parent,
        kind=manifest.kind,
        options=manifest.options,
        settings_version=manifest.settings_version,
        data=manifest.data,
        canaries=manifest.canaries,
    ).model_id


def _interactions(data_dir: Path, out: Path) -> str:
    assert run(["export", "--out", str(out), "--data-dir", str(data_dir)]) == 0
    return out.read_text()
