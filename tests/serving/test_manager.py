"""The loop by hand: the worked example runs as it is, and stepping gives what the schedule gives."""

from __future__ import annotations

import importlib.util
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rewardloop_client import EvalScore, ExperimentManager, NotEncodable, NotFound, Refused, Unavailable

from bandit import errors
from bandit.experiment import ExperimentPaths
from serving.learner import steps
from serving.learner.challengers.offered import OFFERED_MAX, withdraw
from serving.learner.challengers.store import STANDING
from tests.serving.learner_support import World, world
from tests.serving.service_support import Service, served
from tests.serving.test_fallen import FIELD, Turning

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "step_by_step.py"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("manager")) as running:
        yield running


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("step_by_step", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_worked_example_walks_the_loop_and_asserts_the_state_after_every_step(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    earned = example().main(str(service.api.base_url), service.learner.url, batch=100, rounds=1)
    assert earned > 0.7
    told = capsys.readouterr().out
    assert "first model" in told and "'rewarded'" in told
    assert "late" not in told  # reported in time, so that no right choice is learnt as a wrong one


def test_the_same_name_goes_on_where_it_stood(service: Service) -> None:
    with ExperimentManager("step-by-step", url=str(service.api.base_url), admin_url=service.learner.url) as manager:
        status = manager.status()
        assert status.last_model is not None and status.imported == 100
        row = {"context": {}, "actions": ["a", "b"], "action": "a", "probability": 0.5, "reward": 1.0}
        with pytest.raises(Refused, match="champion already"):
            manager.initialize_first_model([row])
        assert manager.status().imported == 100
        with pytest.raises(NotFound):
            manager.get_eval_score("m20000101t000000-00000000")
        handle = manager.join(wait=False)
        assert isinstance(handle.result(30), dict) and handle.done()


def test_training_before_anything_has_matured_comes_too_early_and_is_not_forbidden(service: Service) -> None:
    with ExperimentManager("early", url=str(service.api.base_url), admin_url=service.learner.url) as manager:
        with pytest.raises(Refused, match="no interaction has matured") as refused:
            manager.train_next_model()
        assert refused.value.status == 409
        row = {"context": {}, "actions": ["a", "b"], "action": "a", "probability": 0.5, "reward": 1.0}
        first = manager.initialize_first_model([row] * 40)
        with pytest.raises(Refused, match="since the champion was made") as refused:
            manager.train_next_model()
        assert refused.value.status == 409
        with pytest.raises(Refused, match="champion already") as refused:
            manager.initialize_first_model([row])
        assert refused.value.status == 403
        assert manager.status().last_model == first


def test_managers_that_make_the_same_experiment_at_once_all_get_it(service: Service) -> None:
    def make(number: int) -> bool:
        with ExperimentManager("shared", url=str(service.api.base_url), admin_url=service.learner.url) as manager:
            return manager.status().last_model is None

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(make, range(4)))


@pytest.mark.parametrize(("step", "wrong"), [("evaluate", {"model_id": 5}), ("deploy", {"override": True})])
def test_a_step_refused_for_its_arguments_leaves_the_schedule_alone(
    service: Service, step: str, wrong: dict[str, object]
) -> None:
    urls = {"url": str(service.api.base_url), "admin_url": service.learner.url}
    with ExperimentManager(f"refused-{step}", **urls) as manager:
        answer = service.admin.post(f"{service.learner.url}/v1/experiments/refused-{step}/steps/{step}", json=wrong)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "model_id")
        assert not manager.status().schedule_paused


def test_the_first_model_is_made_by_the_step_and_not_by_the_schedule_before_it(service: Service) -> None:
    # polls are so frequent that one falls between the import and the step
    quick = {"schedule": {"poll_s": 0.02, "interval_s": 0.1}}
    row = {"context": {}, "actions": ["a", "b"], "action": "a", "probability": 0.5, "reward": 1.0}
    urls = {"url": str(service.api.base_url), "admin_url": service.learner.url}
    with ExperimentManager("first", settings=quick, **urls) as manager:
        with pytest.raises(Refused, match="no rows"):
            manager.initialize_first_model([])
        with pytest.raises(NotEncodable, match=r"context\.age is of the type numpy\.int64"):
            manager.initialize_first_model([row, row | {"context": {"age": np.int64(7)}}])
        assert not manager.status().schedule_paused
        model_id = manager.initialize_first_model([row] * 40)
        assert manager.status().last_model == model_id
    answer = service.admin.get(f"{service.learner.url}/v1/experiments/first/history?kind=run").json()
    assert [run["trigger"] for run in answer["history"]] == ["step"]
    slow = service.admin.patch(f"{service.learner.url}/v1/experiments/first", json={"schedule": {"poll_s": 60.0}})
    assert slow.status_code == 200  # the other tests' steps need not share the learner with its polls


def test_a_step_that_meets_a_full_disk_says_so_and_is_made_good_once_there_is_room(service: Service) -> None:
    service.admin.post("/pause")

    def matured(rows: int) -> None:
        service.play(30)
        service.wait("they matured", lambda: service.status()["counts"]["interactions"] >= rows)

    matured(30)
    assert service.admin.post("/steps/train").json()["learnt"] == 30
    matured(60)
    urls = {"url": str(service.api.base_url), "admin_url": service.learner.url}
    with ExperimentManager("test", **urls) as manager, room_for_files(service.learner.pid, 1):
        for path in ("/steps/train", "/export"):
            refused = service.admin.post(path, json={})
            assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        with pytest.raises(Unavailable, match="make room"):
            manager.train_next_model()
    trained = service.admin.post("/steps/train").json()
    assert trained["learnt"] == 60
    candidate = {"model_id": trained["model_id"]}
    evaluations = ExperimentPaths(service.data_dir / "experiments" / "test").evaluations
    with room_for_files(service.learner.pid, 1):
        assert service.admin.post("/steps/evaluate", json=candidate).status_code == 503
        assert list(evaluations.iterdir()) == []
    assert service.admin.post("/steps/evaluate", json=candidate).json()["rows"] == 60


@contextmanager
def room_for_files(pid: int, size: int) -> Iterator[None]:
    """Let the files of a process grow no longer than `size` bytes for the length of a block."""
    _, hard = before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_scores_have_no_order_and_say_where_the_comparison_is() -> None:
    low, high = EvalScore(0.1, 0.0, 0.2, 10), EvalScore(0.3, 0.2, 0.4, 10)
    for compare in ("__lt__", "__le__", "__gt__", "__ge__"):
        with pytest.raises(TypeError, match=r"verdict\(model_id\)"):
            getattr(low, compare)(high)
    assert low != high and low == EvalScore(0.1, 0.0, 0.2, 10)


def test_stepped_or_scheduled_the_same_rows_give_the_same_model(tmp_path: Path) -> None:
    found = []
    for stepped in (False, True):
        with world(tmp_path / str(stepped)) as here:
            registry = here.transport.cycle.workspace.registry
            while registry.champion() is None:
                here.play(200)
                turn(here, stepped)
            found.append(published(here))
    assert found[0] == found[1]


def test_stepped_or_scheduled_the_same_model_follows_a_fall_of_what_the_champion_earns(tmp_path: Path) -> None:
    found = []
    for stepped in (False, True):
        with world(tmp_path / str(stepped), challengers=FIELD) as plain:
            here = Turning(plain.transport)
            here.transport.warm_start(here.history(400))
            registry = here.transport.cycle.workspace.registry
            trials = []
            for batch in range(8):
                here.turned = batch >= 4
                here.play(100)
                turn(here, stepped)
                trials.append(registry.trial())
            (promotion,) = registry.history.entries("promotion")
            assert promotion["challenger"] == "recent"
            falls = [(fall["challenger"], fall["rows"], fall["after"]) for fall in registry.history.entries("fall")]
            assert len(falls) == here.transport.cycle.falls == 1
            found.append((published(here), falls, trials))
    assert found[0] == found[1]


def test_stepped_or_scheduled_a_fall_before_a_promotion_starts_the_field_anew_under_the_new_champion(
    tmp_path: Path,
) -> None:
    found = []
    for stepped in (False, True):
        with world(tmp_path / str(stepped), challengers=FIELD, gate={"enabled": False}) as plain:
            here = Turning(plain.transport)
            here.transport.warm_start(here.history(400))
            here.play(150)
            here.turned = True
            here.play(150)
            turn(here, stepped)
            cycle = here.transport.cycle
            (fall,) = cycle.workspace.registry.history.entries("fall")
            recent = cycle.store.load("recent")
            assert recent is not None and 130 < recent.learnt == fall["rows"] < 170
            found.append((published(here), cycle.store.files(recent)))
    assert found[0] == found[1]


def turn(here: World, stepped: bool) -> None:
    """One run of the loop over what was played, by the schedule or step by step."""
    cycle, transport = here.transport.cycle, here.transport
    transport.server.writer.seal()
    transport.clock.advance(3)
    transport.server.heartbeat()
    if stepped:
        verdict = steps.evaluate(cycle, steps.train(cycle)["model_id"])
        if verdict["best"] is not None:
            steps.deploy(cycle, verdict["best"], override=False)
    else:
        cycle.run(force=True)
    transport.server.refresh()


def published(here: World) -> dict[str, str]:
    """The digests of the champion's files."""
    registry = here.transport.cycle.workspace.registry
    champion = registry.champion()
    assert champion is not None
    return registry.manifest(champion.model_id).files


def test_a_candidate_that_a_run_has_judged_since_is_judged_by_what_is_left_of_alpha(tmp_path: Path) -> None:
    with world(tmp_path, gate={"margin": 5.0}, challengers={}) as here:
        here.transport.warm_start(here.history(60))
        cycle = here.transport.cycle
        here.play(300)
        assert here.transport.settle().outcome == "hold"
        judged = cycle.store.load(STANDING)
        assert judged is not None and judged.gate["spent"] > 0.0
        verdict = steps.evaluate(cycle, steps.train(cycle)["model_id"])
        assert (verdict["outcome"], verdict["rows"]) == ("hold", 300)
        state = cycle.store.load(STANDING)
        assert state is not None and state.gate == judged.gate


def test_a_model_without_a_promote_verdict_is_deployed_only_with_an_override(tmp_path: Path) -> None:
    with world(tmp_path, gate={"margin": 5.0}) as here:
        here.transport.warm_start(here.history(60))
        cycle = here.transport.cycle
        here.play(150)
        here.transport.server.writer.seal()
        here.transport.clock.advance(3)
        here.transport.server.heartbeat()
        candidate = steps.train(cycle)["model_id"]
        assert cycle.store.load(STANDING).champion == cycle.workspace.registry.champion().model_id  # type: ignore[union-attr]
        verdict = steps.evaluate(cycle, candidate)
        assert verdict["outcome"] in ("hold", "insufficient")
        assert steps.evaluate(cycle, candidate)["evaluation_id"] == verdict["evaluation_id"]
        with pytest.raises(errors.Refused, match="override"):
            steps.deploy(cycle, candidate, override=False)
        assert steps.deploy(cycle, candidate, override=True)["recorded"] == "override"
        with pytest.raises(errors.Refused, match="nothing to learn"):
            steps.train(cycle)


def test_a_full_field_takes_another_model_once_one_is_withdrawn(tmp_path: Path) -> None:
    with world(tmp_path, gate={"margin": 5.0}, challengers={}) as here:
        here.transport.warm_start(here.history(60))
        cycle, transport = here.transport.cycle, here.transport

        def matured() -> None:
            here.play(60)
            transport.server.writer.seal()
            transport.clock.advance(3)
            transport.server.heartbeat()

        trained = []
        for _ in range(OFFERED_MAX + 2):
            matured()
            trained.append(steps.train(cycle)["model_id"])
        matured()
        for model_id in trained[:OFFERED_MAX]:
            assert steps.evaluate(cycle, model_id)["outcome"] in ("hold", "insufficient")
        with pytest.raises(errors.Refused, match="withdraw"):
            steps.evaluate(cycle, trained[OFFERED_MAX])
        withdraw(cycle.workspace, cycle.store, trained[0])
        assert steps.evaluate(cycle, trained[OFFERED_MAX])["outcome"] in ("hold", "insufficient")
        with pytest.raises(errors.NotFound):
            withdraw(cycle.workspace, cycle.store, trained[0])
