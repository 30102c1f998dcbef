"""Runs that fail: one line of history each, nothing changed, and their rows owed until a run learns them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path

import httpx
import pytest

from bandit.registry import ModelRegistry
from bandit.settings import parse_settings, settings_to_dict
from joiner.history import import_history
from serving.learner.admin.routes import create_admin
from serving.learner.challengers.store import STANDING
from serving.learner.hosting import LearnerService
from serving.learner.status import experiment_status
from tests.serving.learner_support import paths_of, world
from tests.serving.test_cycle import learn_until_promoted


def test_a_failed_run_is_one_line_of_history_and_changes_nothing(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        learn_until_promoted(here)
        cycle = here.transport.cycle
        registry = cycle.workspace.registry
        champion = registry.champion()
        assert champion is not None
        model = here.transport.experiment.paths.models / champion.model_id / "policy.vw"
        good = model.read_bytes()
        here.play(120)
        model.write_bytes(good[:-10])
        here.transport.server.writer.seal()
        here.transport.clock.advance(5)
        here.transport.server.heartbeat()
        report = cycle.run(force=True)
        assert report.outcome == "failed" and "CorruptModel" in str(report.error)
        assert registry.history.entries("run")[-1]["outcome"] == "failed"
        model.write_bytes(good)
        assert cycle.run(force=True).outcome in ("hold", "insufficient", "promote")
        state = cycle.store.load(STANDING)
        assert state is not None and state.learnt >= 300


@pytest.mark.parametrize(
    ("error", "traceback"),
    [(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), False), (KeyError("ours"), True)],
)
def test_a_full_disk_is_one_line_of_the_log_and_a_fault_of_ours_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, traceback: bool
) -> None:
    def publish(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("bandit.registry.ModelRegistry.publish", publish)
    with world(tmp_path) as here:
        here.play(200)
        here.transport.settle()
        report = here.transport.cycle.last_run
    assert report is not None and report.outcome == "failed"
    told = [record for record in caplog.records if "a run failed" in record.message]
    assert len(told) == 1 and bool(told[0].exc_info) == traceback
    assert traceback or os.strerror(errno.ENOSPC) in told[0].message


def test_rows_of_a_failed_run_are_owed_and_tried_again_ever_later_without_new_ones(tmp_path: Path) -> None:
    with world(tmp_path, schedule={"interactions": 1000, "interval_s": 100.0}) as here:
        learn_until_promoted(here)
        cycle, clock = here.transport.cycle, here.transport.clock
        champion = cycle.workspace.registry.champion()
        assert champion is not None
        model = here.transport.experiment.paths.models / champion.model_id / "policy.vw"
        good = model.read_bytes()
        model.write_bytes(good[:-10])
        here.play(120)
        here.transport.server.writer.seal()
        clock.advance(5)
        here.transport.server.heartbeat()
        assert cycle.run(force=True).outcome == "failed"
        assert cycle.new_rows() == 0 and cycle.owed_rows() == 120 and cycle.due() is None
        said = experiment_status(cycle)["next"]
        assert "failed" in said and "tried again in 100 s" in said and "120 interactions" in said
        clock.advance(100)
        assert cycle.due() == "retry"
        assert cycle.run(trigger="retry").outcome == "failed"
        clock.advance(100)
        assert cycle.due() is None
        clock.advance(100)
        assert cycle.due() == "retry"
        model.write_bytes(good)
        assert cycle.run(trigger="retry").rows == 120
        assert cycle.owed_rows() == 0
        clock.advance(10_000)
        assert cycle.due() is None


def test_a_run_that_a_full_disk_does_not_even_let_begin_is_tried_once_in_an_interval_and_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with world(tmp_path, schedule={"interactions": 100, "interval_s": 100.0}) as here:
        learn_until_promoted(here)
        cycle, clock = here.transport.cycle, here.transport.clock
        here.play(120)
        here.transport.server.writer.seal()
        clock.advance(5)
        here.transport.server.heartbeat()
        before, outcomes = cycle.runs, dict(cycle.outcomes)
        monkeypatch.setattr("serving.learner.recovery.write_atomically", full)
        monkeypatch.setattr("bandit.history.History.record", full)
        tried = []
        for second in range(1000):
            clock.advance(1)
            here.transport.server.heartbeat()
            cycle.tick()
            trigger = cycle.due()
            if trigger is not None:
                tried.append(second)
                with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                    cycle.run(trigger=trigger)
        assert tried == list(range(0, 1000, 100))
        assert (cycle.runs, dict(cycle.outcomes)) == (before, outcomes)
        assert len([record for record in caplog.records if "a run failed" in record.message]) == len(tried)
        monkeypatch.undo()
        clock.advance(1)
        assert cycle.due() == "retry"
        report = cycle.run(trigger="retry")
        assert report.outcome != "failed" and report.rows == 120
        assert cycle.workspace.registry.history.entries("run")[-1]["run"] == cycle.runs == before + 1


def test_a_run_that_learns_nothing_in_its_mode_leaves_owed_what_a_failed_one_owes(tmp_path: Path) -> None:
    with world(tmp_path, schedule={"interactions": 1000, "interval_s": 100.0}) as here:
        learn_until_promoted(here)
        cycle, experiment = here.transport.cycle, here.transport.experiment
        champion = cycle.workspace.registry.champion()
        assert champion is not None
        (experiment.paths.models / champion.model_id / "policy.vw").write_bytes(b"")
        here.play(120)
        here.transport.server.writer.seal()
        here.transport.clock.advance(5)
        here.transport.server.heartbeat()
        assert cycle.run(force=True).outcome == "failed" and cycle.owed_rows() == 120
        plain = settings_to_dict(experiment.settings)
        quiet = parse_settings(plain | {"serving": plain["serving"] | {"mode": "logging_only"}})
        experiment.change(quiet, now=here.transport.clock())
        assert "logging_only" in cycle.run(force=True).reason
        assert cycle.owed_rows() == 120


def test_history_whose_first_run_failed_is_tried_again_after_the_interval(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        cycle, clock = here.transport.cycle, here.transport.clock
        clock.advance(1)
        rows = [json.dumps(row).encode() for row in here.history(60)]
        import_history(here.transport.experiment, rows, clock=clock, durable=False)
        clock.advance(1)
        here.transport.server.writer.seal()
        here.transport.server.heartbeat()
        cycle.tick()
        assert cycle.due() == "history"
        models_folder = here.transport.experiment.paths.models
        models_folder.rmdir()
        models_folder.write_text("in the way")
        assert cycle.run(trigger="history").outcome == "failed"
        assert cycle.due() is None
        said = experiment_status(cycle)["next"]
        assert "tried again at 2026-01-01 00:05" in said and "60 interactions" in said
        clock.advance(1000)
        assert cycle.due() == "retry"
        models_folder.unlink()
        assert cycle.run(trigger="retry").outcome == "initial"


def test_a_trial_that_cannot_be_read_ends_and_another_starts_with_a_line_of_history(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        here.play(60)
        here.transport.settle()
        registry = here.transport.cycle.workspace.registry
        assert registry.trial() is not None
        registry.paths.trial.write_bytes(b"{")
        here.play(120)
        here.transport.settle()
        (told,) = registry.history.entries("trial")
        assert told["reason"].startswith("trial.json cannot be read (")
        assert any(told["reason"] in record.getMessage() for record in caplog.records)
        assert registry.trial() is not None
        assert [run["outcome"] for run in registry.history.entries("run")].count("failed") == 0


def test_a_failing_run_leaves_the_learner_ready_and_is_told_in_metrics_and_status(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        here.play(60)
    registry = ModelRegistry(paths_of(tmp_path))
    champion = registry.champion()
    assert champion is not None
    (registry.paths.models / champion.model_id / "policy.vw").write_bytes(b"damaged")
    service = LearnerService(tmp_path)

    async def ask(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=create_admin(service, host="127.0.0.1"))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path)

    try:
        service.discover()
        failed = service.cycle("test").run(force=True)
        assert failed.outcome == "failed" and champion.model_id in failed.reason
        service.poll("test")
        ready = asyncio.run(ask("/readyz"))
        assert (ready.status_code, ready.json()["failures"]) == (200, {})
        told = 'rewardloop_learner_runs_total{experiment="test",outcome="failed"} 1'
        assert told in asyncio.run(ask("/metrics")).text.splitlines()
        assert champion.model_id in asyncio.run(ask("/v1/experiments/test/status")).json()["why"]
    finally:
        service.close()
