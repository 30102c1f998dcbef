"""The cycle in process: what becomes champion, what does not, and what survives when something breaks."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from bandit.errors import Busy, CorruptModel, Refused
from bandit.frozen import Frozen
from bandit.settings import parse_settings, settings_to_dict
from evaluation.certificate import verify_certificate
from evaluation.scored import ScoredRows
from joiner.parquet import read_parquet
from serving.learner import models
from serving.learner.challengers.offered import offer
from serving.learner.challengers.store import STANDING
from serving.learner.cycle import Cycle
from serving.learner.training.desk import Desk
from serving.learner.training.jobs import Job, advance
from serving.learner.training.trainer import InlineTrainer
from serving.learner.training_step import rows_file
from serving.learner.workspace import Workspace
from tests.serving.learner_support import ACTIONS, World, twin_of, world


def learn_until_promoted(world: World, batches: int = 8) -> None:
    for _ in range(batches):
        world.play(200)
        if world.transport.settle().outcome == "promote":
            return
    raise AssertionError("nothing was promoted")


def digest(files: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


def publish_reversed(workspace: Workspace, watermark: datetime) -> str:
    """Publish a model that was trained on reversed rewards; gives its id."""
    with rows_file(workspace, "test", workspace.experiment.settings.learning, after=None, until=watermark) as (path, _):
        rows = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
        path.write_bytes(b"\n".join(msgspec.json.encode({**row, "reward": 1 - row["reward"]}) for row in rows))
        plain, root = settings_to_dict(workspace.experiment.settings), workspace.experiment.paths.root
        outcome = advance(Desk(), Job(root=root, name="bad", settings=plain, champion="uniform", learn=path))
    return workspace.registry.publish(
        outcome.files,
        now=workspace.clock(),
        parent=None,
        kind="offered",
        options={},
        settings_version=1,
        data={"cut": watermark.isoformat(), "rows": len(rows)},
        canaries=outcome.canaries,
    ).model_id


def test_from_cold_start_every_pmf_is_uniform_until_a_challenger_passes_the_gate(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        assert here.play(100) < 0.6
        learn_until_promoted(here)
        assert here.play(200) > 0.75
        frame_models = here.transport.cycle.workspace.registry.champion()
        assert frame_models is not None
        here.transport.settle()
        rows = here.transport.cycle.workspace.warehouse.interactions()
        before = rows[rows["model_id"] == "cold-start"]
        assert len(before) >= 300
        assert all(list(pmf) == [0.25] * 4 for pmf in before["pmf"])


def test_no_promotion_without_a_certificate_that_its_scored_rows_confirm(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        learn_until_promoted(here)
        workspace = here.transport.cycle.workspace
        promotions = workspace.registry.history.entries("promotion")
        assert len(promotions) == 1
        folder = workspace.experiment.paths.evaluations / promotions[0]["evaluation_id"]
        certificate = msgspec.json.decode((folder / "certificate.json").read_bytes())
        rows = ScoredRows.from_frame(read_parquet(folder / "scored.parquet"))
        assert certificate["verdict"]["outcome"] == "promote"
        assert certificate["candidate"]["model_id"] == promotions[0]["model_id"]
        published = workspace.registry.manifest(promotions[0]["model_id"])
        assert certificate["candidate"]["files"] == dict(published.files)
        assert certificate["champion"] == {"model_id": "cold-start", "files": None}
        assert certificate["as_of"] == certificate["data"]["cut"]
        assert not verify_certificate(certificate, rows)
        assert "<html" in (folder / "report.html").read_text()
        named = {entry["id"]: entry for entry in certificate["diagnostics"]["named_actions"]["shares"]}
        assert set(named) == {action.id for action in ACTIONS}
        assert sum(entry["draws"] for entry in named.values()) == certificate["rows"]["n"]
        assert all(f">{name}</text>" in (folder / "report.html").read_text() for name in named)


def test_imported_history_without_a_champion_becomes_the_initial_model_outside_the_gate(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        settled = here.transport.warm_start(here.history(150))
        report = here.transport.last_report
        assert settled.outcome == "initial"
        assert report is not None and report.rows == 150
        registry = here.transport.cycle.workspace.registry
        champion = registry.champion()
        assert champion is not None and champion.model_id == report.model_id
        assert registry.manifest(champion.model_id).kind == "initial"
        folder = here.transport.experiment.paths.evaluations / str(report.evaluation_id)
        certificate = msgspec.json.decode((folder / "certificate.json").read_bytes())
        assert certificate["kind"] == "initial"
        assert "uniform" in report.reason
        assert not registry.history.entries("promotion")


def test_a_challenger_trained_on_reversed_rewards_is_held_with_reasons_and_leaves(tmp_path: Path) -> None:
    with world(tmp_path, exploration={"algorithm": "egreedy", "epsilon": 0.4}) as here:
        learn_until_promoted(here)
        cycle = here.transport.cycle
        workspace = cycle.workspace
        champion = workspace.registry.champion()
        assert champion is not None
        watermark = cycle.intake.watermark
        assert watermark is not None
        reversed_id = publish_reversed(workspace, watermark)
        offer(workspace, cycle.store, reversed_id)
        for _ in range(6):
            here.play(400)
            here.transport.settle()
            report = here.transport.last_report
            assert report is not None
            verdict = next(v for v in report.verdicts if v.challenger == f"offered-{reversed_id}")
            assert verdict.outcome in ("hold", "insufficient") and verdict.reason
            if verdict.rejected:
                break
        assert verdict.rejected and verdict.lift is not None and verdict.lift < 0
        assert f"offered-{reversed_id}" not in cycle.store.names()
        now = workspace.registry.champion()
        assert now is not None and now.model_id != reversed_id


def test_a_model_without_a_reward_model_is_refused_as_a_challenger(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        workspace, store = here.transport.cycle.workspace, here.transport.cycle.store
        champion = workspace.registry.champion()
        assert champion is not None
        stored = workspace.registry.load(champion.model_id)
        here.transport.clock.advance(5)
        bare = workspace.registry.publish(
            {name: data for name, data in stored.files.items() if name != "reward_model.vw"},
            now=workspace.clock(),
            parent=None,
            kind="offered",
            options=stored.manifest.options,
            settings_version=1,
            data=stored.manifest.data,
            canaries=stored.manifest.canaries,
        )
        with pytest.raises(Refused, match=r"no reward_model\.vw"):
            offer(workspace, store, bare.model_id)
        assert store.names() == ["standing"]
        with pytest.raises(CorruptModel, match=r"no reward_model\.vw"):
            Frozen.load(workspace.registry.load(bare.model_id)).score(
                [], workspace.experiment.settings, champion=None, champion_id=None
            )


def test_an_equal_challenger_is_not_promoted(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        learn_until_promoted(here)
        workspace, store = here.transport.cycle.workspace, here.transport.cycle.store
        champion = workspace.registry.champion()
        assert champion is not None
        stored = workspace.registry.load(champion.model_id)
        here.transport.clock.advance(5)
        twin = workspace.registry.publish(
            stored.files,
            now=workspace.clock(),
            parent=champion.model_id,
            kind="offered",
            options=stored.manifest.options,
            settings_version=1,
            data=stored.manifest.data,
            canaries=stored.manifest.canaries,
        )
        offer(workspace, store, twin.model_id)
        here.play(500)
        here.transport.settle()
        report = here.transport.last_report
        assert report is not None
        verdict = next(v for v in report.verdicts if v.challenger == f"offered-{twin.model_id}")
        assert verdict.outcome == "hold" and verdict.lift == 0.0


def test_the_model_depends_on_the_rows_alone_and_not_on_how_they_were_cut_into_runs(tmp_path: Path) -> None:
    found = []
    for name, cuts in (("once", [600]), ("thrice", [150, 50, 400])):
        with world(tmp_path / name, gate={"margin": 5.0}) as here:
            for rows in cuts:
                here.play(rows)
                if cuts == [600] or rows != 400:
                    here.transport.settle()
            here.transport.settle()
            state = here.transport.cycle.store.load(STANDING)
            assert state is not None and state.learnt == 600
            found.append(digest(here.transport.cycle.store.files(state)))
    assert found[0] == found[1]


def test_a_lost_challenger_is_rebuilt_from_the_champion_to_the_same_state(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        learn_until_promoted(here)
        cycle = here.transport.cycle
        here.play(150)
        here.transport.settle()
        state = cycle.store.load(STANDING)
        assert state is not None
        before = digest(cycle.store.files(state))
        cycle.store.drop(STANDING)
        fresh = Cycle(cycle.workspace, InlineTrainer())
        report = fresh.run(force=True)
        state = fresh.store.load(STANDING)
        assert state is not None and report.outcome != "failed", report.error
        assert digest(fresh.store.files(state)) == before


def test_changed_model_settings_make_the_challenger_learn_the_whole_log_anew(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        learn_until_promoted(here)
        experiment = here.transport.experiment
        changed = settings_to_dict(experiment.settings)
        changed["exploration"] |= {"algorithm": "egreedy", "epsilon": 0.2}
        experiment.change(parse_settings(changed), now=here.transport.clock())
        here.play(120)
        here.transport.settle()
        state = here.transport.cycle.store.load(STANDING)
        counts = here.transport.cycle.workspace.warehouse.counts()
        assert state is not None
        assert state.learnt == counts["interactions"]
        assert state.scored == 120
        assert state.settings_version == 2


def test_a_clock_that_was_ahead_and_is_set_back_does_not_hold_up_the_schedule(tmp_path: Path) -> None:
    with world(tmp_path, schedule={"interactions": 1000, "interval_s": 100.0}) as here:
        cycle, clock = here.transport.cycle, here.transport.clock
        cycle._attempted_at = clock() + timedelta(days=365)
        cycle.tick()
        assert cycle.next_run_at() == clock() + timedelta(seconds=100)


def test_rollback_goes_one_champion_further_back_each_time(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        cycle = here.transport.cycle
        workspace, store, trainer = cycle.workspace, cycle.store, cycle.trainer
        chain = [workspace.registry.champion()]
        for _ in range(2):
            here.transport.clock.advance(5)
            copy = twin_of(workspace, chain[-1].model_id, str(len(chain)))  # type: ignore[union-attr]
            with pytest.raises(Refused, match="override"):
                models.promote_by_hand(workspace, store, trainer, copy, override=False)
            models.promote_by_hand(workspace, store, trainer, copy, override=True)
            chain.append(workspace.registry.champion())
        ids = [champion.model_id for champion in chain if champion]
        assert models.roll_back(workspace, store, trainer)["champion"] == ids[1]
        assert models.roll_back(workspace, store, trainer)["champion"] == ids[0]
        with pytest.raises(Refused):
            models.roll_back(workspace, store, trainer)
        assert len(workspace.registry.history.entries("override")) == 2
        assert len(workspace.registry.history.entries("rollback")) == 2


def test_runs_never_overlap(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        cycle = here.transport.cycle
        cycle._run_lock.acquire()
        try:
            assert cycle.due() is None
            with pytest.raises(Busy):
                cycle.run(force=True)
        finally:
            cycle._run_lock.release()


def test_a_run_starts_by_rows_or_by_interval_whichever_comes_first(tmp_path: Path) -> None:
    with world(tmp_path, schedule={"interactions": 100, "interval_s": 60.0}) as here:
        cycle, clock = here.transport.cycle, here.transport.clock

        def mature() -> None:
            here.transport.server.writer.seal()
            clock.advance(2)
            here.transport.server.heartbeat()
            cycle.tick()

        here.play(40)
        mature()
        assert cycle.due() is None
        clock.advance(60)
        cycle.tick()
        assert cycle.due() == "interval"
        assert cycle.run(trigger="interval").rows == 40
        assert cycle.due() is None
        here.play(100)
        mature()
        assert cycle.due() == "rows"
        assert cycle.run(trigger="rows").rows == 100


def test_a_run_missed_while_no_learner_ran_is_made_good_by_one_run(tmp_path: Path) -> None:
    with world(tmp_path, schedule={"interactions": 1000, "interval_s": 60.0}) as here:
        here.play(50)
        here.transport.settle()
        workspace, clock = here.transport.cycle.workspace, here.transport.clock
        here.play(20)
        here.transport.server.writer.seal()
        clock.advance(600)
        here.transport.server.heartbeat()
        again = Cycle(Workspace(workspace.experiment, clock, warehouse=workspace.warehouse), InlineTrainer())
        again.tick()
        assert again.due() == "interval"
        assert again.run(trigger="interval").rows == 20
        assert again.due() is None


def test_the_history_of_runs_survives_a_restart(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.play(50)
        here.transport.settle()
        cycle = here.transport.cycle
        again = Cycle(
            Workspace(here.transport.experiment, here.transport.clock, warehouse=cycle.workspace.warehouse),
            InlineTrainer(),
        )
        assert again.runs == cycle.runs == 1
        assert again.last_run is not None and cycle.last_run is not None
        assert again.last_run.reason == cycle.last_run.reason
