"""The service's own log: one form of line for supervisor, workers and learner, and a stop that says why."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.serving.learner_support import paths_of
from tests.serving.service_support import served

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING|ERROR) (rewardloop\.\w+) (.+)")


def test_every_process_logs_with_time_and_level_and_the_signal_of_a_stop_is_told(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        (tmp_path / "keys.json").write_text("{")  # the worker tells that it cannot be read
        damaged = paths_of(tmp_path).events / "w8-00000001.jsonl"
        damaged.write_text("no segment\n")
        service.wait("the learner sets it aside", lambda: not damaged.exists())
        log = tmp_path / "log"
        service.wait("the worker looks", lambda: "rewardloop.api" in log.read_text())
        (tmp_path / "keys.json").unlink()
        (worker,) = service.status()["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        service.wait("it is started again", lambda: "starting it again" in log.read_text())
    banner, _, rest = log.read_text().partition("Next: ")
    assert "Decision API" in banner
    lines = [LINE.fullmatch(line) for line in rest.splitlines()[1:]]
    assert all(lines), rest
    told = [(line[2], line[1], line[3]) for line in lines if line is not None]
    assert {part for part, _, _ in told} == {f"rewardloop.{part}" for part in ("api", "learner", "supervisor")}
    (crash,) = [line for line in told if "starting it again" in line[2]]
    assert crash[:2] == ("rewardloop.supervisor", "WARNING")
    stopping = ("rewardloop.supervisor", "INFO", "stopping (SIGTERM)")
    assert told.index(stopping) < told.index(
        ("rewardloop.supervisor", "INFO", "stopped; everything acknowledged is on disk")
    )
