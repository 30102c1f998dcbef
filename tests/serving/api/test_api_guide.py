"""The guide's commands do what the guide says they do."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.serving.api.support import free_port, logged, make_experiment, wait_for, worker

GUIDE = Path(__file__).parents[3] / "docs" / "api.md"


def test_the_curl_commands_of_the_guide_decide_and_reward(tmp_path: Path) -> None:
    make_experiment(tmp_path, serving={"seal_interval_s": 0.1})
    block = re.search(r"```sh\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    commands = [part for part in re.split(r"\n# .*\n?", block.group(1)) if part.strip()]
    assert len(commands) == 2
    port = free_port()
    with worker(tmp_path, port):
        event_id = "none yet"
        answers = []
        for command in commands:
            told = command.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace("0198c3f2-…", event_id)
            done = subprocess.run(shlex.split(told), capture_output=True, check=True, text=True)
            answers.append(json.loads(done.stdout))
            event_id = answers[0]["event_id"]
        assert answers[0]["action"] in ("news", "sport") and answers[1] == {"accepted": 1, "errors": []}
        wait_for(lambda: len(logged(tmp_path)) == 2)
    assert {event.event_id for event in logged(tmp_path)} == {event_id}


@pytest.mark.external
def test_javascripts_fetch_decides_and_rewards(tmp_path: Path) -> None:
    make_experiment(tmp_path, serving={"seal_interval_s": 0.1})
    block = re.search(r"```js\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    port = free_port()
    script = tmp_path / "example.mjs"
    script.write_text(block.group(1).replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    with worker(tmp_path, port):
        subprocess.run(["node", str(script)], check=True, capture_output=True)
        wait_for(lambda: len(logged(tmp_path)) == 2)
