"""Small files of an experiment that are lost or damaged: the learner says so, and goes on where that is honest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from serving.cli.common import now
from serving.learner.admin.routes import create_admin
from serving.learner.hosting import LearnerService
from serving.learner.models import promote_by_hand, roll_back, unset
from serving.learner.operations.doctor import run as doctor
from serving.learner.verdicts.certificates import CERTIFICATE, _sweep
from serving.learner.workspace import Workspace
from tests.serving.learner_support import copy_of, paths_of, played, twin_of


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


LOST = (
    "champion.json is lost, and by history {} is champion; restore it from a backup, or make it anew by history with "
)


@pytest.mark.parametrize("content", [None, b"{"], ids=["lost", "damaged"])
def test_a_pointer_that_is_gone_is_told_everywhere_and_is_made_anew_by_promoting_whom_history_names(
    data_dir: Path, learner: LearnerService, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    paths = paths_of(data_dir)
    registry = ModelRegistry(paths)
    first = registry.champion()
    assert first is not None
    second = twin_of(Workspace(Experiment.open(data_dir, "test"), now), first.model_id, "second")
    learner.discover()
    cycle = learner.cycle("test")
    promote_by_hand(cycle.workspace, cycle.store, cycle.trainer, second, override=True)
    champion, earlier = registry.champion(), registry.champions()
    paths.champion.unlink() if content is None else paths.champion.write_bytes(content)
    why = LOST.format(second) if content is None else "champion.json cannot be read ("
    for _ in range(3):
        learner.poll("test")
    assert [line.startswith(f"experiment test: CorruptModel: {why}") for line in told(caplog)] == [True]
    assert asked(learner, "/readyz").json()["failures"]["test"].startswith(f"CorruptModel: {why}")
    status = asked(learner, "/v1/experiments/test/status").json()
    assert status["champion"] is None and status["champion_problem"].startswith(why)
    assert status["why"].startswith(f"Nothing can change: {why}")
    for path in ("/", "/metrics", "/v1/experiments/test/models"):
        assert asked(learner, path).status_code == 200
    finding = next(each for each in doctor(cycle.workspace, replays=0)["findings"] if each["area"] == "models")
    assert finding["wrong"] and why.startswith(finding["what"][: len(why)])
    assert finding["cure"].endswith(f"`rewardloop models promote {second}`")

    answer = promote_by_hand(cycle.workspace, cycle.store, cycle.trainer, second, override=False)
    assert (answer["champion"], answer["recorded"]) == (second, "pointer")
    learner.poll("test")
    assert asked(learner, "/readyz").status_code == 200
    mended = registry.champion()
    assert mended is not None and champion is not None
    assert (mended.model_id, mended.generation, mended.reason) == (second, champion.generation, champion.reason)
    assert [each.model_id for each in registry.champions()] == [each.model_id for each in earlier]
    assert roll_back(cycle.workspace, cycle.store, cycle.trainer)["champion"] == first.model_id


def test_another_model_may_be_promoted_where_the_pointer_is_lost(data_dir: Path, learner: LearnerService) -> None:
    registry = ModelRegistry(paths_of(data_dir))
    before = registry.champion()
    assert before is not None
    other = twin_of(Workspace(Experiment.open(data_dir, "test"), now), before.model_id, "other")
    learner.discover()
    cycle = learner.cycle("test")
    paths_of(data_dir).champion.unlink()
    promote_by_hand(cycle.workspace, cycle.store, cycle.trainer, other, override=True)
    after = registry.champion()
    assert after is not None and (after.model_id, after.generation) == (other, before.generation + 1)
    assert [each.model_id for each in registry.champions()] == [before.model_id]


@pytest.mark.parametrize("damage", [(b'"kind"', b'"k\xffnd"'), (b'"verdict"', b'"verdick"')])
def test_a_certificate_that_is_damaged_is_passed_over_and_kept(
    data_dir: Path, learner: LearnerService, damage: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [each["id"] for each in asked(learner, "/v1/experiments/test/evaluations").json()["evaluations"]]
    place = paths_of(data_dir).evaluations / whole[-1] / CERTIFICATE
    place.write_bytes(place.read_bytes().replace(*damage, 1))
    answer = asked(learner, "/v1/experiments/test/evaluations")
    assert [each["id"] for each in answer.json()["evaluations"]] == whole[:-1]
    assert asked(learner, "/experiments/test").status_code == 200
    monkeypatch.setattr("serving.learner.verdicts.certificates.KEPT_MAX", 0)
    _sweep(paths_of(data_dir))
    assert place.exists()


def test_an_experiment_without_a_champion_has_lost_none(data_dir: Path, learner: LearnerService) -> None:
    learner.discover()
    cycle = learner.cycle("test")
    registry = cycle.workspace.registry
    unset(cycle.workspace, cycle.store)
    assert registry.champion() is None
    paths_of(data_dir).champion.unlink()
    assert registry.champion() is None, "history's last word is that there is none"
    registry.paths.history.unlink()
    assert registry.champion() is None, "a new experiment has neither"
