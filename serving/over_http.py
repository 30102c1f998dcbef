"""A running service as a simulated world's transport: questions and rewards through the SDK, like any client app.

`Service` starts `rewardloop up` on a data directory and stops it; `OverHttp` plays batches against a running
service and waits, by its admin API's status, until the learner has spoken and every worker serves its champion.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from bandit.errors import Refused, RewardloopError
from bandit.types import COLD_START_MODEL_ID
from serving.asking import ask
from serving.learner.address import running_learner
from simulator.client_app import ClientApp
from simulator.transport import Answer, Deliveries, Question, Settled

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
SETTLE_TIMEOUT_S = 90.0
POLL_S = 0.1


class ServiceFailed(RewardloopError):
    """The service did not start, or did not get on; the message says where its log is."""


class Service:
    """`rewardloop up` on free ports as a child process; a context manager that stops it in an orderly way."""

    def __init__(self, data_dir: Path, *, log: Path) -> None:
        self.data_dir = data_dir
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.admin_url = ""

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until decision API and admin API answer; raises `ServiceFailed`."""
        found = self.data_dir / "run" / "service.json"
        found.unlink(missing_ok=True)
        command = [sys.executable, "-m", "serving.cli", "up", "--data-dir", str(self.data_dir)]
        command += ["--host", "127.0.0.1", "--port", "0", "--admin-port", "0"]
        root = str(Path(__file__).parent.parent)
        with self._log.open("ab") as log:
            # a session of its own: Ctrl-C in the terminal reaches the caller alone, who then stops the service
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=root, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not found.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ServiceFailed(f"the service did not start; its log: {self._log}")
            time.sleep(POLL_S)
        where = json.loads(found.read_bytes())
        self.url, self.admin_url = where["url"], where["admin_url"]

    @property
    def running(self) -> bool:
        """Whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> None:
        """Sleep until the service ends."""
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, which drains and seals; SIGKILL to the whole group when that takes too long."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._process = None


class Admin:
    """The admin API of the learner that runs on a data directory, found anew when the learner restarts.

    A context manager; `close` it otherwise.
    """

    def __init__(self, data_dir: Path, experiment: str) -> None:
        self._data_dir = data_dir
        self._path = f"/v1/experiments/{experiment}"
        # one client for all polls: making one costs more than a hundred requests
        self._http = httpx.Client(timeout=SETTLE_TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def status(self) -> dict[str, Any] | None:
        """The experiment's status, None while no learner answers."""
        address = running_learner(self._data_dir)
        if address is None:
            return None
        try:
            response = self._http.get(
                f"{address.url}{self._path}/status", headers={"Authorization": f"Bearer {address.token}"}
            )
        except httpx.TransportError:
            return None
        if response.status_code >= 500:
            return None
        response.raise_for_status()
        status: dict[str, Any] = response.json()
        return status

    def train(self) -> dict[str, Any]:
        """Run a cycle now and wait for its report."""
        return self._post("/models/train")

    def offer(self, model_id: str) -> dict[str, Any]:
        """Offer a published model as a challenger."""
        return self._post(f"/models/{model_id}/offer")

    def import_history(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Import logged rows."""
        address = running_learner(self._data_dir)
        if address is None:
            raise ServiceFailed("no learner answers")
        response = self._http.post(
            f"{address.url}{self._path}/import",
            content=b"".join(json.dumps(row).encode() + b"\n" for row in rows),
            headers={"Authorization": f"Bearer {address.token}", "Content-Type": "application/x-ndjson"},
        )
        if not response.is_success:
            raise ServiceFailed(f"the import was refused with status {response.status_code}")
        report: dict[str, Any] = response.json()
        return report

    def _post(self, path: str) -> dict[str, Any]:
        address = running_learner(self._data_dir)
        if address is None:
            raise ServiceFailed("no learner answers")
        return ask(address, "POST", self._path + path)


class OverHttp:
    """The transport over HTTP; see `simulator.transport.Transport`.

    `expected_batch` is the experiment's `schedule.interactions`: full batches start the learner by themselves,
    a shorter last one is trained on demand. `on_phase` is told what is being waited for.
    """

    def __init__(
        self,
        app: ClientApp,
        admin: Admin,
        *,
        expected_batch: int,
        on_phase: Callable[[str], None] | None = None,
        on_answer: Callable[[int, Answer], None] | None = None,
    ) -> None:
        self._app = app
        self.admin = admin
        self._expected_batch = expected_batch
        self._on_phase = on_phase or (lambda _: None)
        self._on_answer = on_answer
        self._played = 0
        self._short = False
        self._runs = 0
        self.last_report: dict[str, Any] = {}

    def warm_start(self, history: Sequence[Mapping[str, Any]]) -> Settled:
        """Import `history`, train the initial model, and wait until it serves."""
        self._on_phase("importing history")
        report = self.admin.import_history(history)
        if report.get("imported") != len(history):
            raise ServiceFailed(f"of {len(history)} rows of history {report.get('imported')} were imported")
        self._on_phase("training the initial model")  # which the learner does by itself when history comes first
        return self._settled(self._wait(lambda status: status["runs"] > self._runs))

    def play(self, questions: Sequence[Question], deliveries: Deliveries) -> list[Answer]:
        """Ask and reward through the client app."""
        self._on_phase("asking")
        answers = self._app.play(questions, deliveries, self._on_answer)
        self._played += len(answers)
        self._short = len(answers) < self._expected_batch
        return answers

    def settle(self) -> Settled:
        """Wait for the verdict on all that was played, and for its champion to serve everywhere."""
        self._on_phase("waiting for the reward window to close")
        status = self._wait(lambda status: status["counts"]["interactions"] >= self._played)
        if self._short and status["runs"] <= self._runs:
            self.admin.train()
        self._on_phase("training and evaluating")
        return self._settled(self._wait(lambda status: status["runs"] > self._runs))

    def _wait(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            status = self.admin.status()
            if status is not None and done(status) and _served(status):
                return status
            time.sleep(POLL_S)
        raise ServiceFailed(f"no verdict within {SETTLE_TIMEOUT_S:.0f} s of the batch's end")

    def _settled(self, status: dict[str, Any]) -> Settled:
        self._runs = status["runs"]
        self.last_report = status["last_run"]
        return Settled.of(status["last_run"], status["champion"])


class DecisionsOnly:
    """The transport for a service of which only the decision API is at hand: no history, no barrier, no verdicts.

    A promotion is seen when the answers begin to carry another model; what else the learner said stays unknown.
    """

    def __init__(self, app: ClientApp, *, on_answer: Callable[[int, Answer], None] | None = None) -> None:
        self._app = app
        self._on_answer = on_answer
        self._models: list[str] = []

    def warm_start(self, history: Sequence[Mapping[str, Any]]) -> Settled:
        """Refuse: history is imported through the learner; raises `Refused`."""
        raise Refused("history cannot be imported through the decision API; use `rewardloop import`")

    def play(self, questions: Sequence[Question], deliveries: Deliveries) -> list[Answer]:
        """Ask and reward through the client app."""
        answers = self._app.play(questions, deliveries, self._on_answer)
        self._models += [answers[0].model_id, answers[-1].model_id][bool(self._models) :]
        return answers

    def settle(self) -> Settled:
        """What can be seen from outside: whether another model serves."""
        before, now = self._models[-2:][0], self._models[-1]
        changed = before not in (now, COLD_START_MODEL_ID)
        return Settled("promote" if changed else "unknown", "seen from outside", now, heard=False)


def _served(status: Mapping[str, Any]) -> bool:
    """Whether every worker decides by the present champion and the present trial, at its present share."""
    workers, trial = status["workers"], status["trial"] or {}
    wanted = status["champion"], trial.get("share"), trial.get("learnt")
    return bool(workers) and all(
        (worker["model_id"], worker["counters"].get("trial_share"), worker["counters"].get("trial_learnt")) == wanted
        for worker in workers
    )
