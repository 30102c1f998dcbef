"""Small files of an experiment that are lost or damaged: the learner says so, and goes on where that is honest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.learner.admin import create_admin
from serving.learner.hosting import LearnerService
from tests.serving.learner_support import copy_of, paths_of, played


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(tmp_path_factory.mktemp("damaged-files") / "data", 3)


@pytest.fixture
def data_dir(healthy: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return copy_of(healthy, tmp_path)


@pytest.fixture
def learner(data_dir: Path) -> Iterator[LearnerService]:
    """A learner on it that polls when it is told to."""
    service = LearnerService(data_dir)
    yield service
    service.close()


def asked(service: LearnerService, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_admin(service, host="127.0.0.1"))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path)

    return asyncio.run(ask())


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_the_learner_learns_on_without_the_secret_and_says_once_that_it_is_damaged(
    data_dir: Path, learner: LearnerService, caplog: pytest.LogCaptureFixture
) -> None:
    secret = paths_of(data_dir).secret
    whole = secret.read_bytes()
    secret.write_bytes(whole[:3])
    learner.discover()
    for _ in range(3):
        learner.poll("test")
    answer = asked(learner, "/readyz")
    assert answer.status_code == 503
    assert answer.json()["failures"]["test"].startswith(
        "CorruptSecret: the file `secret` does not hold 64 hexadecimal digits"
    )
    assert len(told(caplog)) == 1
    status: dict[str, Any] = asked(learner, "/v1/experiments/test/status").json()
    assert status["counts"]["interactions"] == 240 - 60 and status["watermark"]
    secret.write_bytes(whole)
    learner.poll("test")
    assert asked(learner, "/readyz").status_code == 200
