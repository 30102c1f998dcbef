"""A learner killed at any moment of a run: history still tells of the run and of every champion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bandit.registry import CHANGES, ModelRegistry
from serving.learner import cycle as cycles
from serving.learner import models
from serving.learner.challengers.former import FORMER
from serving.learner.challengers.offered import offer
from serving.learner.challengers.store import STANDING
from serving.learner.cycle import Cycle
from serving.learner.training.trainer import InlineTrainer
from serving.learner.verdicts import promotion
from serving.learner.workspace import Workspace
from tests.serving.learner_support import Kept, World, back_in, begun, twin_of, world
from tests.serving.test_tenure import crown_a_bad_model

FIELD = {"recent": {"window_interactions": 50, "every_interactions": 5000}}


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


def killed_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Let the process die as soon as that function has done its work."""
    original = getattr(owner, name)

    def dies(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        raise Killed

    monkeypatch.setattr(owner, name, dies)


def restarted(here: World) -> Cycle:
    """The cycle that the next learner opens on the same files."""
    workspace = here.transport.cycle.workspace
    again = Workspace(workspace.experiment, workspace.clock, durable=False, warehouse=workspace.warehouse)
    here.transport.cycle = Cycle(again, InlineTrainer())
    here.transport.cycle.recover()
    return here.transport.cycle


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (cycles, "judge_all"),
        (ModelRegistry, "publish"),
        (promotion, "file_evaluation"),
        (ModelRegistry, "swap"),
        (promotion, "watch_former"),
        (promotion, "stand_on"),
        (cycles, "update_trial"),
    ],
)
def test_a_run_killed_at_any_step_is_a_line_of_history_and_no_row_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    with begun(tmp_path, 60) as here:
        here.play(400)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            killed_after(patched, owner, name)
            for _ in range(6):
                here.transport.settle()
                here.play(200)
        before = len(here.transport.cycle.workspace.registry.history.entries("run"))
        cycle = restarted(here)
        registry = cycle.workspace.registry
        line = registry.history.entries("run")[before]
        assert line["outcome"] == "failed" and "the learner ended" in line["error"]
        cycle.run(force=True)
        here.play(100)
        here.transport.settle()
        champion, standing = registry.champion(), cycle.store.load(STANDING)
        assert champion is not None and standing is not None
        changes = [entry for entry in registry.history.entries() if entry["kind"] in CHANGES]
        assert changes[-1]["model_id"] == champion.model_id
        assert [entry["model_id"] for entry in changes[:-1]] == [each.model_id for each in registry.champions()[::-1]]
        assert all(entry["evaluation_id"] for entry in changes)
        counts = cycle.workspace.warehouse.counts()
        assert standing.learnt == counts["interactions"] + counts["imported"]
        assert len(registry.history.entries("run")) == cycle.runs


@pytest.mark.parametrize("back", [False, True])
def test_a_champion_set_by_hand_in_the_moment_of_death_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    with begun(tmp_path, 60) as here:
        workspace, store = here.transport.cycle.workspace, here.transport.cycle.store
        (first,) = workspace.registry.model_ids()
        here.transport.clock.advance(5)
        copy = twin_of(workspace, first, "copy", parent=first)
        trainer = here.transport.cycle.trainer
        if back:
            models.promote_by_hand(workspace, store, trainer, copy, override=True)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            killed_after(patched, ModelRegistry, "swap")
            if back:
                models.roll_back(workspace, store, trainer)
            else:
                models.promote_by_hand(workspace, store, trainer, copy, override=True)
        cycle = restarted(here)
        entry = [entry for entry in cycle.workspace.registry.history.entries() if entry["kind"] in CHANGES][-1]
        expected = ("rollback", first, copy) if back else ("override", copy, first)
        assert (entry["kind"], entry["model_id"], entry["previous"]) == expected
        watched = cycle.store.load(FORMER)
        assert back or (watched is not None and watched.champion == copy)
        cycle.recover()
        assert cycle.workspace.registry.history.entries()[-1] == entry


def test_a_learner_that_left_in_order_has_nothing_to_recover(tmp_path: Path) -> None:
    with begun(tmp_path, 60) as here:
        here.play(100)
        here.transport.settle()
        before = here.transport.cycle.workspace.registry.history.entries()
        assert restarted(here).workspace.registry.history.entries() == before


@pytest.mark.parametrize("name", ["run.json", f"{STANDING}/state.json", "recent/state.json"])
def test_a_byte_that_is_no_text_in_a_small_file_of_the_learner_stops_no_run(tmp_path: Path, name: str) -> None:
    with begun(tmp_path, 60, (150, 150), challengers=FIELD, gate={"margin": 5.0}) as here:
        place = here.transport.cycle.store.root / name
        place.write_bytes(place.read_bytes().replace(b'"', b"\xff", 1) if place.exists() else b'{"trigger":"\xff"}')
        here.play(100)
        cycle = restarted(here)
        here.transport.settle()
        assert cycle.last_run is not None and cycle.last_run.outcome not in ("failed", "nothing")
        assert cycle.last_run.errors == {}
        assert not (cycle.store.root / "run.json").exists()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A bad champion that a former one is compared with, and challengers that have been judged against it twice."""
    data_dir = tmp_path_factory.mktemp("watched") / "data"
    with world(data_dir, challengers=FIELD, gate={"margin": 5.0}) as here:
        here.transport.warm_start(here.history(120))
        crown_a_bad_model(here)
        for _ in range(2):
            here.play(150)
            here.transport.settle()
        return Kept.of(here, data_dir)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "pattern", "breaks"),  # a former champion has scores alone
    [
        (STANDING, "scores-*.npz", Path.unlink),
        (STANDING, "files-*/policy.vw", cut_off),
        ("recent", "scores-*.npz", cut_off),
        ("recent", "files-*/policy.vw", Path.unlink),
        (FORMER, "scores-*.npz", Path.unlink),
        (FORMER, "scores-*.npz", cut_off),
    ],
)
def test_a_challenger_whose_files_are_lost_or_damaged_starts_anew_with_what_is_left_of_its_alpha(
    watched: Kept, tmp_path: Path, name: str, pattern: str, breaks: Callable[[Path], Any]
) -> None:
    with back_in(watched, tmp_path / "data", World) as here:
        store = here.transport.cycle.store
        before = store.load(name)
        assert before is not None and before.scored
        folder = store.root / name
        breaks(sorted(folder.glob(pattern))[0])
        here.play(30)
        cycle = restarted(here)
        here.transport.settle()
        report = cycle.last_run
        assert report is not None and report.outcome != "failed" and not report.errors
        after = cycle.store.load(name)
        assert after is not None and cycle.store.damage(after) is None
        assert after.gate.get("spent", 0.0) >= before.gate.get("spent", 0.0) or name == FORMER
        assert after.scored == (30 if name == "recent" else 330)
        assert after.gate["rows_before"] + after.scored == before.scored + 30  # each row counts once
        told = cycle.workspace.registry.history.entries("restart")
        assert [entry["challenger"] for entry in told] == [name]
        assert cycle.run(force=True).outcome == "nothing"


def test_a_challenger_that_starts_anew_is_not_judged_on_rows_of_an_epoch_that_is_over(tmp_path: Path) -> None:
    with world(tmp_path, challengers={}, gate={"margin": 5.0, "horizon_rows": 200}) as here:
        here.transport.warm_start(here.history(60))
        for count in (250, 100):
            here.play(count)
            here.transport.settle()
        store = here.transport.cycle.store
        before = store.load(STANDING)
        assert before is not None and before.gate["epoch"] == 2 and before.scored == 100
        next((store.root / STANDING).glob("scores-*.npz")).unlink()
        here.play(30)
        cycle = restarted(here)
        here.transport.settle()
        after = cycle.store.load(STANDING)
        assert after is not None and after.learnt == 60 + 250 + 100 + 30
        assert (after.gate["epoch"], after.scored, after.scored_after) == (2, 130, before.scored_after)


def test_an_offered_model_whose_scores_are_lost_is_scored_again_and_each_row_counts_once(tmp_path: Path) -> None:
    with world(tmp_path, challengers={}, gate={"margin": 5.0}) as here:
        here.transport.warm_start(here.history(120))
        workspace, store = here.transport.cycle.workspace, here.transport.cycle.store
        champion = workspace.registry.champion()
        assert champion is not None
        here.transport.clock.advance(1)
        name = offer(workspace, store, twin_of(workspace, champion.model_id, "a twin")).name
        here.play(250)
        here.transport.settle()
        before = store.load(name)
        assert before is not None and before.scored == 250
        next((store.root / name).glob("scores-*.npz")).unlink()
        here.play(30)
        cycle = restarted(here)
        here.transport.settle()
        after = cycle.store.load(name)
        assert after is not None and after.scored == before.scored + 30 and after.gate["rows_before"] == 0
        assert after.gate["spent"] >= before.gate["spent"]
