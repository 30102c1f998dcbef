"""The training process: it outlives its jobs, is started again after a crash, and is bounded in time."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from bandit.errors import NotFound, TrainingFailed
from bandit.experiment import Experiment
from bandit.settings import ExperimentSettings
from serving.cli.common import now
from serving.learner.trainer import ChildTrainer, InlineTrainer


def test_a_killed_training_process_fails_one_job_and_is_started_again() -> None:
    trainer = ChildTrainer()
    try:
        assert trainer.run("ping") == 0
        first = trainer.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # so that the job is under way when the process dies
        threading.Timer(0.2, os.kill, (first, signal.SIGKILL)).start()
        with pytest.raises(TrainingFailed, match="SIGKILL"):
            trainer.run("ping")
        assert trainer.run("ping") == 0
        assert trainer.pid != first
        assert trainer.restarts == 2
    finally:
        trainer.close()


def test_a_job_that_takes_too_long_is_ended() -> None:
    trainer = ChildTrainer(timeout_s=30)
    try:
        trainer.run("ping")
        pid = trainer.pid
        assert pid is not None
        trainer.timeout_s = 0.2
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TrainingFailed, match="longer than"):
            trainer.run("ping")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        trainer.close()


@pytest.mark.parametrize("make", [InlineTrainer, ChildTrainer])
def test_errors_of_a_job_keep_their_class_on_the_way_to_the_learner(
    make: type[InlineTrainer] | type[ChildTrainer], tmp_path: Path
) -> None:
    experiment = Experiment.create(tmp_path, "one", ExperimentSettings(), now=now())
    trainer = make()
    try:
        with pytest.raises(NotFound, match="there is no model"):
            trainer.run("verify", experiment.paths.root, "m20260101t000000-00000000")
    finally:
        trainer.close()


def test_the_training_process_ends_when_the_learner_is_gone() -> None:
    trainer = ChildTrainer()
    trainer.run("ping")
    pid = trainer.pid
    assert pid is not None and trainer._pipe is not None
    trainer._pipe.close()
    until = time.monotonic() + 5
    while trainer._process.is_alive() and time.monotonic() < until:
        time.sleep(0.02)
    assert trainer._process.exitcode == 0
