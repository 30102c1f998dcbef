"""A clock that leaps ahead or is set back: the learner's schedule goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from bandit.eventlog import EventLogWriter
from bandit.experiment import Experiment
from serving.cli.common import now
from serving.learner import hosting
from serving.learner.admin.routes import create_admin
from serving.learner.cycle import WAITING_MAX, Cycle
from serving.learner.every import Every
from serving.learner.hosting import LearnerService
from serving.learner.status import experiment_status
from tests.serving.learner_support import settings


class Movable(datetime):
    """The system's clock as seen by the learner and its scheduler, `moved` by a test."""

    moved = timedelta(0)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + Movable.moved


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Moves the clock."""
    monkeypatch.setattr(Movable, "moved", timedelta(0))
    monkeypatch.setattr("apscheduler.schedulers.base.datetime", Movable)
    monkeypatch.setattr(hosting, "datetime", Movable)
    return lambda by: setattr(Movable, "moved", by)


@contextmanager
def learner(data_dir: Path) -> Iterator[LearnerService]:
    """A learner with one experiment that it polls ten times a second, until the block ends."""
    Experiment.create(data_dir, "test", settings(schedule={"poll_s": 0.1}), now=now())
    service = LearnerService(data_dir, clock=lambda: Movable.now(UTC))
    try:
        service.start()
        yield service
    finally:
        service.close()


def polls_go_on(service: LearnerService, seconds: float) -> bool:
    """Whether the experiment was polled several times, by the clock as it is now."""
    seen: set[datetime | None] = set()
    moment, until = Movable.now(UTC), time.monotonic() + seconds
    while len(seen) < 3 and time.monotonic() < until:
        at = service.cycles["test"].intake.at
        if at is not None and abs(at - moment) < timedelta(seconds=30):
            seen.add(at)
        time.sleep(0.01)
    return len(seen) == 3


def test_the_next_time_is_after_now_and_never_further_away_than_the_interval() -> None:
    moment, every = now(), Every(2.0)
    for since_s, expected_s in ((0, 2), (0.5, 1.5), (2, 2), (3, 2), (4e7, 2), (-600, 2), (-4e7, 2)):
        following = every.get_next_fire_time(moment - timedelta(seconds=since_s), moment)
        assert following == moment + timedelta(seconds=expected_s)
    assert every.get_next_fire_time(None, moment) == moment + timedelta(seconds=2)


def test_a_clock_that_leaps_ahead_makes_no_list_of_missed_polls(
    tmp_path: Path, move: Callable[[timedelta], None]
) -> None:
    with learner(tmp_path) as service:
        assert polls_go_on(service, 5)
        move(timedelta(days=4))
        assert polls_go_on(service, 3)


@pytest.mark.parametrize("back", [timedelta(minutes=10), timedelta(days=400)])
def test_a_clock_that_is_set_back_stops_no_poll(
    tmp_path: Path, move: Callable[[timedelta], None], monkeypatch: pytest.MonkeyPatch, back: timedelta
) -> None:
    monkeypatch.setattr(hosting, "WATCH_S", 0.1)
    with learner(tmp_path) as service:
        assert polls_go_on(service, 5)
        move(-back)
        assert polls_go_on(service, 3)
        intervals = {"discover": hosting.DISCOVER_S, "retain": hosting.RETAIN_S}
        for name, interval_s in intervals.items():
            assert service.scheduler.get_job(name).next_run_time <= Movable.now(UTC) + timedelta(seconds=interval_s)


def test_a_learner_that_does_not_poll_is_not_ready_and_says_why(tmp_path: Path) -> None:
    Experiment.create(tmp_path, "test", settings(schedule={"poll_s": 3.0}), now=now())
    moment = 100.0
    service = LearnerService(tmp_path, monotonic=lambda: moment)

    async def ready() -> tuple[int, dict[str, Any]]:
        transport = httpx.ASGITransport(app=create_admin(service, host="127.0.0.1"))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.get("/readyz")
            return answer.status_code, answer.json()["failures"]

    try:
        service.discover()
        moment += 14
        assert asyncio.run(ready()) == (200, {})
        moment += 2
        assert asyncio.run(ready()) == (503, {"test": "was not polled for 16 s, and should be every 3 s"})
        service.poll("test")
        assert asyncio.run(ready()) == (200, {})
    finally:
        service.close()


def test_a_living_writer_that_hangs_is_told_by_readyz_until_it_speaks_again(tmp_path: Path) -> None:
    experiment = Experiment.create(tmp_path, "test", settings(), now=now())
    service = LearnerService(tmp_path, clock=lambda: now() + timedelta(minutes=1))
    writer = EventLogWriter(experiment.paths, "w0", clock=now)
    try:
        service.discover()
        service.poll("test")
        assert "writer w0" in service.failures["test"] and "lives but is silent" in service.failures["test"]
        assert any("writer w0" in told for told in experiment_status(service.cycle("test"))["unknown"])
        writer.close()
        service.poll("test")
        assert service.failures == {}
        assert experiment_status(service.cycle("test"))["unknown"] == []
    finally:
        writer.close()
        service.close()


def test_those_who_wait_for_a_run_are_few_and_keep_the_probes_from_nothing(tmp_path: Path) -> None:
    Experiment.create(tmp_path, "test", settings(), now=now())
    service = LearnerService(tmp_path)

    async def storm() -> None:
        app = httpx.ASGITransport(app=create_admin(service, host="127.0.0.1"))
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens = WAITING_MAX  # once all places are taken, no thread is left
        async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1") as client:

            async def train() -> httpx.Response:
                return await client.post("/v1/experiments/test/retrain")

            waiting = [asyncio.create_task(train()) for _ in range(WAITING_MAX)]
            while threads.borrowed_tokens < WAITING_MAX or cycle._places._value:
                await asyncio.sleep(0.01)
            for probe in ("/livez", "/readyz"):
                assert (await asyncio.wait_for(client.get(probe), 5)).status_code == 200
            threads.total_tokens += 1
            refused = await asyncio.wait_for(train(), 5)
            assert refused.status_code == 423 and f"{WAITING_MAX} wait for its end" in refused.json()["detail"]
            assert not any(task.done() for task in waiting)
            cycle.workspace.run_lock.release()
            assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * WAITING_MAX
            cycle.workspace.run_lock.acquire()

    try:
        service.discover()
        cycle = service.cycle("test")
        with cycle.workspace.run_lock:
            asyncio.run(storm())
    finally:
        service.close()


def soon(true: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether something becomes true within so many seconds."""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.01)
    return true()


def test_runs_keep_neither_polls_nor_discovery_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "POLLS", 2)
    monkeypatch.setattr(hosting, "RUNS", 2)
    monkeypatch.setattr(hosting, "DISCOVER_S", 0.1)
    names, started, moment = [f"e{number}" for number in range(4)], [], 0.0
    let_them_end = threading.Event()

    def run(cycle: Cycle, *, trigger: str) -> None:
        started.append(cycle.workspace.experiment.name)
        let_them_end.wait(20)

    monkeypatch.setattr(Cycle, "due", lambda cycle: None if cycle.stopping else "rows")
    monkeypatch.setattr(Cycle, "run", run)
    for name in names:
        Experiment.create(tmp_path, name, settings(schedule={"poll_s": 0.1}), now=now())
    service = LearnerService(tmp_path, monotonic=lambda: moment)
    try:
        service.start()
        assert soon(lambda: len(started) == 2)
        taken_in = {name: service.cycles[name].intake.at for name in names}
        moment = 3600.0
        assert soon(lambda: not service.late(), 2)
        moved_on = lambda: {name for name in names if service.cycles[name].intake.at != taken_in[name]}  # noqa: E731
        assert soon(lambda: moved_on() == set(names), 2)  # those whose run is under way, too
        Experiment.create(tmp_path, "new", settings(), now=now())
        assert soon(lambda: "new" in service.cycles, 2)
        let_them_end.set()
        assert soon(lambda: set(names) <= set(started))  # each had its turn
    finally:
        let_them_end.set()
        service.close()


def test_a_run_that_waited_for_its_turn_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, made = [], []

    def due(_: Cycle) -> str | None:
        asked.append("rows" if not asked else None)  # a forced run came between
        return asked[-1]

    monkeypatch.setattr(Cycle, "due", due)
    monkeypatch.setattr(Cycle, "run", lambda _, *, trigger: made.append(trigger))
    Experiment.create(tmp_path, "test", settings(), now=now())
    service = LearnerService(tmp_path)
    try:
        service.discover()
        service.poll("test")
        assert soon(lambda: len(asked) == 2, 2)
    finally:
        service.close()
    assert (asked, made) == (["rows", None], [])


def test_retention_is_seen_to_minutes_after_a_start(tmp_path: Path) -> None:
    with learner(tmp_path) as service:
        first = service.scheduler.get_job("retain").next_run_time
        assert first <= now() + timedelta(seconds=hosting.RETAIN_FIRST_S) < now() + timedelta(minutes=10)


def test_an_experiment_whose_poll_takes_long_is_not_called_late(tmp_path: Path) -> None:
    Experiment.create(tmp_path, "test", settings(), now=now())
    moment = 0.0
    told: list[dict[str, str]] = []

    def slow_clock() -> datetime:
        nonlocal moment
        moment += 1000
        told.append(service.late())
        return now()

    service = LearnerService(tmp_path, monotonic=lambda: moment)
    try:
        service.discover()
        service.cycles["test"].workspace.clock = slow_clock
        service.poll("test")
        told.append(service.late())
        assert len(told) > 1 and not any(told)
    finally:
        service.close()
