"""A log that was damaged while the service was down: found out at the next start, wherever the damage is."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from click.testing import CliRunner

from bandit.eventlog import survey
from bandit.eventlog.recovery import salvage_segment
from bandit.events import DecisionEvent, RewardEvent
from bandit.experiment import Experiment, ExperimentPaths
from serving.cli import cli
from serving.learner.address import running_learner
from serving.learner.intake import Intake, take_in
from serving.learner.workspace import Workspace
from tests.serving.api.support import SEVEN, free_port, logged, make_experiment, worker
from tests.serving.crash_support import service

pytestmark = pytest.mark.slow

STEP = 89
"""Every so many bytes of the last two commits are damaged; 1 takes many minutes."""
Row = tuple[str, str | None, float]


class Recorded(NamedTuple):
    """A directory in which a worker, killed or stopped, left five commits; its only segment, and what is in it."""

    folder: Path
    segment: Path
    data: bytes


def recorded(folder: Path, kind: str) -> Recorded:
    settings = {"actions": SEVEN, "serving": {"seal_interval_s": 60.0}, "rewards": {"window_s": 1.0}}
    experiment = make_experiment(folder, kind, **settings)
    port = free_port()
    with worker(folder, port) as process:
        url = f"http://127.0.0.1:{port}/v1/experiments/{kind}"
        with httpx.Client(base_url=url, trust_env=False) as client:
            for number in range(3):
                question = {"event_id": f"e{number}", "context": {"x": number}}
                assert client.post("/recommend", json=question).status_code == 200
                if number < 2:
                    assert client.post("/rewards", json={"event_id": f"e{number}", "reward": 1}).status_code == 200
        process.send_signal(signal.SIGKILL if kind == "open" else signal.SIGTERM)
        process.wait()
    (segment,) = experiment.paths.events.glob("*.open" if kind == "open" else "*.jsonl")
    return Recorded(folder, segment.relative_to(folder), segment.read_bytes())


class WentOn(NamedTuple):
    """A directory, how the service on it answered in each experiment, and what it told of the damage."""

    folder: Path
    answered: dict[str, int]
    states: dict[str, dict[str, Any]]
    printed: str
    console: str
    metrics: str
    log: str


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return recorded(tmp_path_factory.mktemp("killed") / "data", "open")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return recorded(tmp_path_factory.mktemp("stopped") / "data", "sealed")


def commit_ends(data: bytes) -> list[int]:
    """Where each commit ends, in bytes from the start of the segment."""
    ends, place = [], 0
    for line in data.splitlines(keepends=True):
        place += len(line)
        if line.startswith(b'{"type":"commit"'):
            ends.append(place)
    return ends


def damaged(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """The segment with a byte flipped, and cut, at places of its last two commits and what follows them."""
    for place in range(commit_ends(data)[-3], len(data), STEP):
        yield "flipped", place, data[:place] + bytes([data[place] ^ 0x21]) + data[place + 1 :]
        yield "cut", place, data[:place]


def taken_in(folder: Path, kind: str) -> tuple[list[Row], Intake]:
    """What the learner has in its database once it has looked at the directory, and what it says about the log."""
    workspace = Workspace(Experiment.open(folder, kind), lambda: datetime.now(UTC) + timedelta(hours=1))
    try:
        intake = take_in(workspace, take_in(workspace, Intake()))  # damage found at one poll is told at the next
        rows = workspace.warehouse.cursor().execute(
            "SELECT event_id, action, probability FROM decision_records "
            "UNION ALL SELECT event_id, NULL, reward FROM reward_records ORDER BY ALL"
        )
        return rows.fetchall(), intake
    finally:
        workspace.close()


def test_damage_in_the_last_commits_of_a_killed_workers_segment_costs_the_hit_commit_alone(
    killed: Recorded, tmp_path: Path
) -> None:
    folder, segment, data = killed
    whole, _ = taken_in(Path(shutil.copytree(folder, tmp_path / "whole")), "open")
    ends = commit_ends(data)
    assert len(whole) == len(ends) == 5
    for how, place, bytes_now in damaged(data):
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / segment).write_bytes(bytes_now)
        rows, _ = taken_in(copy, "open")
        kept = sum(end <= place for end in ends)
        assert set(rows) <= set(whole) and len(rows) == len(set(rows)), (how, place)
        assert len(rows) == (4 if how == "flipped" else kept), (how, place)
        shutil.rmtree(copy)


def test_damage_in_the_last_commits_of_a_sealed_segment_is_always_found_out(stopped: Recorded, tmp_path: Path) -> None:
    folder, segment, data = stopped
    for how, place, bytes_now in damaged(data):
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        (copy / segment).write_bytes(bytes_now)
        rows, intake = taken_in(copy, "sealed")
        assert (rows, intake.segments_quarantined) == ([], 1), (how, place)
        assert intake.set_aside == [f"{segment.name}.damaged"], (how, place)
        shutil.rmtree(copy)


@pytest.fixture(scope="module")
def went_on(killed: Recorded, stopped: Recorded, tmp_path_factory: pytest.TempPathFactory) -> WentOn:
    """The service on both logs, each damaged in its last decision."""
    folder = tmp_path_factory.mktemp("went_on") / "data"
    for recording in (killed, stopped):
        shutil.copytree(recording.folder / "experiments", folder / "experiments", dirs_exist_ok=True)
        data, place = recording.data, commit_ends(recording.data)[-2] + 20
        (folder / recording.segment).write_bytes(data[:place] + bytes([data[place] ^ 0x21]) + data[place + 1 :])
    question = {"event_id": "after", "context": {"x": 1}}
    with service(folder) as address:
        urls = {kind: f"{address.url}/v1/experiments/{kind}/recommend" for kind in ("open", "sealed")}
        answered = {kind: httpx.post(url, json=question, trust_env=False).status_code for kind, url in urls.items()}
        learner = running_learner(folder)
        assert learner is not None
        ask = lambda path: httpx.get(learner.url + path, trust_env=False)  # noqa: E731
        states = {kind: ask(f"/v1/experiments/{kind}/status").json() for kind in urls}
        console, metrics = ask("/experiments/sealed").text, ask("/metrics").text
        status = ["status", "--data-dir", str(folder), "--experiment", "sealed"]
        printed = CliRunner().invoke(cli, status).output
    return WentOn(folder, answered, states, printed, console, metrics, folder.with_suffix(".log").read_text())


@pytest.mark.parametrize(("kind", "kept"), [("open", ["e0", "e1"]), ("sealed", [])])
def test_the_service_starts_on_a_damaged_log_and_goes_on(went_on: WentOn, kind: str, kept: list[str]) -> None:
    folder = went_on.folder
    assert went_on.answered[kind] == 200
    survey(ExperimentPaths(folder / "experiments" / kind), now=datetime.now(UTC))
    events = logged(folder, kind)
    assert sorted(event.event_id for event in events if isinstance(event, DecisionEvent)) == ["after", *kept]
    assert sorted(event.event_id for event in events if isinstance(event, RewardEvent)) == kept


def test_a_damaged_part_of_the_log_is_told_once_in_the_log_and_in_status_and_metrics_while_it_lasts(
    went_on: WentOn,
) -> None:
    for kind, state in went_on.states.items():
        (aside,) = (went_on.folder / "experiments" / kind / "events" / "quarantine").glob("*.damaged")
        assert (
            state["segments_set_aside"] == 1
            and f"1 part of the log is damaged or cannot be read ({aside.name})" in (state["damage"])
        )
        (line,) = [line for line in went_on.log.splitlines() if aside.name in line]
        assert "is damaged and set aside, nothing is learnt from it: see `rewardloop doctor`" in line
        assert f'rewardloop_learner_segments_set_aside{{experiment="{kind}"}} 1' in went_on.metrics.splitlines()
    said = went_on.states["sealed"]["damage"]
    assert (
        said in went_on.printed.splitlines()
        and "rewardloop doctor" in said
        and said.partition("`")[0] in went_on.console
    )


def test_damage_that_was_repaired_is_told_no_more(stopped: Recorded, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(stopped.folder, tmp_path / "copy"))
    place = commit_ends(stopped.data)[-2] + 20
    (copy / stopped.segment).write_bytes(
        stopped.data[:place] + bytes([stopped.data[place] ^ 0x21]) + stopped.data[place + 1 :]
    )
    assert len(taken_in(copy, "sealed")[1].set_aside) == 1
    events = (copy / stopped.segment).parent
    salvage_segment(events / "quarantine" / f"{stopped.segment.name}.damaged", now=datetime.now(UTC))
    rows, intake = taken_in(copy, "sealed")
    assert len(rows) == 4 and intake.set_aside == []
