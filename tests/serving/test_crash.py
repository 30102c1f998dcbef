"""kill -9 of the real service's processes: nothing acknowledged is missing afterwards, and nothing is doubled."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

import pytest

from bandit.eventlog import survey
from bandit.experiment import Experiment
from bandit.policies import load_policy
from bandit.registry import ModelRegistry
from bandit.replay import offered_actions, replay
from bandit.types import COLD_START_MODEL_ID
from joiner.warehouse import Warehouse
from serving.cli.common import now
from tests.serving.crash_support import (
    Clients,
    each_once,
    kill_everything,
    kill_learner,
    kill_worker,
    logged,
    paths_of,
    service,
    wait_until,
)

pytestmark = pytest.mark.slow


def _assert_log_holds_what_was_acknowledged(data_dir: Path, clients: Clients) -> None:
    decisions, rewards = logged(data_dir)
    by_id = {event.event_id: event for event in decisions}
    assert set(clients.decided) <= each_once([event.event_id for event in decisions])
    assert set(clients.rewarded) <= each_once([event.event_id for event in rewards])
    for event_id, answered in clients.decided.items():
        assert (by_id[event_id].action, by_id[event_id].probability) == answered
    assert list(paths_of(data_dir).events.glob("*.open")) == []


def test_a_decision_worker_killed_mid_run_loses_and_doubles_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with service(data_dir, workers=2) as address, Clients(address.url or "") as clients:
        for _ in range(2):
            before = len(clients.rewarded)
            wait_until(lambda before=before: len(clients.rewarded) > before + 60, 30, "clients are answered")
            killed = kill_worker(data_dir)
            assert killed
        before = len(clients.rewarded)
        wait_until(lambda: len(clients.rewarded) > before + 60, 30, "clients are answered after the last kill")
    survey(paths_of(data_dir), now=now())
    assert len(clients.rewarded) > 180
    _assert_log_holds_what_was_acknowledged(data_dir, clients)


def _decided_by(data_dir: Path) -> Counter[str]:
    """How many decisions the log has of each writer."""
    found: Counter[str] = Counter()
    for path in paths_of(data_dir).events.glob("w*"):
        with contextlib.suppress(FileNotFoundError):  # sealed meanwhile
            found[path.name.rpartition("-")[0]] += path.read_bytes().count(b'"type":"decision"')
    return found


def test_a_worker_in_the_place_of_a_killed_one_gets_its_part_of_clients_that_keep_their_connections(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "data"
    with service(data_dir, workers=2) as address, Clients(address.url or "", threads=6):
        wait_until(lambda: len(+_decided_by(data_dir)) == 2, 30, "both workers decide")
        before = set(_decided_by(data_dir))
        assert kill_worker(data_dir)
        wait_until(
            lambda: sum(count for writer, count in _decided_by(data_dir).items() if writer not in before) > 50,
            30,
            "the new worker decides",
        )


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Clients]:
    """A data directory whose learner was killed again and again, then everything at once; and the clients' record."""
    data_dir = tmp_path_factory.mktemp("crash") / "data"
    with service(data_dir, killed=True) as address, Clients(address.url or "", pause_s=0.04) as clients:
        for pause_s in (0.4, 1.1):
            time.sleep(pause_s)
            kill_learner(data_dir)
        registry = ModelRegistry(paths_of(data_dir))
        wait_until(lambda: registry.champion() is not None, 70, "a model is promoted although the learner died")
        before = len(clients.rewarded)
        wait_until(lambda: len(clients.rewarded) > before + 100, 30, "decisions of the promoted model")
        kill_everything(data_dir, address)
    with service(data_dir) as address:
        with Clients(address.url or "", record=clients):
            before = len(clients.rewarded)
            wait_until(lambda: len(clients.rewarded) > before + 60, 30, "clients are answered after the restart")
        time.sleep(1.5)
    survey(paths_of(data_dir), now=now())
    return data_dir, clients


def test_a_learner_and_then_everything_killed_mid_run_loses_and_doubles_nothing(survived: tuple[Path, Clients]) -> None:
    data_dir, clients = survived
    _assert_log_holds_what_was_acknowledged(data_dir, clients)
    decisions, rewards = logged(data_dir)
    experiment = Experiment.open(data_dir, "default")
    with Warehouse(experiment) as warehouse:
        found = survey(experiment.paths, now=now())
        assert found.watermark is not None
        warehouse.ingest(found.segments)
        warehouse.join(found.watermark)
        interactions = warehouse.interactions()
    ids = each_once(list(interactions["event_id"]))
    assert ids == {event.event_id for event in decisions}
    rewarded = {event.event_id: event.reward for event in rewards}
    joined = dict(zip(interactions["event_id"], interactions["reward"], strict=True))
    assert joined == {event.event_id: rewarded.get(event.event_id, 0.0) for event in decisions}


def test_every_decision_replays_to_the_same_action_and_probability_bit_for_bit(survived: tuple[Path, Clients]) -> None:
    data_dir, _ = survived
    experiment = Experiment.open(data_dir, "default")
    registry = ModelRegistry(experiment.paths)
    decisions, _ = logged(data_dir)
    model_ids = {event.model_id for event in decisions}
    assert COLD_START_MODEL_ID in model_ids
    assert len(model_ids) >= 2
    stored = (model_ids | {event.trial_model_id for event in decisions}) - {COLD_START_MODEL_ID, None}
    policies = {model_id: load_policy(registry.load(model_id)) for model_id in stored}
    for event in decisions:
        actions = offered_actions(event, experiment.catalogue)
        assert actions is not None
        again = replay(
            event,
            actions=actions,
            policy=policies.get(event.model_id),
            settings=experiment.settings_of(event.settings_version),
            secret=experiment.secret,
            trial=policies.get(event.trial_model_id),
        )
        assert again is not None
        assert again.agrees_with(event)
    for policy in policies.values():
        policy.close()
