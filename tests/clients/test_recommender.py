"""The client for hosts that must go on: nothing but a bug of the caller raises, and no reward is lost or doubled."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from rewardloop_client import Choice, Recommender, Unavailable, wire
from rewardloop_client.outages import Outage
from rewardloop_client.reporting import RETRY_PAUSE_MAX_S, Pauses

from tests.clients.conftest import DRIP

DECISION = {"event_id": "e1", "action": "b", "probability": 0.75, "model_id": "m1", "ranking": []}


@pytest.fixture
def recommender(server: Any) -> Iterator[Recommender]:
    server.script = [(200, DECISION)]
    with Recommender(server.url, "shop", timeout_s=0.3) as made:
        yield made


def rewards_seen(server: Any) -> list[dict[str, Any]]:
    bodies = [body for path, body, _ in server.seen if path.endswith("/rewards")]
    return [item for body in bodies for item in (body if isinstance(body, list) else [body])]


def taken(body: Any) -> tuple[int, Any]:
    """Takes whatever rewards were sent, and has a decision for who asks for one."""
    return 200, DECISION | {"accepted": len(body) if isinstance(body, list) else 1, "errors": []}


class Service:
    """Takes rewards, but refuses a list as a whole that is too long or holds one that it cannot read."""

    def __init__(self, status: int, *, items_max: int = 1000, poison: str | None = None) -> None:
        self.event_ids: list[str] = []
        self._status, self._items_max, self._poison = status, items_max, poison

    def __call__(self, body: Any) -> tuple[int, Any]:
        found = [item["event_id"] for item in (body if isinstance(body, list) else [body])]
        if len(found) > self._items_max or self._poison in found:
            return self._status, {"title": "no", "errors": [{"field": "body", "problem": "cannot be accepted"}]}
        self.event_ids += found
        return 200, {"accepted": len(found), "errors": []}


def shown() -> Choice:
    return Choice("b", "e1", learnable=True)


def test_a_decision_in_time_is_shown_and_can_be_learnt_from(recommender: Recommender) -> None:
    choice = recommender.recommend({"hour": 9}, ["a", "b"], default="a")
    assert (choice.action, choice.learnable, choice.probability, choice.model_id) == ("b", True, 0.75, "m1")


@pytest.mark.parametrize("answer", [(503, {}), (422, {"title": "no"}), (200, b"<html>"), (200, {"x": 1}), (0, {})])
def test_whatever_goes_wrong_the_default_is_shown_and_marked(
    server: Any, recommender: Recommender, answer: tuple[int, Any]
) -> None:
    server.script = [answer]
    choice = recommender.recommend({}, ["a", "b"], default="a")
    assert (choice.action, choice.learnable) == ("a", False)
    assert recommender.counters.defaults == 1


def test_a_context_that_cannot_be_sent_does_not_raise_either(recommender: Recommender) -> None:
    for context in ({"x": object()}, {"x": float("nan")}, object()):
        assert recommender.recommend(context, ["a", "b"], default="a").action == "a"  # type: ignore[arg-type]


def test_a_default_that_a_context_is_to_blame_for_says_which_feature_it_is(
    recommender: Recommender, caplog: pytest.LogCaptureFixture
) -> None:
    assert not recommender.recommend({"user_age": Decimal(30)}, ["a"], default="a").learnable
    assert "context.user_age is of the type decimal.Decimal" in caplog.text


def test_what_is_no_list_of_actions_is_told_at_once_and_never_taken_for_an_outage(
    server: Any, recommender: Recommender
) -> None:
    for actions in ([3], 7, "ab", {"id": "a"}, ["a", {"name": "b"}]):
        with pytest.raises((TypeError, ValueError), match=r"^actions"):
            recommender.recommend({}, actions, default="a")  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError), match=r"^actions"):
            recommender.recommend_slots({}, actions, defaults=["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^excluded"):
        recommender.recommend({}, ["a"], default="a", excluded="b")
    with pytest.raises(TypeError, match=r"^defaults"):
        recommender.recommend_slots({}, ["a", "b"], defaults="ab")
    assert server.seen == [] and recommender.counters.defaults == 0


def test_a_service_that_is_down_or_hangs_costs_no_more_than_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:  # takes connections, never answers
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for url in (hanging, "http://127.0.0.1:9"):
            with Recommender(url, timeout_s=0.1) as recommender:
                for _ in range(10):
                    started = time.perf_counter()
                    assert not recommender.recommend({}, ["a"], default="a").learnable
                    assert time.perf_counter() - started < 0.1 + 0.25  # the margin is for a busy machine


def test_an_answer_that_drips_costs_no_more_than_the_timeout() -> None:
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")
            while not ended.wait(0.03):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        with Recommender(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.2) as recommender:
            started = time.perf_counter()
            assert not recommender.recommend({}, ["a"], default="a").learnable
            assert 0.15 < time.perf_counter() - started < 0.2 + 0.25
        ended.set()
        thread.join()


def test_a_signal_handler_that_asks_in_the_midst_of_a_call_leaves_its_deadline_alone(server: Any) -> None:
    server.script, server.delay_s = [(200, DECISION)], 0.1
    found: list[Choice] = []
    with Recommender(server.url, timeout_s=5.0) as recommender:

        def ask(*_: object) -> None:
            found.append(recommender.recommend({}, ["a", "b"], default="a"))

        former = signal.signal(signal.SIGALRM, ask)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            ask()
        finally:
            signal.signal(signal.SIGALRM, former)
    assert [choice.learnable for choice in found] == [True, True]


def test_rewards_travel_together_with_an_id_of_their_own(server: Any, recommender: Recommender) -> None:
    server.script = [taken]
    for number in range(5):
        recommender.reward(Choice("a", f"e{number}", learnable=True), 1.0)
    recommender.reward(shown(), event="purchase", value=3.0, reward_id="mine")
    assert recommender.flush()
    sent = rewards_seen(server)
    assert [item["event_id"] for item in sent] == ["e0", "e1", "e2", "e3", "e4", "e1"]
    assert len({item["reward_id"] for item in sent}) == 6 and sent[-1]["reward_id"] == "mine"
    assert sum(path.endswith("/rewards") for path, _, _ in server.seen) <= 2
    assert recommender.counters.rewards_sent == 6


def test_a_reward_is_sent_again_under_the_same_id_until_it_is_taken(server: Any, recommender: Recommender) -> None:
    server.script = [(503, {}), (408, {}), (425, {}), taken]
    recommender.reward(shown(), 1.0)
    assert recommender.flush()
    sent = rewards_seen(server)
    assert len(sent) == 4 and len({item["reward_id"] for item in sent}) == 1
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_dropped) == (1, 0)
    assert recommender.counters.reports_failed == 3


def test_a_service_that_hangs_up_or_asks_to_slow_down_gets_the_reward_again(
    server: Any, recommender: Recommender
) -> None:
    server.script = [(0, {}), (429, {}), taken]
    recommender.reward(shown(), 1.0)
    assert recommender.flush()
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_refused) == (1, 0)


def test_rewards_that_arrive_do_not_shorten_the_pauses_of_a_service_that_is_down(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [(503, {})]
    with Recommender(server.url, "shop") as recommender:
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            recommender.reward(shown(), 1.0)
            time.sleep(0.001)
        asked = len(server.seen)
        recommender.close(timeout_s=0.0)
    assert 2 <= asked <= 6  # after pauses of 0.05, 0.1, 0.2, 0.4 and 0.8 s
    assert len(caplog.records) <= len(server.seen)


def test_an_outage_is_told_once_for_each_pause_with_the_number_of_defaults_and_when_it_is_over(
    server: Any, recommender: Recommender, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [(503, {})]
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        recommender.recommend({}, ["a", "b"], default="a")
        recommender.activate(shown())
    server.script = [(200, DECISION)]
    assert recommender.recommend({}, ["a", "b"], default="a").learnable
    assert recommender.activate(shown())
    for about, end in (
        ("the default is shown", "decisions are back"),
        ("an activation", "activations are taken again"),
    ):
        told = [record.message for record in caplog.records if record.message.startswith((about, end))]
        first, *others, last = told
        assert "since" not in first and all("since the last line): Unavailable" in line for line in others)
        assert 2 <= len(told) <= 7  # after pauses of 0.05, 0.1, 0.2, 0.4 and 0.8 s
        assert last.startswith(end)
        counts = [int(number) for line in told for number in re.findall(r"\((\d+) since", line)]
        assert 1 + sum(counts) == recommender.counters.defaults
    recommender.recommend({}, ["a", "b"], default="a")
    assert caplog.records[-1].message.startswith("activations")  # all went well: nothing more to say


def test_a_service_that_fails_now_and_then_is_told_of_in_the_same_measure() -> None:
    now, lines = 0.0, []
    outage = Outage("no", "yes", clock=lambda: now)
    with logging_that(lambda: lines.append(now)):
        for step in range(6_000):  # a minute, a hundred questions a second, of which every fourth fails
            now = step / 100
            if step % 4:
                outage.worked()
            else:
                outage.failed(Unavailable("later"))
    assert len(lines) <= 2 * (60 / RETRY_PAUSE_MAX_S + 7)
    late = 60.0 + 2 * RETRY_PAUSE_MAX_S
    with logging_that(lambda: lines.append(now)):
        for moment in (late, late + 0.01, late + 0.06):  # quiet since: the first one is told at once again
            now = moment
            outage.failed(Unavailable("later"))
    assert lines[-2:] == [late, late + 0.06]


def test_the_pause_that_a_service_asks_for_is_kept_up_to_the_longest_of_the_client(
    server: Any, recommender: Recommender
) -> None:
    server.script, server.headers = [(503, {}), taken], {"Retry-After": "1"}
    recommender.reward(shown(), 1.0)
    assert not recommender.flush(0.6)  # which would come after a pause of 0.05 s else
    assert len(server.seen) == 1
    error = Unavailable("later")
    error.retry_after_s = 3600.0
    assert Pauses(recommender.counters).after(error, 1) == RETRY_PAUSE_MAX_S


def test_closing_gives_a_service_that_is_down_one_more_try_at_once_and_keeps_its_time(server: Any) -> None:
    server.script = [(503, {})]
    with Recommender(server.url, "shop") as recommender:
        recommender.reward(shown(), 1.0)
        while len(server.seen) < 5:
            time.sleep(0.01)
        time.sleep(0.2)  # until the answer has arrived
        started = time.monotonic()
        recommender.close(timeout_s=0.4)  # in a pause of 0.8 s
        assert 0.3 < time.monotonic() - started < 0.4 + 0.3  # the margin is for a busy machine
    assert len(server.seen) == 6
    assert recommender.counters.rewards_dropped == 1


def test_a_reward_or_an_activation_needs_no_more_than_the_event_id_that_an_application_kept(
    server: Any, recommender: Recommender
) -> None:
    server.script = [taken]
    recommender.reward("kept", 1.0)
    assert recommender.flush()
    assert [item["event_id"] for item in rewards_seen(server)] == ["kept"]
    assert recommender.activate("kept")
    assert server.seen[-1][0].endswith("/events/kept/activate")


@pytest.mark.parametrize("choice", [None, 7, ["e1"], {"event_id": "e1"}])
def test_a_reward_for_what_is_no_choice_says_what_to_give(recommender: Recommender, choice: Any) -> None:
    for say in (lambda: recommender.reward(choice, 1.0), lambda: recommender.activate(choice)):
        with pytest.raises(TypeError, match=r"^choice: must be what `recommend` gave, or the event_id"):
            say()


def test_a_refused_reward_is_counted_and_does_not_block_the_next(server: Any, recommender: Recommender) -> None:
    server.script = [(422, {"title": "out of range"}), taken]
    recommender.reward(shown(), 99.0)
    assert recommender.flush()
    recommender.reward(shown(), 1.0)
    assert recommender.flush()
    assert (recommender.counters.rewards_refused, recommender.counters.rewards_sent) == (1, 1)


def test_a_reward_that_json_cannot_say_does_not_hold_up_the_next(server: Any, recommender: Recommender) -> None:
    server.script = [taken]
    for reward in (float("nan"), object(), 1.0):
        recommender.reward(shown(), reward)  # type: ignore[arg-type]
    assert recommender.flush(5)
    assert [item["reward"] for item in rewards_seen(server)] == [1.0]
    assert (recommender.counters.rewards_refused, recommender.counters.rewards_sent) == (2, 1)


def deep() -> Any:
    """An object nested too deeply for JSON."""
    value: Any = 1.0
    for _ in range(100_000):
        value = [value]
    return value


class Unreadable(dict[str, Any]):
    """An object of a host that fails when it is read."""

    def items(self) -> Any:
        raise LookupError("not now")


@pytest.mark.parametrize("make", [deep, lambda: Unreadable(x=1)])
def test_a_reward_that_cannot_even_be_read_is_refused_without_raising(
    server: Any, recommender: Recommender, make: Callable[[], Any]
) -> None:
    server.script = [taken]
    for reward in (make(), 1.0):
        recommender.reward(shown(), reward)
    assert recommender.flush(5)
    assert [item["reward"] for item in rewards_seen(server)] == [1.0]
    assert (recommender.counters.rewards_refused, recommender.counters.rewards_sent) == (1, 1)


def test_a_reward_that_was_changed_while_it_waited_holds_up_no_other(server: Any, recommender: Recommender) -> None:
    server.script = [Service(422)]
    changing: Any = [1.0]
    for reward in (0.0, changing, 1.0):
        recommender.reward(shown(), reward)
    changing[0] = object()
    assert recommender.flush(5)
    assert [item["reward"] for item in rewards_seen(server)] == [0.0, 1.0]
    assert (recommender.counters.rewards_refused, recommender.counters.rewards_sent) == (1, 2)


@pytest.mark.parametrize("nonsense", [b"[" * 100_000, b"<html>"])
def test_an_answer_of_nonsense_does_not_end_the_reporting(
    server: Any, recommender: Recommender, nonsense: bytes
) -> None:
    server.script = [(200, nonsense), taken]
    recommender.reward(shown(), 1.0)
    assert recommender.flush(5)
    assert recommender.counters.rewards_sent == 1


def test_an_answer_that_drips_holds_up_rewards_no_longer_than_the_timeout(
    server: Any, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TIMEOUT_S", 0.3)
    server.script = [(DRIP, {}), taken]
    recommender.reward(shown(), 1.0)
    assert recommender.flush(1.5)
    assert (recommender.counters.rewards_sent, recommender.counters.reports_failed) == (1, 1)


def test_closing_keeps_its_time_although_an_answer_drips(server: Any, recommender: Recommender) -> None:
    server.script = [(DRIP, {})]
    recommender.reward(shown(), 1.0)
    started = time.monotonic()
    recommender.close(timeout_s=0.3)
    assert time.monotonic() - started < 0.3 + 0.5  # the margin is for a busy machine
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_dropped) == (0, 1)


def test_what_a_thread_that_hangs_still_has_is_counted_as_dropped_once(
    server: Any, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TIMEOUT_S", 0.2)
    server.script = [(422, {})]
    goes_on = threading.Event()
    with logging_that(goes_on.wait):
        recommender.reward(shown(), 1.0)
        recommender.close(timeout_s=0.3)
        assert recommender.counters.rewards_dropped == 1
        goes_on.set()
        assert recommender._thread is not None
        recommender._thread.join()
    assert (recommender.counters.rewards_refused, recommender.counters.rewards_dropped) == (0, 1)


@pytest.fixture
def no_threads() -> Iterator[pytest.MonkeyPatch]:
    """Python refuses the client's threads, as it does when the machine has too many or a program is at its end."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "rewardloop-rewards":
            raise RuntimeError("can't start new thread")
        start(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield patch


def test_a_thread_that_cannot_be_started_is_tried_again_with_the_next_reward(
    server: Any, no_threads: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [taken]
    with Recommender(server.url) as recommender:
        for _ in range(3):
            recommender.reward(shown(), 1.0)
        assert not recommender.flush(0.0)
        no_threads.undo()
        recommender.reward(shown(), 1.0)
        assert recommender.flush(2)
    assert (recommender.counters.rewards_sent, len(caplog.records)) == (4, 1)


@pytest.mark.parametrize(("script", "sent", "dropped"), [([taken], 3, 0), ([(503, {})], 0, 3)])
def test_closing_does_without_a_thread(
    server: Any, no_threads: pytest.MonkeyPatch, script: list[Any], sent: int, dropped: int
) -> None:
    server.script = script
    with Recommender(server.url) as recommender:
        for _ in range(3):
            recommender.reward(shown(), 1.0)
        recommender.close(timeout_s=5.0 if sent else 0.2)
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_dropped) == (sent, dropped)


@contextlib.contextmanager
def logging_that(does: Callable[[], object]) -> Iterator[None]:
    """A host whose logging does this whenever the client has something to say."""

    def hear(_: logging.LogRecord) -> bool:
        does()
        return False

    log = logging.getLogger("rewardloop_client")
    log.addFilter(hear)
    try:
        yield
    finally:
        log.removeFilter(hear)


def fail() -> None:
    """What a log handler does on a full disk."""
    raise OSError("no room")


def test_an_error_that_nobody_foresaw_does_not_end_the_reporting(server: Any, recommender: Recommender) -> None:
    server.script = [(404, {}), (503, {}), taken]
    with logging_that(fail):
        for _ in range(5):
            recommender.reward(shown(), 1.0)
        assert recommender.flush(2)
    assert (recommender.counters.rewards_sent, recommender.counters.reports_failed) == (5, 2)


@pytest.mark.parametrize("count", ["0", "1e400", '"5"', "true"])
def test_an_answer_that_does_not_account_for_every_reward_is_followed_by_another_try(
    server: Any, recommender: Recommender, count: str
) -> None:
    server.script = [(200, b'{"accepted":%s,"errors":[]}' % count.encode()), taken]
    for _ in range(5):
        recommender.reward(shown(), 1.0)
    assert recommender.flush(2)
    sent = rewards_seen(server)
    assert len(sent) == 10 and len({item["reward_id"] for item in sent}) == 5  # the service counts each of them once
    assert recommender.counters.rewards_sent == 5


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_batch_refused_as_a_whole_goes_in_halves_in_order_and_the_next_ones_are_smaller(
    server: Any, recommender: Recommender, status: int
) -> None:
    service = Service(status, items_max=30)
    server.script = [service]
    for _ in range(2):
        for number in range(100):
            recommender.reward(Choice("a", f"e{number}", learnable=True), 1.0)
        assert recommender.flush()
    assert service.event_ids == [f"e{number}" for number in range(100)] * 2
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_refused) == (200, 0)
    assert [len(body) for _, body, _ in server.seen] == [100, 50, 25, 25, 50, 25, 25, 25, 25, 25, 25]


def test_a_reward_for_which_the_whole_batch_is_refused_is_alone_in_being_lost(
    server: Any, recommender: Recommender
) -> None:
    service = Service(400, poison="e37")
    server.script = [service]
    for number in range(200):
        recommender.reward(Choice("a", f"e{number}", learnable=True), 1.0)
    assert recommender.flush()
    assert service.event_ids == [f"e{number}" for number in range(200) if number != 37]
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_refused) == (199, 1)
    assert len(server.seen[-1][1]) == 100  # the size of batches was not at fault


@pytest.mark.parametrize("refused", [3, 100])
def test_what_the_service_says_of_single_rewards_is_what_counts(
    server: Any, recommender: Recommender, refused: int, caplog: pytest.LogCaptureFixture
) -> None:
    problem = {"status": 422, "field": "reward", "problem": "is bad", "limit": "1"}
    errors = [{"index": index, **problem} for index in range(refused)]
    title = "rewards were refused" if refused < 100 else "no"
    answer = {"accepted": 100 - refused, "errors": errors}
    server.script = [(200, answer) if refused < 100 else (422, {"title": "no", **answer})]
    for _ in range(100):
        recommender.reward(shown(), 1.0)
    assert recommender.flush()
    assert len(server.seen) == 1
    assert (recommender.counters.rewards_sent, recommender.counters.rewards_refused) == (100 - refused, refused)
    assert f"{refused} rewards were refused: 422 {title}: reward: is bad (limit: 1)" in caplog.text


def test_of_refused_rewards_the_first_problem_is_told_in_one_short_line(
    server: Any, recommender: Recommender, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [{"field": f"f{number // 2}", "problem": "is\nbad" * 200} for number in range(6)]
    server.script = [(422, {"title": "no", "accepted": 0, "errors": errors})]
    for _ in range(6):
        recommender.reward(shown(), 1.0)
    assert recommender.flush()
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith("6 rewards were refused: 422 no: f0: is bad") and told.endswith("… (and 2 other problems)")
    assert "\n" not in told and len(told) < 400


def test_the_rest_of_a_halved_batch_waits_when_the_service_goes_down_meanwhile(
    server: Any, recommender: Recommender
) -> None:
    server.script = [(413, {}), (200, {"accepted": 50, "errors": []}), (503, {}), Service(413)]
    for number in range(100):
        recommender.reward(Choice("a", f"e{number}", learnable=True), 1.0)
    assert recommender.flush()
    assert [len(body) for _, body, _ in server.seen] == [100, 50, 50, 50]
    assert server.script[0].event_ids == [f"e{number}" for number in range(50, 100)]
    assert recommender.counters.rewards_sent == 100


def test_slots_are_filled_with_decisions_or_with_the_defaults(server: Any, recommender: Recommender) -> None:
    server.script = [(200, {"decisions": [DECISION | {"event_id": "e:1"}, DECISION | {"event_id": "e:2"}]}), (503, {})]
    found = recommender.recommend_slots({}, ["a", "b", "c"], defaults=["a", "c"], deferred=True)
    assert [(choice.event_id, choice.learnable) for choice in found] == [("e:1", True), ("e:2", True)]
    assert (server.seen[0][1]["slots"], server.seen[0][1]["deferred"]) == (2, True)
    shown_now = recommender.recommend_slots({}, ["a", "b", "c"], defaults=["a", "c"])
    assert [(choice.action, choice.learnable) for choice in shown_now] == [("a", False), ("c", False)]
    assert (recommender.counters.decisions, recommender.counters.defaults) == (2, 2)


def test_an_activation_says_whether_it_arrived_and_never_raises(server: Any, recommender: Recommender) -> None:
    server.script = [(200, {"event_id": "e1"}), (503, {})]
    assert recommender.activate(shown())
    assert server.seen[0][0] == "/v1/experiments/shop/events/e1/activate"
    assert not recommender.activate(shown())
    assert not recommender.activate(Choice("a", "e9", learnable=False))
    assert len(server.seen) == 2


def test_rewards_for_defaults_are_not_sent(server: Any, recommender: Recommender) -> None:
    recommender.reward(Choice("a", "e9", learnable=False), 1.0)
    assert recommender.flush()
    assert rewards_seen(server) == []


def test_the_queue_is_bounded_and_what_falls_out_is_counted() -> None:
    with Recommender("http://127.0.0.1:9", rewards_max=10) as recommender:
        for _ in range(50):
            recommender.reward(shown(), 1.0)
        assert not recommender.flush(0.1)
        assert recommender.counters.rewards_dropped >= 40 - 1
        recommender.close(timeout_s=0.0)
        assert recommender.counters.rewards_dropped == 50
    recommender.reward(shown(), 1.0)  # after closing: counted, not raised
    assert recommender.counters.rewards_dropped == 51
    assert recommender.recommend({}, ["a"], default="a").action == "a"


def test_rewards_still_queued_are_flushed_when_the_program_ends(server: Any) -> None:
    server.script = [taken]
    program = (
        "from rewardloop_client import Choice, Recommender\n"
        f"recommender = Recommender({server.url!r})\n"
        "for n in range(250): recommender.reward(Choice('a', f'e{n}', True), 1.0)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert [item["event_id"] for item in rewards_seen(server)] == [f"e{n}" for n in range(250)]


def test_rewards_still_queued_are_flushed_when_a_child_of_multiprocessing_ends(server: Any) -> None:
    server.script = [taken]
    program = (
        "import multiprocessing\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from rewardloop_client import Choice, Recommender\n"
        f"before, fork = Recommender({server.url!r}), multiprocessing.get_context('fork')\n"
        "def report(recommender, who):\n"
        "    recommender.reward(Choice('a', who, True), 1.0)\n"
        "def work():\n"
        "    report(before, 'process')\n"
        f"    report(Recommender({server.url!r}), 'anew')\n"
        "def pooled(): report(before, 'pool')\n"
        "child = fork.Process(target=work)\n"
        "child.start()\n"
        "with ProcessPoolExecutor(1, mp_context=fork) as pool: pool.submit(pooled).result()\n"
        "child.join()\n"
        "assert child.exitcode == 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert sorted(item["event_id"] for item in rewards_seen(server)) == ["anew", "pool", "process"]


def test_a_worker_forked_after_the_recommender_was_made_has_connections_and_a_queue_of_its_own(server: Any) -> None:
    server.script = [taken]
    program = (
        "import os, sys\n"
        "from rewardloop_client import Client, Choice, Recommender\n"
        f"plain, recommender = Client({server.url!r}), Recommender({server.url!r}, timeout_s=5)\n"
        "plain.recommend({}, ['a', 'b'])\n"
        "def work(who):\n"
        "    plain.recommend({'who': who}, ['a', 'b'])\n"
        "    assert recommender.recommend({'who': who}, ['a', 'b'], default='a').learnable\n"
        "    recommender.reward(Choice('a', who, True), 1.0)\n"
        "work('before')\n"
        "child = os.fork()\n"
        "work('parent' if child else 'child')\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert sorted(item["event_id"] for item in rewards_seen(server)) == ["before", "child", "parent"]
    # asking, asking plainly and reporting: three connections for each of the two processes
    assert len(server.connections) == 6
