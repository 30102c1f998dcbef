"""The page of an experiment that nobody has asked yet shows how to ask that very one, and it works as shown."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from bandit.experiment import Experiment
from bandit.settings import parse_settings
from serving.learner.admin import first_question
from tests.serving.service_support import Service, served

pytestmark = pytest.mark.external


def shown(service: Service, name: str) -> list[str]:
    """The commands on an experiment's page."""
    page = httpx.get(f"{service.learner.url}/experiments/{name}", trust_env=False).raise_for_status().text
    return [html.unescape(code) for code in re.findall(r"<pre><code>(.*?)</code></pre>", page, re.S)]


def decisions(service: Service, name: str) -> int:
    state = httpx.get(f"{service.learner.url}/v1/experiments/{name}/status", trust_env=False).json()
    return int(state["counts"]["decisions"])


def test_each_empty_experiment_shows_its_own_commands_and_they_decide_and_reward(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        settings = {"actions": [{"id": "tea"}, {"id": "coffee"}], "serving": {"seal_interval_s": 0.1}}
        made = {"name": "drinks", "settings": settings | {"schedule": {"poll_s": 0.1}}}
        httpx.post(f"{service.learner.url}/v1/experiments", json=made, trust_env=False).raise_for_status()
        for name, actions in (("test", {"news", "sport"}), ("drinks", {"tea", "coffee"})):
            curl, python = shown(service, name)
            assert f"{service.api.base_url}/v1/experiments/{name}/recommend" in curl

            def asked(command: str) -> dict:
                return json.loads(subprocess.run(command, shell=True, capture_output=True, check=True).stdout)

            service.wait("the worker knows it", lambda command=curl: "action" in asked(command), seconds=20)
            assert asked(curl)["action"] in actions
            subprocess.run([sys.executable, "-c", python], check=True, timeout=30)
            service.wait("they are joined", lambda name=name: decisions(service, name) >= 3)
            assert shown(service, name) == []


def test_where_keys_exist_the_commands_carry_one(tmp_path: Path) -> None:
    experiment = Experiment.create(tmp_path, "shop", parse_settings({}), now=datetime.now(UTC))
    assert '-H "authorization: Bearer $KEY"' in first_question.curl(experiment, None, key_needed=True)
    assert 'api_key=os.environ["KEY"]' in first_question.python(experiment, None, key_needed=True)
    for words in (first_question.curl, first_question.python):
        assert "KEY" not in words(experiment, "http://10.0.0.7:9", key_needed=False)
        assert "http://10.0.0.7:9" in words(experiment, "http://10.0.0.7:9", key_needed=False)
        compile(first_question.python(experiment, None, key_needed=True), "shown", "exec")
