"""Models offered from outside: never more than four in the field, and none that is not stored."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandit.registry import ModelRegistry
from serving.learner.admin.routes import create_admin
from serving.learner.challengers import offered
from serving.learner.challengers.offered import OFFERED_MAX, PREFIX, offer
from serving.learner.challengers.store import ChallengerState, ChallengerStore
from serving.learner.hosting import LearnerService
from serving.learner.retention import remove_old_models
from tests.serving.learner_support import paths_of, played, twin_of, world


def test_of_many_models_offered_at_once_four_join_the_field_and_the_others_are_told_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(tmp_path, 0)
    save = ChallengerStore.save

    def slowly(store: ChallengerStore, state: ChallengerState, **options: Any) -> ChallengerState:
        time.sleep(0.05)  # whoever counts meanwhile does not see it yet
        return save(store, state, **options)

    monkeypatch.setattr(ChallengerStore, "save", slowly)
    service = LearnerService(tmp_path)

    async def ask(twins: list[str]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=create_admin(service, host="127.0.0.1"))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            paths = [f"/v1/experiments/test/models/{twin}/offer" for twin in twins]
            return await asyncio.gather(*(client.post(path) for path in paths))

    try:
        service.discover()
        cycle = service.cycle("test")
        champion = cycle.workspace.registry.champion()
        assert champion is not None
        twins = [twin_of(cycle.workspace, champion.model_id, f"twin {number}") for number in range(OFFERED_MAX + 3)]
        answers = asyncio.run(ask(twins))
        assert sorted(answer.status_code for answer in answers) == [201] * OFFERED_MAX + [409] * 3
        assert "4 offered models are in the field" in next(a for a in answers if a.status_code == 409).json()["detail"]
        assert sum(name.startswith(PREFIX) for name in cycle.store.names()) == OFFERED_MAX
    finally:
        service.close()


def test_a_model_that_is_offered_while_old_ones_are_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.learner.retention.KEPT_MAX", 0)
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        workspace, store = here.transport.cycle.workspace, here.transport.cycle.store
        champion = workspace.registry.champion()
        assert champion is not None
        twin = twin_of(workspace, champion.model_id, "a twin")
        removing = threading.Thread(target=remove_old_models, args=(workspace, store))
        looked = offered._unseen_after

        def meanwhile(*args: Any) -> Any:
            removing.start()
            removing.join(0.2)
            return looked(*args)

        monkeypatch.setattr(offered, "_unseen_after", meanwhile)
        offer(workspace, store, twin)
        removing.join()
        assert twin in ModelRegistry(paths_of(tmp_path)).model_ids()
