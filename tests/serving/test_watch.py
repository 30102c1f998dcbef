"""The watch on workers after a promotion: what they report undoes it, and to which champion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bandit.errors import DurabilityLost
from bandit.eventlog import Heartbeat
from bandit.eventlog.heartbeat import DAMAGED, UNREADABLE, read_heartbeat
from bandit.registry import Champion
from bandit.settings import Rollback
from serving.api.decider import ExperimentServer
from serving.learner import models
from serving.learner.operations.erase import run as erase
from serving.learner.watch import LATENCY_EDGES_MS, Watch, latency_ms, recorded_digest
from tests.serving.learner_support import begun
from tests.serving.test_tenure import crown_a_bad_model, crown_copies

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def beat(
    model_id: str | None,
    *,
    digest: str | None = None,
    at: datetime = NOW,
    generation: int | None = None,
    manifest_digest: str | None = None,
    unusable: str | None = None,
    pid: int = 1,
    **counters: float,
) -> Heartbeat:
    return Heartbeat(
        writer_id="w0",
        kind="worker",
        pid=pid,
        at=at,
        complete_until=at,
        model_id=model_id,
        generation=generation,
        canary_digest=digest,
        manifest_digest=manifest_digest,
        unusable=unusable,
        counters=counters,
    )


def watched(tmp_path: Path) -> tuple[Watch, Champion, Any]:
    with begun(tmp_path, 40) as here:
        registry = here.transport.cycle.workspace.registry
        champion = registry.champion()
        assert champion is not None
        return Watch(), champion, registry.manifest(champion.model_id)


def test_a_worker_whose_canaries_differ_or_that_cannot_load_undoes_the_promotion(tmp_path: Path) -> None:
    watch, champion, manifest = watched(tmp_path)
    rules, good = Rollback(), recorded_digest(manifest)
    now = champion.since + timedelta(seconds=1)
    late = champion.since + timedelta(seconds=30)
    ask = lambda beats, now=now: watch.problem(champion, manifest, beats, rules, now=now)  # noqa: E731
    assert ask([beat(champion.model_id, digest=good, at=now)]) is None
    assert "canaries" in str(ask([beat(champion.model_id, digest="0" * 16, at=now)]))
    assert ask([beat("m-old", at=now)]) is None  # it has a few seconds to load the new one
    assert "cannot load" in str(ask([beat("m-old", at=late)], late))
    assert ask([beat("m-old", at=now)], late) is None  # a heartbeat that old says nothing about now


def test_answers_are_compared_with_the_manifest_that_they_answer(tmp_path: Path) -> None:
    watch, champion, manifest = watched(tmp_path)
    now = champion.since + timedelta(seconds=1)

    def ask(manifest_digest: str) -> str | None:
        worker = beat(champion.model_id, digest="0" * 16, at=now, manifest_digest=manifest_digest)
        return watch.problem(champion, manifest, [worker], Rollback(), now=now)

    assert ask("0" * 64) is None
    assert "canaries" in str(ask(manifest.digest))


def test_erasing_one_of_the_champions_canaries_leaves_it_the_champion(tmp_path: Path) -> None:
    with begun(tmp_path, 60) as here:
        _, second = crown_copies(here, 1)
        server, cycle = here.transport.server, here.transport.cycle
        server.refresh()
        here.play(10)
        server.writer.seal()
        here.transport.clock.advance(30)
        server.heartbeat()
        before = len(server.registry.manifest(second).canaries)
        erased = erase(cycle.workspace, event_ids=["event-1"], confirmed=True)
        left = server.registry.manifest(second)
        assert erased["canaries"] and 0 < len(left.canaries) < before
        server.refresh()
        heartbeat = server.heartbeat()
        assert heartbeat.canary_digest != recorded_digest(left)
        cycle.tick()
        champion = server.registry.champion()
        assert champion is not None and champion.model_id == second


def test_a_worker_must_say_for_a_while_that_it_cannot_load_the_very_champion_that_stands(tmp_path: Path) -> None:
    watch, champion, manifest = watched(tmp_path)

    def ask(after_s: float, model_id: str | None, generation: int, **named: Any) -> str | None:
        at = champion.since + timedelta(seconds=after_s)
        return watch.problem(champion, manifest, [beat(model_id, generation=generation, at=at)], Rollback(), now=at)

    before, stands = champion.generation - 1, champion.generation
    assert ask(1, "m-old", before) is None
    assert ask(600, "m-old", before) is None  # still loading, however long that takes
    assert ask(601, "m-old", stands) is None
    assert ask(611.5, None, stands) is None  # a heartbeat that names no model
    assert "cannot load" in str(ask(612, "m-old", stands))
    assert ask(613, champion.model_id, stands) is None
    assert ask(614, "m-old", stands) is None  # it begins anew
    assert ask(620, "m-old", stands) is None
    assert "cannot load" in str(ask(624, "m-old", stands))


@pytest.mark.parametrize(("unusable", "patience_s"), [(DAMAGED, 10), (UNREADABLE, 60)])
def test_a_champion_whose_files_cannot_be_read_for_a_moment_stays(
    tmp_path: Path, unusable: str, patience_s: int
) -> None:
    watch, champion, manifest = watched(tmp_path)
    undone = []
    for second in range(1, 100):
        at = champion.since + timedelta(seconds=second)
        worker = beat("m-old", generation=champion.generation, unusable=unusable, at=at)
        if watch.problem(champion, manifest, [worker], Rollback(), now=at):
            undone.append(second)
    assert undone[0] == 1 + patience_s and undone[-1] == 99


@pytest.mark.parametrize("kind", ["a worker that starts", "a log that is written again"])
def test_the_first_heartbeat_of_a_log_names_the_model_that_is_served(tmp_path: Path, kind: str) -> None:
    with begun(tmp_path, 60) as here:
        _, second = crown_copies(here, 1)
        cycle, paths, server = here.transport.cycle, here.transport.experiment.paths, here.transport.server
        server.refresh()
        server.heartbeat()
        here.transport.clock.advance(60)
        if kind == "a worker that starts":
            server = ExperimentServer(tmp_path, "test", writer_id="w1", clock=here.transport.clock, durable=False)
        else:
            paths.events.rename(tmp_path / "aside")
            with pytest.raises(DurabilityLost):
                server.recommend(server.parse(b'{"context": {}, "actions": [{"id": "a"}]}'))
            (tmp_path / "aside").rename(paths.events)
            assert server.revive()
        first = read_heartbeat(paths, server.writer.writer_id)
        assert first is not None and (first.model_id, first.generation) == (second, 2)
        assert first.canary_digest == recorded_digest(server.registry.manifest(second))
        cycle.tick()
        champion = server.registry.champion()
        assert champion is not None and champion.model_id == second
        if server is not here.transport.server:
            server.close()


def test_a_promotion_is_undone_by_what_workers_report_and_a_rollback_is_not(tmp_path: Path) -> None:
    with begun(tmp_path, 60) as here:
        here.play(60)
        here.transport.settle()
        cycle, registry = here.transport.cycle, here.transport.cycle.workspace.registry

        def a_worker_lags() -> str:
            here.transport.clock.advance(30)
            cycle.intake.live = [beat("m-old", at=here.transport.clock())]
            cycle._watch_champion()
            champion = registry.champion()
            assert champion is not None
            return champion.model_id

        bad, good = crown_a_bad_model(here)
        assert a_worker_lags() == good  # undone
        assert a_worker_lags() == good
        models.promote_by_hand(cycle.workspace, cycle.store, cycle.trainer, bad, override=True)
        models.roll_back(cycle.workspace, cycle.store, cycle.trainer)
        assert a_worker_lags() == good  # what was left by hand does not come back
        assert [entry.get("automatic", False) for entry in registry.history.entries("rollback")] == [True, False]


def test_a_promotion_is_undone_to_the_newest_champion_that_is_sound_although_its_manifest_is_gone(
    tmp_path: Path,
) -> None:
    with begun(tmp_path, 60) as here:
        first, second, third = crown_copies(here, 2)
        cycle, registry = here.transport.cycle, here.transport.cycle.workspace.registry
        (registry.paths.models / second / "policy.vw").write_bytes(b"")
        (registry.paths.models / third / "manifest.json").unlink()
        cycle.tick()  # polls go on while the worker serves what it has in memory
        here.transport.clock.advance(30)
        cycle.intake.live = [beat(first, at=here.transport.clock())]
        cycle._watch_champion()
        champion = registry.champion()
        assert champion is not None and champion.model_id == first
        assert f"passed over: {second}" in champion.reason


def test_a_promotion_that_cannot_be_undone_is_told_of_once(tmp_path: Path) -> None:
    with begun(tmp_path, 60) as here:
        first, second = crown_copies(here, 1)
        cycle, registry = here.transport.cycle, here.transport.cycle.workspace.registry
        (registry.paths.models / first / "policy.vw").write_bytes(b"")
        here.transport.clock.advance(30)
        cycle.intake.live = [beat(first, at=here.transport.clock())]
        for _ in range(3):
            cycle._watch_champion()
        champion = registry.champion()
        assert champion is not None and champion.model_id == second
        (told,) = registry.history.entries("watch")
        assert "no earlier champion is sound" in told["reason"] and told["champion"] == second


def test_the_digest_a_worker_reports_is_the_one_the_manifest_records(tmp_path: Path) -> None:
    with begun(tmp_path, 40) as here:
        workspace = here.transport.cycle.workspace
        champion = workspace.registry.champion()
        assert champion is not None
        here.transport.cycle.tick()
        worker = next(each for each in here.transport.cycle.intake.live if each.kind == "worker")
        assert worker.model_id == champion.model_id
        assert worker.canary_digest == recorded_digest(workspace.registry.manifest(champion.model_id))


@pytest.mark.parametrize(
    ("counters", "problem"),
    [
        ({"decisions": 1000.0}, None),
        ({"decisions": 1000.0, "policy_errors": 5.0}, None),
        ({"decisions": 1000.0, "policy_errors": 50.0}, "failed"),
        ({"decisions": 100.0, "error:internal": 50.0}, None),  # too few to tell
        ({"decisions": 1000.0, f"latency:recommend:{len(LATENCY_EDGES_MS)}": 1000.0}, "latency"),
        ({"decisions": 50_000.0, "policy_errors": 25_000.0}, None),  # long after the swap
    ],
)
def test_the_guardrail_counts_from_the_swap_on(tmp_path: Path, counters: dict[str, float], problem: str | None) -> None:
    watch, champion, manifest = watched(tmp_path)
    good, now = recorded_digest(manifest), champion.since + timedelta(seconds=1)
    before = dict.fromkeys(counters, 7.0)
    start = beat(champion.model_id, digest=good, at=now, **before)
    after = beat(champion.model_id, digest=good, at=now, **{name: value + 7 for name, value in counters.items()})
    rules = Rollback(latency_p99_ms_max=500.0)
    assert watch.problem(champion, manifest, [start], rules, now=now) is None
    found = watch.problem(champion, manifest, [after], rules, now=now)
    assert found is None if problem is None else problem in str(found)


def test_a_worker_that_took_the_place_of_a_dead_one_is_counted_from_nothing_and_given_time_of_its_own(
    tmp_path: Path,
) -> None:
    watch, champion, manifest = watched(tmp_path)
    good, now = recorded_digest(manifest), champion.since + timedelta(seconds=1)

    def said(*beats: Heartbeat) -> str | None:
        return watch.problem(champion, manifest, beats, Rollback(), now=beats[0].at)

    def failing(pid: int, decisions: float) -> Heartbeat:
        return beat(champion.model_id, digest=good, at=now, pid=pid, decisions=decisions, policy_errors=decisions / 2)

    assert said(failing(1, 5_000.0)) is None  # before the swap, for all that is known
    assert said(failing(2, 0.0)) is None
    assert "failed" in str(said(failing(2, 1_000.0)))

    def refusing(pid: int, seconds: float) -> Heartbeat:
        at = now + timedelta(seconds=seconds)
        return beat("m-old", at=at, pid=pid, generation=champion.generation, unusable=DAMAGED)

    assert said(refusing(3, 0.0)) is None
    assert said(refusing(4, 60.0)) is None
    assert "cannot load" in str(said(refusing(4, 71.0)))


def test_latency_is_never_reported_too_high() -> None:
    assert latency_ms({}, 0.99) is None
    assert latency_ms({"latency:recommend:0": 100.0}, 0.99) == 0.0
    assert latency_ms({"latency:recommend:0": 98.0, "latency:recommend:12": 2.0}, 0.99) == LATENCY_EDGES_MS[11]
