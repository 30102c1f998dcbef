"""The real service as its own processes, clients that count only what was acknowledged, and the log read back."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from bandit.eventlog import live_heartbeats, read_events
from bandit.eventlog.survey import sealed_segments
from bandit.events import DecisionEvent, RewardEvent
from bandit.experiment import ExperimentPaths
from serving.learner.address import ServiceAddress, running_learner, running_service

ACTIONS = ("north", "east", "south", "west")
CONFIG = """
actions = [{id = "north"}, {id = "east"}, {id = "south"}, {id = "west"}]

[rewards]
window_s = 1.0

[schedule]
interval_s = 1.0
interactions = 200
poll_s = 0.1

[serving]
seal_interval_s = 0.2
control_fraction = 0.1
"""


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"within {seconds:g} s: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def service(data_dir: Path, *, workers: int = 1, killed: bool = False) -> Iterator[ServiceAddress]:
    """`rewardloop up` on free ports until the block ends; it must then leave with exit code 0, if not `killed`."""
    config = data_dir.with_suffix(".toml")
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "serving.cli", "up", "--data-dir", str(data_dir), "--config", str(config)]
    with data_dir.with_suffix(".log").open("ab") as output:
        process = subprocess.Popen(
            [*command, "--port", "0", "--admin-port", "0", "--workers", str(workers)], stdout=output, stderr=output
        )
    try:
        wait_until(lambda: _address(data_dir, process.pid), 60, "the service runs")
        address = _address(data_dir, process.pid)
        assert address is not None
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    assert code == (-signal.SIGKILL if killed else 0), data_dir.with_suffix(".log").read_text()


def _address(data_dir: Path, pid: int) -> ServiceAddress | None:
    address = running_service(data_dir)
    return address if address is not None and address.pid == pid else None


class Clients:
    """Threads that ask and reward as fast as they are answered; each event_id is sent once, never again."""

    def __init__(self, url: str, *, threads: int = 4, pause_s: float = 0.002, record: Clients | None = None) -> None:
        self.decided: dict[str, tuple[str, float]] = record.decided if record else {}
        self.rewarded: dict[str, float] = record.rewarded if record else {}
        self.failures = 0
        self._url = f"{url}/v1/experiments/default"
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(timeout=10.0, trust_env=False) as http:
            count = 0
            while not self._stop.is_set():
                event_id = f"c{number}-{time.time_ns()}-{count}"
                count += 1
                wish = rng.randrange(len(ACTIONS))
                try:
                    answer = http.post(
                        f"{self._url}/recommend",
                        json={"event_id": event_id, "context": {"wish": str(wish), "noise": rng.random()}},
                    )
                    if answer.status_code != 200:
                        raise httpx.HTTPError(str(answer.status_code))
                    chosen = answer.json()
                    self.decided[event_id] = (chosen["action"], chosen["probability"])
                    reward = float(chosen["action"] == ACTIONS[wish])
                    answer = http.post(f"{self._url}/rewards", json={"event_id": event_id, "reward": reward})
                    if answer.status_code != 200:
                        raise httpx.HTTPError(str(answer.status_code))
                    self.rewarded[event_id] = reward
                except httpx.HTTPError:
                    self.failures += 1
                time.sleep(self._pause_s)


def paths_of(data_dir: Path) -> ExperimentPaths:
    return ExperimentPaths(data_dir / "experiments" / "default")


def kill_worker(data_dir: Path) -> int:
    """kill -9 of one decision worker; its process id."""
    for heartbeat in live_heartbeats(paths_of(data_dir)):
        if heartbeat.kind == "worker":
            with contextlib.suppress(ProcessLookupError):  # the last sign of one that was killed before
                os.kill(heartbeat.pid, signal.SIGKILL)
                return heartbeat.pid
    raise AssertionError("no decision worker is alive")


def kill_learner(data_dir: Path) -> int:
    """kill -9 of the learner, once it says where it is; its process id."""
    wait_until(lambda: running_learner(data_dir), 30, "the learner runs")
    learner = running_learner(data_dir)
    assert learner is not None
    os.kill(learner.pid, signal.SIGKILL)
    return learner.pid


def kill_everything(data_dir: Path, address: ServiceAddress) -> None:
    """kill -9 of supervisor, workers and learner at once, as if the machine had gone down."""
    learner = running_learner(data_dir)
    pids = [address.pid, *(heartbeat.pid for heartbeat in live_heartbeats(paths_of(data_dir)))]
    for pid in [*pids, learner.pid] if learner else pids:
        os.kill(pid, signal.SIGKILL)


def logged(data_dir: Path) -> tuple[list[DecisionEvent], list[RewardEvent]]:
    """Every decision and every reward in the sealed segments, all of them verified."""
    events = [event for segment in sealed_segments(paths_of(data_dir).events) for event in read_events(segment)]
    return (
        [event for event in events if isinstance(event, DecisionEvent)],
        [event for event in events if isinstance(event, RewardEvent)],
    )


def each_once(ids: Sequence[str]) -> set[str]:
    """The ids as a set, after making sure that none is there twice."""
    assert len(set(ids)) == len(ids), "an event is doubled"
    return set(ids)
