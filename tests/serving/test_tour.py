"""The commands and Python of README, tour and docs, run as printed: only port, numbers and waiting are the test's."""

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

import httpx
import pytest

from serving.over_http import Service

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
FAST = {"REWARDS__WINDOW_S": "1", "SCHEDULE__INTERACTIONS": "50", "SCHEDULE__INTERVAL_S": "2"}
FAST |= {"SCHEDULE__POLL_S": "0.2", "SERVING__SEAL_INTERVAL_S": "0.2"}

FOLLOWED = re.compile(r"^[0-9a-f-]{36}: (waiting|rewarded)\. ", re.M)
"""What `events show` begins with; which of the two depends on how busy the machine is."""


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in one language, in order."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
    return found


def commands(page: str) -> list[str]:
    """The blocks of shell commands after the one that starts the service."""
    first, *others = blocks(page, "sh")
    assert "rewardloop up --quick" in first
    return others


class Reader:
    """Somebody in the folder of the repository, beside a service on `rewardloop-data` there."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.folder, self._service = folder, service
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
        block = block.replace("' changed'", "changed")
        for address in ("http://127.0.0.1:8000", "localhost:8000"):
            block = block.replace(address, self._service.url)
        block = re.sub(r"\bsleep \d+;", "", block)
        kept = '\nprintf "\\n%s" "$event_id" > variable'
        done = subprocess.run(
            ["sh", "-eu", "-c", block + kept],
            cwd=self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self._variables["event_id"] = (self.folder / "variable").read_text().strip()
        return done.stdout + done.stderr

    def runs(self, script: str) -> str:
        """Run a block of Python as a program; gives what it printed."""
        for printed, url in (("8000", self._service.url), ("8001", self._service.admin_url)):
            script = re.sub(rf"http://[a-z0-9.]+:{printed}", url, script)
        urls = f'url="{self._service.url}", admin_url="{self._service.admin_url}"'
        script = script.replace('ExperimentManager("shop", ', f'ExperimentManager("shop", {urls}, ')
        (self.folder / "block.py").write_text(script)
        return self.types("python block.py")

    def finds(self, command: str, key: str) -> Any:
        """What a command prints as JSON, under a key."""
        return json.loads(self.types(f"rewardloop {command} --json"))[key]

    def finds_others(self) -> list[str]:
        """The stored models that are not champion."""
        models = self.finds("models list", "models")
        return [model["model_id"] for model in models if model["role"] != "champion"]

    def pauses_the_schedule(self) -> None:
        httpx.post(f"{self._service.admin_url}/v1/experiments/default/pause").raise_for_status()
        until = time.monotonic() + 60
        while self.finds("status", "running") is not None:
            assert time.monotonic() < until, "the run under way does not end"
            time.sleep(0.2)

    def waits_for_another_champion_than(self, before: str | None) -> str:
        until = time.monotonic() + 60
        while (champion := self.finds("status", "champion")) == before:
            assert time.monotonic() < until, "nothing was promoted"
            time.sleep(0.2)
        return str(champion)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("tour")
    (folder / "rewardloop-data").mkdir()
    with pytest.MonkeyPatch.context() as variables:
        for name, value in FAST.items():
            variables.setenv(f"REWARDLOOP_{name}", value)
        with Service(folder / "rewardloop-data", log=folder / "service.log") as service:
            yield Reader(folder, service)


@pytest.mark.timeout(300)  # for a machine that is busy with other things
def test_the_commands_of_readme_and_tour_lead_from_a_decision_to_a_promotion_and_back(reader: Reader) -> None:
    (ask_and_report,) = commands("README.md")
    answer = reader.types(ask_and_report)
    assert '"model_id":"cold-start"' in answer
    assert '{"accepted":1,"errors":[]}\n' in answer
    assert FOLLOWED.search(answer)

    decide, look, report, changed, undo = commands("docs/tour.md")
    shown = reader.types(decide)
    assert "of 500 clicked" in shown and FOLLOWED.search(shown)
    first = reader.waits_for_another_champion_than(None)
    shown = reader.types(look)
    assert first in shown and " promote " in shown
    shown = reader.types(report)
    assert "every number holds" in shown and "report.html" in shown
    assert "rewarded. " in reader.types('rewardloop events show "$event_id"')

    assert "Champions: lift over the one before" in reader.types(changed)
    until = time.monotonic() + 60
    while not reader.finds_others():
        assert time.monotonic() < until, "no challenger was stored"
        time.sleep(0.2)
    reader.pauses_the_schedule()  # or else the gate may go back to the first champion before the reader does
    reader.types(f"rewardloop models promote {reader.finds_others()[0]} --override")
    assert "recorded in history" in reader.types(undo)


def test_the_python_of_readme_and_api_asks_and_reports(reader: Reader) -> None:
    (readme,), (recommender, actions, personalizer) = blocks("README.md", "python"), blocks("docs/api.md", "python")
    reader.runs(readme)
    assert reader.runs(recommender) in ("news\n", "sport\n")
    assert re.fullmatch(r"(news|art|sport) 0\.\d+\n", reader.runs(actions))
    reader.runs(personalizer)
    (curl,) = blocks("docs/api.md", "sh")
    assert '{"accepted":1,"errors":[]}\n' in reader.types(curl)


def test_the_python_that_goes_one_step_at_a_time_comes_to_its_end_and_leaves_two_experiments(reader: Reader) -> None:
    (script,) = blocks("docs/operations.md", "python")
    quick = '"rewards": {"window_s": 1}, "serving": {"seal_interval_s": 0.2}'
    assert "'rewarded'" in reader.runs(script.replace('"rewards": {"window_s": 5}', quick))
    assert "shop: " in reader.types("rewardloop status --experiment shop")
    assert "must be named" in reader.types("rewardloop status || true")


def test_the_python_of_simulator_and_joins_works_without_a_service(reader: Reader) -> None:
    (simulated,), (joined,) = blocks("docs/simulator.md", "python"), blocks("docs/joins.md", "python")
    reader.runs(simulated.replace("interactions=2000, batch=500", "interactions=200, batch=100"))
    joined = joined.replace('"rewardloop-data"', '"simulated"').replace('"default"', '"linear"')
    assert reader.runs(joined.replace('last="72h"', 'last="90000h"') + "print(len(frame))") == "300\n"
