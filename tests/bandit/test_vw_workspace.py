"""What VW learns, tells and stores: whole texts or chosen actions alone, counted or not, to the bit."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from msgspec.structs import replace
from vowpalwabbit import Workspace

from bandit.encoder import FeatureEncoder
from bandit.errors import CorruptModel, InvalidRequest, InvalidSettings, TrainingFailed
from bandit.example_text import RowTexts
from bandit.policies import UniformPolicy
from bandit.settings import Algorithm, Encoding, Exploration, Learning, parse_settings
from bandit.types import Action, Interaction
from bandit.vw_options import WEIGHT_UNIT, policy_arguments
from bandit.vw_policy import REGRESSION_IMPORTANCE_MAX, VWPolicy, learnt_propensity
from bandit.vw_workspace import VWWorkspace, header_bytes, uncounted
from tests.bandit.worlds import ACTIONS, rows_of

ALGORITHMS = get_args(Algorithm)


def encoder_of(rows: list[Interaction]) -> FeatureEncoder:
    return FeatureEncoder.fit([row.context for row in rows], [row.actions for row in rows], Encoding())


def learn(policy: VWPolicy, rows: list[Interaction]) -> None:
    for row in rows:
        policy.learn(row.context, row.actions, row.index, -row.reward, row.propensity)


@pytest.fixture(scope="module")
def rows() -> list[Interaction]:
    return rows_of(UniformPolicy(), 1200, seed=1)


def test_a_workspace_gives_one_number_per_action(rows: list[Interaction]) -> None:
    encoder = encoder_of(rows)
    arguments: list[Any] = policy_arguments(Exploration(), Learning(), encoder.interactions)
    workspace = VWWorkspace(encoder, arguments)
    for k in (1, 2, 17, 300):
        assert len(workspace.predict({"x": 1.0}, tuple(Action(f"a{i}") for i in range(k)))) == k
    workspace.close()


TINY = 5e-324


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "extreme",
    [
        {"exploration": {"temperature": 1e-30, "epsilon": TINY, "gamma_scale": TINY, "gamma_exponent": TINY}},
        {"exploration": {"temperature": 1e300, "epsilon": 1.0, "gamma_scale": 1e9, "gamma_exponent": 1.0}},
        {"learning": {"learning_rate": TINY, "power_t": TINY, "importance_max": 1.0, "propensity_min": TINY}},
        {"learning": {"learning_rate": 1000.0, "power_t": 0.0, "importance_max": 1e300, "propensity_min": TINY}},
        {"learning": {"learning_rate": 1000.0, "power_t": 1.0, "importance_max": 1e300, "propensity_min": 0.1}},
        {"learning": {"l2": 1.0}},
        {"learning": {"l2": TINY}},
    ],
)
def test_settings_at_their_limits_can_be_learnt_under(
    extreme: dict[str, dict[str, float]], algorithm: Algorithm, rows: list[Interaction]
) -> None:
    settings = parse_settings({**extreme, "exploration": {**extreme.get("exploration", {}), "algorithm": algorithm}})
    encoder = encoder_of(rows)
    policy = VWPolicy(encoder, settings.exploration, settings.learning)
    learn(policy, rows[:200])
    again = VWPolicy(encoder, settings.exploration, settings.learning, model=policy.to_bytes())
    assert sum(again.pmf(rows[0].context, rows[0].actions)) == pytest.approx(1.0)


def test_a_workspace_takes_little_more_memory_than_its_weights(rows: list[Interaction]) -> None:
    """VW of itself keeps 256 empty examples beside them, some 8 MB."""
    encoder, count = encoder_of(rows), 20

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident_bytes()
    models = [VWPolicy(encoder, Exploration(), Learning(bits=10)) for _ in range(count)]
    for model in models:
        model.pmf(rows[0].context, rows[0].actions)
    taken = resident_bytes() - before
    for model in models:
        model.close()

    assert taken / count < 2 * 1024**2


def test_arguments_that_vw_refuses_are_told_as_such_and_not_as_a_damaged_model(rows: list[Interaction]) -> None:
    encoder = encoder_of(rows)
    arguments = policy_arguments(Exploration(algorithm="softmax", temperature=1e-300), Learning(), encoder.interactions)
    with pytest.raises(TrainingFailed, match="refuses the settings"):
        VWWorkspace(encoder, arguments)
    with pytest.raises(CorruptModel, match="cannot be loaded"):
        VWWorkspace(encoder, arguments, model=b"")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_counters_at_the_head_of_a_model_are_not_taken_for_weights(
    algorithm: Algorithm, rows: list[Interaction], tmp_path: Path
) -> None:
    encoder = encoder_of(rows)
    exploration = Exploration(algorithm=algorithm, epsilon=0.123456789, temperature=0.1234567, bags=9, cover=9)
    learning = Learning(learning_rate=0.123456789, power_t=0.123456789, l2=0.000123456)
    arguments = policy_arguments(exploration, learning, encoder.interactions)
    empty = Workspace(arg_list=arguments)
    empty.save(tmp_path / "empty.vw")
    empty.finish()
    assert (tmp_path / "empty.vw").stat().st_size <= header_bytes(arguments)


@pytest.mark.parametrize("algorithm", ["squarecb", "bag", "cover", "softmax"])
def test_weights_that_are_no_numbers_are_found_when_the_model_is_saved(
    algorithm: Algorithm, rows: list[Interaction]
) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(algorithm=algorithm), Learning())
    learn(policy, rows[:200])
    assert policy.to_bytes()
    policy.learn(rows[0].context, rows[0].actions, 0, 1e39, 0.5)  # finite here, but not in VW's single precision
    with pytest.raises(TrainingFailed, match="no numbers"):
        policy.to_bytes()
    policy.close()


def varied(rows: list[Interaction]) -> list[Interaction]:
    """A catalogue, all of it and all but its last action, and actions of the request's own."""
    asked = list(rows[:600])
    for number in range(1, 600, 3):
        own = tuple(Action(f"r{number}-{i}", {"size": number % 7 + i}) for i in range(5))
        asked[number] = replace(asked[number], actions=ACTIONS[:-1], index=0)
        asked[number + 1] = replace(asked[number + 1], actions=own, index=1)
    return asked


def read_by_vw(rows: list[Interaction], encoder: FeatureEncoder, arguments: list[str], folder: Path) -> bytes:
    """The model of VW alone, out of a file that holds every row's whole text."""
    texts = RowTexts(encoder)
    examples = [texts.of(r.context, r.actions, r.index).labelled(-r.reward, r.propensity) for r in rows]
    (folder / "rows.txt").write_text("".join(f"{example}\n\n" for example in examples))
    reader = Workspace(arg_list=[*arguments, "--data", str(folder / "rows.txt")])
    assert reader.get_weighted_examples() == len(rows)
    reader.save(folder / "model.vw")
    reader.finish()
    return (folder / "model.vw").read_bytes()


@pytest.mark.parametrize("algorithm", ["egreedy", "bag", "cover", "softmax"])
def test_an_explorer_learns_what_vw_learns_when_it_reads_the_whole_text(
    algorithm: Algorithm, rows: list[Interaction], tmp_path: Path
) -> None:
    asked = varied(rows)
    encoder = encoder_of(asked)
    exploration = Exploration(algorithm=algorithm)
    ours = VWPolicy(encoder, exploration, Learning())
    learn(ours, asked)
    arguments = policy_arguments(exploration, Learning(), encoder.interactions)
    theirs = VWPolicy(encoder, exploration, Learning(), model=read_by_vw(asked, encoder, arguments, tmp_path))
    assert ours.to_bytes() == theirs.to_bytes()
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "learning",
    [
        Learning(),
        Learning(learning_rate=0.05, power_t=0.3),
        Learning(l2=0.001),
        Learning(l2=0.01, power_t=0.7),
        Learning(power_t=0.0),
        Learning(power_t=1.0),
    ],
)
def test_chosen_actions_alone_teach_a_regression_what_vw_learns_from_the_whole_text(
    learning: Learning, rows: list[Interaction], tmp_path: Path
) -> None:
    asked = varied(rows)
    encoder = encoder_of(asked)
    arguments = policy_arguments(Exploration(), learning, encoder.interactions)
    theirs = VWWorkspace(encoder, arguments, read_by_vw(asked, encoder, arguments, tmp_path))
    alone, told = (VWPolicy(encoder, Exploration(), learning) for _ in range(2))
    texts = RowTexts(encoder)
    for row in asked:
        alone.learn(row.context, row.actions, row.index, -row.reward, row.propensity)
        before = told._vw.predict(row.context, row.actions)
        text = texts.of(row.context, row.actions, row.index)
        said = told.learn_text(text, row.actions, -row.reward, row.propensity, told=True)
        assert said == pytest.approx(before, abs=1e-6)
    costs = [(alone._vw.predict(r.context, r.actions), theirs.predict(r.context, r.actions)) for r in asked]
    assert max(abs(one - other) for ours, vw in costs for one, other in zip(ours, vw, strict=True)) < 2e-5
    assert np.std([cost for ours, _ in costs for cost in ours]) > 0.02
    assert alone._vw.predict({}, ACTIONS) == told._vw.predict({}, ACTIONS)
    for policy in (alone, told, theirs):
        policy.close()


def stored(policy: VWPolicy) -> VWPolicy:
    """The policy once more, out of what is stored of it; the given one is closed."""
    again = VWPolicy(
        policy.encoder,
        policy.exploration,
        policy.learning,
        model=policy.to_bytes(),
        rows_learnt=policy.rows_learnt,
        action_counts=policy.action_counts,
        updates=policy.updates,
        offered=policy.offered,
    )
    policy.close()
    return again


def test_a_regression_is_the_same_to_the_bit_told_or_not_and_stored_in_between(rows: list[Interaction]) -> None:
    asked = varied(rows)[:90]
    encoder = encoder_of(asked)
    alone, told, resumed = (VWPolicy(encoder, Exploration(), Learning(l2=0.001)) for _ in range(3))
    texts = RowTexts(encoder)
    for number, row in enumerate(asked):
        label = (row.actions, row.index, -row.reward, row.propensity)
        alone.learn(row.context, *label)
        text = texts.of(row.context, row.actions, row.index)
        told.learn_text(text, row.actions, -row.reward, row.propensity, told=True)
        resumed.learn(row.context, *label)
        if number % 7 < 2:
            resumed = stored(resumed)
    assert alone.to_bytes() == told.to_bytes() == resumed.to_bytes()
    for policy in (alone, told, resumed):
        policy.close()


@pytest.mark.parametrize("l2", [0.0, 0.001])
@pytest.mark.parametrize("numbers", ["bins", "zscore"])
def test_a_regression_is_stored_as_vw_would_store_it_after_loading_it(
    numbers: Literal["bins", "zscore"], l2: float, rows: list[Interaction], tmp_path: Path
) -> None:
    encoder = FeatureEncoder.fit([r.context for r in rows], [r.actions for r in rows], Encoding(numbers=numbers))
    learning = Learning(l2=l2, power_t=0.3)
    policy = VWPolicy(encoder, Exploration(), learning)
    for part in (rows[:0], rows[:100], rows[100:300]):
        learn(policy, part)
        policy.pmf(rows[0].context, ACTIONS)
        stored = policy.to_bytes()
        (tmp_path / "stored.vw").write_bytes(stored)
        again = VWWorkspace(encoder, policy.arguments, stored)
        again._vw.save(tmp_path / "again.vw")
        again.close()
        assert (tmp_path / "again.vw").read_bytes() == stored
    policy.close()


def test_a_model_whose_counters_are_not_where_they_were_is_not_stored(rows: list[Interaction], tmp_path: Path) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    learn(policy, rows[:10])
    vw = policy._vw._vw
    vw.save(tmp_path / "model.vw")
    model, loss = (tmp_path / "model.vw").read_bytes(), vw.get_sum_loss()
    header = header_bytes(policy._vw._start_arguments)
    header_end = model.index(b"--rank_all") + 60
    assert uncounted(model, header, loss, 10) == policy.to_bytes()
    for wrong in ((model, header, loss + 1.0, 10), (model, header, loss, 11), (model[:header_end], header, loss, 10)):
        with pytest.raises(TrainingFailed, match="counters"):
            uncounted(*wrong)
    policy.close()


def test_few_and_thousands_of_actions_rare_draws_and_costs_of_any_size_teach_a_regression_what_vw_learns(
    rows: list[Interaction], tmp_path: Path
) -> None:
    many = tuple(Action(f"many-{number}", {"size": number % 9}) for number in range(2000))
    offers = (ACTIONS[:1], ACTIONS, many, many[:7], ACTIONS[1:3])
    propensities = (1.0, 0.9, 0.1, 1e-4, 0.03)
    asked = []
    for number, row in enumerate(rows[:300]):
        offered = offers[number % 5 if number % 50 == 2 else number % 2]
        propensity = learnt_propensity(Exploration(), Learning(), propensities[number % 4])
        reward = (row.reward - 0.5) * (1e-3, 1.0, 100.0)[number % 3]
        asked.append(
            replace(row, actions=offered, index=number % len(offered), propensity=propensity, reward=reward, pmf=None)
        )
    encoder = encoder_of(asked)
    arguments = policy_arguments(Exploration(), Learning(), encoder.interactions)
    theirs = VWWorkspace(encoder, arguments, read_by_vw(asked, encoder, arguments, tmp_path))
    ours = VWPolicy(encoder, Exploration(), Learning())
    learn(ours, asked)
    costs = [(ours._vw.predict(row.context, ACTIONS), theirs.predict(row.context, ACTIONS)) for row in asked]
    assert np.ptp([cost for _, vw in costs for cost in vw]) > 1.0
    assert max(abs(one - other) for own, vw in costs for one, other in zip(own, vw, strict=True)) < 1e-4
    assert ours.to_bytes()
    ours.close()
    theirs.close()


def test_every_weight_that_the_settings_allow_is_a_probability_to_vw() -> None:
    offered_max, propensity_min = 10_000, 1.0 / REGRESSION_IMPORTANCE_MAX
    smallest, largest = 1.0 / offered_max, 1.0 / propensity_min
    assert 0.0 < 1.0 / (largest * WEIGHT_UNIT) < 1.0 / (smallest * WEIGHT_UNIT) <= 1.0
    with pytest.raises(InvalidSettings):
        parse_settings({"limits": {"actions_max": offered_max + 1}})


@pytest.mark.parametrize("offered", [1, 2, 7])
def test_what_a_regression_tells_of_a_row_is_what_it_would_have_predicted_to_the_bit(
    offered: int, rows: list[Interaction]
) -> None:
    actions = tuple(Action(f"a{place}") for place in range(offered))
    encoder = encoder_of(rows)
    told, asked = (VWPolicy(encoder, Exploration(), Learning()) for _ in range(2))
    texts = RowTexts(encoder)
    for number, row in enumerate(rows[:60]):
        text = texts.of(row.context, actions, number % offered)
        before = asked._vw.predict(row.context, actions)
        assert told.learn_text(text, actions, -row.reward, 0.5, told=True) == before
        asked.learn_text(text, actions, -row.reward, 0.5, told=False)
    assert offered == 1 or len(set(before)) > 1
    for policy in (told, asked):
        policy.close()


def test_an_explorer_takes_whole_texts_and_a_regression_the_chosen_action(rows: list[Interaction]) -> None:
    row, encoder = rows[0], encoder_of(rows)
    text = RowTexts(encoder).of(row.context, row.actions, row.index, whole=False)
    explorer, regression = (VWPolicy(encoder, Exploration(algorithm=name), Learning()) for name in ("bag", "squarecb"))
    assert explorer.learns_whole_texts and not regression.learns_whole_texts
    assert regression.learn_text(text, row.actions, -1.0, 0.25, told=False) == []
    with pytest.raises(InvalidRequest, match="one line each"):
        explorer.learn_text(text, row.actions, -1.0, 0.25, told=False)
    with pytest.raises(ValueError, match="chosen action alone"):
        regression._vw.learn(text, row.actions, -1.0, 0.25)
    for policy in (explorer, regression):
        policy.close()
