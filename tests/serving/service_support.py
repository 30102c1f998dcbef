"""`rewardloop up` on a data directory with the world's experiment `test`, and clients for both of its ports."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bandit.experiment import Experiment
from serving.cli.common import now
from serving.learner.address import Address, ServiceAddress, running_learner, running_service
from tests.serving.learner_support import BEST, settings

QUICK = {"schedule": {"interactions": 200, "interval_s": 60.0, "poll_s": 0.1}, "serving": {"seal_interval_s": 0.1}}


class Service:
    """A running service with clients for both of its ports."""

    def __init__(self, data_dir: Path, process: subprocess.Popen[bytes], address: ServiceAddress) -> None:
        self.data_dir, self.process = data_dir, process
        learner = running_learner(data_dir)
        assert learner is not None and address.url is not None
        self.learner: Address = learner
        self.api = httpx.Client(base_url=address.url, trust_env=False, timeout=10)
        self.admin = httpx.Client(base_url=learner.url + "/v1/experiments/test", trust_env=False, timeout=60)

    def close(self) -> None:
        self.api.close()
        self.admin.close()

    def play(self, number: int, sky: str | None = None) -> float:
        total = 0.0
        for index in range(number):
            here = sky or list(BEST)[index % 4]
            body = {"context": {"sky": here}, "actions": [{"id": action} for action in BEST.values()]}
            answer = self.api.post("/v1/experiments/test/recommend", json=body).raise_for_status().json()
            reward = float(answer["action"] == BEST[here])
            total += reward
            told = {"event_id": answer["event_id"], "reward": reward}
            self.api.post("/v1/experiments/test/rewards", json=told).raise_for_status()
        return total / number

    def status(self) -> dict[str, Any]:
        state: dict[str, Any] = self.admin.get("/status").raise_for_status().json()
        return state

    def wait(self, what: str, condition: Any, seconds: float = 20) -> Any:
        until = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < until, what
            time.sleep(0.05)
        return found

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serving.cli", *arguments, "--data-dir", str(self.data_dir)]
        command += [] if arguments[0] == "learn" else ["--experiment", "test"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def served(data_dir: Path, *options: str) -> Iterator[Service]:
    """Make the experiment and run the service until the block ends; it must then leave in an orderly way."""
    Experiment.create(data_dir, "test", settings(**QUICK), now=now())
    command = [sys.executable, "-m", "serving.cli", "up", "--data-dir", str(data_dir), "--port", "0"]
    with (data_dir / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--admin-port", "0", *options], stderr=log)
    try:
        until = time.monotonic() + 40
        while (address := running_service(data_dir)) is None:
            assert process.poll() is None and time.monotonic() < until, (data_dir / "log").read_text()
            time.sleep(0.05)
        running = Service(data_dir, process, address)
        yield running
        running.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, (data_dir / "log").read_text()
    finally:
        if process.poll() is None:  # something failed: the service must not outlive its test
            process.kill()
            process.wait()
    assert running_service(data_dir) is None
