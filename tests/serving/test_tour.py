"""The shell commands of README and tour, run in order as printed: only port, numbers and waiting are the test's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.over_http import Service

ROOT = Path(__file__).parent.parent.parent
FAST = {"REWARDS__WINDOW_S": "1", "SCHEDULE__INTERACTIONS": "50", "SCHEDULE__INTERVAL_S": "2"}
FAST |= {"SCHEDULE__POLL_S": "0.2", "SERVING__SEAL_INTERVAL_S": "0.2"}


def commands(page: str) -> list[str]:
    """The blocks of shell commands after the one that starts the service."""
    first, *others = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
    assert "rewardloop up --quick" in first
    return others


class Reader:
    """Somebody in the folder of the repository, beside a service on `rewardloop-data` there."""

    def __init__(self, folder: Path, service: Service) -> None:
        self._folder, self._service = folder, service
        (folder / "examples").symlink_to(ROOT / "examples")
        for name, command in (("rewardloop", "-m serving.cli"), ("python", "")):
            tool = folder / "bin" / name
            tool.parent.mkdir(exist_ok=True)
            tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n')
            tool.chmod(0o755)
        paths = [str(ROOT), str(ROOT / "clients/python"), os.environ.get("PYTHONPATH", "")]
        tools = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self._variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PATH": tools}
        self._variables |= {"event_id": ""}

    def types(self, block: str) -> str:
        """Run a block as it stands; gives what it printed. Shell variables last from block to block."""
        block = re.sub(r"readers\.py \d+( changed|)", rf"readers.py 500 '\1' {self._service.url}", block)
        block = block.replace("localhost:8000", self._service.url).replace("' changed'", "changed")
        block = re.sub(r"\bsleep \d+;", "", block)
        kept = '\nprintf "\\n%s" "$event_id" > variable'
        done = subprocess.run(
            ["sh", "-eu", "-c", block + kept],
            cwd=self._folder,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self._variables["event_id"] = (self._folder / "variable").read_text().strip()
        return done.stdout + done.stderr

    def finds(self, command: str, key: str) -> Any:
        """What a command prints as JSON, under a key."""
        return json.loads(self.types(f"rewardloop {command} --json"))[key]

    def waits_for_another_champion_than(self, before: str | None) -> str:
        until = time.monotonic() + 30
        while (champion := self.finds("status", "champion")) == before:
            assert time.monotonic() < until, "nothing was promoted"
            time.sleep(0.2)
        return str(champion)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    for name, value in FAST.items():
        monkeypatch.setenv(f"REWARDLOOP_{name}", value)
    (tmp_path / "rewardloop-data").mkdir()
    with Service(tmp_path / "rewardloop-data", log=tmp_path / "service.log") as service:
        yield Reader(tmp_path, service)


def test_the_commands_of_readme_and_tour_lead_from_a_decision_to_a_promotion_and_back(reader: Reader) -> None:
    (ask_and_report,) = commands("README.md")
    answer = reader.types(ask_and_report)
    assert '"model_id":"cold-start"' in answer
    assert '{"accepted":1,"errors":[]}\n' in answer
    assert "It waits for rewards until" in answer

    decide, look, report, changed, undo = commands("docs/tour.md")
    shown = reader.types(decide)
    assert "of 500 clicked" in shown and "waiting" in shown
    first = reader.waits_for_another_champion_than(None)
    shown = reader.types(look)
    assert first in shown and " promote " in shown
    shown = reader.types(report)
    assert "every number holds" in shown and "report.html" in shown
    assert "rewarded. " in reader.types('rewardloop events show "$event_id"')

    assert "Champions: lift over the one before" in reader.types(changed)
    until = time.monotonic() + 20
    while not (others := [model for model in reader.finds("models list", "models") if model["role"] != "champion"]):
        assert time.monotonic() < until, "no challenger was stored"
        time.sleep(0.2)
    reader.types(f"rewardloop models promote {others[0]['model_id']} --override")
    assert "recorded in history" in reader.types(undo)
