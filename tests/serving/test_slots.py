"""An answer of several slots counts as one: for the gate, for the live lift, and when derived again from the log."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from serving.api.requests import RecommendRequest, RewardItem
from serving.learner.admin.http import JSONResponse
from serving.learner.challengers import store as challengers
from serving.learner.challengers.store import STANDING
from serving.learner.operations import value, verify
from serving.learner.scores import concatenate, read_scores, write_scores
from serving.learner.verdicts.certificates import CERTIFICATE, evaluations
from tests.serving.learner_support import ACTIONS, BEST, World, begun, world


def play_pages(here: World, number: int, slots: int) -> None:
    """So many requests for several actions each, and a run of the cycle."""
    transport = here.transport
    for _ in range(number):
        transport.clock.advance(0.1)
        sky = here.rng.choice(list(BEST))
        name = here._name()
        context = {"sky": sky, "session": name}
        request = RecommendRequest(context=context, actions=list(ACTIONS), event_id=name, slots=slots)
        events, _ = transport.server.decide(request)
        transport._write(events)
        for event in events:
            rewards = [RewardItem(event_id=event.event_id, reward=here.pay(sky, event.action))]
            transport._write(transport.server.reward_events(rewards))
    transport.settle()


def test_the_gate_counts_answers_and_the_log_gives_the_same_rows_again(tmp_path: Path) -> None:
    with begun(tmp_path, 60, gate={"margin": 5.0}) as here:
        play_pages(here, 60, slots=2)
        here.play(60)
        here.transport.settle()
        workspace = here.transport.cycle.workspace
        newest = evaluations(workspace.experiment.paths)[0]
        certificate = workspace.experiment.paths.evaluations / newest["id"] / CERTIFICATE
        made = msgspec.json.decode(certificate.read_bytes())
        assert (made["rows"]["n"], made["rows"]["clusters"]) == (180, 120)
        assert verify.run(workspace, newest["id"])["differences"] == []


def test_the_rows_of_older_rules_are_made_again_with_their_slots_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begun(tmp_path, 60, gate={"margin": 5.0}) as here:
        with monkeypatch.context() as older:
            older.setattr("bandit.scoring.answer_of", lambda event_id, slot: None)
            play_pages(here, 60, slots=2)
        workspace = here.transport.cycle.workspace
        (newest, *_) = evaluations(workspace.experiment.paths)
        certificate = workspace.experiment.paths.evaluations / newest["id"] / CERTIFICATE
        made = msgspec.json.decode(certificate.read_bytes())
        assert made["rows"]["clusters"] is None
        assert verify.run(workspace, newest["id"])["differences"] != []
        certificate.write_bytes(msgspec.json.encode(made | {"rules_version": 4}))
        assert verify.run(workspace, newest["id"])["differences"] == []


def test_by_older_rules_subjects_that_are_named_like_their_answers_count_all_the_same(tmp_path: Path) -> None:
    with world(tmp_path, gate={"margin": 5.0}, serving={"subject_field": "session"}) as here:
        here.transport.warm_start(here.history(60))
        play_pages(here, 60, slots=2)
        workspace = here.transport.cycle.workspace
        (newest, *_) = evaluations(workspace.experiment.paths)
        certificate = workspace.experiment.paths.evaluations / newest["id"] / CERTIFICATE
        made = msgspec.json.decode(certificate.read_bytes())
        assert (made["rows"]["n"], made["rows"]["clusters"]) == (120, 60)
        certificate.write_bytes(msgspec.json.encode(made | {"rules_version": 4}))
        assert verify.run(workspace, newest["id"])["differences"] == []


def test_scores_that_an_older_version_stored_are_clustered_too(tmp_path: Path) -> None:
    with begun(tmp_path, 60, gate={"margin": 5.0}) as here:
        play_pages(here, 20, slots=2)
        store = here.transport.cycle.store
        state = store.load(STANDING)
        assert state is not None
        scores = concatenate(list(store.scores(state)))
        assert scores is not None and scores.cluster is not None and len(set(scores.cluster)) == 20
        for before in (None, scores.event_id):
            write_scores(tmp_path / "older.npz", scores._replace(cluster=before), durable=False)
            assert read_scores(tmp_path / "older.npz").cluster == scores.cluster


def test_stored_scores_tell_their_actions_by_name_and_those_of_an_older_version_none(tmp_path: Path) -> None:
    with begun(tmp_path, 60, gate={"margin": 5.0}) as here:
        for _ in range(2):
            play_pages(here, 20, slots=2)
        store = here.transport.cycle.store
        state = store.load(STANDING)
        assert state is not None and len(state.chunks) == 2
        fresh = challengers.ChallengerStore(here.transport.experiment.paths)
        scores, again = concatenate(store.scores(state)), concatenate(fresh.scores(state))
        assert scores is not None and scores.offers is not None and scores.offer is not None and again is not None
        assert {len(offer) for offer in scores.offers} == {3, 4} and len(scores.offer) == 80
        assert again.offers == scores.offers and (again.offer == scores.offer).all()
        assert {name for offer in scores.offers for name in offer} == set(BEST.values())
        older = store.root / STANDING / state.chunks[0]
        write_scores(older, read_scores(older)._replace(offers=None, offer=None), durable=False)
        fresh = challengers.ChallengerStore(here.transport.experiment.paths)
        without = concatenate(fresh.scores(state))
        assert without is not None and without.offers is None and without.offer is None
        assert (without.candidate == scores.candidate).all()


def test_the_live_lift_counts_answers(tmp_path: Path) -> None:
    with world(tmp_path, serving={"control_fraction": 0.5}) as here:
        play_pages(here, 60, slots=3)
        workspace = here.transport.cycle.workspace
        frame = value._declared(here.transport.experiment, workspace.warehouse.interactions())
        named = frame.assign(subject=[name.rsplit(":", 1)[0] for name in frame["event_id"]])
        assert value._lift(frame) == value._lift(named) != value._lift(frame.assign(slot=None))


def test_the_live_lift_of_one_answer_has_no_interval(tmp_path: Path) -> None:
    with world(tmp_path, serving={"control_fraction": 0.2}) as here:
        here.transport.warm_start(here.history(60))
        play_pages(here, 1, slots=3)
        told = value.run(here.transport.cycle.workspace)
        assert told["n"] == 3 and told["sentence"].endswith("tell no interval") and not told["trusted"]
        said = msgspec.json.decode(JSONResponse(told).body)
        assert said["lift"] is not None and said["lower"] is said["upper"] is said["se"] is None
