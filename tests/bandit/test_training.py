"""Progressive learning: scored before learnt, the same however it is cut into steps, resumable, poison-proof."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from bandit.canaries import answer_canaries
from bandit.encoder import ENCODER_VERSION
from bandit.errors import CorruptModel, TrainingFailed
from bandit.experiment import ExperimentPaths
from bandit.frozen import Frozen
from bandit.policies import (
    STATE_VERSION,
    BaselinePolicy,
    FixedActionPolicy,
    UniformPolicy,
    cold_start_policy,
    load_policy,
    policy_from_files,
    read_state,
)
from bandit.registry import ModelRegistry
from bandit.scoring import RewardScale, Scores
from bandit.settings import ExperimentSettings, Rewards, merge_settings
from bandit.side_learner import SideLearner
from bandit.training import History, Learning
from bandit.types import Action, Interaction
from bandit.vw_policy import KNOWN_ROWS
from tests.bandit.worlds import ACTIONS, greedy_accuracy, rows_of, settings

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def rows() -> list[Interaction]:
    return rows_of(UniformPolicy(), 900, seed=5)


def learnt(
    rows: Sequence[Interaction], cuts: Sequence[int], chosen: ExperimentSettings
) -> tuple[Learning, list[Scores]]:
    """Learn `rows` in steps that end at `cuts`, with the rows before each as its history."""
    learning = Learning.fresh(chosen, [])
    scores = []
    start = 0
    for cut in [*cuts, len(rows)]:
        past = list(rows[:start])
        scores.append(
            learning.step(rows[start:cut], champion=None, champion_id=None, history=lambda past=past: past)  # type: ignore[misc]
        )
        start = cut
    return learning, scores


def test_steps_of_any_size_come_to_the_same_model_and_scores(rows: list[Interaction]) -> None:
    whole, (all_scores,) = learnt(rows, [], settings())
    parts, part_scores = learnt(rows, [100, 130, 600], settings())
    assert whole.files()["encoder.json"] == parts.files()["encoder.json"]
    assert whole.files()["policy.vw"] == parts.files()["policy.vw"]
    assert np.array_equal(all_scores.candidate, np.concatenate([s.candidate for s in part_scores]))
    assert np.array_equal(all_scores.q, np.concatenate([s.q for s in part_scores]))
    whole.close()
    parts.close()


def test_learning_resumes_where_it_was_saved(rows: list[Interaction]) -> None:
    straight, _ = learnt(rows, [400], settings())
    first, _ = learnt(rows[:400], [], settings())
    resumed = Learning.resume(first.files(), settings())
    first.close()
    resumed.step(rows[400:], champion=None, champion_id=None, history=lambda: rows[:400])
    assert resumed.rows_learnt == 900
    for row in rows[:50]:
        assert resumed.policy.pmf(row.context, row.actions) == straight.policy.pmf(row.context, row.actions)
        assert resumed.reward_model.costs(row.context, row.actions) == straight.reward_model.costs(
            row.context, row.actions
        )
    assert resumed.files() == straight.files()
    straight.close()
    resumed.close()


def test_a_row_is_scored_before_it_is_learnt(rows: list[Interaction]) -> None:
    learning = Learning.fresh(settings(), [])
    scores = learning.step(rows[:1], champion=None, champion_id=None)
    assert scores.candidate.tolist() == [0.25] * 4
    assert scores.q.tolist() == [0.0] * 4
    again = learning.step(rows[:1], champion=None, champion_id=None)
    assert again.candidate.tolist() != [0.25] * 4 or rows[0].reward == 0.0
    learning.close()


def test_scores_line_up_with_the_rows(rows: list[Interaction]) -> None:
    mixed = [replace(row, actions=row.actions[: 2 + i % 3], index=0, pmf=None) for i, row in enumerate(rows[:60])]
    learning = Learning.fresh(settings(), [])
    scores = learning.step(mixed, champion=UniformPolicy(), champion_id="u")
    assert scores.offsets.tolist() == np.cumsum([0] + [len(row.actions) for row in mixed]).tolist()
    assert np.add.reduceat(scores.candidate, scores.offsets[:-1]) == pytest.approx(1.0)
    assert np.isnan(scores.pmf).all()
    assert scores.event_id == [row.event_id for row in mixed]
    assert scores.cluster is None
    learning.close()


def test_learning_without_scoring_learns_the_same(rows: list[Interaction]) -> None:
    scored, _ = learnt(rows[:300], [], settings())
    silent = Learning.fresh(settings(), [])
    scores = silent.step(rows[:300], champion=None, champion_id=None, history=lambda: [], score=False)
    assert len(scores.event_id) == 0 and scores.offsets.tolist() == [0]
    for row in rows[:30]:
        assert silent.policy.pmf(row.context, row.actions) == scored.policy.pmf(row.context, row.actions)
    scored.close()
    silent.close()


def test_the_encoder_is_fitted_again_as_the_rows_double(rows: list[Interaction]) -> None:
    learning, _ = learnt(rows, [], settings())
    assert learning.encoder.rows == 800
    assert learning.rows_learnt == 900
    learning.close()
    kept = Learning.fresh(settings(), rows[:100])
    kept.step(rows, champion=None, champion_id=None)
    assert kept.encoder.rows == 100
    kept.close()


def test_a_refit_that_is_due_after_the_last_row_waits_for_no_further_one(rows: list[Interaction]) -> None:
    learning, _ = learnt(rows[:200], [], settings())
    assert learning.encoder.rows == learning.rows_learnt == learning.policy.rows_learnt == 200
    learning.close()


def test_a_short_log_is_read_as_often_as_the_settings_say(rows: list[Interaction]) -> None:
    known = {}
    for passes in (1, 2):
        learning, _ = learnt(rows[:100], [], merge_settings(settings(), {"learning": {"passes": passes}}))
        row = next(row for row in rows[:100] if row.reward > 0)
        known[passes] = learning.policy.pmf(row.context, row.actions)[row.index]
        assert learning.policy.rows_learnt == 100 and max(learning.policy.action_counts.values()) <= KNOWN_ROWS
        learning.close()
    assert known[2] > known[1]


def test_it_learns_an_interaction_of_two_numbers(rows: list[Interaction]) -> None:
    learning, _ = learnt(rows, [], settings())
    assert greedy_accuracy(learning.policy, seed=9, count=500) > 0.85
    mistakes = []
    for row in rows_of(UniformPolicy(), 300, seed=10):
        predicted = -learning.reward_model.costs(row.context, row.actions)[row.index]
        mistakes.append((predicted - row.reward) ** 2)
    assert np.mean(mistakes) < 0.1  # always answering the mean has 0.1875
    learning.close()


def test_the_champions_probabilities_come_from_its_log(rows: list[Interaction]) -> None:
    champion, _ = learnt(rows[:300], [], settings())
    log = rows_of(champion.policy, 120, seed=6, model_id="champion")
    assert champion.policy.pmf(log[0].context, log[0].actions) == list(log[0].pmf or ())
    learning = Learning.fresh(settings(), [])
    scores = learning.step(log, champion=champion.policy, champion_id="champion")
    assert np.array_equal(scores.champion, scores.pmf)
    learning.close()
    champion.close()


@pytest.mark.parametrize("change", ["model", "slice", "mode", "pmf", "lie"])
def test_other_rows_are_asked_again(change: str, rows: list[Interaction]) -> None:
    champion, _ = learnt(rows[:300], [], settings())
    log = rows_of(champion.policy, 20, seed=6, model_id="champion")
    uniform = (0.25,) * 4
    changed = {
        "model": {"model_id": "earlier", "pmf": uniform},
        "slice": {"slice": "control", "pmf": uniform},
        "mode": {"mode": "apprentice", "pmf": uniform},
        "pmf": {"pmf": None},
        "lie": {"pmf": uniform},  # found by the spot check on the first row
    }[change]
    learning = Learning.fresh(settings(), [])
    scores = learning.step([replace(row, **changed) for row in log], champion=champion.policy, champion_id="champion")  # type: ignore[arg-type]
    expected = [p for row in log for p in champion.policy.pmf(row.context, row.actions)]
    assert scores.champion.tolist() == expected
    learning.close()
    champion.close()


def test_a_mixture_is_never_taken_for_the_champion(rows: list[Interaction]) -> None:
    champion, _ = learnt(rows[:300], [], settings())
    log = [replace(row, pmf=(0.25,) * 4) for row in rows_of(champion.policy, 20, seed=6, model_id="champion")]
    learning = Learning.fresh(settings(serving={"control_fraction": 0.1}), [])
    scores = learning.step(log, champion=champion.policy, champion_id="champion")
    assert scores.champion.tolist() == [p for row in log for p in champion.policy.pmf(row.context, row.actions)]
    learning.close()
    champion.close()


def test_changed_settings_hold_from_the_next_relearning_on(rows: list[Interaction]) -> None:
    before, _ = learnt(rows[:300], [], settings())
    changed = settings(exploration={"algorithm": "bag"}, learning={"learning_rate": 1.0})
    resumed = Learning.resume(before.files(), changed)
    before.close()
    assert resumed.policy.exploration.algorithm == "squarecb"
    resumed.step(rows[300:310], champion=None, champion_id=None, history=lambda: rows[:300])
    assert resumed.policy.exploration.algorithm == "squarecb"
    resumed.step(rows[310:420], champion=None, champion_id=None, history=lambda: rows[:310])
    assert resumed.policy.exploration.algorithm == "bag"
    assert resumed.rows_learnt == 420
    resumed.close()


@pytest.mark.parametrize("changed", [{"exploration": {"algorithm": "bag"}}, {"rewards": {"min": 0.0, "max": 10.0}}])
def test_learning_resumed_under_other_settings_comes_out_alike_however_the_rows_were_cut(
    rows: list[Interaction], changed: dict[str, Any]
) -> None:
    before, _ = learnt(rows[:300], [], settings())
    files, other = before.files(), settings(**changed)
    before.close()
    found = []
    for cuts in ([300, 450], [300, 310, 450], [300, 390, 405, 450]):
        here, q = files, []
        for start, stop in pairwise(cuts):
            resumed = Learning.resume(here, other)
            past: History | None = partial(list, rows[:start]) if stop > read_state(here).refit_at else None
            q += resumed.step(rows[start:stop], champion=None, champion_id=None, history=past).q.tolist()
            here = resumed.files()
            resumed.close()
        found.append((q, here))
    assert found[0] == found[1] == found[2]


def test_a_published_model_is_the_one_that_was_trained(rows: list[Interaction], tmp_path: Path) -> None:
    learning, _ = learnt(rows, [], settings())
    (tmp_path / "models").mkdir()
    registry = ModelRegistry(ExperimentPaths(tmp_path), durable=False)
    files = learning.files()
    manifest = registry.publish(
        files,
        now=NOW,
        parent=None,
        kind="initial",
        options=learning.options(),
        settings_version=1,
        data={},
        canaries=learning.canaries(rows),
    )
    stored = registry.load(manifest.model_id)
    policy = load_policy(stored)
    for row in rows[:100]:
        assert policy.pmf(row.context, row.actions) == learning.policy.pmf(row.context, row.actions)
    frozen = Frozen.load(stored)
    scores = frozen.score(rows[:50], settings(), champion=None, champion_id=None)
    frozen.close()
    assert scores.candidate.tolist() == [p for row in rows[:50] for p in policy.pmf(row.context, row.actions)]
    assert len(stored.manifest.canaries) == 8
    policy.close()
    learning.close()

    wrong = dataclasses.replace(
        stored, files={**files, "encoder.json": Learning.fresh(settings(), []).encoder.to_json()}
    )
    with pytest.raises(CorruptModel):
        load_policy(wrong)
    truncated = dataclasses.replace(stored, files={**files, "policy.vw": files["policy.vw"][:-4000]})
    with pytest.raises(CorruptModel):
        load_policy(truncated)
    with pytest.raises(CorruptModel, match=r"state\.json"):
        policy_from_files({name: data for name, data in files.items() if name != "state.json"})


@pytest.mark.parametrize("algorithm", ["squarecb", "egreedy", "bag", "cover"])
def test_asking_for_canaries_leaves_the_next_files_as_they_would_have_been(
    algorithm: str, rows: list[Interaction]
) -> None:
    def later(asks: bool) -> dict[str, bytes]:
        learning, _ = learnt(rows[:300], [], settings(exploration={"algorithm": algorithm}))
        files = learning.files()
        if asks:
            canaries = learning.canaries(rows[280:300], files)
            stored = policy_from_files(files)
            assert [canary["pmf"] for canary in canaries] == answer_canaries(stored, canaries)
            stored.close()
        learning.step(rows[300:350], champion=None, champion_id=None)
        then = learning.files()
        learning.close()
        return then

    assert later(asks=True) == later(asks=False)


@pytest.mark.parametrize(("name", "version"), [("state.json", STATE_VERSION), ("encoder.json", ENCODER_VERSION)])
def test_a_model_of_another_release_is_refused_with_what_to_do(
    name: str, version: int, rows: list[Interaction]
) -> None:
    learning, _ = learnt(rows[:60], [], settings())
    files = learning.files()
    learning.close()
    files[name] = files[name].replace(b'"version": %d' % version, b'"version": 1', 1)
    told = rf"{name} has version 1, and this release reads {version}; .*models unset"
    for read in (policy_from_files, lambda files: Learning.resume(files, settings())):
        with pytest.raises(CorruptModel, match=told):
            read(files)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_poisoned_reward_stops_the_training(reward: float, rows: list[Interaction]) -> None:
    learning = Learning.fresh(settings(), [])
    with pytest.raises(TrainingFailed):
        learning.step([replace(rows[0], reward=reward)], champion=None, champion_id=None)
    learning.close()


def test_extreme_rewards_and_features_leave_a_working_model(rows: list[Interaction]) -> None:
    learning, _ = learnt(rows[:450], [], settings())
    hostile = [
        replace(row, reward=1e39, propensity=1e-10, pmf=None, context={"x": 1e300, "y": -1e300}) for row in rows[:20]
    ]
    learning.step(hostile, champion=None, champion_id=None)
    learning.step(rows[450:], champion=None, champion_id=None)
    assert greedy_accuracy(learning.policy, seed=9, count=300) > 0.75
    learning.close()


def test_rewards_are_scaled_by_their_declared_range() -> None:
    scale = RewardScale.of(Rewards(min=0.0, max=100.0, default=20.0))
    assert scale.cost(20.0) == 0.0
    assert scale.cost(100.0) == -1.0
    assert scale.cost(1e9) == -1.0
    assert scale.rewards(np.array([scale.cost(55.0), -1e9, 1e9])) == pytest.approx([55.0, 100.0, 0.0])


def test_the_simple_policies_do_what_they_say() -> None:
    assert UniformPolicy().pmf({}, ACTIONS) == [0.25] * 4
    assert BaselinePolicy(0.2).pmf({}, ACTIONS) == pytest.approx([0.85, 0.05, 0.05, 0.05])
    assert BaselinePolicy().pmf({}, ACTIONS) == [1.0, 0.0, 0.0, 0.0]
    assert FixedActionPolicy("a2").pmf({}, ACTIONS) == [0.0, 0.0, 1.0, 0.0]
    assert FixedActionPolicy("gone").pmf({}, (Action("b"), Action("c"))) == [0.5, 0.5]
    assert cold_start_policy(settings().serving).pmf({}, ACTIONS) == [0.25] * 4
    chosen = settings(serving={"cold_start": "baseline", "cold_start_exploration": 0.2})
    assert cold_start_policy(chosen.serving).pmf({}, ACTIONS) == pytest.approx([0.85, 0.05, 0.05, 0.05])
    with pytest.raises(ValueError, match="exploration"):
        BaselinePolicy(1.5)


@pytest.mark.parametrize("algorithm", ["squarecb", "cover"])
def test_two_cores_learn_what_one_does(
    algorithm: str, rows: list[Interaction], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[SideLearner] = []

    class Counted(SideLearner):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    alone, (one,) = learnt(rows, [], settings(exploration={"algorithm": algorithm}))
    monkeypatch.setattr("bandit.training.SIDE_ROWS_MIN", 300)
    monkeypatch.setattr("bandit.training.SideLearner", Counted)
    both, (two,) = learnt(rows, [], settings(exploration={"algorithm": algorithm}, training={"cores": 2}))
    assert len(started) == 1, "what is learnt anew is learnt by the process that is there"
    assert np.array_equal(one.q, two.q) and np.array_equal(one.candidate, two.candidate)
    assert alone.files() == both.files()
    alone.close()
    both.close()


def test_a_reward_model_whose_process_dies_fails_the_training_with_its_last_words(rows: list[Interaction]) -> None:
    learning, _ = learnt(rows[:100], [], settings())
    side = SideLearner()
    side.take(learning.reward_model, learning.settings.learning)
    side._process.kill()
    side._process.wait()
    with pytest.raises(TrainingFailed, match="exit code -9"):
        side.model()
    side.close()
    learning.close()
