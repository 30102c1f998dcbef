"""`rewardloop serve --workers 2`: one port, a log for each worker, and a crashed one soon replaced."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from bandit.eventlog import live_heartbeats, survey
from bandit.experiment import Experiment
from tests.serving.api.support import SEVEN, decisions, make_experiment, wait_for

pytestmark = pytest.mark.slow

URL = "/v1/experiments/default/recommend"
QUESTION = {"context": {"x": 1}}
UNFINISHED = b" HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"


def ask(base: str, answered: list[str], times: int) -> None:
    """Ask on a new connection each time, as many clients would."""
    for _ in range(times):
        response = httpx.post(f"{base}{URL}", json=QUESTION, trust_env=False)
        assert response.status_code == 200
        answered.append(response.json()["event_id"])


def refuses_connections(base: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", httpx.URL(base).port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_workers_share_a_port_are_replaced_when_they_crash_and_seal_when_they_stop(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    command = [
        sys.executable,
        "-m",
        "serving.cli",
        "serve",
        "--data-dir",
        str(tmp_path),
        "--port",
        "0",
        "--workers",
        "2",
    ]
    supervisor = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        service = tmp_path / "run" / "service.json"
        wait_for(service.exists, supervisor, seconds=40)
        base = json.loads(service.read_text())["url"]
        wait_for(lambda: len(live_heartbeats(experiment.paths)) == 2, supervisor, seconds=40)
        answered: list[str] = []
        ask(base, answered, 40)
        victim, other = live_heartbeats(experiment.paths)
        os.kill(victim.pid, signal.SIGKILL)
        ask(base, answered, 40)

        def replaced() -> bool:
            return len({beat.pid for beat in live_heartbeats(experiment.paths)} - {victim.pid, other.pid}) == 1

        wait_for(replaced, supervisor, seconds=20)
        ask(base, answered, 20)
        metrics = httpx.get(f"{base}/metrics", trust_env=False).text
        assert 'worker="w0"' in metrics and 'worker="w1"' in metrics
        with socket.create_connection(("127.0.0.1", httpx.URL(base).port)) as slow:  # its request never ends
            slow.sendall(b"POST " + URL.encode() + UNFINISHED)
            started = time.monotonic()
            supervisor.send_signal(signal.SIGTERM)
            wait_for(lambda: refuses_connections(base), seconds=4)  # who comes now need not wait for the end
            assert supervisor.poll() is None
            assert supervisor.wait(timeout=15) == 0
            assert time.monotonic() - started < 10
    finally:
        if supervisor.poll() is None:
            supervisor.kill()
            supervisor.wait()
        assert supervisor.stderr is not None
        supervisor.stderr.close()
    survey(Experiment.open(tmp_path, "default").paths, now=datetime.now(UTC))  # what the killed one left open
    logged_ids = [event.event_id for event in decisions(tmp_path)]
    assert sorted(logged_ids) == sorted(answered)
    assert not list(experiment.paths.events.glob("*.open"))
