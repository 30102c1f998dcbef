"""While a run is under way, however long it takes: the log is read, status is fresh, and the champion is watched."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bandit.errors import Busy
from joiner.warehouse import Warehouse
from serving.in_process import InProcess
from serving.learner import cycle as cycles
from serving.learner.admin.metrics import learner_metrics
from serving.learner.challengers.former import FORMER
from serving.learner.challengers.store import STANDING
from serving.learner.verdicts import promotion
from tests.serving.learner_support import BEST, history, world
from tests.serving.service_support import Service, served
from tests.serving.test_tenure import WIDE, crown_a_bad_model
from tests.serving.test_watch import beat

pytestmark = pytest.mark.slow


def test_a_promotion_is_undone_and_status_is_fresh_while_a_run_trains(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        past = history(120, random.Random(0), lambda sky, action: float(BEST[sky] == action))
        rows = "\n".join(json.dumps(row) for row in past)
        service.admin.post("/import", content=rows, headers={"content-type": "application/x-ndjson"})
        service.wait("the initial model", lambda: service.status()["champion"], 60)
        initial = service.status()["champion"]
        service.play(20)
        service.wait("they mature", lambda: service.status()["new_interactions"] == 20)
        bad = service.admin.post("/steps/train").raise_for_status().json()["model_id"]
        service.admin.post(f"/models/{bad}/promote", json={"override": True}).raise_for_status()
        service.admin.post("/resume").raise_for_status()
        service.wait("the worker serves it", lambda: [w["model_id"] for w in service.status()["workers"]] == [bad])
        runs = service.status()["runs"]

        trainers = trainers_of(service)
        for pid in trainers:
            os.kill(pid, signal.SIGSTOP)
        try:
            service.play(220)
            service.wait("a run to train", lambda: service.status()["running"] == "train")
            known = service.status()["counts"]["decisions"]
            service.play(10)
            service.wait("they are taken in", lambda: service.status()["counts"]["decisions"] >= known + 10)
            policy = service.data_dir / "experiments/test/models" / bad / "policy.vw"
            content = policy.read_bytes()
            policy.write_bytes(bytes([content[0] ^ 1]) + content[1:])
            (worker,) = service.status()["workers"]
            os.kill(worker["pid"], signal.SIGKILL)
            alive = lambda: [w["pid"] for w in service.status()["workers"]]  # noqa: E731
            service.wait("the dead worker is told no more", lambda: worker["pid"] not in alive())
            service.wait("it is undone", lambda: service.status()["champion"] == initial, 60)
            assert service.status()["running"] == "train" and service.status()["runs"] == runs
        finally:
            for pid in trainers:
                os.kill(pid, signal.SIGCONT)
        service.wait("the run ends", lambda: service.status()["runs"] > runs)
        run = service.status()["last_run"]
        assert run["outcome"] == "nothing" and "the champion changed while the run was under way" in run["reason"]
        assert service.status()["champion"] == initial


def test_the_lag_of_the_log_is_told_as_of_now_whenever_the_last_poll_was(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        here.transport.clock.advance(600)
        told = learner_metrics({"test": here.transport.cycle})
        match = re.search(r'^rewardloop_learner_log_lag_seconds\{experiment="test"\} (\S+)$', told, re.MULTILINE)
        assert match is not None and 600 <= float(match[1]) < 610


def test_the_log_is_read_while_rows_are_written_out_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        cycle, write, polled = here.transport.cycle, Warehouse.write_training_rows, []

        def polled_meanwhile(warehouse: Warehouse, *arguments: Any, **named: Any) -> int:
            poll = threading.Thread(target=cycle.tick, daemon=True)
            poll.start()
            poll.join(10)
            polled.append(not poll.is_alive())
            return write(warehouse, *arguments, **named)

        monkeypatch.setattr(Warehouse, "write_training_rows", polled_meanwhile)
        here.play(60)
        here.transport.settle()
        assert polled and all(polled)
        assert cycle.last_run is not None and cycle.last_run.rows == 60


def test_a_database_that_a_run_reads_is_not_replaced_before_it_has_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        workspace = here.transport.cycle.workspace
        monkeypatch.setattr("serving.learner.workspace.READERS_S", 0.05)
        with workspace.reading() as warehouse:
            with pytest.raises(Busy, match="the database is being read"):
                workspace.release_warehouse()
            assert warehouse.counts()["imported"] == 60
        workspace.release_warehouse()
        with pytest.raises(Busy, match="made anew"):
            warehouse.counts()
        assert workspace.warehouse.counts()["imported"] == 60


@pytest.mark.parametrize("step", ["train", "promote"])
def test_a_run_promotes_nothing_over_a_champion_that_was_undone_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with world(tmp_path, exploration=WIDE) as here:
        here.transport.warm_start(here.history(60))
        here.play(60)
        here.transport.settle()
        cycle, registry = here.transport.cycle, here.transport.cycle.workspace.registry
        bad, good = crown_a_bad_model(here)
        here.transport.clock.advance(30)
        undo_within(monkeypatch, step, here.transport)

        here.play(2000)
        here.transport.settle()
        report = cycle.last_run
        assert report is not None and report.outcome == "nothing" and report.champion == bad
        assert report.reason == f"the champion changed while the run was under way: {CHANGED[step](bad, good)}"
        champion = registry.champion()
        assert champion is not None and champion.model_id == good and champion.restored
        assert [entry["model_id"] for entry in registry.history.entries("rollback")] == [good]
        assert not registry.history.entries("promotion")

        assert cycle.new_rows() == 2000 and cycle.owed_rows() == 0  # they are the next run's, beside the new champion
        here.play(50)
        here.transport.settle()
        standing = cycle.store.load(STANDING)
        assert standing is not None and standing.origin is not None and standing.origin.base in (good, None)
        assert FORMER not in cycle.store.names() or registry.history.entries("promotion")


CHANGED: dict[str, Callable[[str, str], str]] = {
    "train": lambda bad, good: f"it is {good} by now, not {bad}",
    "promote": lambda bad, good: f"the champion is {good} by now, not {bad} as expected; look again and decide anew",
}


def undo_within(monkeypatch: pytest.MonkeyPatch, step: str, transport: InProcess) -> None:
    """Have a poll undo the promotion, once, when the next run has trained, or has certified whom it will promote."""
    cycle, place = transport.cycle, (cycles, "advance_all") if step == "train" else (promotion, "file_evaluation")
    original, done = getattr(*place), []

    def undoes(*arguments: Any, **named: Any) -> Any:
        answer = original(*arguments, **named)
        if not done:
            done.append(True)
            cycle.intake.live = [beat("m-old", at=transport.clock())]
            cycle._watch_champion()
        return answer

    monkeypatch.setattr(*place, undoes)


def trainers_of(service: Service) -> list[int]:
    """The processes in which the learner trains."""
    found = []
    for children in Path(f"/proc/{service.learner.pid}/task").glob("*/children"):
        for pid in map(int, children.read_text().split()):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found
