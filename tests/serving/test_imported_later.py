"""History that is imported while a service runs: when it is learnt, what waits for it, and what is said meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bandit.errors import NotYet
from joiner.history import import_history
from serving.cli import run
from serving.learner import steps
from serving.learner.cycle import IMPORT_PAUSE_S, IMPORT_WAIT_S
from serving.learner.initial import INITIAL_ROWS_MIN
from serving.learner.status import experiment_status
from tests.serving.learner_support import World, world

OFTEN = {"interactions": 50, "interval_s": 100.0}


def bring(here: World, number: int, progress: Callable[[int], None] | None = None) -> None:
    """Import so many rows; the learner polls afterwards."""
    here.transport.clock.advance(1)
    lines = [json.dumps(row).encode() for row in here.history(number)]
    import_history(here.transport.experiment, lines, clock=here.transport.clock, durable=False, progress=progress)
    poll(here)


def poll(here: World, after_s: float = 0.1) -> str | None:
    """What is due when the learner polls after a while."""
    here.transport.clock.advance(after_s)
    here.transport.server.heartbeat()
    here.transport.cycle.tick()
    return here.transport.cycle.due()


def told(here: World) -> str:
    return str(experiment_status(here.transport.cycle)["next"])


def test_history_that_is_imported_after_the_first_model_is_learnt_without_any_traffic(tmp_path: Path) -> None:
    with world(tmp_path, schedule=OFTEN) as here:
        cycle = here.transport.cycle
        bring(here, 60)
        assert told(here) == "The next run starts at the next poll, with 60 new interactions."
        assert cycle.run(trigger="history").outcome == "initial"
        bring(here, 20)
        assert poll(here) is None
        assert told(here).startswith("The next run starts in 99 s with 20 new interactions, or after 30 more")
        bring(here, 50)
        assert experiment_status(cycle)["new_interactions"] == 70
        assert poll(here) == "rows" and cycle.run(trigger="rows").rows == 70
        bring(here, 10)
        assert poll(here) is None and poll(here, 100) == "interval"
        assert cycle.run(trigger="interval").rows == 10
        assert cycle.new_rows() == 0 and poll(here, 1000) is None


def test_imported_rows_of_a_failed_run_are_owed_like_others(tmp_path: Path) -> None:
    with world(tmp_path, schedule=OFTEN) as here:
        here.transport.warm_start(here.history(60))
        cycle = here.transport.cycle
        champion = cycle.workspace.registry.champion()
        assert champion is not None
        model = here.transport.experiment.paths.models / champion.model_id / "policy.vw"
        good = model.read_bytes()
        model.write_bytes(good[:-10])
        cycle.store.drop("standing")
        bring(here, 50)
        assert cycle.run(trigger="rows").outcome == "failed" and cycle.owed_rows() == 50
        model.write_bytes(good)
        assert poll(here, 100) == "retry" and cycle.run(trigger="retry").rows == 50


@pytest.mark.parametrize("first", [True, False], ids=["first model", "later"])
def test_an_import_in_several_batches_is_learnt_by_one_run_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 60)
    with world(tmp_path, schedule=OFTEN) as here:
        if not first:
            here.transport.warm_start(here.history(60))
        found: list[tuple[str | None, str]] = []
        bring(here, 180, lambda _: found.append((poll(here), told(here))))
        waits = "An import is under way, and the next run waits for its end, with {} new interactions so far."
        assert found == [(None, waits.format(rows)) for rows in (60, 120, 180)]
        trigger = poll(here)
        assert trigger == ("history" if first else "rows")
        assert here.transport.cycle.run(trigger=str(trigger)).rows == 180


def test_live_interactions_wait_for_no_import_and_nothing_for_one_that_brings_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 60)
    with world(tmp_path, schedule=OFTEN) as here:
        here.transport.warm_start(here.history(60))
        found: list[Any] = []

        def meanwhile(rows: int) -> None:
            found.append(poll(here))
            if rows == 60:
                here.play(50)
                here.transport.server.writer.seal()
                found.append(poll(here, 2))
                found.append(here.transport.cycle.run(trigger="rows").rows)
            else:
                found.append(poll(here, IMPORT_PAUSE_S))

        bring(here, 120, meanwhile)
        assert found == [None, "rows", 110, None, "rows"]


@pytest.mark.parametrize("first", [True, False], ids=["first model", "later"])
def test_nothing_waits_for_imports_that_go_on_and_on_for_longer_than_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 10)
    with world(tmp_path, schedule=OFTEN) as here:
        if not first:
            here.transport.warm_start(here.history(60))
        cycle = here.transport.cycle
        begun, runs = here.transport.clock(), []

        def meanwhile(_: int) -> None:
            here.transport.clock.advance(50)
            if trigger := poll(here):
                runs.append((here.transport.clock() - begun).total_seconds())
                cycle.run(trigger=trigger)

        bring(here, 300, meanwhile)
        assert len(runs) == 2
        assert IMPORT_WAIT_S <= runs[0] <= IMPORT_WAIT_S + 110
        assert IMPORT_WAIT_S <= runs[1] - runs[0] <= IMPORT_WAIT_S + 110


def test_what_starts_the_next_run_beside_an_import_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 60)
    with world(tmp_path, schedule=OFTEN) as here:
        here.transport.warm_start(here.history(60))
        here.play(20)
        here.transport.server.writer.seal()
        poll(here, 2)
        found: list[str] = []
        bring(here, 60, lambda _: found.extend([str(poll(here)), told(here)]))
        assert found[0] == "None" and found[1].startswith("The next run starts in ")


def test_a_time_of_cron_that_comes_during_an_import_is_made_good_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 60)
    with world(tmp_path, schedule={"cron": "* * * * *", "interactions": 1000}) as here:
        here.transport.warm_start(here.history(60))
        poll(here, 45)
        bring(here, 120, lambda _: poll(here, 10))
        assert poll(here) == "interval"


def test_a_handful_of_rows_makes_no_first_model_and_everybody_is_told_what_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = "too few for a first model, which is made of 20 or more"
    data_dir = tmp_path / "data"
    with world(data_dir, schedule=OFTEN) as here:
        cycle = here.transport.cycle
        monkeypatch.setattr(steps, "catch_up", lambda _: None)  # it goes by the clock on the wall
        bring(here, 1)
        assert cycle.due() is None
        assert told(here).endswith(f". 1 imported row of history is {few}.")
        bring(here, INITIAL_ROWS_MIN - 2)
        with pytest.raises(NotYet, match=f"^19 imported rows of history are {few}; import more first$"):
            steps.initialize(cycle)
        report = cycle.run(force=True)
        assert report.outcome == "insufficient" and report.reason.endswith(f"; 19 imported rows of history are {few}.")
        assert told(here).endswith(f". 19 imported rows of history are {few}.")
        assert cycle.workspace.registry.champion() is None
        bring(here, 1)
        assert cycle.due() == "history"
        report = cycle.run(trigger="history")
        assert report.outcome == "initial" and "learnt from 20 rows of history" in report.reason
        assert few not in told(here)
        (row,) = here.history(1)
    file = tmp_path / "rows.ndjson"
    file.write_text(json.dumps(row))
    assert run(["import", str(file), "--data-dir", str(tmp_path / "new")]) == 0
    assert "A first model is made of 20 rows of history or more" in "".join(capsys.readouterr())
    assert run(["import", str(file), "--data-dir", str(data_dir)]) == 0
    assert "first model" not in "".join(capsys.readouterr())
