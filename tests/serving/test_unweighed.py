"""Rows from before a champion came back are learnt and prove nothing, and whoever asks is told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bandit.errors import NotYet
from bandit.settings import merge_settings
from serving.cli import run
from serving.learner import cycle as cycles
from serving.learner import models, steps
from serving.learner.challengers.store import STANDING
from serving.learner.operations import run_operation
from serving.learner.status import experiment_status
from tests.serving.learner_support import World, world
from tests.serving.test_tenure import WIDE, crown_a_bad_model

ROWS = 1_200


def come_back_within_a_run(here: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """Play rows under a bad champion, and roll back while the run that learns them is under way; who came back."""
    here.transport.warm_start(here.history(60))
    here.play(60)
    here.transport.settle()
    cycle = here.transport.cycle
    _, good = crown_a_bad_model(here)
    here.transport.clock.advance(30)
    original = cycles.advance_all

    def undone(*arguments: Any, **named: Any) -> Any:
        answer = original(*arguments, **named)
        monkeypatch.setattr(cycles, "advance_all", original)
        models.roll_back(cycle.workspace, cycle.store, cycle.trainer)
        return answer

    monkeypatch.setattr(cycles, "advance_all", undone)
    here.play(ROWS)
    here.transport.settle()
    assert cycle.last_run is not None and "the champion changed while" in cycle.last_run.reason
    champion = cycle.workspace.registry.champion()
    assert champion is not None and champion.model_id == good and champion.restored
    return good


def test_rows_from_before_a_rollback_prove_nothing_though_settings_of_the_model_changed_meanwhile(
    tmp_path: Path,
) -> None:
    with world(tmp_path, exploration=WIDE) as here:
        here.transport.warm_start(here.history(60))
        here.play(60)
        here.transport.settle()
        cycle, experiment = here.transport.cycle, here.transport.experiment
        crown_a_bad_model(here)
        floor = {"exploration": {"probability_floor": 0.02}}
        experiment.change(merge_settings(experiment.settings, floor), now=here.transport.clock())
        here.play(200)
        here.transport.settle()
        models.roll_back(cycle.workspace, cycle.store, cycle.trainer)
        here.play(50)
        here.transport.settle()
        state = cycle.store.load(STANDING)
        assert state is not None and here.transport.last_report is not None
        assert here.transport.last_report.rows == state.scored == 50
        assert state.learnt >= 60 + 60 + 200 + 50


def test_the_run_after_a_rollback_says_how_many_rows_it_learnt_and_does_not_weigh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, exploration=WIDE) as here:
        come_back_within_a_run(here, monkeypatch)
        cycle = here.transport.cycle
        told = "interactions that matured before the champion came back were learnt and not weighed"
        report = cycle.run(force=True)
        assert (report.outcome, report.rows) == ("nothing", 0)
        assert report.unscored >= ROWS
        assert report.reason == f"{report.unscored:,} {told}; no interaction has matured since then"
        entry = cycle.workspace.registry.history.entries("run")[-1]
        assert (entry["rows"], entry["unscored"]) == (0, report.unscored)

        why = experiment_status(cycle)["why"]
        assert "had nothing to weigh: " in why and told in why

        again = cycle.run(force=True)
        assert (again.rows, again.unscored) == (0, 0)
        assert again.reason == f"no interaction has matured since the last run ({report.unscored:,} {told})"
        with pytest.raises(NotYet, match=f"in the champion's tenure: {report.unscored:,} {told}"):
            steps.train(cycle)

        here.play(100)
        here.transport.settle()
        assert cycle.last_run is not None and (cycle.last_run.rows, cycle.last_run.unscored) == (100, 0)
        assert cycle.run(force=True).reason == "no interaction has matured since the last run"


def test_an_event_from_before_a_champion_came_back_says_why_no_evaluation_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with world(tmp_path, exploration=WIDE) as here:
        good = come_back_within_a_run(here, monkeypatch)
        here.transport.cycle.run(force=True)
        here.play(20)
        here.transport.settle()
        workspace = here.transport.cycle.workspace
        before, after = f"event-{60 + ROWS}", f"event-{60 + ROWS + 20}"
        told = run_operation(workspace, "events", {"event_id": before})
        assert told["evaluated_in"] == []
        assert told["not_evaluated"].startswith(f"none: it matured before {good} came back (")
        assert told["not_evaluated"].endswith("so it is learnt and not weighed")
        assert run_operation(workspace, "events", {"event_id": after})["not_evaluated"] is None
    capsys.readouterr()
    assert run(["events", "show", before, "--data-dir", str(tmp_path)]) == 0
    assert f"none: it matured before {good} came back" in capsys.readouterr().out
    assert run(["events", "show", after, "--data-dir", str(tmp_path)]) == 0
    assert "came back" not in capsys.readouterr().out


def test_an_event_that_a_challenger_will_still_score_beside_the_champion_that_came_back_is_not_called_lost(
    tmp_path: Path,
) -> None:
    with world(tmp_path, exploration=WIDE) as here:
        here.transport.warm_start(here.history(60))
        here.play(60)
        here.transport.settle()
        cycle = here.transport.cycle
        here.play(20)
        here.transport.server.writer.seal()
        here.transport.clock.advance(5)
        here.transport.server.heartbeat()
        cycle.tick()
        assert cycle.new_rows() == 20
        crown_a_bad_model(here)
        models.roll_back(cycle.workspace, cycle.store, cycle.trainer)
        told = run_operation(cycle.workspace, "events", {"event_id": "event-80"})
        assert (told["interaction"] is not None, told["evaluated_in"], told["not_evaluated"]) == (True, [], None)
        report = cycle.run(force=True)
        assert (report.rows, report.unscored) == (20, 0) and report.verdicts
