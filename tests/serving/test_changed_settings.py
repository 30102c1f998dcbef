"""Settings that change while an experiment runs: learning goes on as one that was started under them would."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandit.scoring import segments_of, segments_of_any
from bandit.settings import merge_settings
from evaluation.scored import ScoredRows
from serving.learner.challengers.field import settings_of_challenger
from serving.learner.challengers.plans import new_state
from serving.learner.challengers.store import STANDING, ChallengerState, ChallengerStore
from serving.learner.operations import value, verify
from serving.learner.training.jobs import Job
from serving.learner.training.trainer import InlineTrainer
from serving.learner.verdicts.certificates import CERTIFICATE, REPORT, evaluations
from simulator.transport import Answer, Delivery, Question
from tests.serving.learner_support import ACTIONS, BEST, World, world
from tests.serving.test_cycle import digest, learn_until_promoted


def change(here: World, **sections: Any) -> None:
    experiment = here.transport.experiment
    experiment.change(merge_settings(experiment.settings, sections), now=here.transport.clock())
    here.transport.server.refresh()


def restart_training(here: World) -> None:
    """Let the training process remember nothing."""
    here.transport.cycle.trainer.close()
    here.transport.cycle.trainer = InlineTrainer()


def play_as(here: World, users: list[str | None], scale: float = 1.0) -> None:
    """One decision for each user, None being nobody known, and a run of the cycle."""
    skies = [here.rng.choice(list(BEST)) for _ in users]
    questions = [
        Question(here._name(), {"sky": sky} | ({"user": user} if user else {}), ACTIONS)
        for sky, user in zip(skies, users, strict=True)
    ]

    def deliveries(index: int, answer: Answer) -> list[Delivery]:
        return [Delivery(0.1, scale * here.pay(skies[index], answer.action))]

    here.transport.play(questions, deliveries)
    here.transport.settle()


def standing(here: World) -> tuple[ChallengerState, ScoredRows]:
    store = here.transport.cycle.store
    state = store.load(STANDING)
    assert state is not None
    return state, ScoredRows.concat([ScoredRows.of(chunk) for chunk in store.scores(state)])


def test_a_run_of_rows_without_a_subject_leaves_all_others_clustered_by_theirs(tmp_path: Path) -> None:
    with world(tmp_path, serving={"subject_field": "user"}, gate={"margin": 5.0}) as here:
        play_as(here, ["ann", "bob"] * 50)
        play_as(here, [None])
        play_as(here, ["ann"] * 50)
        _, rows = standing(here)
        assert rows.cluster is not None and rows.event_id is not None
        assert list(rows.cluster) == ["ann", "bob"] * 50 + [rows.event_id[100]] + ["ann"] * 50


def test_the_live_lift_is_clustered_although_some_decisions_have_no_subject(tmp_path: Path) -> None:
    with world(tmp_path, serving={"subject_field": "user", "control_fraction": 0.5}) as here:
        play_as(here, ["ann", "bob", "cat", "dan"] * 25 + [None] * 2)
        frame = value._declared(here.transport.experiment, here.transport.cycle.workspace.warehouse.interactions())
        few = value._lift(frame)
        alone = value._lift(frame.assign(subject=[user or f"nobody {n}" for n, user in enumerate(frame["subject"])]))
        apart = value._lift(frame.assign(subject=None))
        assert few["se"] == alone["se"] != apart["se"]


@pytest.mark.parametrize("restarts", [False, True])
def test_another_scale_of_rewards_makes_challengers_learn_the_whole_log_anew(tmp_path: Path, restarts: bool) -> None:
    with world(tmp_path) as here:
        learn_until_promoted(here)
        play_as(here, [None] * 120)
        change(here, rewards={"max": 10.0})
        if restarts:
            restart_training(here)
        play_as(here, [None] * 400, scale=10.0)
        state, rows = standing(here)
        assert state.learnt == here.transport.cycle.workspace.warehouse.counts()["interactions"]
        assert len(rows) == 400 and rows.q.max() > 2.0


def test_a_former_champion_is_scored_in_the_scale_that_it_learnt(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        learn_until_promoted(here)
        learn_until_promoted(here)
        change(here, rewards={"max": 10.0})
        play_as(here, [None] * 200)
        store = here.transport.cycle.store
        former = store.load("former")
        assert former is not None
        (*_, newest) = store.scores(former)
        assert 0.5 < newest.q.max() <= 1.0


def test_a_learner_goes_on_under_changed_settings_as_one_that_was_restarted_under_them(tmp_path: Path) -> None:
    found = []
    for restarts in (False, True):
        with world(tmp_path / str(restarts), gate={"margin": 5.0}) as here:
            play_as(here, ["ann", "bob"] * 30)
            change(here, serving={"segment_field": "user"})
            if restarts:
                restart_training(here)
            play_as(here, ["ann", "bob"] * 30)
            state, rows = standing(here)
            assert segments_of(rows.segment, len(rows), "user") == [""] * 60 + ["ann", "bob"] * 30
            found.append((digest(here.transport.cycle.store.files(state)), rows.digest()))
    assert found[0] == found[1]


def test_a_certificate_shows_segments_of_one_field_however_the_declared_one_changed(tmp_path: Path) -> None:
    with world(tmp_path, gate={"margin": 5.0, "rows_min": 10}, serving={"segment_field": "user"}) as here:
        paths, found = here.transport.experiment.paths, []
        for field in ("user", "sky", None, "user"):
            change(here, serving={"segment_field": field})
            play_as(here, ["ann", "bob"] * 40)
            folder = paths.evaluations / evaluations(paths)[0]["id"]
            certificate = msgspec.json.decode((folder / CERTIFICATE).read_bytes())
            parts = certificate["diagnostics"]["segments"]
            found.append((certificate["segment_field"], {part["segment"]: part["n"] for part in parts}))
            said = "while another field was declared" in (folder / REPORT).read_text()
            assert said == (field is not None)
        assert found[0] == ("user", {"ann": 40, "bob": 40})
        assert found[1][0] == "sky" and set(found[1][1]) == {"", *BEST} and found[1][1][""] == 80
        assert found[2] == (None, {})
        assert found[3] == ("user", {"": 160, "ann": 80, "bob": 80})


def test_a_certificate_that_does_not_tell_fields_apart_is_derived_as_it_was_made(tmp_path: Path) -> None:
    with world(tmp_path, gate={"margin": 5.0, "rows_min": 10}, serving={"segment_field": "user"}) as here:
        play_as(here, ["ann", "bob"] * 40)
        change(here, serving={"segment_field": "sky"})
        play_as(here, ["ann", "bob"] * 40)
        workspace = here.transport.cycle.workspace
        newest = evaluations(workspace.experiment.paths)[0]["id"]
        _, rows = standing(here)
        mixed = replace(rows, segment=segments_of_any(rows.segment))
        assert mixed.segment is not None and set(mixed.segment) == {"ann", "bob", *BEST}
        file = workspace.experiment.paths.evaluations / newest / CERTIFICATE
        older = msgspec.json.decode(file.read_bytes())
        del older["segment_field"]
        older["data"]["rows_digest"] = mixed.digest()
        file.write_bytes(msgspec.json.encode(older))
        assert verify.run(workspace, newest)["differences"] == []


@pytest.mark.parametrize(
    "changed",
    [{"rewards": {"max": 10.0}}, {"serving": {"segment_field": "sky"}}, {"serving": {"subject_field": "user"}}],
)
def test_evaluations_verify_from_the_log_although_settings_changed_in_their_tenure(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    with world(tmp_path, gate={"margin": 5.0, "rows_min": 10}, serving={"segment_field": "user"}) as here:
        here.transport.warm_start(here.history(60))
        play_as(here, ["ann", "bob"] * 40)
        change(here, **changed)
        play_as(here, ["ann", "bob"] * 40)
        workspace = here.transport.cycle.workspace
        for known in evaluations(workspace.experiment.paths):
            assert verify.run(workspace, known["id"])["differences"] == [], known


def test_settings_that_change_within_a_run_are_not_said_of_what_was_trained_under_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = {"recent": {"window_interactions": 50, "every_interactions": 5000}}
    trained: list[tuple[str, dict[str, Any]]] = []

    def noted(**fields: Any) -> Job:
        trained.append((fields["name"], fields["settings"]["exploration"]))
        return Job(**fields)

    monkeypatch.setattr("serving.learner.initial.Job", noted)
    monkeypatch.setattr("serving.learner.training_step.Job", noted)
    with world(tmp_path, challengers=declared, exploration={"algorithm": "egreedy"}) as here:
        experiment, load, number = here.transport.experiment, ChallengerStore.load, itertools.count(1)

        def change_them() -> None:
            asked = merge_settings(experiment.settings, {"exploration": {"epsilon": next(number) / 10_000}})
            experiment.change(asked, now=here.transport.clock())  # as somebody does over the admin API

        def meanwhile(store: ChallengerStore, name: str) -> ChallengerState | None:
            change_them()
            return load(store, name)

        def before_it_trains(*args: Any, **options: Any) -> ChallengerState:
            state = new_state(*args, **options)
            change_them()
            return state

        with monkeypatch.context() as changing:
            changing.setattr("serving.learner.initial.new_state", before_it_trains)
            here.transport.warm_start(here.history(60))
        (first,) = here.transport.cycle.workspace.registry.manifests()
        assert [("standing", first.options["exploration"])] == trained
        assert experiment.settings_of(first.settings_version).exploration.epsilon == trained[0][1]["epsilon"]
        here.play(20)
        with monkeypatch.context() as changing:
            changing.setattr(ChallengerStore, "load", meanwhile)
            here.transport.settle()
        store = here.transport.cycle.store
        names = [name for name, _ in trained[1:]]
        assert sorted(names) == ["recent", "standing"]
        for name, exploration in trained[1:]:
            state = store.load(name)
            assert state is not None and state.learnt
            under = experiment.settings_of(state.settings_version)
            assert settings_of_challenger(under, name).exploration.epsilon == exploration["epsilon"]
