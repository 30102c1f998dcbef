"""What happens during a champion's tenure: the field, the guard, pins, modes, and which models are kept."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandit import registry as registries
from bandit.errors import InvalidSettings, NotFound, Refused
from bandit.registry import Trial
from bandit.settings import parse_settings, settings_to_dict
from serving.learner import cycle as cycles
from serving.learner import models
from serving.learner.challengers.former import FORMER, plan_former
from serving.learner.challengers.store import KIND_TRIAL, STANDING, ChallengerStore
from serving.learner.operations import run_operation
from serving.learner.operations.doctor import run as doctor
from serving.learner.retention import KEPT_MAX, remove_old_models
from serving.learner.verdicts import promotion
from serving.learner.verdicts.certificates import CERTIFICATE, evaluations
from serving.learner.workspace import Workspace
from tests.serving.learner_support import World, begun, twin_of, world
from tests.serving.test_changed_settings import change
from tests.serving.test_cycle import learn_until_promoted, publish_reversed

WIDE = {"algorithm": "egreedy", "epsilon": 0.4}


def crown_a_bad_model(here: World) -> tuple[str, str]:
    """Promote a model trained on reversed rewards by hand; gives its id and that of the champion before."""
    cycle = here.transport.cycle
    champion = cycle.workspace.registry.champion()
    if cycle.intake.watermark is None:  # the learner has just started
        cycle.tick()
    assert champion is not None and cycle.intake.watermark is not None
    bad = publish_reversed(cycle.workspace, cycle.intake.watermark)
    models.promote_by_hand(cycle.workspace, cycle.store, cycle.trainer, bad, override=True)
    here.transport.server.refresh()
    return bad, champion.model_id


def test_a_former_champion_that_proves_better_comes_back_by_itself_with_a_certificate(tmp_path: Path) -> None:
    # the bad champion must hold: no challenger may be promoted, so that only the guard can act
    with world(tmp_path, exploration=WIDE) as here:
        learn_until_promoted(here)
        bad, good = crown_a_bad_model(here)
        here.transport.experiment.change(
            parse_settings(settings_to_dict(here.transport.experiment.settings) | {"gate": {"margin": 5.0}}),
            now=here.transport.clock(),
        )
        registry = here.transport.cycle.workspace.registry
        for _ in range(8):
            here.play(300)
            here.transport.settle()
            champion = registry.champion()
            assert champion is not None
            if champion.model_id == good:
                break
        assert champion.model_id == good
        report = here.transport.last_report
        assert report is not None and report.outcome == "rollback"
        entry = registry.history.entries("rollback")[-1]
        assert entry["automatic"] is True and entry["previous"] == bad
        folder = here.transport.experiment.paths.evaluations / entry["evaluation_id"]
        assert msgspec.json.decode((folder / "certificate.json").read_bytes())["verdict"]["outcome"] == "promote"
        assert FORMER not in here.transport.cycle.store.names()


def test_nothing_is_promoted_while_a_champion_is_pinned(tmp_path: Path) -> None:
    with world(tmp_path, exploration=WIDE) as here:
        here.transport.warm_start(here.history(40))
        cycle = here.transport.cycle
        workspace = cycle.workspace
        pinned = models.pin(workspace)["pinned"]
        for _ in range(4):
            here.play(300)
            assert here.transport.settle().outcome in ("hold", "insufficient")
        assert "pinned" in str(here.transport.last_report and here.transport.last_report.reason)
        with pytest.raises(Refused, match="unpin"):
            models.roll_back(workspace, cycle.store, cycle.trainer)
        assert Workspace(workspace.experiment, workspace.clock).pinned == pinned
        models.unpin(workspace)
        here.play(200)
        assert here.transport.settle().outcome == "promote"
        with pytest.raises(Refused):
            models.unpin(workspace)
        assert [entry["kind"] for entry in workspace.registry.history.entries() if "pin" in entry["kind"]] == [
            "pin",
            "unpin",
        ]


@pytest.mark.parametrize("what", ["pin", "pause"])
def test_what_is_in_force_is_the_last_word_of_history_however_many_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with begun(tmp_path, 40) as here:
        workspace = here.transport.cycle.workspace
        history = workspace.registry.history
        ways = {
            "pin": (lambda: models.pin(workspace), lambda: models.unpin(workspace)),
            "pause": (lambda: workspace.pause(True, reason="one"), lambda: workspace.pause(False, reason="other")),
        }
        on, off = ways[what]
        on()
        real, on_its_way = history.record, threading.Event()

        def slow(kind: str, **fields: Any) -> None:
            real(kind, **fields)
            if kind in ("unpin", "resume"):
                on_its_way.set()
                time.sleep(0.3)

        monkeypatch.setattr(history, "record", slow)
        somebody = threading.Thread(target=off)
        somebody.start()
        assert on_its_way.wait(5)
        on()
        somebody.join()
        fresh = Workspace(workspace.experiment, workspace.clock)  # as a learner that starts anew reads it
        assert (workspace.pinned, workspace.paused) == (fresh.pinned, fresh.paused)
        assert [entry["kind"] for entry in history.entries()][-3:] in (
            ["pin", "unpin", "pin"],
            ["pause", "resume", "pause"],
        )


def test_a_frozen_experiment_is_judged_on_demand_and_promotes_nothing(tmp_path: Path) -> None:
    with world(tmp_path, serving={"mode": "frozen"}) as here:
        here.play(300)
        here.transport.settle()
        report = here.transport.last_report
        assert report is not None and report.outcome == "hold" and "frozen" in report.reason
        here.play(200)
        here.transport.server.writer.seal()
        here.transport.clock.advance(5)
        here.transport.server.heartbeat()
        here.transport.cycle.tick()
        assert here.transport.cycle.new_rows() >= 100 and here.transport.cycle.due() is None


def test_an_experiment_that_only_logs_is_joined_and_not_learnt(tmp_path: Path) -> None:
    with world(tmp_path, serving={"mode": "logging_only"}) as here:
        here.play(150)
        assert here.transport.settle().outcome == "nothing"
        assert here.transport.cycle.workspace.warehouse.counts()["interactions"] == 150
        assert here.transport.cycle.store.names() == []


def test_the_field_relearns_the_newest_window_on_its_schedule_with_fresh_scores(tmp_path: Path) -> None:
    field = {"recent": {"window_interactions": 200, "every_interactions": 300}}
    with world(tmp_path, challengers=field, gate={"margin": 5.0}) as here:
        here.transport.warm_start(here.history(60))
        store = here.transport.cycle.store
        here.play(100)
        here.transport.settle()
        assert store.load("recent") is None  # the log is no longer than the window
        learnt, scored = [], []
        for _ in range(6):
            here.play(150)
            here.transport.settle()
            state = store.load("recent")
            if state is not None:
                learnt.append(state.learnt)
                scored.append(state.scored)
        # 200 rows of the window and 150 new ones; after 300 new ones it starts anew
        assert learnt[:3] == [350, 500, 350]
        assert scored[:3] == [150, 300, 150]  # each incarnation proves itself on its own rows
        state = store.load("recent")
        assert state is not None and state.gate["rows_before"] >= 300  # and inherits what was spent of its α
        report = here.transport.last_report
        assert report is not None and {v.challenger for v in report.verdicts} == {"standing", "recent"}
        here.transport.experiment.change(
            parse_settings(settings_to_dict(here.transport.experiment.settings) | {"challengers": {}}),
            now=here.transport.clock(),
        )
        here.play(50)
        here.transport.settle()
        assert store.load("recent") is None


@pytest.mark.parametrize("name", ["standing", "former", "offered-x", "No Name"])
def test_challengers_may_not_take_reserved_names(name: str) -> None:
    with pytest.raises(InvalidSettings, match="challengers"):
        parse_settings({"challengers": {name: {}}})


def crown_copies(here: World, number: int) -> list[str]:
    """Promote so many copies of the champion by hand, one after the other; gives all champions' ids, oldest first."""
    cycle, workspace = here.transport.cycle, here.transport.cycle.workspace
    champion = workspace.registry.champion()
    assert champion is not None
    ids = [champion.model_id]
    for index in range(number):
        here.transport.clock.advance(5)
        copy = twin_of(workspace, champion.model_id, str(index))
        models.promote_by_hand(workspace, cycle.store, cycle.trainer, copy, override=True)
        ids.append(copy)
    return ids


def test_a_champion_that_is_pinned_while_a_run_judges_stays_the_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, exploration=WIDE) as here:
        here.transport.warm_start(here.history(40))
        workspace = here.transport.cycle.workspace
        original = promotion.file_evaluation

        def pins(*arguments: Any, **named: Any) -> str:
            models.pin(workspace)
            return original(*arguments, **named)

        monkeypatch.setattr(promotion, "file_evaluation", pins)
        for _ in range(6):
            here.play(200)
            here.transport.settle()
            if workspace.pinned is not None:
                break
        champion = workspace.registry.champion()
        assert champion is not None and champion.model_id == workspace.pinned
        assert not workspace.registry.history.entries("promotion")
        report = here.transport.cycle.last_run
        assert report is not None and report.outcome == "hold" and "is pinned" in report.reason
        verdict = report.verdicts[0]
        assert verdict.outcome == "hold" and verdict.evaluation_id is not None


def test_a_champion_that_is_pinned_while_its_predecessor_proves_better_stays_and_the_run_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, exploration=WIDE) as here:
        learn_until_promoted(here)
        bad, _ = crown_a_bad_model(here)
        change(here, gate={"margin": 5.0})
        workspace = here.transport.cycle.workspace
        original = promotion.file_evaluation

        def pins(workspace: Any, look: Any, **named: Any) -> str:
            if look.state.name == FORMER and look.judgement.outcome == "rollback":
                models.pin(workspace)
            return original(workspace, look, **named)

        monkeypatch.setattr(promotion, "file_evaluation", pins)
        for _ in range(8):
            here.play(300)
            here.transport.settle()
            if workspace.pinned is not None:
                break
        champion = workspace.registry.champion()
        assert champion is not None and workspace.pinned == champion.model_id == bad
        report = here.transport.cycle.last_run
        assert report is not None and report.outcome != "failed" and report.error is None
        [watch] = [verdict for verdict in report.verdicts if verdict.challenger == FORMER]
        assert watch.outcome == "hold" and "is pinned" in watch.reason


def test_a_champion_set_by_hand_during_a_run_is_watched_like_any_other(tmp_path: Path) -> None:
    with begun(tmp_path, 60) as here:
        _, second = crown_copies(here, 1)
        cycle, workspace = here.transport.cycle, here.transport.cycle.workspace
        under_way = cycle.store.load(FORMER)
        assert under_way is not None and under_way.champion == second
        third = crown_copies(here, 1)[-1]
        cycle.store.save(under_way)  # as the run does that read it before
        [plan] = plan_former(workspace, cycle.store, workspace.registry.champion())
        assert plan.state.champion == third and plan.state.model_id == second
        under_way = plan.state
        models.roll_back(workspace, cycle.store, cycle.trainer)
        cycle.store.save(under_way)
        assert not plan_former(workspace, cycle.store, workspace.registry.champion()), "what came back is not watched"


def test_a_model_states_the_settings_it_learnt_with_although_others_came_during_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, gate={"enabled": False}, challengers={}) as here:
        cycle, experiment = here.transport.cycle, here.transport.experiment
        original = cycles.judge_all

        def changes(*arguments: Any, **named: Any) -> Any:
            experiment.change(
                parse_settings(settings_to_dict(experiment.settings) | {"exploration": {"algorithm": "bag"}}),
                now=here.transport.clock(),
            )
            return original(*arguments, **named)

        here.play(100)
        with monkeypatch.context() as patched:
            patched.setattr(cycles, "judge_all", changes)
            here.transport.settle()
        workspace = cycle.workspace
        champion = workspace.registry.champion()
        assert champion is not None and experiment.settings_version == 2
        manifest = workspace.registry.manifest(champion.model_id)
        assert manifest.settings_version == 1 and manifest.options["exploration"]["algorithm"] == "squarecb"
        [evaluation] = evaluations(experiment.paths)
        answer = run_operation(workspace, "verify", {"evaluation_id": evaluation["id"]})
        assert not answer["differences"]
        here.play(50)
        here.transport.settle()
        after = workspace.registry.champion()
        assert after is not None
        manifest = workspace.registry.manifest(after.model_id)
        assert manifest.settings_version == 2 and manifest.options["exploration"]["algorithm"] == "bag"
        assert manifest.data["rows"] == 150


def test_a_certificate_states_what_a_declared_challenger_learnt_with(tmp_path: Path) -> None:
    own = {"exploration": {"algorithm": "egreedy"}, "learning": {"seed": 7}}
    field = {"recent": {"window_interactions": 50, "every_interactions": 5000, **own}}
    with world(tmp_path, challengers=field) as here:
        here.transport.warm_start(here.history(120))
        here.play(250)
        here.transport.settle()
        paths = here.transport.experiment.paths
        of = {filed["challenger"]: filed["id"] for filed in evaluations(paths)}
        told = {name: json.loads((paths.evaluations / of[name] / CERTIFICATE).read_bytes()) for name in of}
        assert told["recent"]["options"]["exploration"]["algorithm"] == "egreedy" and told["recent"]["seed"] == 7
        assert told[STANDING]["options"]["exploration"]["algorithm"] == "squarecb" and told[STANDING]["seed"] == 0


def test_a_rollback_by_hand_passes_over_a_damaged_champion_and_says_so(tmp_path: Path) -> None:
    with begun(tmp_path, 60) as here:
        first, second, third, fourth = crown_copies(here, 3)
        cycle, workspace = here.transport.cycle, here.transport.cycle.workspace
        folder = workspace.experiment.paths.models
        (folder / third / "policy.vw").write_bytes(b"")
        (folder / fourth / "manifest.json").write_bytes(b"")
        assert models.roll_back(workspace, cycle.store, cycle.trainer)["champion"] == second
        assert third in workspace.registry.history.entries("rollback")[-1]["reason"]
        shutil.rmtree(folder / first)
        with pytest.raises(Refused, match="damaged"):
            models.roll_back(workspace, cycle.store, cycle.trainer)


@pytest.mark.parametrize(("kind", "removed"), [("offered", 3), (KIND_TRIAL, 0)])
def test_old_models_are_removed_unless_they_were_champion_or_on_trial(tmp_path: Path, kind: str, removed: int) -> None:
    with begun(tmp_path, 40) as here:
        workspace, store = here.transport.cycle.workspace, here.transport.cycle.store
        champion = workspace.registry.champion()
        assert champion is not None
        stored = workspace.registry.load(champion.model_id)
        for number in range(KEPT_MAX + 3):
            here.transport.clock.advance(1)
            workspace.registry.publish(
                stored.files | {"note.txt": str(number).encode()},
                now=workspace.clock(),
                parent=None,
                kind=kind,
                options={},
                settings_version=1,
                data={},
                canaries=[],
            )
        assert len(remove_old_models(workspace, store)) == removed
        assert champion.model_id in workspace.registry.model_ids()
        assert len(workspace.registry.model_ids()) == KEPT_MAX + 4 - removed


def _publish_others(here: World, number: int) -> None:
    workspace = here.transport.cycle.workspace
    champion = workspace.registry.champion()
    assert champion is not None
    for index in range(number):
        here.transport.clock.advance(1)
        twin_of(workspace, champion.model_id, f"other {index}")


def test_a_model_that_was_on_trial_is_kept_although_it_was_first_stored_as_a_candidate(tmp_path: Path) -> None:
    with begun(tmp_path, 40) as here:
        workspace, store = here.transport.cycle.workspace, here.transport.cycle.store
        registry = workspace.registry
        champion = registry.champion()
        assert champion is not None
        tried, never = (twin_of(workspace, champion.model_id, note) for note in ("tried", "never"))
        files = registry.load(tried).files
        named = {"parent": None, "options": {}, "settings_version": 1, "data": {}, "canaries": []}
        again = registry.publish(files, now=workspace.clock(), kind=KIND_TRIAL, **named)  # within the same second
        assert (again.model_id, again.kind) == (tried, "offered")
        registry.set_trial(
            Trial(
                model_id=tried,
                champion=champion.model_id,
                challenger=STANDING,
                learnt=1,
                since=workspace.clock(),
                share=0.3,
            )
        )
        registry.clear_trial()
        _publish_others(here, KEPT_MAX)
        assert remove_old_models(workspace, store) == [never]
        assert registry.is_sound(tried) and not registry.is_sound(never)


def test_a_model_that_is_promoted_while_old_ones_are_removed_is_promoted_whole_or_not_at_all(tmp_path: Path) -> None:
    with begun(tmp_path, 40) as here:
        cycle, workspace = here.transport.cycle, here.transport.cycle.workspace
        registry = workspace.registry
        champion = registry.champion()
        assert champion is not None
        oldest = twin_of(workspace, champion.model_id, "oldest")
        _publish_others(here, KEPT_MAX)
        told: list[Exception] = []

        def promote() -> None:
            try:
                models.promote_by_hand(workspace, cycle.store, cycle.trainer, oldest, override=True)
            except NotFound as error:
                told.append(error)

        somebody = threading.Thread(target=promote)

        class Store(ChallengerStore):
            def names(self) -> list[str]:  # in the midst of the removal
                somebody.start()
                somebody.join(1)
                return super().names()

        assert remove_old_models(workspace, Store(workspace.experiment.paths)) == [oldest]
        somebody.join()
        after = registry.champion()
        assert after == champion and registry.is_sound(after.model_id)
        assert oldest in str(told[0])


def test_a_removal_that_a_killed_process_left_half_done_is_finished_by_the_next(tmp_path: Path) -> None:
    with begun(tmp_path, 40) as here:
        workspace = here.transport.cycle.workspace
        (workspace.experiment.paths.models / ".outgoing-m1").mkdir()
        (workspace.experiment.paths.models / ".outgoing-m1" / "policy.vw").write_bytes(b"half")
        answer = doctor(workspace)
        assert any(".outgoing-m1" in finding["what"] for finding in answer["findings"]), answer["findings"]
        assert remove_old_models(workspace, here.transport.cycle.store) == []
        assert list(workspace.experiment.paths.models.glob(".outgoing-*")) == []


def test_a_champion_of_long_ago_is_kept_although_the_pointer_knows_it_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registries, "CHAMPIONS_KEPT_MAX", 1)
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(40))
        first, second, third = crown_copies(here, 2)
        workspace = here.transport.cycle.workspace
        assert [champion.model_id for champion in workspace.registry.champions()] == [second]
        _publish_others(here, KEPT_MAX + 1)
        assert len(remove_old_models(workspace, here.transport.cycle.store)) == 1
        assert {first, second, third} < set(workspace.registry.model_ids())


def test_every_evaluation_can_be_derived_again_from_the_log(tmp_path: Path) -> None:
    field = {"recent": {"window_interactions": 200, "every_interactions": 300}}
    with world(tmp_path, challengers=field, serving={"segment_field": "sky"}) as here:
        here.transport.warm_start(here.history(60))
        for _ in range(6):
            here.play(150)
            here.transport.settle()
        workspace = here.transport.cycle.workspace
        found = evaluations(workspace.experiment.paths)
        assert len(found) >= 6
        # the newest of each challenger, and the initial model's
        for evaluation in [*{each["challenger"]: each for each in reversed(found)}.values(), found[-1]]:
            answer = run_operation(workspace, "verify", {"evaluation_id": evaluation["id"]})
            assert answer["differences"] == [], (evaluation["challenger"], evaluation["verdict"]["reason"])
        assert {each["challenger"] for each in found} >= {"standing", "recent"}
        folder = workspace.experiment.paths.evaluations / found[0]["id"] / "certificate.json"
        certificate = msgspec.json.decode(folder.read_bytes())
        segments = certificate["diagnostics"]["segments"]
        assert len(segments) > 1
        assert sum(part["n"] for part in segments) == certificate["rows"]["n"]
        assert "Lift by segment" in (folder.parent / "report.html").read_text()
        certificate["data"]["rows_digest"] = "0" * 64
        folder.write_bytes(msgspec.json.encode(certificate))
        assert run_operation(workspace, "verify", {"evaluation_id": found[0]["id"]})["differences"]
