"""When the champion's value falls, the declared field starts anew on what came after and goes on trial at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.change import champion_values, find_fall
from serving.learner.admin.metrics import learner_metrics
from serving.learner.challengers.store import STANDING
from serving.learner.cycle import Cycle
from tests.serving.learner_support import BEST, Kept, World, back_in, world
from tests.serving.test_changed_settings import play_as, standing

FIELD: dict[str, Any] = {"recent": {"window_interactions": 400, "every_interactions": 200}}
NEVER = {"alpha": 1e-9}
"""A gate that a few hundred rows do not open, so that the tenure goes on."""


class Turning(World):
    """The same world, until each action's worth becomes its neighbour's."""

    turned = False

    def pay(self, sky: str, action: str) -> float:
        names = list(BEST.values())
        meant = names[names.index(action) - 1] if self.turned else action
        return super().pay(sky, meant)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A champion that knows the world, after 400 decisions of its own."""
    data_dir = tmp_path_factory.mktemp("steady") / "data"
    with world(data_dir, challengers=FIELD, gate=NEVER) as plain:
        turning = Turning(plain.transport)
        turning.transport.warm_start(turning.history(400))
        for _ in range(4):
            turn(turning)
        assert not falls(turning)
        return Kept.of(turning, data_dir)


@pytest.fixture
def here(steady: Kept, tmp_path: Path) -> Iterator[Turning]:
    """That champion under a learner that has just started; then everything turns."""
    with back_in(steady, tmp_path / "data", Turning) as turning:
        turning.turned = True
        yield turning


def turn(here: World) -> None:
    here.play(100)
    here.transport.settle()


def falls(here: World) -> list[dict[str, Any]]:
    return here.transport.cycle.workspace.registry.history.entries("fall")


def test_a_challenger_starts_anew_on_what_came_after_and_goes_on_trial(here: Turning) -> None:
    cycle = here.transport.cycle
    turn(here)
    state = cycle.store.load("recent")
    assert state is not None and [entry["challenger"] for entry in falls(here)] == ["recent"]
    assert 80 <= state.learnt <= 120 and state.scored == 0
    assert state.since is not None and state.cut is not None and state.since < state.cut
    trial = cycle.workspace.registry.trial()
    assert trial is not None and (trial.challenger, trial.learnt) == ("recent", state.learnt)
    report = cycle.last_run
    (fall,) = falls(here)
    assert report is not None and fall["reason"] in report.reason
    assert fall["champion"] == report.champion and 80 <= fall["rows"] <= 120
    assert fall["before"] > 0.8 and fall["after"] < 0.4
    assert report.steps["start anew"] > 0.0


def test_one_fall_is_one_start(here: Turning) -> None:
    cycle = here.transport.cycle
    for _ in range(3):
        turn(here)
    assert len(falls(here)) == cycle.falls == Cycle(cycle.workspace, cycle.trainer).falls == 1
    assert 'rewardloop_learner_falls_total{experiment="test"} 1' in learner_metrics({"test": cycle})


def test_what_was_before_the_fall_is_never_learnt_again(here: Turning) -> None:
    """Its window of 400 rows would reach back over the fall when it next starts anew by its schedule."""
    cycle = here.transport.cycle
    turn(here)
    fallen = cycle.store.load("recent")
    assert fallen is not None and fallen.since is not None
    born = set()
    for _ in range(4):
        turn(here)
        state = cycle.store.load("recent")
        assert state is not None and state.since is not None and state.since >= fallen.since
        born.add(state.born)
    assert len(born) > 1


def test_the_alpha_that_it_spent_stays_spent(here: Turning) -> None:
    store = here.transport.cycle.store
    recent = store.load("recent")
    assert recent is not None
    store.save(recent, gate={**recent.gate, "spent": 1e-12})
    turn(here)
    state = store.load("recent")
    assert state is not None and state.gate["spent"] >= 1e-12


def test_the_one_that_started_anew_is_the_first_that_the_gate_promotes(tmp_path: Path) -> None:
    with world(tmp_path, challengers=FIELD) as plain:
        here = Turning(plain.transport)
        here.transport.warm_start(here.history(400))
        for _ in range(4):
            turn(here)
        registry = here.transport.cycle.workspace.registry
        before = len(registry.history.entries("promotion"))
        here.turned = True
        for _ in range(4):
            turn(here)
        assert [entry["challenger"] for entry in registry.history.entries("promotion")[before:]] == ["recent"]


def test_a_fall_right_after_a_promotion_is_seen_by_what_the_champion_before_earned(tmp_path: Path) -> None:
    with world(tmp_path, challengers=FIELD) as plain:
        here = Turning(plain.transport)
        here.transport.warm_start(here.history(60))
        cycle = here.transport.cycle
        registry = cycle.workspace.registry
        while not registry.history.entries("promotion"):
            turn(here)
        here.turned = True
        turn(here)
        (fall,) = falls(here)
        assert fall["before"] > 0.5 and fall["after"] < 0.4 and 80 <= fall["rows"] <= 120
        recent, trial = cycle.store.load("recent"), registry.trial()
        assert recent is not None and trial is not None
        assert (trial.challenger, trial.learnt) == ("recent", recent.learnt) and recent.learnt == fall["rows"]
        turn(here)
        assert len(falls(here)) == 1


def test_two_visitors_who_dislike_everything_are_no_fall(tmp_path: Path) -> None:
    """They would be one if nothing told that the newest rows come from two."""
    with world(tmp_path, challengers=FIELD, gate=NEVER, serving={"subject_field": "user"}) as plain:
        here = Turning(plain.transport)
        here.transport.warm_start(here.history(200))
        play_as(here, [f"visitor {n}" for n in range(150)])
        here.turned = True
        play_as(here, ["ann"] * 50 + ["bob"] * 50)
        _, rows = standing(here)
        assert find_fall(champion_values(rows)) is not None and not falls(here)


def test_a_field_that_is_empty_stays_so(tmp_path: Path) -> None:
    with world(tmp_path, challengers={}, gate=NEVER) as plain:
        here = Turning(plain.transport)
        here.transport.warm_start(here.history(400))
        for _ in range(3):
            turn(here)
        here.turned = True
        turn(here)
        assert not falls(here) and here.transport.cycle.last_run is not None
        assert here.transport.cycle.store.names() == [STANDING]
