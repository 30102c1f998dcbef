"""Deciding: what is drawn, what is logged with it, and that both agree."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bandit.errors import Conflict, InvalidRequest
from bandit.events import DecisionEvent
from bandit.settings import merge_settings
from bandit.types import SLOT_FEATURE
from serving.api.decider import ExperimentServer
from serving.api.drawing import BASELINE_MODEL_ID
from serving.api.requests import RecommendRequest, RewardItem
from tests.serving.api.support import SEVEN, Clock, decisions, logged, make_experiment, publish_model, replays


def open_server(data_dir: Path, name: str = "default") -> ExperimentServer:
    return ExperimentServer(data_dir, name, writer_id="w0", clock=Clock(), durable=False)


def ask(event_id: str | None = None, **more: object) -> RecommendRequest:
    return RecommendRequest(context={"x": 0.3, "device": "phone"}, event_id=event_id, **more)  # type: ignore[arg-type]


def test_without_a_model_every_action_is_equally_likely(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    server = open_server(tmp_path)
    answer = server.recommend(ask())
    server.close()
    (event,) = decisions(tmp_path)
    assert event.pmf == [1 / 7] * 7 and event.model_id == "cold-start"
    assert answer.probability == 1 / 7 and len(answer.ranking) == 7  # type: ignore[union-attr]
    assert answer.ranking[0].action == answer.action == event.action  # type: ignore[union-attr]


def test_a_cold_start_by_baseline_explores_its_declared_share(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN, serving={"cold_start": "baseline", "cold_start_exploration": 0.07})
    server = open_server(tmp_path)
    server.recommend(ask())
    server.close()
    (event,) = decisions(tmp_path)
    assert event.pmf == pytest.approx([0.94, *[0.01] * 6])


@pytest.mark.parametrize("algorithm", ["squarecb", "egreedy", "bag", "cover", "softmax", "explore_first", "uniform"])
def test_draws_follow_the_logged_probabilities(tmp_path: Path, algorithm: str) -> None:
    from scipy.stats import chi2

    experiment = make_experiment(
        tmp_path,
        actions=SEVEN,
        exploration={"algorithm": algorithm, "epsilon": 0.2, "explore_first": 10},
        serving={"control_fraction": 0.1, "control_policy": "uniform"},
    )
    publish_model(experiment)
    server = open_server(tmp_path)
    counts: dict[str, float] = {}
    expected: dict[str, float] = {}
    n = 2000
    for number in range(n):
        events, _ = server.decide(ask(f"e{number}", excluded=["a2"]))
        (event,) = events
        assert event.pmf is not None and abs(math.fsum(event.pmf) - 1.0) < 1e-12
        assert replays(experiment, event)
        offered = [f"a{i}" for i in range(7) if i != 2]
        counts[event.action] = counts.get(event.action, 0) + 1
        for action, probability in zip(offered, event.pmf, strict=True):
            expected[action] = expected.get(action, 0.0) + probability
    server.close()
    assert "a2" not in counts
    statistic = sum((counts.get(action, 0) - e) ** 2 / e for action, e in expected.items() if e > 0)
    degrees = sum(1 for e in expected.values() if e > 0) - 1
    assert chi2.sf(statistic, degrees) > 0.001


def test_an_excluded_action_is_neither_drawn_nor_given_probability(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    server = open_server(tmp_path)
    server.recommend(ask(excluded=["a0", "a6", "never heard of"]))
    server.close()
    (event,) = decisions(tmp_path)
    assert event.excluded == ["a0", "a6"] and event.actions is None and event.pmf == [0.2] * 5


def test_actions_of_a_request_are_logged_with_their_features(tmp_path: Path) -> None:
    from bandit.types import Action

    make_experiment(tmp_path)
    server = open_server(tmp_path)
    server.recommend(ask(actions=[Action("p", {"price": 3}), Action("q")], excluded=["nobody"]))
    server.close()
    (event,) = decisions(tmp_path)
    assert [(action.id, action.features) for action in event.actions or []] == [("p", {"price": 3}), ("q", {})]
    assert event.catalogue_version is None and event.excluded is None


SHOES = [
    {"id": "red-shoes", "features": {"price": 50, "kind": "shoe"}},
    {"id": "blue-hat", "features": {"price": 20, "kind": "hat"}},
    {"id": "socks", "features": {"price": 5, "kind": "sock"}},
]


def test_actions_named_without_features_have_those_of_the_catalogue(tmp_path: Path) -> None:
    from bandit.types import Action

    experiment = make_experiment(tmp_path, actions=SHOES)
    publish_model(experiment, actions=SHOES)
    server = open_server(tmp_path)
    named = server.parse(b'{"context": {"x": 0.3}, "actions": [{"id": "socks"}, {"id": "red-shoes", "features": {}}]}')
    (event,), _ = server.decide(named)
    spelt = ask(actions=[Action("socks", SHOES[2]["features"]), Action("red-shoes", SHOES[0]["features"])])
    spelt.context = {"x": 0.3}
    (alike,), _ = server.decide(spelt)
    assert event.pmf == alike.pmf and event.pmf[0] > 0.6
    assert event.actions == alike.actions and [action.features for action in event.actions or []] == [
        {"price": 5, "kind": "sock"},
        {"price": 50, "kind": "shoe"},
    ]
    slots, _ = server.decide(ask(actions=[Action("socks"), Action("blue-hat")], slots=2, excluded=["nobody"]))
    assert all(action.features for event in slots for action in event.actions or [])
    (mixed,), _ = server.decide(ask(actions=[Action("socks", {"price": 4}), Action("gloves"), Action("blue-hat")]))
    assert [action.features for action in mixed.actions or []] == [{"price": 4}, {}, {"price": 20, "kind": "hat"}]
    server.close()


def test_a_question_about_named_actions_gets_its_first_answer_again_after_the_catalogue_changed(tmp_path: Path) -> None:
    from bandit.types import Action

    experiment = make_experiment(tmp_path, actions=SHOES)
    server = open_server(tmp_path)
    named = {"actions": [Action("socks"), Action("blue-hat")]}
    first = server.recommend(ask("e1", **named))
    cheaper = [{"id": "socks", "features": {"price": 4}}, {"id": "gloves"}]
    experiment.change(merge_settings(experiment.settings, {"actions": cheaper}), now=Clock()())
    assert server.refresh()
    assert server.recommend(ask("e1", **named)) == first
    server.recommend(ask("e2", **named))
    server.close()
    before, after = decisions(tmp_path)
    assert [action.features for action in before.actions or []] == [SHOES[2]["features"], SHOES[1]["features"]]
    assert [action.features for action in after.actions or []] == [{"price": 4}, {}]


def test_actions_may_be_new_and_a_thousand_at_once(tmp_path: Path) -> None:
    from bandit.types import Action

    experiment = make_experiment(tmp_path)
    publish_model(experiment)
    server = open_server(tmp_path)
    items = [Action(f"new {number}", {"price": number % 13, "kind": f"k{number % 7}"}) for number in range(1000)]
    for number in range(3):
        (event,), answer = server.decide(ask(f"e{number}", actions=items))
        assert event.pmf is not None and len(event.pmf) == 1000
        assert abs(math.fsum(event.pmf) - 1.0) < 1e-12 and min(event.pmf) >= 0.0
        assert replays(experiment, event)
        assert len({entry.action for entry in answer.ranking}) == 1000  # type: ignore[union-attr]
    server.close()


def test_excluding_every_action_is_refused(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    server = open_server(tmp_path)
    with pytest.raises(InvalidRequest, match="excluded"):
        server.decide(ask(excluded=[entry["id"] for entry in SEVEN]))
    with pytest.raises(InvalidRequest, match="slots"):
        server.decide(ask(slots=3, excluded=["a0", "a1", "a2", "a3", "a4"]))
    server.close()


def test_slots_get_distinct_actions_each_with_its_own_event_and_probability_given_the_earlier_ones(
    tmp_path: Path,
) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    publish_model(experiment)
    server = open_server(tmp_path)
    for number in range(50):
        answer = server.recommend(ask(f"page{number}", slots=4))
        chosen = [decision.action for decision in answer.decisions]  # type: ignore[union-attr]
        assert len(set(chosen)) == 4
    server.close()
    events = decisions(tmp_path)
    assert len(events) == 200
    for start in range(0, 200, 4):
        earlier: list[str] = []
        for slot, event in enumerate(events[start : start + 4], start=1):
            assert event.event_id == f"page{start // 4}:{slot}" and event.slot == slot
            assert event.context[SLOT_FEATURE] == str(slot)
            assert set(event.excluded or []) == set(earlier) and event.pmf is not None
            assert len(event.pmf) == 7 - len(earlier)
            assert replays(experiment, event)
            earlier.append(event.action)


@pytest.mark.parametrize("mode", ["apprentice", "logging_only"])
def test_modes_that_watch_always_answer_the_first_action_that_is_not_excluded(tmp_path: Path, mode: str) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN, serving={"mode": mode})
    publish_model(experiment)
    server = open_server(tmp_path)
    for number in range(20):
        assert server.recommend(ask(f"e{number}", excluded=["a0"])).action == "a1"  # type: ignore[union-attr]
    agreements = server.counters.counts["apprentice_agreements"]
    server.close()
    assert all(
        event.mode == mode and event.model_id == BASELINE_MODEL_ID and event.pmf == [1.0, 0, 0, 0, 0, 0]
        for event in decisions(tmp_path)
    )
    assert agreements < 20  # the model was taught that the last action is best


def test_a_frozen_experiment_serves_its_champion_and_says_so(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN, serving={"mode": "frozen"})
    model_id = publish_model(experiment)
    server = open_server(tmp_path)
    server.recommend(ask())
    server.close()
    (event,) = decisions(tmp_path)
    assert event.mode == "frozen" and event.model_id == model_id


def test_the_control_slice_is_a_mixture_whose_branches_have_their_declared_shares(tmp_path: Path) -> None:
    experiment = make_experiment(
        tmp_path, actions=SEVEN, serving={"control_fraction": 0.25, "control_policy": "baseline"}
    )
    publish_model(experiment)
    server = open_server(tmp_path)
    n, control = 4000, 0
    for number in range(n):
        (event,), _ = server.decide(ask(f"e{number}"))
        assert event.pmf is not None and event.pmf[0] >= 0.25 and replays(experiment, event)
        if event.slice == "control":
            control += 1
            assert event.action == "a0"  # only the baseline action can come from the baseline branch
    server.close()
    assert abs(control / n - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)


def test_the_same_question_gets_its_first_answer_again_and_another_one_is_refused(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    server = open_server(tmp_path)
    first = server.recommend(ask("e1"))
    assert server.recommend(ask("e1")) == first
    with pytest.raises(Conflict, match="event_id"):
        server.recommend(ask("e1", excluded=["a1"]))
    server.close()
    assert len(decisions(tmp_path)) == 1 and server.counters.counts["retries"] == 1


def test_the_same_question_to_another_worker_gets_the_same_answer(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    publish_model(experiment)
    servers = [
        ExperimentServer(tmp_path, "default", writer_id=f"w{number}", clock=Clock(), durable=False)
        for number in range(2)
    ]
    answers = [[server.recommend(ask(f"e{number}")) for number in range(20)] for server in servers]
    for server in servers:
        server.close()
    assert answers[0] == answers[1]
    digests = {(event.event_id, event.body_digest) for event in decisions(tmp_path)}
    assert len(digests) == 20


def test_settings_and_catalogue_changes_reach_decisions_with_their_version(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    server = open_server(tmp_path)
    server.recommend(ask("before"))
    changed = merge_settings(experiment.settings, {"actions": [*SEVEN, {"id": "new"}]})
    experiment.change(changed, now=Clock()())
    assert server.refresh() and not server.refresh()
    server.recommend(ask("after"))
    server.close()
    before, after = decisions(tmp_path)
    assert (before.settings_version, before.catalogue_version, len(before.pmf or [])) == (1, 1, 7)
    assert (after.settings_version, after.catalogue_version, len(after.pmf or [])) == (2, 2, 8)


@pytest.mark.parametrize(
    ("item", "reward"),
    [
        (RewardItem(event_id="e", reward=0), 0.0),
        (RewardItem(event_id="e", event="click"), 1.0),
        (RewardItem(event_id="e", event="watched", value=30), 0.5),
        (RewardItem(event_id="e", event="watched", value=600), 1.0),
    ],
)
def test_rewards_are_worth_what_the_settings_declare(tmp_path: Path, item: RewardItem, reward: float) -> None:
    events = {"click": {"value": 1}, "watched": {"scale": 1 / 60, "max": 1}}
    make_experiment(tmp_path, actions=SEVEN, rewards={"events": events})
    server = open_server(tmp_path)
    server.reward([item])
    server.close()
    (event,) = logged(tmp_path)
    assert not isinstance(event, DecisionEvent) and event.reward == pytest.approx(reward)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (RewardItem(event_id="e", reward=1.5), r"reward: .*rewards\.max = 1"),
        (RewardItem(event_id="e", reward=-1.5), r"reward: .*rewards\.min = -1"),
        (RewardItem(event_id="e"), "reward: give either"),
        (RewardItem(event_id="e", reward=1, event="click"), "reward: give either"),
        (RewardItem(event_id="e", event="purchase"), r"event: is not declared .*rewards\.events"),
        (RewardItem(event_id="e", event="watched"), "value: is required"),
        (RewardItem(event_id="e", event="watched", value=1e300), r"rewards\.max"),
        (RewardItem(event_id="e", reward=1, value=3), "value: belongs to a named event"),
    ],
)
def test_a_reward_that_cannot_count_is_refused_by_the_setting_in_its_way(
    tmp_path: Path, item: RewardItem, message: str
) -> None:
    make_experiment(tmp_path, actions=SEVEN, rewards={"events": {"click": {"value": 1}, "watched": {}}})
    server = open_server(tmp_path)
    with pytest.raises(InvalidRequest, match=message):
        server.reward([item])
    server.close()


def test_sums_of_rewards_need_a_reward_id(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN, rewards={"aggregation": "sum"})
    server = open_server(tmp_path)
    with pytest.raises(InvalidRequest, match=r"reward_id: .*rewards\.aggregation = sum"):
        server.reward([RewardItem(event_id="e", reward=1)])
    server.reward([RewardItem(event_id="e", reward=1, reward_id="r1")])
    server.close()
