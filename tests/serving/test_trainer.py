"""The training process: it outlives its jobs, is started again after a crash, and is bounded in time."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from bandit.errors import NotFound, TrainingFailed
from bandit.experiment import Experiment
from bandit.scratch import IN_MEMORY, PREFIX
from bandit.settings import ExperimentSettings, Training, parse_settings, settings_to_dict
from serving.cli.common import now
from serving.learner.training.jobs import UNIFORM, Job
from serving.learner.training.parcels import receive, send
from serving.learner.training.trainer import (
    Call,
    ChildTrainer,
    HelpedTrainer,
    InlineTrainer,
    TrainerPool,
    end_with_parent,
)


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


def test_what_a_helper_dies_of_is_done_without_it() -> None:
    with contextlib.closing(HelpedTrainer()) as pool:
        calls = [Call("standing", "ping", ()), Call("recent", "ping", ())]
        assert pool.run_all(calls) == [0, 0]
        helper = pool.trainers[1]
        assert isinstance(helper, ChildTrainer) and helper.pid is not None
        os.kill(helper.pid, signal.SIGSTOP)  # so that the job is under way when the process dies
        threading.Timer(0.2, os.kill, (helper.pid, signal.SIGKILL)).start()
        assert pool.run_all(calls) == [0, 0]
        assert (pool.run_all(calls), helper.restarts) == ([0, 0], 2)


def test_what_is_wrong_with_a_job_is_told_with_a_helper_too(tmp_path: Path) -> None:
    experiment = Experiment.create(tmp_path, "one", ExperimentSettings(), now=now())
    verify = ("verify", (experiment.paths.root, "m20260101t000000-00000000"))
    with contextlib.closing(HelpedTrainer()) as pool:
        results = pool.run_all([Call("standing", *verify), Call("recent", *verify)])
    assert [type(result) for result in results] == [NotFound, NotFound]


def test_an_answer_is_never_taken_for_that_of_a_later_job(tmp_path: Path) -> None:
    trainer = ChildTrainer()
    try:
        trainer.run("ping")
        with pytest.raises(OverflowError):  # after the job was sent, before its answer was read
            trainer.run("ping", limits=Training(time_s_max=1e300))
        experiment = Experiment.create(tmp_path, "one", ExperimentSettings(), now=now())
        with pytest.raises(NotFound, match="there is no model"):
            trainer.run("verify", experiment.paths.root, "m20260101t000000-00000000")
        assert trainer.restarts == 2
    finally:
        trainer.close()


def test_no_process_is_started_for_what_a_stopping_learner_had_still_to_do() -> None:
    trainer = ChildTrainer()
    trainer.run("ping")
    trainer.close()
    with pytest.raises(TrainingFailed, match="stopping"):
        trainer.run("ping")
    assert trainer.pid is None and trainer.restarts == 1


def test_a_job_by_hand_does_not_wait_for_a_long_training() -> None:
    pool = TrainerPool.of(2)
    try:
        busy, idle = pool.trainers
        busy.run("ping")
        assert busy.pid is not None and idle.pid is None
        os.kill(busy.pid, signal.SIGSTOP)  # a job that does not end
        training = threading.Thread(target=_fails, args=(busy,))
        training.start()
        while not busy.busy:
            time.sleep(0.01)
        assert pool.run("ping") == 0
        assert idle.pid is not None
        os.kill(busy.pid, signal.SIGKILL)
        training.join(5)
    finally:
        pool.close()


def test_a_stored_model_is_verified_at_once_while_every_training_process_is_at_work(tmp_path: Path) -> None:
    experiment = Experiment.create(tmp_path, "one", ExperimentSettings(), now=now())
    verify = ("verify", experiment.paths.root, "m20260101t000000-00000000")
    with contextlib.closing(TrainerPool.of(2)) as pool:
        trainings = []
        for trainer in pool.trainers:
            trainer.run("ping")
            assert isinstance(trainer, ChildTrainer) and trainer.pid is not None
            os.kill(trainer.pid, signal.SIGSTOP)  # a job that does not end
            trainings.append(threading.Thread(target=_fails, args=(trainer,)))
            trainings[-1].start()
        while not all(trainer.busy for trainer in pool.trainers):
            time.sleep(0.01)
        told: list[Exception] = []

        def asks() -> None:
            try:
                pool.run(*verify)
            except (NotFound, TrainingFailed) as error:
                told.append(error)

        people = [threading.Thread(target=asks, daemon=True) for _ in range(2)]
        for somebody in people:
            somebody.start()
        for somebody in people:
            somebody.join(60)
        assert [type(error) for error in told] == [NotFound, NotFound]
        assert pool.spare.restarts >= 1 and pool.spare.pid is None  # it has given back what it took
    for training in trainings:
        training.join(5)
    with pytest.raises(TrainingFailed, match="stopping"):
        pool.run(*verify)


def _fails(trainer: ChildTrainer) -> None:
    with pytest.raises(TrainingFailed):
        trainer.run("ping")


def test_a_job_that_takes_too_long_is_ended() -> None:
    trainer = ChildTrainer()
    try:
        trainer.run("ping")
        pid = trainer.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TrainingFailed, match=r"training\.time_s_max = 1 s"):
            trainer.run("ping", limits=Training(time_s_max=1.0))
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        trainer.close()


def test_a_job_that_needs_too_much_memory_fails_and_the_process_goes_on(tmp_path: Path) -> None:
    settings = parse_settings({"actions": [{"id": "a"}, {"id": "b"}], "learning": {"bits": 28}})
    experiment = Experiment.create(tmp_path, "one", settings, now=now())
    rows = tmp_path / "rows.ndjson"
    row = '{"event_id":"e","decided_at":"2026-01-01T00:00:00Z","model_id":"m","context":{"x":1.0},"index":0,'
    rows.write_text(row + '"propensity":0.5,"reward":1.0,"catalogue_version":1}\n')
    job = Job(root=experiment.paths.root, name="one", settings=settings_to_dict(settings), champion=UNIFORM, score=rows)
    trainer = ChildTrainer()
    try:
        with pytest.raises(TrainingFailed, match=r"training\.memory_bytes_max = 3,000,000,000"):
            trainer.run("advance", job, limits=Training(memory_bytes_max=3_000_000_000))
        assert trainer.run("ping") == 0 and trainer.restarts == 1
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


def test_a_process_ends_with_the_one_that_started_it_in_the_middle_of_its_work() -> None:
    code = (
        "import multiprocessing, time\n"
        "from tests.serving.test_trainer import work_on\n"
        "child = multiprocessing.get_context('spawn').Process(target=work_on, daemon=True)\n"
        "child.start(); print(child.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(1)  # it is at work
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until
        time.sleep(0.02)


def work_on() -> None:
    end_with_parent()
    while True:
        pass


def test_large_answers_come_whole_and_leave_no_file_behind() -> None:
    ours, theirs = multiprocessing.Pipe()
    answer = {"numbers": np.arange(400_000, dtype=np.float64), "few": np.arange(3), "text": ["a", "b"]}
    with contextlib.ExitStack() as until_read:
        send(theirs, ("done", answer), until_read)
        kind, received = receive(ours)
        before = list(IN_MEMORY.glob(f"{PREFIX}*/arrays"))
    assert kind == "done" and received["text"] == ["a", "b"]
    assert np.array_equal(received["numbers"], answer["numbers"]) and np.array_equal(received["few"], answer["few"])
    received["numbers"][0] = -1.0  # the receiver's own, as if it had come through the pipe
    assert answer["numbers"][0] == 0.0
    assert before == []


def test_small_answers_need_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.learner.training.parcels.scratch_folder", None)
    ours, theirs = multiprocessing.Pipe()
    with contextlib.ExitStack() as until_read:
        send(theirs, np.arange(1000), until_read)
        assert np.array_equal(receive(ours), np.arange(1000))


def test_large_answers_come_through_the_pipe_where_there_is_no_room_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(room_bytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("serving.learner.training.parcels.scratch_folder", full)
    ours, theirs = multiprocessing.Pipe()
    numbers = np.arange(400_000, dtype=np.float64)
    with contextlib.ExitStack() as until_read:
        sender = threading.Thread(target=send, args=(theirs, numbers, until_read))
        sender.start()  # a pipe holds less than that
        assert np.array_equal(receive(ours), numbers)
        sender.join()
