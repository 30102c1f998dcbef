"""What-if evaluations take turns, within limits, and neither outlive the learner nor leave anything behind."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandit.errors import Busy, Refused
from bandit.scratch import IN_MEMORY, PREFIX
from bandit.settings import Training
from serving.learner.address import running_learner
from serving.learner.training.evaluator import Evaluator
from tests.serving.learner_support import history, paths_of
from tests.serving.service_support import Service, served

pytestmark = pytest.mark.slow

LONG = {"policies": ["train:bag,bags=100", "train:cover,cover=100"]}
ROWS = 10_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with history that takes many seconds to evaluate; the last test that takes it stops it."""
    with served(tmp_path_factory.mktemp("evaluator")) as running:
        rows = "\n".join(json.dumps(row) for row in history(ROWS, random.Random(0), lambda *_: 1.0))
        ndjson = {"content-type": "application/x-ndjson"}
        assert running.admin.post("/import", content=rows, headers=ndjson).json()["imported"] == ROWS
        running.wait("the initial model", lambda: running.status()["runs"], 60)
        yield running


class Asking(threading.Thread):
    """Somebody who waits for an evaluation, and the process that works on it."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        self.answer: httpx.Response | None = None
        before = _children(service.learner.pid)
        self.start()
        self.child = service.wait("a process at work", lambda: _children(service.learner.pid) - before).pop()

    def run(self) -> None:
        try:
            self.answer = self.service.admin.post("/evaluations", json=LONG)
        except httpx.HTTPError:
            self.answer = None


def _children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, parent = stat.parent.name, int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
            found.add(int(name))
    return found


def _gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_an_evaluation_ends_when_who_asked_for_it_goes_away(service: Service) -> None:
    with pytest.raises(httpx.ReadTimeout):
        service.admin.post("/evaluations", json=LONG, timeout=3)
    short = {"policies": ["uniform"]}
    service.wait("their turn", lambda: service.admin.post("/evaluations", json=short).status_code == 200)


def test_an_evaluation_ends_with_a_learner_that_is_killed_and_leaves_no_rows_on_its_disk(
    service: Service,
) -> None:
    asking = Asking(service)
    root = paths_of(service.data_dir).root
    left = service.wait(
        "its rows", lambda: [*IN_MEMORY.glob(f"{PREFIX}*/*.ndjson"), *root.glob(f"**/{PREFIX}*/*.ndjson")]
    )
    os.kill(service.learner.pid, signal.SIGKILL)
    asking.join(10)
    service.wait("the process to end", lambda: _gone(asking.child), 5)
    service.learner = service.wait("another learner", lambda: running_learner(service.data_dir))
    service.wait("the rows to go", lambda: not any(path.exists() for path in left), 40)


def test_who_asks_while_an_evaluation_is_under_way_is_told_and_who_waits_when_the_service_stops_too(
    service: Service,
) -> None:
    asking = Asking(service)
    told = service.admin.post("/evaluations", json={"policies": ["uniform"]})
    assert told.status_code == 423 and "another evaluation of policies is under way" in told.json()["detail"]
    service.process.send_signal(signal.SIGTERM)
    asking.join(10)
    assert asking.answer is not None and asking.answer.status_code == 423
    assert asking.answer.headers["content-type"] == "application/problem+json"
    assert "the learner is stopping" in asking.answer.json()["detail"]
    assert service.process.wait(8) == 0 and _gone(asking.child)


def test_an_evaluation_that_is_ended_makes_room_for_the_next() -> None:
    with closing(Evaluator()) as evaluator:
        with evaluator.turn(), pytest.raises(Busy, match="another evaluation"), evaluator.turn():
            pass
        with evaluator.turn():
            pass


def test_an_evaluation_beyond_the_limits_is_refused_and_one_that_the_learner_ends_says_so() -> None:
    with closing(Evaluator()) as evaluator:
        with evaluator.turn(), pytest.raises(Refused, match=r"the evaluation took longer than training\.time_s_max"):
            evaluator.score(None, limits=Training(time_s_max=1e-3))
        found: list[Any] = []

        def ask() -> None:
            try:
                with evaluator.turn():
                    evaluator.score(None, limits=Training())
            except Exception as error:
                found.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        while not evaluator.busy:
            time.sleep(0.001)
        evaluator.close()
        asking.join(10)
        assert isinstance(found[0], Busy) and "stopping" in str(found[0])
        with pytest.raises(Busy, match="stopping"), evaluator.turn():
            pass
