"""What a challenger is judged by: rows of its own, scored beside the champion that stands, told by where it started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bandit.errors import Refused
from bandit.policies import read_state
from bandit.rates import choose_rate
from evaluation.gate import Verdict, judge
from serving.learner import steps
from serving.learner.challengers.plans import incarnation
from serving.learner.challengers.store import FORMER, STANDING
from serving.learner.operations import verify
from serving.learner.reports import RunReport
from serving.learner.verdicts import judging, promotion
from serving.learner.verdicts.certificates import CERTIFICATE, evaluations
from tests.bandit.test_rates import favourites
from tests.serving.learner_support import World, world
from tests.serving.test_changed_settings import change, standing
from tests.serving.test_tenure import WIDE, crown_copies

pytestmark = pytest.mark.slow

UNDECIDED = {"margin": 5.0}
"""So large a margin that no challenger is ever promoted."""

WILD = {"algorithm": "egreedy", "epsilon": 0.9}
TAME = {"algorithm": "egreedy", "epsilon": 0.1}
BLIND = {"algorithm": "softmax", "temperature": 100.0}

ANOTHER_DIGEST = "the rows scored from the log have another digest than those of the certificate"


def run(here: World, rows: int) -> RunReport:
    """Decide so many times and run the cycle; gives its report."""
    here.play(rows)
    here.transport.settle()
    report = here.transport.last_report
    assert report is not None
    return report


def matured(here: World, rows: int) -> None:
    """Decide so many times and let the rows mature, but leave them to the steps."""
    here.play(rows)
    here.transport.clock.advance(2)
    here.transport._deliver_until(here.transport.clock())
    here.transport._flush()
    here.transport.server.writer.seal()
    here.transport.server.heartbeat()
    here.transport.cycle.tick()


def champion_of(here: World) -> str:
    champion = here.transport.cycle.workspace.registry.champion()
    assert champion is not None
    return champion.model_id


def differences(here: World, newest: int | None = None) -> dict[str, list[str]]:
    """What each evaluation (or the `newest` ones) has that the log does not give again, where there is anything."""
    workspace = here.transport.cycle.workspace
    found = {
        each["id"]: verify.run(workspace, each["id"])["differences"]
        for each in evaluations(workspace.experiment.paths, newest)
    }
    return {name: differing for name, differing in found.items() if differing}


def newest_certificate(here: World) -> Path:
    paths = here.transport.cycle.workspace.experiment.paths
    return paths.evaluations / evaluations(paths, 1)[0]["id"] / CERTIFICATE


def amended(certificate: Path, **given: Any) -> None:
    """The certificate with other values, and an origin as an earlier version stated it."""
    content = msgspec.json.decode(certificate.read_bytes()) | given
    content["derivation"]["origin"].pop("rules_version", None)
    certificate.write_bytes(msgspec.json.encode(content))


def imported(number: int, seed: int) -> list[dict[str, Any]]:
    """The favourites as history."""
    return [
        {
            "context": dict(row.context),
            "actions": [{"id": action.id} for action in row.actions],
            "action": row.actions[row.index].id,
            "probability": row.propensity,
            "reward": row.reward,
        }
        for row in favourites(number, seed=seed)
    ]


@contextmanager
def every_challenger_rejected() -> Iterator[None]:
    def rejecting(*arguments: Any, **named: Any) -> Verdict:
        return replace(judge(*arguments, **named), outcome="hold", rejected=True, keep_rows=False)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(judging, "judge", rejecting)
        yield


def test_rows_decided_with_an_earlier_learner_of_its_name_are_not_a_challengers_own(tmp_path: Path) -> None:
    with world(tmp_path, exploration=WIDE, challengers={}, gate=UNDECIDED) as here:
        here.transport.warm_start(here.history(40))
        run(here, 200)
        workspace = here.transport.cycle.workspace
        before = workspace.registry.trial()
        change(here, exploration={"algorithm": "uniform"})
        run(here, 60)
        _, rows = standing(here)
        decided = workspace.warehouse.interactions().tail(60)
        assert before is not None and set(decided["trial_model_id"]) == {before.model_id}
        assert len(rows) == 60 and np.allclose(rows.candidate, 0.25)
        trial = workspace.registry.trial()
        assert trial is not None and trial.model_id != before.model_id
        assert workspace.registry.manifest(trial.model_id).options["exploration"]["algorithm"] == "uniform"


def test_a_declared_challenger_that_starts_on_a_newer_window_takes_the_place_of_its_older_self(tmp_path: Path) -> None:
    field = {"recent": {"window_interactions": 150, "every_interactions": 150, "exploration": TAME}}
    with world(tmp_path, exploration=WILD, challengers=field, gate=UNDECIDED) as here:
        here.transport.warm_start(here.history(40))
        registry, store = here.transport.cycle.workspace.registry, here.transport.cycle.store
        births = set()
        for _ in range(8):
            run(here, 75)
            trial, state = registry.trial(), store.load("recent")
            if trial is not None and trial.challenger == "recent":
                assert state is not None and trial.since >= state.born
                births.add(state.born)
        assert len(births) > 1


def test_who_lost_to_another_is_not_judged_again_on_rows_scored_beside_the_champion_before(tmp_path: Path) -> None:
    field = {"recent": {"window_interactions": 100, "every_interactions": 5000, "exploration": TAME}}
    with world(tmp_path, exploration=WIDE, challengers=field, gate=UNDECIDED) as here:
        here.transport.warm_start(here.history(40))
        for _ in range(2):
            run(here, 200)
        change(here, gate={"margin": 0.0})
        report = run(here, 200)
        assert [verdict.outcome for verdict in report.verdicts].count("promote") >= 1 and len(report.verdicts) == 2
        crowned = champion_of(here)
        for _ in range(2):
            assert here.transport.cycle.run(force=True).outcome == "nothing"
        assert champion_of(here) == crowned
        assert len(here.transport.cycle.workspace.registry.history.entries("promotion")) == 1


def test_a_verdict_against_another_champion_lets_no_offered_model_pass(tmp_path: Path) -> None:
    with world(tmp_path, exploration=WIDE, challengers={}, gate=UNDECIDED) as here:
        here.transport.warm_start(here.history(40))
        run(here, 200)
        cycle = here.transport.cycle
        trial = cycle.workspace.registry.trial()
        assert trial is not None
        run(here, 200)
        change(here, gate={"margin": 0.0})
        matured(here, 200)
        trained = steps.take(cycle, "train", {})["model_id"]
        for model_id in (trial.model_id, trained):
            assert steps.take(cycle, "evaluate", {"model_id": model_id})["outcome"] == "promote"
        assert steps.take(cycle, "deploy", {"model_id": trained})["recorded"] == "promotion"
        here.transport.clock.advance(1)
        here.transport.server.heartbeat()
        with pytest.raises(Refused, match="no matured interactions"):
            steps.take(cycle, "evaluate", {"model_id": trial.model_id})
        with pytest.raises(Refused, match="override"):
            steps.take(cycle, "deploy", {"model_id": trial.model_id})


def test_steps_take_nothing_from_scores_beside_the_champion_before(tmp_path: Path) -> None:
    recent = {"window_interactions": 100, "every_interactions": 5000, "exploration": TAME}
    with world(tmp_path, exploration=WIDE, challengers={"recent": recent}, gate=UNDECIDED) as here:
        here.transport.warm_start(here.history(40))
        run(here, 200)
        run(here, 200)
        change(here, gate={"margin": 0.0})
        cycle = here.transport.cycle
        matured(here, 200)
        trained = steps.take(cycle, "train", {})["model_id"]
        verdict = steps.take(cycle, "evaluate", {"model_id": trained})
        assert verdict["outcome"] == "promote" and verdict["best"] not in (None, trained)
        steps.take(cycle, "deploy", {"model_id": verdict["best"]})
        with pytest.raises(Refused, match="another champion"):
            steps.take(cycle, "evaluate", {"model_id": trained})
        with pytest.raises(Refused, match="nothing to learn"):
            steps.take(cycle, "train", {})
        with pytest.raises(Refused, match="override"):
            steps.take(cycle, "deploy", {"model_id": trained})


@pytest.mark.parametrize("changed", [{"exploration": BLIND}, {"rewards": {"max": 10.0}}])
def test_a_challenger_rejected_under_changed_settings_starts_anew_under_them(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    with world(tmp_path, exploration=WIDE, challengers={}, gate=UNDECIDED) as here:
        here.transport.warm_start(here.history(100))
        run(here, 40)
        change(here, **changed)
        run(here, 40)
        with every_challenger_rejected():
            assert [verdict.rejected for verdict in run(here, 40).verdicts] == [True]
        run(here, 40)
        store = here.transport.cycle.store
        state, rows = standing(here)
        made_of, settings = read_state(store.files(state)), here.transport.experiment.settings
        assert made_of.exploration == settings.exploration and made_of.rewards == settings.rewards
        assert state.learnt == 260 and len(rows) == 40
        assert not differences(here)


def test_what_follows_a_declared_champion_with_settings_of_its_own_is_derived_again_from_the_log(
    tmp_path: Path,
) -> None:
    field = {"recent": {"window_interactions": 100, "every_interactions": 5000, "exploration": TAME}}
    with world(tmp_path, exploration=WIDE, challengers=field) as here:
        here.transport.warm_start(here.history(40))
        workspace = here.transport.cycle.workspace
        for _ in range(5):
            run(here, 150)
        promoted = [entry["challenger"] for entry in workspace.registry.history.entries("promotion")]
        assert "recent" in promoted
        assert not differences(here)


def test_a_rejected_challenger_starts_again_from_all_that_its_champion_learnt_and_nothing_older(tmp_path: Path) -> None:
    field = {"recent": {"window_interactions": 60, "every_interactions": 5000, "exploration": TAME}}
    with world(tmp_path, exploration=WIDE, challengers=field) as here:
        here.transport.warm_start(here.history(40))
        registry = here.transport.cycle.workspace.registry
        while registry.manifest(champion_of(here)).data.get("since") is None:
            run(here, 150)
        for bits in (17, here.transport.experiment.settings.learning.bits):  # there and back: it learns the whole log
            change(here, learning={"bits": bits})
            run(here, 50)
        with every_challenger_rejected():
            run(here, 50)
        learnt, since = (registry.manifest(champion_of(here)).data[key] for key in ("rows", "since"))
        state, _ = standing(here)
        assert state.learnt == learnt and state.since is not None and state.since.isoformat() == since
        before = len(evaluations(here.transport.experiment.paths))
        for _ in range(3):  # until its encoder is fitted anew, on all rows that it has learnt
            run(here, 150)
        since = len(evaluations(here.transport.experiment.paths)) - before
        assert since and not differences(here, newest=since)


@pytest.mark.parametrize("changed", [{}, {"exploration": BLIND}])
def test_after_a_rejected_candidate_is_deployed_the_standing_challenger_goes_on_from_it(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    with world(tmp_path, exploration=WIDE, challengers={}, gate={"rows_min": 50}) as here:
        here.transport.warm_start(here.history(100))
        cycle = here.transport.cycle
        change(here, **changed)
        matured(here, 100)
        trained = steps.take(cycle, "train", {})
        with every_challenger_rejected():
            assert steps.take(cycle, "evaluate", {"model_id": trained["model_id"]})["rejected"]
        steps.take(cycle, "deploy", {"model_id": trained["model_id"], "override": True})
        here.transport.server.refresh()
        matured(here, 60)
        again = steps.take(cycle, "train", {})
        state, rows = standing(here)
        assert state.origin is not None and state.origin.base == state.champion == trained["model_id"]
        assert again["learnt"] == trained["learnt"] + 60 and len(rows) == 60
        answer = steps.take(cycle, "evaluate", {"model_id": again["model_id"]})
        assert verify.run(cycle.workspace, answer["evaluation_id"])["differences"] == []


def test_the_watch_on_a_former_champion_ends_undecided_at_the_horizon(tmp_path: Path) -> None:
    with world(tmp_path, gate=UNDECIDED | {"horizon_rows": 200}, challengers={}) as here:
        here.transport.warm_start(here.history(60))
        first, second = crown_copies(here, 1)
        registry, store = here.transport.cycle.workspace.registry, here.transport.cycle.store
        run(here, 120)
        assert FORMER in store.names() and not registry.history.entries("undecided")
        run(here, 120)
        assert FORMER not in store.names()
        [entry] = registry.history.entries("undecided")
        assert (entry["model_id"], entry["previous"], entry["rows"]) == (second, first, 240)
        run(here, 60)
        assert FORMER not in store.names() and len(registry.history.entries("undecided")) == 1


def test_a_promotion_whose_run_failed_is_recorded_and_watched_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    with world(tmp_path, exploration=WIDE, challengers={}) as here:
        here.transport.warm_start(here.history(40))
        registry, store = here.transport.cycle.workspace.registry, here.transport.cycle.store
        former = champion_of(here)
        with monkeypatch.context() as patched:
            patched.setattr(promotion, "watch_former", full)
            assert run(here, 300).outcome == "failed"
        crowned = champion_of(here)
        assert crowned != former and FORMER not in store.names()
        run(here, 60)
        [entry] = registry.history.entries("promotion")
        assert (entry["model_id"], entry["previous"]) == (crowned, former)
        state = store.load(FORMER)
        assert state is not None and (state.champion, state.model_id) == (crowned, former)


def test_a_frozen_experiment_makes_no_first_model_of_its_history_before_it_is_online(tmp_path: Path) -> None:
    with world(tmp_path, serving={"mode": "frozen"}) as here:
        assert here.transport.warm_start(here.history(60)).outcome != "initial"
        cycle = here.transport.cycle
        assert cycle.workspace.registry.champion() is None and not cycle.workspace.registry.history.entries("initial")
        with pytest.raises(Refused, match="no imported history"):
            steps.take(cycle, "initialize", {})
        change(here, serving={"mode": "online"})
        assert run(here, 20).outcome == "initial"


def test_what_older_rules_learnt_is_derived_again_by_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def older(*given: Any, **_: Any) -> float:
        return choose_rate(*given, passes_over=False)

    with world(tmp_path) as here:
        with monkeypatch.context() as patched:
            patched.setattr("bandit.training.choose_rate", older)
            here.transport.warm_start(imported(300, seed=7))
        certificate = newest_certificate(here)
        assert differences(here) == {certificate.parent.name: [ANOTHER_DIGEST]}
        amended(certificate, rules_version=4)
        assert not differences(here)


def test_what_newer_rules_went_on_with_is_called_underivable_where_it_differs(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(imported(300, seed=7))
        assert not differences(here)
        amended(newest_certificate(here))
        [[differing]] = differences(here).values()
        assert differing.startswith(ANOTHER_DIGEST) and "cannot be derived again here" in differing


def test_a_challenger_that_an_earlier_version_started_goes_on_as_the_same_learner(tmp_path: Path) -> None:
    with world(tmp_path, gate=UNDECIDED) as here:
        here.transport.warm_start(here.history(60))
        run(here, 100)
        store, registry = here.transport.cycle.store, here.transport.cycle.workspace.registry
        state, trial = store.load(STANDING), registry.trial()
        assert state is not None and state.origin is not None and trial is not None
        assert incarnation(state.origin) == registry.manifest(trial.model_id).data["incarnation"]
        started = msgspec.structs.replace(state.origin, rules_version=0)
        assert incarnation(started) == incarnation(state.origin)
        store.save(msgspec.structs.replace(state, origin=started))
        run(here, 100)
        state = store.load(STANDING)
        assert state is not None and state.origin == started and not differences(here)
