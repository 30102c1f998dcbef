"""What a model learns from, and is judged by, may be restricted: to a time, a mode, a slice or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bandit.errors import InvalidSettings
from bandit.settings import parse_settings, settings_to_dict
from joiner.ledger import trace
from serving.learner.challengers.store import STANDING, ChallengerState
from serving.learner.operations import verify
from tests.serving.learner_support import World, world

ALWAYS = {"enabled": False}


def change(here: World, **learning: Any) -> None:
    experiment = here.transport.experiment
    changed = settings_to_dict(experiment.settings)
    changed["learning"] |= learning
    experiment.change(parse_settings(changed), now=here.transport.clock())
    here.transport.server.refresh()


def standing(here: World) -> ChallengerState:
    state = here.transport.cycle.store.load(STANDING)
    assert state is not None
    return state


def test_decisions_before_the_declared_time_are_neither_learnt_nor_judged_by(tmp_path: Path) -> None:
    with world(tmp_path, gate=ALWAYS) as here:
        here.play(100)
        here.transport.settle()
        since = here.transport.clock()
        change(here, only_since=since.isoformat())
        here.play(80)
        settled = here.transport.settle()
        cycle = here.transport.cycle
        report = cycle.last_run
        assert settled.outcome == "promote" and report is not None and report.evaluation_id is not None
        assert standing(here).learnt == 80
        assert verify.run(cycle.workspace, report.evaluation_id) == {"differences": [], "rows": 80}
        old, new = (
            trace(cycle.workspace.warehouse, cycle.workspace.registry, name, now=here.transport.clock())
            for name in ("event-1", "event-101")
        )
        assert settled.champion in {model["model_id"] for model in new["learnt_by"]}
        assert settled.champion not in {model["model_id"] for model in old["learnt_by"]}


@pytest.mark.parametrize(
    ("learning", "learnt"),
    [
        ({}, 120),
        ({"only_mode": "online"}, 120),
        ({"only_mode": "apprentice"}, 0),
        ({"only_slice": "control"}, None),
        ({"only_model": "cold-start"}, 120),
        ({"only_model": "another"}, 0),
    ],
)
def test_rows_of_another_mode_slice_or_model_are_left_out(
    tmp_path: Path, learning: dict[str, str], learnt: int | None
) -> None:
    with world(tmp_path, learning=learning, serving={"control_fraction": 0.3}) as here:
        here.play(120)
        here.transport.settle()
        state, rows = here.transport.cycle.store.load(STANDING), here.transport.cycle.workspace.warehouse.interactions()
        if learnt is None:
            learnt = int((rows["slice"] == "control").sum())
            assert 0 < learnt < 120
        assert (state.learnt if state else 0) == learnt
        report = here.transport.cycle.last_run
        assert report is not None and report.reason.endswith("learning.only_… lets through") is (learnt == 0)


def test_history_that_is_not_wanted_gives_no_initial_model(tmp_path: Path) -> None:
    with world(tmp_path, learning={"only_model": "cold-start"}) as here:
        assert here.transport.warm_start(here.history(60)).champion == ""
        here.play(60)
        assert here.transport.settle().outcome != "failed"
        assert standing(here).learnt == 60


def test_a_challenger_of_the_last_hours_starts_anew_on_them_alone(tmp_path: Path) -> None:
    field = {"recent": {"window_h": 1.0, "every_interactions": 100}}
    with world(tmp_path, challengers=field, gate={"margin": 5.0}) as here:
        here.transport.warm_start(here.history(60))
        here.play(60)
        here.transport.settle()
        store = here.transport.cycle.store
        assert store.load("recent") is None  # the last hour holds the whole log
        here.transport.clock.advance(2 * 3600)
        for batch in range(2):
            here.play(60)
            here.transport.settle()
            state = store.load("recent")
            assert (state is None) if batch == 0 else (state is not None and (state.learnt, state.scored) == (120, 60))
        for _ in range(3):
            here.play(60)
            here.transport.settle()
        state = store.load("recent")
        assert state is not None and state.born_with > 60 and state.learnt - state.born_with <= 120


@pytest.mark.parametrize("hours", [0, -1, 1e9])
def test_a_window_that_no_calendar_holds_is_refused(hours: float) -> None:
    with pytest.raises(InvalidSettings, match="window_h"):
        parse_settings({"challengers": {"recent": {"window_h": hours}}})


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="only_since"):
        parse_settings({"learning": {"only_since": "2026-03-01T00:00:00"}})


def test_what_the_policy_decided_is_learnt_also_while_a_challenger_has_its_share_in_it(tmp_path: Path) -> None:
    with world(tmp_path, learning={"only_slice": "policy"}, gate={"margin": 5.0}) as here:
        here.transport.warm_start(here.history(60))
        for rows in (80, 160, 240):
            here.play(80)
            here.transport.settle()
            assert standing(here).learnt == 60 + rows
        assert here.transport.cycle.workspace.registry.trial() is not None
