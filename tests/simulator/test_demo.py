"""The demo in short form, through the real service: what it promises in long form holds here too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bandit.experiment import Experiment
from bandit.policies import load_policy
from bandit.registry import ModelRegistry
from bandit.replay import offered_actions, replay
from bandit.types import COLD_START_MODEL_ID
from joiner.warehouse import Warehouse
from serving.cli import run
from serving.cli.demo import _print_summary
from serving.demonstration import DemoResult
from serving.sabotage import read_log

pytestmark = pytest.mark.slow

INTERACTIONS, BATCH = 600, 200


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data_dir = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "serving.cli", "demo", "--data-dir", str(data_dir), "--sabotage", "--json"]
    command += ["--interactions", str(INTERACTIONS), "--batch", str(BATCH), "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def experiment(demo: dict[str, Any]) -> Experiment:
    return Experiment.open(Path(demo["data_dir"]), "statlog")


def interactions(experiment: Experiment) -> pd.DataFrame:
    with Warehouse(experiment, read_only=True) as warehouse:
        return warehouse.interactions()


def test_every_interaction_is_decided_rewarded_and_joined_once(demo: dict[str, Any], experiment: Experiment) -> None:
    assert demo["decisions_logged"] == demo["rewards_logged"] == demo["interactions_joined"] == INTERACTIONS
    assert demo["imported"] == 100
    log = read_log(experiment)
    joined = interactions(experiment)
    live = joined[joined["origin"] == "live"]
    assert sorted(live["event_id"]) == sorted(log.decisions)
    assert (live["reward"] == [log.rewards[event_id].reward for event_id in live["event_id"]]).all()


def test_it_learns_and_only_the_gate_lets_models_serve(demo: dict[str, Any], experiment: Experiment) -> None:
    assert demo["first_500"] > 0.6 and demo["mean_reward"] > 0.7
    assert demo["promotions"] >= 1
    assert demo["promotions"] + demo["holds"] + demo["insufficient"] == INTERACTIONS // BATCH
    history = ModelRegistry(experiment.paths).history.entries()
    runs = [entry for entry in history if entry["kind"] == "run"]
    assert runs[0]["outcome"] == "initial"
    for one in runs:
        if one["outcome"] in ("promote", "initial"):
            certificate = experiment.paths.evaluations / one["evaluation_id"] / "certificate.json"
            assert json.loads(certificate.read_bytes())


def test_a_challenger_trained_on_reversed_rewards_is_judged_and_never_serves(
    demo: dict[str, Any], experiment: Experiment
) -> None:
    sabotage = demo["sabotage"]
    assert sabotage["outcome"] in ("hold", "insufficient") and sabotage["reason"]
    assert sabotage["lift"] < 0
    champions = {champion.model_id for champion in ModelRegistry(experiment.paths).champions()}
    assert sabotage["challenger"] not in champions | {demo["champion"]}


def test_a_killed_learner_comes_back_and_nothing_is_lost(demo: dict[str, Any]) -> None:
    assert demo["sabotage"]["learner_restarted"]
    assert demo["interactions_joined"] == INTERACTIONS


def test_every_logged_decision_replays_from_its_models_bit_for_bit(experiment: Experiment) -> None:
    registry = ModelRegistry(experiment.paths)
    policies: dict[str, Any] = {}

    def policy(model_id: str | None) -> Any:
        if model_id is not None and model_id not in policies:
            policies[model_id] = load_policy(registry.load(model_id))
        return policies.get(model_id or "")

    for decision in read_log(experiment).decisions.values():
        assert decision.model_id != COLD_START_MODEL_ID
        actions = offered_actions(decision, experiment.catalogue)
        assert actions is not None
        again = replay(
            decision,
            actions=actions,
            policy=policy(decision.model_id),
            trial=policy(decision.trial_model_id),
            settings=experiment.settings_of(decision.settings_version),
            secret=experiment.secret,
        )
        assert again is not None and again.agrees_with(decision)
    assert len(policies) >= 2
    for one in policies.values():
        one.close()


def test_rebuilding_the_database_gives_the_same_interactions_row_for_row(
    demo: dict[str, Any], experiment: Experiment
) -> None:
    before = interactions(experiment)
    experiment.paths.warehouse.unlink()
    assert run(["rebuild", "--data-dir", demo["data_dir"]]) == 0
    pd.testing.assert_frame_equal(interactions(experiment), before)
    assert len(before) == INTERACTIONS + 100


def test_picture_and_report_are_where_it_says(demo: dict[str, Any]) -> None:
    assert Path(demo["picture"]).read_bytes().startswith(b"\x89PNG")
    report = Path(demo["report"]).read_text("utf-8")
    assert "<html" in report and "http://" not in report.replace("http://www.w3.org", "")


def test_every_path_of_the_summary_is_whole_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    paths = {name: f"/data/{'long' * 20}/{name}" for name in ("picture", "report", "data_dir")}
    counts = dict.fromkeys(("decisions_logged", "rewards_logged", "interactions_joined", "imported"), 750)
    verdicts = dict.fromkeys(("promotions", "holds", "insufficient"), 1)
    earned = dict.fromkeys(("mean_reward", "first_500", "last_500"), 0.9)
    _print_summary(DemoResult(interactions=750, champion="m1", seconds=9.0, **paths, **counts, **verdicts, **earned))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[-3:]] == list(paths.values())


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("data")
    assert run(["demo", "--data-dir", str(tmp_path)]) == 2
    assert "--data-dir" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious"]
