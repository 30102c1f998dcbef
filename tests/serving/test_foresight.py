"""What a promotion would publish is looked at once more: the reward model can contradict the newest version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.learner.challengers.store import STANDING
from serving.learner.operations import verify
from serving.learner.verdicts.certificates import CERTIFICATE, evaluation_folder
from tests.serving.learner_support import BEST, World, world


def run(here: World) -> Any:
    here.transport.settle()
    report = here.transport.last_report
    assert report is not None
    return report


def carried_off(here: World, rows: int) -> None:
    """The newest rows speak against all that the others say."""
    ordinary, here.pay = here.pay, lambda sky, action: float(BEST[sky] != action)  # type: ignore[method-assign]
    here.play(rows)
    here.pay = ordinary  # type: ignore[method-assign]


def certificate(here: World, evaluation_id: str) -> dict[str, Any]:
    folder = evaluation_folder(here.transport.experiment.paths, evaluation_id)
    assert folder is not None
    content: dict[str, Any] = msgspec.json.decode((folder / CERTIFICATE).read_bytes())
    return content


def newest(content: dict[str, Any]) -> dict[str, Any]:
    [check] = [check for check in content["checks"] if check["name"] == "newest_version"]
    return dict(check)


def until_promoted(here: World) -> Any:
    """The verdict that promotes, within ten runs."""
    for _ in range(10):
        here.play(100)
        [verdict] = run(here).verdicts
        if verdict.outcome == "promote":
            return verdict
    raise AssertionError(verdict.reason)


@pytest.mark.parametrize("exploration", [{"algorithm": "squarecb"}, {"algorithm": "egreedy", "epsilon": 0.3}])
def test_what_is_promoted_was_not_contradicted_by_its_reward_model(tmp_path: Path, exploration: dict[str, Any]) -> None:
    with world(tmp_path, challengers={}, exploration=exploration) as here:
        here.transport.warm_start(here.history(40))
        verdict = until_promoted(here)
        check = newest(certificate(here, verdict.evaluation_id))
        assert check["status"] == "pass" and check["value"] > 0.0
        assert not verify.run(here.transport.cycle.workspace, verdict.evaluation_id)["differences"]


def test_a_version_carried_off_by_the_newest_rows_is_held_and_its_learner_passes_once_it_is_back(
    tmp_path: Path,
) -> None:
    with world(tmp_path, challengers={}, learning={"learning_rate": 0.5}, gate={"alpha": 0.2}) as here:
        here.transport.warm_start(here.history(100))
        here.play(100)
        run(here)
        here.play(100)
        carried_off(here, 30)
        registry, store = here.transport.cycle.workspace.registry, here.transport.cycle.store
        champion = registry.champion()
        [held] = run(here).verdicts
        assert held.lower > 0.0 and held.outcome == "hold" and "held all the same" in held.reason
        assert registry.champion() == champion
        state = store.load(STANDING)
        assert state is not None and state.gate["spent"] == held.ledger["spent"] > 0.0
        check = newest(certificate(here, held.evaluation_id))
        assert check["status"] == "fail" and check["value"] < 0.0
        assert not verify.run(here.transport.cycle.workspace, held.evaluation_id)["differences"]
        until_promoted(here)
