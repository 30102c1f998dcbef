"""Other policies are asked about the log: each only about rows that it had not learnt, and one table says one thing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from bandit.errors import InvalidInput, NotFound
from bandit.registry import ModelRegistry
from bandit.settings import ExperimentSettings
from serving.learner.training.what_if import Answered, Asked, as_table, score_policies, training_settings
from serving.sabotage import reversed_challenger
from tests.serving.learner_support import ACTIONS, World, world

SLOW = {"window_s": 100.0, "min": 0.0, "max": 1.0}


def ask(here: World, folder: Path, *policies: str) -> Answered:
    workspace = here.transport.cycle.workspace
    until = workspace.warehouse.joined_until()
    assert until is not None
    workspace.warehouse.write_training_rows(folder / "rows", after=None, until=until)
    return score_policies(Asked(workspace.experiment.paths.root, "test", folder / "rows", policies))


def judged_by(policy: str, answered: Answered) -> set[str]:
    rows = zip(answered.scores.event_id, answered.allowed[policy], strict=True)
    return {event_id for event_id, allowed in rows if allowed}


def test_a_stored_model_is_judged_on_rows_that_matured_after_its_data_whatever_time_an_import_tells(
    tmp_path: Path,
) -> None:
    with world(tmp_path, gate={"margin": 5.0}, rewards=SLOW) as here:
        here.play(20)  # decided before the data of the first model ends, and not among it
        ahead = (here.transport.clock() + timedelta(minutes=4)).isoformat()
        settled = here.transport.warm_start([row | {"decided_at": ahead} for row in here.history(20)])
        assert settled.outcome == "initial"
        here.play(20)
        here.transport.settle()
        found = ask(here, tmp_path, "champion", "uniform")
        assert judged_by("champion", found) == {f"event-{n}" for n in range(1, 41)}
        assert found.allowed["uniform"].sum() == 60


def test_a_table_may_say_the_same_twice_and_is_refused_by_the_event_of_which_it_says_two_things() -> None:
    events, pmfs = ["e1", "e2", "e1"], [[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]
    assert as_table(events, pmfs) == {"e1": [1.0, 0.0], "e2": [0.5, 0.5]}
    with pytest.raises(InvalidInput, match=r"policy table: event_id 'e2' has another pmf already \(row 3, "):
        as_table([*events, "e2"], [*pmfs, [0.0, 1.0]])


@pytest.mark.parametrize(
    "policy", ["model:none", "model:../../x", "greedy:none", "champion", "greedy:champion", "action:nowhere"]
)
def test_a_policy_that_is_not_there_is_refused_before_anything_is_learnt(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.learner.training.what_if.Learner", None)
    with world(tmp_path, rewards=SLOW) as here:
        here.play(20)
        here.transport.settle()
        with pytest.raises((InvalidInput, NotFound), match="there is no"):
            ask(here, tmp_path, "uniform", policy)


@pytest.mark.parametrize(
    ("text", "epsilon"), [(".1", 0.1), ("1.", 1.0), ("1e-3", 0.001), (".5E-1", 0.05), ("+0.5", 0.5)]
)
def test_options_are_numbers_however_people_write_them(text: str, epsilon: float) -> None:
    given = training_settings(ExperimentSettings(), f"egreedy,epsilon={text}")
    assert given.exploration.epsilon == epsilon


@pytest.mark.parametrize(
    "text", ["1_0", "nan", "inf", "0x1", ".", "e3", "1e", "٣", pytest.param("[" * 5000, id="deep")]
)
def test_what_is_no_number_is_none(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"exploration\.epsilon: must be a number, not text"):
        training_settings(ExperimentSettings(), f"egreedy,epsilon={text}")


def test_options_that_nothing_can_be_learnt_under_are_refused_as_such(tmp_path: Path) -> None:
    with world(tmp_path, rewards=SLOW) as here:
        here.play(200)
        here.transport.settle()
        with pytest.raises(InvalidInput, match="policy train: cannot be learnt"):
            ask(here, tmp_path, "train:softmax,cb_type=ips,learning_rate=1000,power_t=1,l2=1")


def test_a_sabotaged_model_is_judged_on_no_row_that_it_learnt_however_late_it_matured(tmp_path: Path) -> None:
    catalogue = [{"id": action.id} for action in ACTIONS]
    with world(tmp_path, actions=catalogue, gate={"margin": 5.0}, rewards=SLOW) as here:
        here.transport.warm_start(here.history(20))
        here.play(20)  # ten of their rewards are still on their way when the log is read
        here.transport.server.writer.seal()
        experiment = here.transport.experiment
        model_id = reversed_challenger(experiment, now=here.transport.clock())
        learnt = ModelRegistry(experiment.paths).manifest(model_id).data["rows"]
        here.transport.settle()
        here.play(10)
        here.transport.settle()
        judged = judged_by(f"model:{model_id}", ask(here, tmp_path, f"model:{model_id}"))
        assert judged == {f"event-{n}" for n in range(11, 31)} and learnt == 20 + 10
