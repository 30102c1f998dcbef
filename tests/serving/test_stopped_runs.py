"""A learner that is told to stop while a run trains: no failure, nothing lost, and said plainly."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from bandit.experiment import Experiment
from serving.cli.common import now
from serving.learner import reports
from serving.learner.admin.metrics import learner_metrics
from serving.learner.challengers.store import STANDING
from serving.learner.cycle import Cycle, _trailing_failures
from serving.learner.status import experiment_status
from serving.learner.training.trainer import ChildTrainer, InlineTrainer, TrainerPool
from serving.learner.workspace import Workspace
from tests.serving.learner_support import paths_of, world
from tests.serving.service_support import served
from tests.serving.test_beside_a_run import trainers_of

pytestmark = pytest.mark.slow


def test_an_ordinary_stop_during_a_run_is_no_failure_and_the_next_learner_learns_its_rows(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        service.play(200)
        service.wait("the first run", lambda: service.status()["runs"], 60)
        for pid in trainers_of(service):
            os.kill(pid, signal.SIGSTOP)
        service.play(220)
        service.wait("a run to train", lambda: service.status()["running"] == "train")
    lines = map(json.loads, paths_of(tmp_path).history.read_text().splitlines())
    first, stopped = [entry for entry in lines if entry["kind"] == reports.RUN]
    assert first["outcome"] not in ("failed", "stopped")
    assert stopped["outcome"] == "stopped" and stopped["error"] is None
    assert stopped["reason"].startswith("the run was stopped: the learner is stopping")

    cycle = Cycle(Workspace(Experiment.open(tmp_path, "test"), now), InlineTrainer())
    try:
        cycle.recover()  # leaves no other entry
        cycle.tick()
        assert cycle.runs == 2 and cycle.due() == "rows" and cycle.owed_rows() == 0
        status = experiment_status(cycle)
        assert "was stopped with the learner and changed nothing" in status["why"]
        assert (
            status["next"]
            == f"The next run starts at the next poll, with {status['new_interactions']} new interactions."
        )
        metrics = learner_metrics({"test": cycle}).splitlines()
        assert 'rewardloop_learner_runs_total{experiment="test",outcome="failed"} 0' in metrics
        assert 'rewardloop_learner_runs_total{experiment="test",outcome="stopped"} 1' in metrics
        assert cycle.run(trigger="rows").outcome not in ("failed", "stopped")
        standing = cycle.store.load(STANDING)
        assert standing is not None and standing.learnt == status["counts"]["interactions"]
    finally:
        cycle.close()


def test_a_run_that_finds_its_trainers_closed_is_stopped_and_keeps_its_rows(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        here.play(100)
        cycle = here.transport.cycle
        cycle.trainer.close()
        cycle.trainer = TrainerPool([ChildTrainer()])
        cycle.trainer.close()
        assert here.transport.settle().outcome == "stopped"
        assert cycle.new_rows() == 100


@pytest.mark.parametrize(
    ("outcomes", "failures"),
    [
        ("failed failed", 2),
        ("failed stopped failed", 2),
        ("failed hold stopped", 0),
        ("stopped", 0),
        ("failed stopped", 1),
    ],
)
def test_a_stopped_run_counts_neither_as_a_failure_nor_as_the_end_of_failing(outcomes: str, failures: int) -> None:
    assert _trailing_failures([{"outcome": outcome} for outcome in outcomes.split()]) == failures
