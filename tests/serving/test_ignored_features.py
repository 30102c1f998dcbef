"""Features that are ignored stay in the log and out of everything that is learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bandit.experiment import Experiment
from serving.cli.common import now
from serving.learner import models
from serving.learner.challengers.store import STANDING
from serving.learner.operations import verify
from serving.learner.operations.erase import run as erase
from serving.learner.verdicts.certificates import evaluations
from serving.learner.workspace import Workspace
from tests.serving.learner_support import World, world
from tests.serving.test_changed_settings import change, play_as, standing

PEOPLE = [f"person-{number:02}-of-sixty" for number in range(60)]
DECLARED: dict[str, Any] = {"subject_field": "user"}


def play(here: World, number: int) -> None:
    play_as(here, [PEOPLE[index % 60] for index in range(number)])


def learn_until_promoted(here: World) -> str:
    for _ in range(8):
        play(here, 200)
        champion = here.transport.cycle.workspace.registry.champion()
        if champion is not None:
            return champion.model_id
    raise AssertionError("nothing was promoted")


def features_of(here: World, model_id: str) -> set[str]:
    """What `models show` says that a model has learnt from."""
    return {each["feature"] for each in models.show(here.transport.cycle.workspace, model_id)["encoding"]}


def holding(data_dir: Path, name: str) -> set[str]:
    return {path.name for path in data_dir.rglob("*") if path.is_file() and name.encode() in path.read_bytes()}


def test_an_ignored_subject_is_logged_and_counted_and_in_no_model_so_that_erasing_leaves_nothing(
    tmp_path: Path,
) -> None:
    with world(tmp_path, serving=DECLARED, encoding={"ignore": ["user"]}) as here:
        champion = learn_until_promoted(here)
        assert features_of(here, champion) == {"sky"}
        workspace = here.transport.cycle.workspace
        assert set(workspace.warehouse.interactions()["subject"]) == set(PEOPLE)
        encoders = [path.read_bytes() for path in workspace.experiment.paths.root.rglob("encoder.json")]
        assert encoders and not any(b"person-" in text or b'"path": "user"' in text for text in encoders)
        for known in evaluations(workspace.experiment.paths):
            assert verify.run(workspace, known["id"])["differences"] == [], known
    workspace = Workspace(Experiment.open(tmp_path, "test"), now)
    try:
        assert erase(workspace, subject=PEOPLE[3], confirmed=True)["erased"]
    finally:
        workspace.close()
    assert holding(tmp_path, PEOPLE[3]) == set()
    assert holding(tmp_path, PEOPLE[4]) > {"warehouse.duckdb"}


def test_a_subject_is_learnt_until_it_is_ignored_and_then_the_whole_log_is_learnt_anew(tmp_path: Path) -> None:
    with world(tmp_path, serving=DECLARED) as here:
        first = learn_until_promoted(here)
        assert features_of(here, first) == {"sky", "user"}
        stored = here.transport.cycle.workspace.registry.load(first)
        assert "ignore" not in stored.manifest.options["encoding"]
        change(here, encoding={"ignore": ["user"]})
        play(here, 200)
        state, _ = standing(here)
        assert state.learnt == here.transport.cycle.workspace.warehouse.counts()["interactions"]
        files = here.transport.cycle.store.files(state)
        assert [spec["path"] for spec in msgspec.json.decode(files["encoder.json"])["context"]] == ["sky"]
        old = here.transport.cycle.workspace.registry.load(first)
        assert old.manifest == stored.manifest and old.files == stored.files


def test_a_challenger_with_an_encoding_of_its_own_ignores_what_the_experiment_ignores(tmp_path: Path) -> None:
    own = {"plain": {"window_interactions": 100, "every_interactions": 50, "encoding": {"interactions": "linear"}}}
    with world(tmp_path, serving=DECLARED, encoding={"ignore": ["user"]}, challengers=own) as here:
        learn_until_promoted(here)
        play(here, 200)
        store = here.transport.cycle.store
        for name in (STANDING, "plain"):
            state = store.load(name)
            assert state is not None
            encoder = msgspec.json.decode(store.files(state)["encoder.json"])
            assert encoder["encoding"]["ignore"] == ["user"], name
            assert [spec["path"] for spec in encoder["context"]] == ["sky"], name
