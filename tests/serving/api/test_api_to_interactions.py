"""From requests to training rows: what clients may do with a decision, and what is learnt from it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from bandit.eventlog import AHEAD_S_MAX, survey
from bandit.experiment import Experiment
from joiner.warehouse import Warehouse
from serving.api.decider import ExperimentServer
from serving.api.requests import RecommendRequest, RewardItem
from tests.serving.api.support import SEVEN, T0, Clock, make_experiment, replays

WINDOW_S = 60.0


class Loop:
    """A worker under a clock that is moved by hand, and the join over what it logged."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        raw: dict[str, Any] = {"actions": SEVEN, "rewards": {"window_s": WINDOW_S, "default": -0.5}}
        self.experiment = make_experiment(data_dir, **(raw | settings))
        self.data_dir = data_dir
        self.clock = Clock(T0 + timedelta(days=1))
        self.servers = [self.open("w0")]

    def open(self, writer_id: str) -> ExperimentServer:
        return ExperimentServer(self.data_dir, "default", writer_id=writer_id, clock=self.clock, durable=False)

    def ask(self, event_id: str, server: int = 0, **more: Any) -> Any:
        return self.servers[server].recommend(RecommendRequest(context={"x": 1}, event_id=event_id, **more))

    def reward(self, event_id: str, reward: float, **more: Any) -> None:
        self.servers[0].reward([RewardItem(event_id=event_id, reward=reward, **more)])

    def activate(self, event_id: str) -> None:
        server = self.servers[0]
        server.writer.append([server.activation_event(event_id)])

    def interactions(self) -> pd.DataFrame:
        """Everything that matured, by event_id, once the writers have gone and all windows have closed."""
        for server in self.servers:
            server.close()
        self.clock.advance(10 * WINDOW_S)
        experiment = Experiment.open(self.data_dir, "default")
        found = survey(experiment.paths, now=self.clock.now)
        assert found.watermark == self.clock.now
        with Warehouse(experiment) as warehouse:
            warehouse.ingest(found.segments)
            warehouse.join(found.watermark)
            return warehouse.interactions().set_index("event_id")


def test_a_deferred_decision_counts_only_when_it_was_activated_in_time(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    for event_id in ("activated and rewarded", "rewarded only", "activated only", "activated late", "neither"):
        loop.ask(event_id, deferred=True)
    loop.ask("not deferred")
    loop.clock.advance(WINDOW_S / 2)
    loop.reward("activated and rewarded", 0.7)
    loop.reward("rewarded only", 0.7)
    loop.reward("activated late", 0.7)
    loop.activate("activated and rewarded")
    loop.activate("activated only")
    loop.clock.advance(WINDOW_S)
    loop.activate("activated late")
    rows = loop.interactions()
    assert sorted(rows.index) == ["activated and rewarded", "activated only", "not deferred"]
    assert rows.reward["activated and rewarded"] == 0.7
    assert rows.reward["activated only"] == rows.reward["not deferred"] == -0.5  # silence
    assert not rows.rewarded["activated only"]


def test_an_activation_may_come_before_its_decision_is_known(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.activate("early")
    loop.ask("early", deferred=True)
    assert list(loop.interactions().index) == ["early"]


def test_each_slot_is_rewarded_by_its_own_event(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    answer = loop.ask("page", slots=3)
    loop.reward("page:2", 1.0, action=answer.decisions[1].action)
    loop.reward("page:3", 1.0, action="something else")
    rows = loop.interactions()
    assert list(rows.sort_values("slot").index) == ["page:1", "page:2", "page:3"]
    assert list(rows.sort_values("slot").reward) == [-0.5, 1.0, -0.5]


def test_a_retry_at_another_worker_is_joined_once_and_a_clash_not_at_all(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.servers.append(loop.open("w1"))
    for server in (0, 1):
        assert loop.ask("same", server).action == loop.ask("same", server).action
        loop.ask("clash", server, excluded=[f"a{server}"])
    loop.reward("same", 1.0)
    rows = loop.interactions()
    assert list(rows.index) == ["same"] and rows.reward["same"] == 1.0


def test_the_control_slice_reaches_the_interactions_with_its_name_and_the_mixed_probabilities(tmp_path: Path) -> None:
    loop = Loop(tmp_path, serving={"control_fraction": 0.5, "control_policy": "baseline"})
    for number in range(40):
        loop.ask(f"e{number}")
    rows = loop.interactions()
    assert set(rows.slice) == {"policy", "control"} and len(rows) == 40
    expected = [0.5 + 0.5 / 7, *[0.5 / 7] * 6]
    assert all(abs(pmf[i] - expected[i]) < 1e-12 for pmf in rows.pmf for i in range(7))


def test_a_clock_that_jumps_back_and_forth_costs_no_reward_and_invents_none(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    jumps = [0.0, 7200.0, -7200.0, -86400.0, 3.0, 86400.0, -3600.0, 0.5]
    for number, jump in enumerate(jumps):
        loop.clock.advance(jump)
        loop.ask(f"e{number}")
        loop.clock.advance(1.0)
        loop.reward(f"e{number}", number / 10)
    again = loop.ask("e3")
    assert again == loop.ask("e3")  # retries are known whatever the clock says
    loop.clock.advance(2 * 86400.0)
    rows = loop.interactions()
    assert [rows.reward[f"e{number}"] for number in range(len(jumps))] == [n / 10 for n in range(len(jumps))]
    assert rows.rewarded.all() and len(rows) == len(jumps)
    stamps = [rows.decided_at[f"e{number}"] for number in range(len(jumps))]
    assert stamps == sorted(stamps) and len(set(stamps)) == len(stamps)


def _glitch(loop: Loop, jump_s: float) -> ExperimentServer:
    """A second worker, whose clock alone jumped ahead for one decision and came back."""
    own = Clock(loop.clock.now)
    glitched = ExperimentServer(loop.data_dir, "default", writer_id="w1", clock=own, durable=False)
    loop.servers.append(glitched)
    own.advance(jump_s)
    loop.ask("in the glitch", server=1)
    own.advance(-jump_s)
    for server in (*reversed(loop.servers), glitched):
        server.heartbeat()
    return glitched


def test_a_clock_that_jumps_for_one_worker_alone_makes_no_later_reward_late(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    glitched = _glitch(loop, AHEAD_S_MAX - 1.0)
    for number in range(3):
        loop.ask(f"e{number}")
        glitched.reward([RewardItem(event_id=f"e{number}", reward=1.0)])
        loop.ask(f"f{number}", server=1)
        loop.reward(f"f{number}", 1.0)
    loop.clock.advance(3600.0)
    rows = loop.interactions()
    assert [event_id for event_id in rows.index if not rows.rewarded[event_id]] == ["in the glitch"]
    assert len(rows) == 7


def test_a_clock_that_jumps_far_for_one_worker_alone_holds_up_no_window_of_the_others(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    glitched = _glitch(loop, 86400.0)
    for event_id in ("by the same", "by the other"):
        loop.ask(event_id)
    loop.ask("of the other", server=1)
    loop.reward("by the same", 1.0)
    loop.reward("of the other", 1.0)
    glitched.reward([RewardItem(event_id="by the other", reward=1.0)])
    loop.clock.advance(2 * WINDOW_S)
    for server in loop.servers:
        server.writer.seal()
        server.heartbeat()
    found = survey(loop.experiment.paths, now=loop.clock.now)
    assert found.watermark == loop.clock.now and len(found.live) == 2
    with Warehouse(Experiment.open(tmp_path, "default")) as warehouse:
        warehouse.ingest(found.segments)
        warehouse.join(found.watermark)
        rows = warehouse.interactions().set_index("event_id")
        assert dict(rows.rewarded) == {"by the same": True, "by the other": False}
    loop.clock.advance(86400.0)
    rows = loop.interactions()
    assert rows.rewarded["of the other"] and not rows.rewarded["in the glitch"] and len(rows) == 4


def test_while_the_clock_is_set_back_nothing_is_said_to_have_matured(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.ask("before")
    for server in loop.servers:
        server.close()
    loop.clock.advance(-3600.0)
    found = survey(loop.experiment.paths, now=loop.clock.now)
    assert found.watermark is not None and found.watermark <= loop.clock.now
    with Warehouse(Experiment.open(tmp_path, "default")) as warehouse:
        warehouse.ingest(found.segments)
        warehouse.join(found.watermark)
        assert len(warehouse.interactions()) == 0
        warehouse.join(loop.clock.now + timedelta(seconds=3601 + WINDOW_S))
        assert list(warehouse.interactions()["event_id"]) == ["before"]


def test_what_was_logged_replays_after_the_worker_is_gone(tmp_path: Path) -> None:
    from tests.serving.api.support import decisions

    loop = Loop(tmp_path)
    loop.ask("plain")
    loop.ask("page", slots=2)
    loop.interactions()
    assert all(replays(loop.experiment, event) for event in decisions(tmp_path))


def test_the_value_report_tells_the_lift_over_the_control_slice(tmp_path: Path) -> None:
    from serving.learner.operations import run_operation
    from serving.learner.workspace import Workspace

    loop = Loop(
        tmp_path,
        rewards={"window_s": WINDOW_S, "min": 0, "max": 1},
        serving={"control_fraction": 0.25, "control_policy": "baseline"},
    )
    best = "a6"
    for number in range(400):
        answer = loop.ask(f"e{number}")
        loop.reward(f"e{number}", 1.0 if answer.action == best else 0.0)
    for server in loop.servers:
        server.close()
    loop.clock.advance(10 * WINDOW_S)
    workspace = Workspace(Experiment.open(tmp_path, "default"), loop.clock)
    try:
        value = run_operation(workspace, "value", {})
        nothing = run_operation(workspace, "value", {"last": "1s"})
    finally:
        workspace.close()
    # uniform over seven actions finds the best one in a seventh of its decisions, the baseline never
    assert value["interactions"] == 400 and 60 < value["control_decisions"] < 140
    assert value["lower"] < 1 / 7 < value["upper"] and value["control"] < 0.02
    assert "per 1,000 decisions over control" in value["sentence"] and value["trusted"]
    assert nothing["lift"] is None and "matured" in nothing["sentence"]


def test_the_value_report_tells_each_slot_apart(tmp_path: Path) -> None:
    from serving.learner.operations import run_operation
    from serving.learner.workspace import Workspace

    loop = Loop(
        tmp_path,
        rewards={"window_s": WINDOW_S, "min": 0, "max": 1},
        serving={"control_fraction": 0.3, "control_policy": "baseline"},
    )
    for number in range(200):
        answer = loop.ask(f"page{number}", slots=2)
        for decision in answer.decisions:
            loop.reward(decision.event_id, float(decision.action == "a3"))
    for server in loop.servers:
        server.close()
    loop.clock.advance(10 * WINDOW_S)
    workspace = Workspace(Experiment.open(tmp_path, "default"), loop.clock)
    try:
        value = run_operation(workspace, "value", {})
    finally:
        workspace.close()
    assert [entry["slot"] for entry in value["slots"]] == [1, 2]
    assert sum(entry["n"] for entry in value["slots"]) == value["n"] == 400
    assert all(entry["lower"] < 1 / 7 + 0.03 and entry["upper"] > 1 / 7 - 0.03 for entry in value["slots"])
