"""The client against the real service: what it promises holds, and what it refuses arrives as a named exception."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rewardloop_client import Action, Choice, Client, Conflict, InvalidRequest, NotFound, Recommender

from bandit.experiment import Experiment
from bandit.settings import parse_settings
from serving.over_http import Service
from serving.sabotage import read_log

BATCHES = {"short": {"batch_items_max": 50}, "small": {"batch_bytes_max": 2048}}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    settings = parse_settings({"rewards": {"window_s": 60.0, "events": {"purchase": {"scale": 0.01}}}})
    Experiment.create(folder, "shop", settings, now=datetime.now(UTC))
    for name, limits in BATCHES.items():
        settings = parse_settings({"limits": limits, "serving": {"seal_interval_s": 0.1}})
        Experiment.create(folder, name, settings, now=datetime.now(UTC))
    return folder


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[Client]:
    with Service(data_dir, log=data_dir / "service.log") as service, Client(service.url, "shop") as made:
        yield made
    log = read_log(Experiment.open(data_dir, "shop"))
    assert {"plain", "features"} <= set(log.decisions)
    assert log.rewards["plain"].reward == 1.0 and log.rewards["features"].reward == 0.5


def test_a_choice_is_among_the_offered_and_its_reward_is_taken(client: Client) -> None:
    choice = client.recommend({"hour": 9, "tags": ["a", "b"]}, ["news", "sport", "weather"], event_id="plain")
    assert choice.action in {"news", "sport", "weather"}
    assert choice.probability == pytest.approx(1 / 3)
    assert choice.ranking[0].action == choice.action and len(choice.ranking) == 3
    client.reward("plain", 1.0)


def test_actions_with_features_and_named_rewards(client: Client) -> None:
    actions = [Action("a", {"price": 1.5}), Action("b", {"price": 2.0, "on sale": True})]
    choice = client.recommend({}, actions, event_id="features", excluded=["a"])
    assert (choice.action, choice.probability) == ("b", 1.0)
    client.reward("features", event="purchase", value=50.0)


def test_slots_are_distinct_choices(client: Client) -> None:
    choices = client.recommend_slots({}, 3, ["a", "b", "c", "d"])
    assert len({choice.action for choice in choices}) == len({choice.event_id for choice in choices}) == 3
    (alone,) = client.recommend_slots({}, 1, ["a", "b"], event_id="alone")
    assert alone.event_id == "alone"


def test_the_same_question_again_has_the_same_answer_and_another_one_conflicts(client: Client) -> None:
    first = client.recommend({"x": 1}, ["a", "b"], event_id="again")
    assert client.recommend({"x": 1}, ["a", "b"], event_id="again") == first
    with pytest.raises(Conflict):
        client.recommend({"x": 2}, ["a", "b"], event_id="again")


@pytest.mark.parametrize("event_id", [None, ".", "..", "a/../b", "é ?#%2E"])
def test_a_deferred_choice_can_be_activated(client: Client, event_id: str | None) -> None:
    choice = client.recommend({}, ["a", "b"], event_id=event_id, deferred=True)
    client.activate(choice.event_id)


def test_what_is_wrong_is_named(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.recommend({}, ["a", "a"])
    assert caught.value.problems[0].field == "actions[1].id"
    with pytest.raises(InvalidRequest) as caught:
        client.reward("plain", 7.0)
    assert caught.value.problems[0].field.endswith("reward")


@pytest.mark.parametrize("name", sorted(BATCHES))
def test_rewards_are_stored_and_counted_one_by_one_whatever_the_limits_of_a_batch(
    client: Client, data_dir: Path, name: str
) -> None:
    assert client._http is not None
    with Recommender(str(client._http.base_url), name) as recommender:
        for number in range(120):
            recommender.reward(Choice("a", f"e{number}", learnable=True), 7.0 if number == 70 else 1.0)
        assert recommender.flush()
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_refused) == (119, 1)
    experiment, until = Experiment.open(data_dir, name), time.monotonic() + 10.0
    while len(stored := read_log(experiment).rewards) < 119 and time.monotonic() < until:  # the worker has yet to seal
        time.sleep(0.05)
    assert set(stored) == {f"e{number}" for number in range(120) if number != 70}


def test_why_all_of_a_batch_was_refused_is_logged(
    client: Client, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert client._http is not None
    with Recommender(str(client._http.base_url), "shop") as recommender:
        for number in range(3):
            recommender.reward(Choice("a", f"all-{number}", learnable=True), event="share")
        assert recommender.flush()
    assert "3 rewards were refused: 422 The request cannot be accepted: event: is not declared (limit: " in caplog.text
    with pytest.raises(InvalidRequest, match="the first is event: is not declared"):
        client.rewards([{"event_id": name, "event": "share"} for name in ("a", "b")])


def test_a_list_that_is_refused_in_part_says_how_many_were_taken(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.rewards([{"event_id": "plain", "reward": 7.0}, {"event_id": "plain", "reward": 1.0}])
    assert caught.value.accepted == 1
    with pytest.raises(InvalidRequest) as caught:
        client.rewards([{"event_id": "plain", "reward": 7.0}] * 2)
    assert caught.value.accepted == 0
    with pytest.raises(InvalidRequest) as caught:
        client.rewards([])
    assert caught.value.accepted is None


def test_an_unknown_experiment_is_not_found(client: Client, data_dir: Path) -> None:
    assert client._http is not None
    url = str(client._http.base_url)
    with Client(url, "nowhere") as other, pytest.raises(NotFound):
        other.recommend({}, ["a"])
