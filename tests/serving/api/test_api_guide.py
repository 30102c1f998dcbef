"""The guide's commands do what the guide says they do."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.serving.api.support import free_port, logged, make_experiment, wait_for, worker

GUIDE = Path(__file__).parents[3] / "docs" / "api.md"


def test_the_curl_commands_of_the_guide_decide_and_reward(tmp_path: Path) -> None:
    make_experiment(tmp_path, serving={"seal_interval_s": 0.1})
    block = re.search(r"```sh\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert block is not None
    port = free_port()
    with worker(tmp_path, port):
        commands = block.group(1).replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        done = subprocess.run(["sh", "-e", "-c", commands], capture_output=True, check=True, text=True)
        decided, rewarded = map(json.loads, done.stdout.splitlines())
        assert decided["action"] in ("news", "sport") and rewarded == {"accepted": 1, "errors": []}
        wait_for(lambda: len(logged(tmp_path)) == 2)
    assert {event.event_id for event in logged(tmp_path)} == {decided["event_id"]}


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
