"""One code path under two transports: in process it repeats to the bit, and over HTTP it decides the same."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner
from rewardloop_client import Client

from bandit.errors import InvalidInput
from bandit.experiment import Experiment
from bandit.settings import ExperimentSettings, merge_settings
from joiner.warehouse import Warehouse
from serving.cli import cli
from serving.in_process import InProcess, in_process, secret_of
from serving.learner.cycle import Cycle
from serving.learner.training.trainer import ChildTrainer
from serving.over_http import Admin, DecisionsOnly, OverHttp, Service
from serving.sabotage import read_log
from serving.simulation import Job, parse_seeds, run_jobs, simulated_settings
from simulator.channel import Delay, Lost, Twice
from simulator.client_app import USERS_DEFAULT, ClientApp
from simulator.curves import summarise
from simulator.runner import Run, Script, play
from simulator.synthetic import LinearWorld
from simulator.tables import LabelledTable
from simulator.transport import Answer, Delivery, Question, Settled

pytestmark = pytest.mark.slow

SCRIPT = Script(interactions=300, batch=100, warm_start=60, seed=7)


def settings_for(world: Any, **changes: Any) -> ExperimentSettings:
    return simulated_settings(world, ExperimentSettings(), {"rewards": {"window_s": 1.0}} | changes)


def simulate(world: Any, data_dir: Path, script: Script = SCRIPT, **options: Any) -> Run:
    with in_process(data_dir, "world", options.pop("settings", settings_for(world)), script.seed, **options) as loop:
        return play(world, loop, script, channel=Delay(0.2, "uniform"))


def said(run: Run) -> list[tuple[str, str, float]]:
    return list(zip(run.event_ids, run.actions, run.probabilities.tolist(), strict=True))


def judged(settled: Settled) -> tuple[Any, ...]:
    return settled.outcome, settled.lift, settled.lower, settled.upper


def test_the_same_seed_gives_the_same_decisions_verdicts_and_summary(tmp_path: Path) -> None:
    world = LinearWorld(4)
    first, again = simulate(world, tmp_path / "a"), simulate(world, tmp_path / "b")
    assert said(first) == said(again)
    assert [batch.settled.lift for batch in first.batches] == [batch.settled.lift for batch in again.batches]
    assert [batch.settled.champion for batch in first.batches] == [batch.settled.champion for batch in again.batches]
    assert summarise(first) == summarise(again)
    other = simulate(world, tmp_path / "c", replace(SCRIPT, seed=8, interactions=SCRIPT.batch))
    assert other.actions != first.actions[: SCRIPT.batch]


def test_a_simulation_may_be_stopped_for_as_long_as_one_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandit.eventlog.writer.STAMP_GRACE_S", -1.0)  # all stamps given so far are overdue
    world = LinearWorld(4)
    with in_process(tmp_path, "world", settings_for(world), 7) as loop:
        decide = loop._decide

        def stopped(question: Any) -> Any:
            answer = decide(question)
            loop.server.writer.complete_until()  # as the heartbeat asks
            return answer

        monkeypatch.setattr(loop, "_decide", stopped)
        assert len(play(world, loop, SCRIPT).actions) == SCRIPT.interactions


def test_over_http_and_in_process_agree_on_every_decision_and_verdict(statlog: LabelledTable, tmp_path: Path) -> None:
    script = replace(SCRIPT, batch=150)  # the second look has the rows for a verdict
    quick = {
        "schedule": {"interactions": script.batch, "interval_s": 3600.0, "poll_s": 0.1},
        "serving": {"seal_interval_s": 0.1},
        "rewards": {"window_s": 3.0},  # a busy machine must not make a reward late: that would be another log
    }
    settings = settings_for(statlog, **quick)
    inside = simulate(statlog, tmp_path / "inside", script, settings=settings)
    data_dir = tmp_path / "outside"
    Experiment.create(data_dir, "world", settings, now=datetime.now(UTC), secret=secret_of(script.seed))
    with (
        Service(data_dir, log=tmp_path / "service.log") as service,
        Admin(data_dir, "world") as admin,
        Client(service.url, "world") as client,
    ):
        transport = OverHttp(ClientApp(client, users=1, reporters=1), admin, expected_batch=script.batch)
        outside = play(statlog, transport, script, channel=Delay(0.2, "uniform"))
    assert said(outside) == said(inside)
    assert [judged(batch.settled) for batch in outside.batches] == [judged(batch.settled) for batch in inside.batches]
    assert judged(outside.initial or inside.batches[0].settled) == judged(inside.initial or outside.batches[0].settled)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Run, str]]:
    """The real service on a simulated directory, what was played there, and the secret of the key that it wants."""
    folder = tmp_path_factory.mktemp("opened")
    run = simulate(LinearWorld(3), folder / "data", Script(200, 100, 60, seed=1))
    made = CliRunner().invoke(cli, ["keys", "create", "app", "--data-dir", str(folder / "data"), "--json"])
    with Service(folder / "data", log=folder / "service.log") as service:
        yield service, run, json.loads(made.stdout)["secret"]


def test_a_simulated_directory_opens_under_the_real_service(opened: tuple[Service, Run, str]) -> None:
    service, run, secret = opened
    with Client(service.url, "world", api_key=secret) as client, Admin(service.data_dir, "world") as admin:
        choice = client.recommend({f"u{i}": 0.1 for i in range(6)})
        client.reward(choice.event_id, 1.0)
        status = admin.status()
    assert status is not None
    assert choice.model_id == run.batches[-1].settled.champion == status["champion"]
    assert status["counts"]["interactions"] == 200


def asking(service: Service) -> list[str]:
    return ["simulate", "--env", "linear", "--actions", "3", "--url", service.url, "--experiment", "world",
            "--interactions", "40"]  # fmt: skip


def test_the_client_app_keeps_to_the_rate_and_asks_with_the_key_of_the_environment(
    opened: tuple[Service, Run, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _, secret = opened
    command = [*asking(service), "--rate", "20", "--json"]
    refused = CliRunner().invoke(cli, command)
    monkeypatch.setenv("REWARDLOOP_API_KEY", secret)
    started = time.monotonic()
    played = CliRunner().invoke(cli, command)
    took_s = time.monotonic() - started
    assert isinstance(refused.exception, InvalidInput) and "401" in str(refused.exception)
    assert played.exception is None, played.exception
    assert 0 <= json.loads(played.stdout)["mean"]["mean_reward"] <= 1
    assert took_s >= 39 / 20


def test_what_a_service_held_is_unknown_to_those_who_only_ask_it(
    opened: tuple[Service, Run, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _, secret = opened
    monkeypatch.setenv("REWARDLOOP_API_KEY", secret)
    command = [*asking(service), "--batch", "20", "--seeds", "0-1"]
    plain = CliRunner().invoke(cli, [*command, "--json"])
    table = CliRunner().invoke(cli, command)
    assert plain.exception is None and table.exception is None
    answer = json.loads(plain.stdout)
    for one in (*answer["seeds"], answer["mean"], answer["se"]):
        assert one["holds"] is None and one["insufficient"] is None and one["promotions"] is not None
    seed, mean = (line.split() for line in table.stdout.splitlines()[1:4:2])
    assert seed[-2:] == mean[-2:] == ["–", "–"]


def test_what_was_played_is_kept_when_the_service_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Experiment.create(tmp_path / "data", "world", settings_for(LinearWorld(3)), now=datetime.now(UTC))
    with Service(tmp_path / "data", log=tmp_path / "service.log") as service:
        settle, settled = DecisionsOnly.settle, itertools.count(1)

        def stopping(self: DecisionsOnly) -> Settled:
            if next(settled) == 3:  # the first batch of the second seed
                service.stop()
            return settle(self)

        monkeypatch.setattr(DecisionsOnly, "settle", stopping)
        command = [*asking(service), "--batch", "20", "--seeds", "0-2", "--json"]
        result = CliRunner().invoke(cli, [*command, "--data-dir", str(tmp_path / "out")], standalone_mode=False)
    assert result.exception is None and result.return_value == 1
    assert [(one["seed"], one["asked"]) for one in json.loads(result.stdout)["seeds"]] == [(0, 40), (1, 20)]
    assert "rewardloop: seed 1: after 20 of 40 interactions the service did not play along: " in result.stderr
    assert "after 20 of 40 interactions" in (tmp_path / "out/simulation.html").read_text("utf-8")


def test_a_promotion_is_seen_from_outside_in_the_first_batch_too() -> None:
    class OneUser:
        """An app whose answers carry the models given, in turn."""

        def __init__(self, *models: str) -> None:
            self._models = list(models)

        def play(self, questions: Sequence[Question], *_: object) -> list[Answer]:
            return [Answer(question.event_id, "a", 1.0, self._models.pop(0)) for question in questions]

    transport = DecisionsOnly(OneUser("m1", "m2", "m2", "m2", "m2", "m3"))  # type: ignore[arg-type]
    outcomes = []
    for _ in range(3):
        transport.play([Question("e", {}), Question("f", {})], lambda *_: [])
        outcomes.append(transport.settle().outcome)
    assert outcomes == ["promote", "unknown", "promote"]


def test_a_client_app_activates_what_counts_whether_or_not_its_reward_is_lost() -> None:
    class Told:
        """A client that answers `a` and keeps what it was told."""

        def __init__(self) -> None:
            self.activated: list[str] = []
            self.rewarded: list[str] = []

        def recommend(self, *_: object, event_id: str, **__: object) -> Answer:
            return Answer(event_id, "a", 1.0, "m")

        def activate(self, event_id: str) -> None:
            self.activated.append(event_id)

        def rewards(self, items: list[dict[str, Any]]) -> None:
            self.rewarded += [item["event_id"] for item in items]

    told = Told()
    questions = [Question(name, {}, deferred=True) for name in "efg"]
    sent = {"e": [Delivery(0.0, None), Delivery(0.0, 1.0)], "f": [Delivery(0.0, None)], "g": []}
    ClientApp(told).play(questions, lambda _, answer: sent[answer.event_id])  # type: ignore[arg-type]
    assert sorted(told.activated) == ["e", "f"] and told.rewarded == ["e"]


def test_an_interrupt_ends_the_client_application_at_the_requests_it_is_at() -> None:
    class Slow:
        asked = 0

        def recommend(self, *_: object, event_id: str, **__: object) -> Answer:
            self.asked += 1
            if self.asked == 30:
                os.kill(os.getpid(), signal.SIGINT)
            return Answer(event_id, "a", 1.0, "m")

        def rewards(self, items: list[dict[str, Any]]) -> None:
            del items

    client = Slow()
    questions = [Question(f"e{number}", {}) for number in range(100_000)]
    app = ClientApp(client, rate_per_s=500.0)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        app.play(questions, lambda *_: [Delivery(3600.0, 1.0)])
    assert client.asked < 30 + 2 * USERS_DEFAULT


def test_without_history_every_pmf_is_exactly_uniform_until_the_first_model(tmp_path: Path) -> None:
    world = LinearWorld(4)
    run = simulate(world, tmp_path, Script(300, 150, 0, seed=3))
    first_model = next((batch.stop for batch in run.batches if batch.settled.champion), run.played)
    assert first_model >= 150
    assert set(run.probabilities[:first_model]) == {0.25}


def test_lost_doubled_and_late_rewards_are_each_counted_and_learnt_at_most_once(tmp_path: Path) -> None:
    world, script = LinearWorld(3), Script(400, 200, 0, seed=5)
    channel = Lost(0.2, Twice(0.3, Delay(0.6, "exponential")))
    with in_process(tmp_path, "world", settings_for(world), script.seed) as loop:
        run = play(world, loop, script, channel=channel)
        experiment = loop.experiment
    with Warehouse(experiment, read_only=True) as warehouse:
        counts, joined = warehouse.counts(), warehouse.interactions()
    assert counts["interactions"] == len(joined) == joined["event_id"].nunique() == run.played
    assert counts["late"] > 0 and counts["duplicates"] > 0 and counts["defaulted"] > 0
    truth = dict(zip(run.event_ids, run.rewards, strict=True))
    rewarded = joined[joined["rewarded"]]
    assert (rewarded["reward"] == rewarded["event_id"].map(truth)).all()
    assert (joined[~joined["rewarded"]]["reward"] == 0.0).all()


def test_traffic_that_never_stops_trains_on_what_has_matured(tmp_path: Path) -> None:
    world = LinearWorld(3)
    settings = merge_settings(settings_for(world), {"rewards": {"window_s": 2.0}})
    with in_process(tmp_path, "world", settings, 2, question_every_s=0.01, barrier=False) as loop:
        run = play(world, loop, Script(600, 150, 0, seed=2), channel=Delay(1.0))
        experiment = loop.experiment
    with Warehouse(experiment, read_only=True) as warehouse:
        # those of the last two seconds still wait, and the one just two seconds old may
        assert warehouse.counts()["interactions"] in (600 - 201, 600 - 200)
    assert run.played == 600


def test_several_processes_give_what_one_gives(tmp_path: Path) -> None:
    world = LinearWorld(3)
    jobs = [Job(f"w{seed}", settings_for(world), Script(200, 100, 40, seed)) for seed in (0, 1)]
    seen: list[int] = []
    alone = run_jobs([world], jobs, tmp_path / "one")
    together = run_jobs([world], jobs, tmp_path / "two", processes=2, on_progress=seen.append)
    assert [said(run) for run in alone] == [said(run) for run in together]
    assert sum(seen) == 400
    assert sorted(path.name for path in (tmp_path / "two" / "experiments").iterdir()) == ["w0", "w1"]


def test_a_process_for_the_declared_challengers_changes_no_result(
    statlog: LabelledTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.simulation.HELPED_INTERACTIONS_MIN", 0)
    started: list[ChildTrainer] = []
    start = ChildTrainer.start
    monkeypatch.setattr(ChildTrainer, "start", lambda self: (started.append(self), start(self))[1])
    settings = settings_for(statlog, challengers={"recent": {"window_interactions": 200, "every_interactions": 200}})
    job = Job("world", settings, Script(600, 200, 100, seed=1))
    made = [run_jobs([statlog], [job], tmp_path / str(processes), processes=processes)[0] for processes in (1, 2)]
    assert [helper.restarts for helper in started] == [1]
    assert said(made[0]) == said(made[1])
    alone, helped = (written(tmp_path / str(processes)) for processes in (1, 2))
    assert alone == helped
    assert any("recent" in path for path in alone) and any("former" in path for path in alone)


def written(data_dir: Path) -> dict[str, bytes]:
    """The files of a data directory, without how long things took and without DuckDB's, which change when read."""
    files = {str(path.relative_to(data_dir)): path for path in data_dir.rglob("*") if path.is_file()}
    return {
        name: re.sub(rb'"(seconds|intake|train|evaluate|promote|trial)":[0-9.e-]+', b"", path.read_bytes())
        for name, path in files.items()
        if path.suffix not in {".duckdb", ".wal"} and path.parent.name != "workers"
    }


def test_a_run_that_fails_stops_the_others(tmp_path: Path) -> None:
    world, started = LinearWorld(3), time.monotonic()
    bad = Job("Bad Name", settings_for(world), Script(50, 50, 0, 0))
    long = [Job(f"w{seed}", settings_for(world), Script(1_000_000, 50, 0, seed)) for seed in (1, 2)]
    with pytest.raises(InvalidInput):
        run_jobs([world], [bad, *long], tmp_path, processes=2)
    assert time.monotonic() - started < 60  # a million interactions would take hours


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_disk_that_takes_no_more_is_told_with_the_folder(tmp_path: Path, jobs: str) -> None:
    world = ("--env", "linear", "--interactions", "4000", "--batch", "2000", "--seeds", "0-1", "--warm-start", "0")
    result = subprocess.run(
        (sys.executable, "-m", "serving.cli", "simulate", *world, "--jobs", jobs, "--data-dir", str(tmp_path / "out")),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.strip().startswith(f"rewardloop: {tmp_path / 'out'}: the event log")


@pytest.mark.parametrize(("named", "shown"), [(None, "out"), ("warehouse.duckdb", "out/warehouse.duckdb")])
def test_a_write_that_fails_is_told_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, shown: str
) -> None:
    def refused(*_: object, **__: object) -> Run:
        raise OSError(errno.ENOSPC, "No space left on device", named)

    monkeypatch.setattr("serving.simulation.play", refused)
    world = LinearWorld(3)
    with pytest.raises(OSError, match="No space left") as told:
        run_jobs([world], [Job("world", settings_for(world), SCRIPT)], tmp_path / "out")
    assert told.value.filename == str(tmp_path / shown) and told.value.errno == errno.ENOSPC


def test_an_interrupt_ends_all_runs_and_leaves_the_log_whole(tmp_path: Path) -> None:
    answering = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import serving.cli.__main__"
    world = ("--env", "linear", "--interactions", "100000", "--batch", "50", "--seeds", "0-3", "--jobs", "2")
    process = subprocess.Popen(
        (sys.executable, "-c", answering, "simulate", *world, "--data-dir", str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            if list(tmp_path.glob("experiments/*/champion.json")):
                break
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
        _, said_last = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "interrupted" in said_last and "Traceback" not in said_last
    assert not list(tmp_path.glob("experiments/*/events/*.open"))


def test_an_interrupt_in_the_middle_of_a_query_ends_a_single_run_and_is_no_failure_of_the_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, asked = Cycle._learn, duckdb.connect(config={"threads": 1})

    def interrupted(self: Cycle, *arguments: Any) -> None:
        pressed = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        pressed.start()
        asked.execute("SELECT sum(hash(range)) FROM range(200000000)").fetchall()
        pressed.join()
        learn(self, *arguments)

    monkeypatch.setattr(Cycle, "_learn", interrupted)
    job = Job("world", settings_for(LinearWorld(3)), Script(100, 50, 40, seed=1))
    with pytest.raises(KeyboardInterrupt):
        run_jobs([LinearWorld(3)], [job], tmp_path)
    experiment = Experiment.open(tmp_path, "world")
    outcomes = [json.loads(line).get("outcome") for line in experiment.paths.history.read_text().splitlines()]
    assert "failed" not in outcomes and outcomes.count("initial") == 1
    assert not read_log(experiment).decisions
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_ends_a_long_batch_at_the_question_it_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    decide = InProcess._decide

    def interrupted(self: InProcess, question: Question) -> Answer:
        asked.append(1)
        if len(asked) == 30:
            os.kill(os.getpid(), signal.SIGINT)
        return decide(self, question)

    monkeypatch.setattr(InProcess, "_decide", interrupted)
    job = Job("world", settings_for(LinearWorld(3)), Script(5000, 5000, 0, seed=1))
    with pytest.raises(KeyboardInterrupt):
        run_jobs([LinearWorld(3)], [job], tmp_path)
    assert len(asked) == len(read_log(Experiment.open(tmp_path, "world")).decisions) == 30


@pytest.mark.parametrize(("seeds", "after_s"), [("0", 1.0), ("0-1", 0.2)])
def test_an_interrupt_while_processes_start_is_one_line(tmp_path: Path, seeds: str, after_s: float) -> None:
    answering = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import serving.cli.__main__"
    world = ("--env", "linear", "--interactions", "100000", "--batch", "50", "--jobs", "2", "--seeds", seeds)
    process = subprocess.Popen(
        (sys.executable, "-c", answering, "simulate", *world, "--data-dir", str(tmp_path / "out")),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (tmp_path / "out").exists():
            time.sleep(0.01)
        time.sleep(after_s)
        os.killpg(process.pid, signal.SIGINT)
        _, said_last = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert said_last.strip() == "rewardloop: interrupted"


def test_event_ids_and_secret_come_from_the_seed(tmp_path: Path) -> None:
    run = simulate(LinearWorld(3), tmp_path, Script(20, 20, 0, seed=9))
    experiment = Experiment.open(tmp_path, "world")
    assert experiment.secret == secret_of(9)
    assert sorted(read_log(experiment).decisions) == run.event_ids == [f"s9-{number:07d}" for number in range(20)]


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("0-3", [0, 1, 2, 3]), ("1,5,7", [1, 5, 7]), ("0-1,9", [0, 1, 9])]
)
def test_seeds_are_one_a_range_or_a_list(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.fixture(scope="module")
def statlog() -> Iterator[LabelledTable]:
    from serving.cli.worlds import statlog_world

    yield statlog_world()
