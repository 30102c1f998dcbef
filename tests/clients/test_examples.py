"""The examples run as they stand, against the real service."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.over_http import Service

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("examples")
    with Service(folder, log=folder.parent / "service.log") as running:
        yield running


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_the_python_example_asks_and_reports(service: Service) -> None:
    answer = said(sys.executable, str(EXAMPLES / "ask_and_report.py"), service.url)
    assert "learnable" in answer and "1 reward on disk" in answer


def test_the_python_example_shows_the_default_without_a_service() -> None:
    assert "news the default" in said(sys.executable, str(EXAMPLES / "ask_and_report.py"), "http://127.0.0.1:9")


def test_the_curl_example_asks_and_reports(service: Service) -> None:
    answer = said("sh", str(EXAMPLES / "ask_and_report.sh"), service.url)
    assert '"event_id"' in answer and '"accepted":1' in answer


@pytest.mark.external
def test_the_javascript_example_asks_and_reports(service: Service) -> None:
    node = shutil.which("node")
    assert node is not None, "node is needed for the JavaScript example"
    script = str(EXAMPLES / "ask_and_report.mjs")
    answer = said(node, script, service.url)
    assert "learnable" in answer and "1 reward on disk" in answer
    assert "the default" in said(node, script, "http://127.0.0.1:9")
