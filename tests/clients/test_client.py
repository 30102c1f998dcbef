"""The client against a scripted HTTP server: what it sends, what it retries, and what it raises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from rewardloop_client import (
    Action,
    AsyncClient,
    AsyncRecommender,
    Client,
    Conflict,
    ExperimentManager,
    InvalidRequest,
    NotEncodable,
    NotFound,
    RankedAction,
    Recommender,
    RewardloopError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)

DECISION = {
    "event_id": "e1",
    "action": "b",
    "probability": 0.75,
    "model_id": "m1",
    "ranking": [{"action": "b", "probability": 0.75}, {"action": "a", "probability": 0.25}],
}


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.url, "shop", api_key="secret", timeout_s=1.0, retries=2) as made:
        yield made


def test_a_recommendation_carries_context_actions_and_key_and_comes_back_typed(server: Any, client: Client) -> None:
    server.script = [(200, DECISION)]
    choice = client.recommend({"hour": 9}, ["a", Action("b", {"price": 2.5})], event_id="e1", excluded=["z"])
    path, body, headers = server.seen[0]
    assert path == "/v1/experiments/shop/recommend"
    assert body == {
        "context": {"hour": 9},
        "event_id": "e1",
        "actions": [{"id": "a"}, {"id": "b", "features": {"price": 2.5}}],
        "excluded": ["z"],
    }
    assert headers["Authorization"] == "Bearer secret"
    assert (choice.action, choice.probability, choice.model_id) == ("b", 0.75, "m1")
    assert choice.ranking[1] == RankedAction("a", 0.25)


def test_slots_come_back_as_one_recommendation_each(server: Any, client: Client) -> None:
    server.script = [(200, {"decisions": [DECISION, {**DECISION, "event_id": "e2", "action": "a"}]})]
    assert [choice.action for choice in client.recommend_slots({}, 2)] == ["b", "a"]
    assert server.seen[0][1]["slots"] == 2


@pytest.mark.parametrize(
    ("event_id", "segment"), [(".", "%2E"), ("..", "%2E%2E"), ("a.b", "a.b"), ("a/../b", "a%2F..%2Fb")]
)
def test_an_event_id_is_one_segment_of_the_address_whatever_it_is(
    server: Any, client: Client, event_id: str, segment: str
) -> None:
    server.script = [(200, {"event_id": event_id})]
    client.activate(event_id)
    assert server.seen[0][0] == f"/v1/experiments/shop/events/{segment}/activate"


def test_one_connection_serves_many_calls(server: Any, client: Client) -> None:
    server.script = [(200, DECISION)]
    for _ in range(10):
        client.recommend({})
    assert len(server.connections) == 1


def test_a_retry_asks_the_same_question_with_the_same_event_id(server: Any, client: Client) -> None:
    server.script = [(503, {}), (502, b"<html>"), (200, DECISION)]
    client.recommend({})
    assert len(server.seen) == 3
    assert len({body["event_id"] for _, body, _ in server.seen}) == 1


def test_a_reward_sends_only_what_was_given(server: Any, client: Client) -> None:
    server.script = [(200, {"accepted": 1, "errors": []})]
    client.reward("e1", 0.5)
    client.reward("e1", event="purchase", value=12.0, reward_id="r1")
    assert server.seen[0][1] == {"event_id": "e1", "reward": 0.5}
    assert server.seen[1][1] == {"event_id": "e1", "event": "purchase", "value": 12.0, "reward_id": "r1"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(422, InvalidRequest), (401, Unauthorized), (404, NotFound), (409, Conflict), (429, TooManyRequests)],
)
def test_each_refusal_has_its_own_exception(server: Any, client: Client, status: int, kind: type) -> None:
    server.script = [(status, {"title": "no", "detail": "why", "status": status})]
    with pytest.raises(kind, match="why"):
        client.recommend({})


def test_a_refusal_names_the_fields_at_fault(server: Any, client: Client) -> None:
    problem = {"field": "context.x", "problem": "is too large", "limit": "1e6"}
    server.script = [(422, {"title": "invalid", "detail": "d", "errors": [problem]})]
    with pytest.raises(InvalidRequest) as caught:
        client.recommend({"x": 1e9})
    assert [(entry.field, entry.limit) for entry in caught.value.problems] == [("context.x", "1e6")]


def test_a_reward_refused_inside_an_accepted_list_is_raised(server: Any, client: Client) -> None:
    server.script = [(200, {"accepted": 0, "errors": [{"index": 0, "field": "reward", "problem": "out of range"}]})]
    with pytest.raises(InvalidRequest, match="out of range"):
        client.reward("e1", 7.0)


def test_a_service_that_stays_down_is_unavailable_after_the_retries(server: Any, client: Client) -> None:
    server.script = [(503, {})]
    with pytest.raises(Unavailable, match="3 attempts"):
        client.recommend({})
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [("2", 2.0), ("9" * 400, math.inf), ("-1", None), ("²", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None)],
)
@pytest.mark.parametrize("status", [429, 503])
def test_an_error_tells_the_pause_that_the_service_asks_for(
    server: Any, status: int, header: str, pause_s: float | None
) -> None:
    server.script, server.headers = [(status, {})], {"Retry-After": header}
    with Client(server.url, retries=0) as client, pytest.raises(RewardloopError) as caught:
        client.recommend({})
    assert caught.value.retry_after_s == pause_s


@pytest.mark.parametrize("status", [408, 425])
def test_an_answer_that_says_again_is_asked_again_and_refuses_nothing(server: Any, client: Client, status: int) -> None:
    server.script = [(status, {}), (200, DECISION), (status, {})]
    assert client.recommend({}).action == "b"
    with pytest.raises(Unavailable, match=f"status {status}"):
        client.recommend({})
    assert len(server.seen) == 5


def test_nobody_listening_is_unavailable() -> None:
    with Client("http://127.0.0.1:9", timeout_s=0.5, retries=0) as client, pytest.raises(Unavailable):
        client.recommend({})


def test_an_answer_from_something_else_is_said_to_be_unexpected(server: Any, client: Client) -> None:
    server.script = [(200, b"<html>hello</html>"), (200, {"hello": 1})]
    for _ in range(2):
        with pytest.raises(UnexpectedAnswer):
            client.recommend({})


@pytest.mark.parametrize("count", ["0", "1", "3", "1e400", '"2"', "-2"])
def test_rewards_that_the_answer_does_not_account_for_are_not_said_to_be_taken(
    server: Any, client: Client, count: str
) -> None:
    server.script = [(200, b'{"accepted":%s,"errors":[]}' % count.encode())]
    with pytest.raises(UnexpectedAnswer):
        client.rewards([{"event_id": "e1", "reward": 1.0}, {"event_id": "e2", "reward": 1.0}])


def test_a_body_that_cannot_be_unpacked_is_unavailable_after_the_retries(server: Any, client: Client) -> None:
    server.script, server.headers = [(200, DECISION)], {"Content-Encoding": "gzip"}
    with pytest.raises(Unavailable, match="DecodingError"):
        client.recommend({})


@pytest.mark.parametrize("body", [[], 7, {"errors": 7}, {"errors": [7]}, b"[" * 100_000])
def test_a_refusal_without_a_problem_document_is_still_a_refusal(server: Any, client: Client, body: Any) -> None:
    server.script = [(422, body)]
    with pytest.raises(InvalidRequest):
        client.recommend({})


@pytest.mark.parametrize("context", [{"x": math.nan}, {"x": math.inf}, {"x": "\ud800"}, {"x": object()}])
def test_what_json_cannot_say_is_refused_before_it_is_sent(server: Any, client: Client, context: dict) -> None:
    with pytest.raises(NotEncodable):
        client.recommend(context)
    assert server.seen == []


def itself() -> dict[str, Any]:
    """A context that holds itself."""
    context: dict[str, Any] = {}
    context["again"] = context
    return context


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ({"user": {"age": Decimal(30)}}, "context.user.age is of the type decimal.Decimal, which JSON has not"),
        ({"day": date(2026, 3, 1)}, "context.day is of the type datetime.date, which JSON has not"),
        ({"seen": [1, math.nan]}, "context.seen[1] is nan, which JSON has not"),
        ({"x": -math.inf}, "context.x is -inf, which JSON has not"),
        ({"x": "a\ud800"}, "context.x holds a lone surrogate"),
        ({"\ud800": 1}, "context has a name with a lone surrogate"),
        ({(1, 2): 1}, "context has a name of the type tuple"),
        ({"x": {1, 2}}, "context.x is of the type set"),
        ({"a" * 999: object()}, f"context.{'a' * 192}… is of the type object"),
        (itself(), "context.again.again."),
    ],
)
def test_what_json_cannot_say_is_told_with_its_place_and_type(client: Client, context: dict, told: str) -> None:
    with pytest.raises(NotEncodable) as caught:
        client.recommend(context)
    assert str(caught.value).startswith(f"the request cannot be written as JSON: {told}")
    assert len(str(caught.value)) < 400


def test_a_feature_of_an_action_that_json_cannot_say_is_told_by_its_place(client: Client) -> None:
    with pytest.raises(NotEncodable, match=r"actions\[1\]\.features\.price is of the type decimal\.Decimal"):
        client.recommend({}, ["a", Action("b", {"price": Decimal(3)})])


def test_actions_may_be_ids_objects_or_mappings(server: Any, client: Client) -> None:
    server.script = [(200, DECISION)]
    client.recommend({}, ["a", Action("b", {"price": 2}), {"id": "c", "features": {"price": 3}}, {"id": "d"}])
    assert server.seen[0][1]["actions"] == [
        {"id": "a"},
        {"id": "b", "features": {"price": 2}},
        {"id": "c", "features": {"price": 3}},
        {"id": "d"},
    ]


@pytest.mark.parametrize(
    ("actions", "error", "told"),
    [
        ("sport", TypeError, "actions: must be a list of actions, not a single str"),
        (b"sport", TypeError, "actions: must be a list of actions, not a single bytes"),
        ({"id": "a"}, TypeError, "actions: must be a list of actions, not a single dict"),
        (Action("a"), TypeError, "actions: must be a list of actions, not a single Action"),
        (["a", 7], TypeError, "actions[1]: must be an id, an Action or a mapping with an id, not int"),
        ([{"id": 7}], TypeError, "actions[0].id: must be a text, not int"),
        ([Action("a", [1])], TypeError, "actions[0].features: must be a mapping, not list"),  # type: ignore[arg-type]
        ([{"features": {}}], ValueError, "actions[0].id: is required"),
        ([{"id": "a", "price": 2}], ValueError, "actions[0]: has 'price', which is not known here"),
    ],
)
def test_what_is_no_list_of_actions_is_told_before_it_is_sent(
    server: Any, client: Client, actions: Any, error: type[Exception], told: str
) -> None:
    with pytest.raises(error) as raised:
        client.recommend({}, actions)
    assert str(raised.value).startswith(told)
    with pytest.raises(error):
        client.recommend_slots({}, 2, actions)
    with pytest.raises(TypeError, match="excluded: must be a list of ids"):
        client.recommend({}, ["a"], excluded="a")
    assert server.seen == []


@pytest.mark.parametrize("address", ["localhost:8000", "127.0.0.1:8000", "", "ftp://a", "http://", "http://[::1"])
def test_an_address_at_which_nothing_can_be_asked_is_refused_when_the_client_is_made(address: str) -> None:
    for make in (Client, AsyncClient, Recommender, AsyncRecommender):
        with pytest.raises(ValueError, match=r"^base_url: "):
            make(address)
    with pytest.raises(ValueError, match=r"^admin_url: "):
        ExperimentManager("shop", url="http://127.0.0.1:9", admin_url=address)
