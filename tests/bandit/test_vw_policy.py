"""Policies over VW: honest pmfs, equal after save and reload, deaf to poison and injections."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from vowpalwabbit import Workspace

from bandit.encoder import FeatureEncoder
from bandit.errors import CorruptModel, InvalidRequest, InvalidSettings, TrainingFailed
from bandit.example_text import RowTexts
from bandit.exploration import headroom, headroom_rows, squarecb, squarecb_rows, with_floor
from bandit.policies import UniformPolicy
from bandit.sampling import draw_index
from bandit.settings import Algorithm, Encoding, Exploration, Learning, parse_settings
from bandit.types import Action, Interaction
from bandit.vw_options import WEIGHT_UNIT, policy_arguments
from bandit.vw_policy import REGRESSION_IMPORTANCE_MAX, VWPolicy, learnt_propensity
from bandit.vw_workspace import VWWorkspace, header_bytes, uncounted
from tests.bandit.worlds import ACTIONS, greedy_accuracy, rows_of

ALGORITHMS = get_args(Algorithm)


def encoder_of(rows: list[Interaction]) -> FeatureEncoder:
    return FeatureEncoder.fit([row.context for row in rows], [row.actions for row in rows], Encoding())


def learn(policy: VWPolicy, rows: list[Interaction]) -> None:
    for row in rows:
        policy.learn(row.context, row.actions, row.index, -row.reward, row.propensity)


@pytest.fixture(scope="module")
def rows() -> list[Interaction]:
    return rows_of(UniformPolicy(), 1200, seed=1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_saved_and_reloaded_policy_answers_and_learns_on_bit_for_bit(
    algorithm: Algorithm, rows: list[Interaction]
) -> None:
    exploration = Exploration(algorithm=algorithm, explore_first=300)
    encoder = encoder_of(rows)
    policy = VWPolicy(encoder, exploration, Learning())
    learn(policy, rows[:600])
    again = VWPolicy(
        encoder,
        exploration,
        Learning(),
        model=policy.to_bytes(),
        rows_learnt=policy.rows_learnt,
        action_counts=policy.action_counts,
    )
    for row in rows[:100]:
        assert policy.pmf(row.context, row.actions) == again.pmf(row.context, row.actions)
    learn(policy, rows[600:])
    learn(again, rows[600:])
    for row in rows[:100]:
        assert policy.pmf(row.context, row.actions) == again.pmf(row.context, row.actions)
    policy.close()
    again.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pmf_is_a_pmf_and_asking_again_changes_nothing(algorithm: Algorithm, rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(algorithm=algorithm, probability_floor=0.01), Learning())
    learn(policy, rows[:300])
    first = [policy.pmf(row.context, row.actions) for row in rows[:200]]
    assert first == [policy.pmf(row.context, row.actions) for row in rows[:200]]
    for pmf in first:
        assert len(pmf) == len(ACTIONS)
        assert math.isclose(sum(pmf), 1.0, abs_tol=1e-12)
        assert min(pmf) >= 0.01 - 1e-12
    policy.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_draws_follow_the_pmf(algorithm: Algorithm, rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(algorithm=algorithm, gamma_scale=1.0), Learning())
    learn(policy, rows[:100])
    pmf = policy.pmf(rows[0].context, ACTIONS)
    policy.close()
    rng = np.random.default_rng(0)
    n = 20_000
    hits = np.bincount([draw_index(pmf, u) for u in rng.random(n)], minlength=len(pmf))
    for hit, probability in zip(hits, pmf, strict=True):
        assert abs(hit / n - probability) <= 4.5 * math.sqrt(probability * (1 - probability) / n) + 1e-12


@pytest.mark.parametrize("algorithm", ["squarecb", "egreedy", "bag", "cover", "softmax", "explore_first"])
def test_every_algorithm_learns_an_interaction_of_two_numbers(algorithm: Algorithm, rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(algorithm=algorithm, temperature=0.02), Learning())
    learn(policy, rows)
    policy.rows_learnt = 10_000
    assert greedy_accuracy(policy, seed=2, count=400) > 0.8
    policy.close()


def test_squarecb_without_headroom_is_nearly_that_of_vw(rows: list[Interaction]) -> None:
    encoder = encoder_of(rows)
    exploration = Exploration(gamma_scale=10.0, gamma_exponent=0.5, headroom=False)
    ours = VWPolicy(encoder, exploration, Learning())
    theirs = VWWorkspace(
        encoder,
        [
            *("--cb_explore_adf", "--squarecb", "--gamma_scale", "10", "--gamma_exponent", "0.5"),
            *policy_arguments(exploration, Learning(), encoder.interactions)[3:],
        ],
    )
    texts = RowTexts(encoder)
    for row in rows[:400]:
        ours.learn(row.context, row.actions, row.index, -row.reward, row.propensity)
        text = texts.of(row.context, row.actions, row.index)
        theirs.learn(text, row.actions, -row.reward, row.propensity)
    pairs = [(ours.pmf(row.context, ACTIONS), theirs.predict(row.context, ACTIONS)) for row in rows[:200]]
    assert np.abs(np.array([one for one, _ in pairs]) - np.array([other for _, other in pairs])).mean() < 0.01
    assert np.mean([np.argmax(one) == np.argmax(other) for one, other in pairs]) > 0.95
    ours.close()
    theirs.close()


def test_squarecb_explores_where_little_is_earned() -> None:
    good = squarecb([-0.95, -0.65], 50.0 / headroom(-0.95, -1.0, 10_000))
    poor = squarecb([-0.40, -0.10], 50.0 / headroom(-0.40, -1.0, 10_000))
    assert good[1] < 0.01
    assert poor[1] > 0.03
    assert headroom(-1.0, -1.0, 100) == pytest.approx(0.2)
    assert headroom(0.3, -1.0, 10) == 1.0


def test_an_unseen_action_is_shown_up_to_a_uniform_share_and_then_stands_on_its_own(rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    learn(policy, rows)
    before = policy.pmf(rows[0].context, ACTIONS)
    wider = (*ACTIONS, Action("new"))
    assert policy.pmf(rows[0].context, wider)[4] == pytest.approx(1 / 5)
    assert max(before) > 0.9
    for row in rows[:10]:
        policy.learn(row.context, wider, 4, 0.0, 0.2)
    assert policy.pmf(rows[0].context, wider)[4] < 0.05
    featured = (*ACTIONS, Action("newer", {"price": 1.0}))
    assert policy.pmf(rows[0].context, featured)[4] < 0.05
    policy.close()


def test_explore_first_is_uniform_until_its_number_of_rows(rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(algorithm="explore_first", explore_first=50), Learning())
    learn(policy, rows[:49])
    assert policy.pmf(rows[0].context, ACTIONS) == [0.25] * 4
    learn(policy, rows[49:50])
    assert max(policy.pmf(rows[0].context, ACTIONS)) == 1.0
    policy.close()


def test_uniform_stays_uniform_whatever_it_learns(rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(algorithm="uniform"), Learning())
    learn(policy, rows[:200])
    assert policy.pmf(rows[0].context, ACTIONS[:3]) == [1 / 3] * 3
    policy.close()


def test_one_action_has_probability_one(rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    assert policy.pmf({}, ACTIONS[:1]) == [1.0]
    policy.close()


def test_the_floor_holds_and_gives_way_to_uniform_for_many_actions() -> None:
    assert with_floor([1.0, 0.0, 0.0], 0.1) == pytest.approx([0.8, 0.1, 0.1])
    assert with_floor([1.0, 0.0], 0.5) == [0.5, 0.5]
    assert with_floor([1.0] + [0.0] * 9, 0.2) == [0.1] * 10


@pytest.mark.parametrize(
    "name",
    ["a\n0:-1:1 |x", "save_x", "a|b", "a:3", "tab\tcr\r", "", " ", "shared |c", "0:0:0", "é😀", "\ud800", "'tag"],
)
def test_names_from_outside_are_only_names(name: str, rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    learn(policy, rows[:50])
    actions = (Action(name, {name: name, "list": [name, name]}), Action("other", {name: 1.0}), Action("third"))
    pmf = policy.pmf({name: name, "n": {name: [name]}}, actions)
    assert len(pmf) == 3 and math.isclose(sum(pmf), 1.0)
    policy.learn({name: 1e300}, actions, 0, -1.0, 0.5)
    assert len(policy.pmf({name: True}, actions)) == 3
    policy.close()


@pytest.mark.parametrize(
    ("cost", "propensity", "index"),
    [(math.nan, 0.5, 0), (math.inf, 0.5, 0), (0.0, 0.0, 0), (0.0, 2.0, 0), (0.0, math.nan, 0), (0.0, 0.5, 4)],
)
def test_poisoned_examples_are_refused(cost: float, propensity: float, index: int, rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    with pytest.raises(ValueError, match="training example"):
        policy.learn({}, ACTIONS, index, cost, propensity)
    policy.close()


def test_tiny_propensities_are_bounded_so_that_good_rows_win_again(rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    learn(policy, rows[:600])
    for row in rows[:5]:
        policy.learn(row.context, row.actions, 3, 1.0, 1e-300)
    learn(policy, rows[600:])
    assert greedy_accuracy(policy, seed=3, count=300) > 0.8
    policy.close()


def test_no_actions_or_a_doubled_id_are_refused(rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    with pytest.raises(InvalidRequest):
        policy.pmf({}, ())
    with pytest.raises(InvalidRequest):
        policy.pmf({}, (Action("a"), Action("a")))
    policy.close()


def test_reused_action_lines_answer_as_fresh_ones(rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    learn(policy, rows[:300])
    for row in rows[:50]:
        catalogue = policy.pmf(row.context, ACTIONS)
        fresh = policy.pmf(row.context, [Action(action.id) for action in ACTIONS])
        backwards = policy.pmf(row.context, ACTIONS[::-1])
        assert catalogue == fresh
        assert catalogue == pytest.approx(backwards[::-1], abs=1e-6)
    policy.close()


def test_the_memory_of_parsed_actions_is_bounded(rows: list[Interaction], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandit.vw_workspace.PARSED_MAX", 50)
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    learn(policy, rows[:100])
    expected = policy.pmf(rows[0].context, ACTIONS)
    for number in range(300):
        policy.pmf(rows[0].context, (Action(f"id{number}", {"f": float(number)}), Action("b")))
        assert len(policy._vw._parsed) <= 50
    assert policy.pmf(rows[0].context, ACTIONS) == expected
    assert policy.to_bytes()  # whose examples are counted, those that emptied the memory too
    policy.close()


def test_a_log_of_more_actions_than_are_kept_parsed_is_learnt_and_stored(
    rows: list[Interaction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bandit.vw_workspace.PARSED_MAX", 20)
    encoder = encoder_of(rows)
    alone, told = (VWPolicy(encoder, Exploration(), Learning()) for _ in range(2))
    texts = RowTexts(encoder)
    for number in range(60):
        offered = tuple(Action(f"id{number // 2}-{place}", {"f": float(place)}) for place in range(8))
        for row in rows[2 * number : 2 * number + 2]:
            text = texts.of(row.context, offered, row.index)
            alone.learn_text(text, offered, -row.reward, 0.125, told=False)
            told.learn_text(text, offered, -row.reward, 0.125, told=True)
            assert len(told._vw._parsed) <= 20
    for policy in (alone, told):
        assert policy.pmf(rows[0].context, ACTIONS) == pytest.approx([0.25] * 4, abs=0.25)
        assert policy.to_bytes()
        policy.close()


def test_a_foreign_or_damaged_model_is_refused(rows: list[Interaction]) -> None:
    encoder = encoder_of(rows)
    with pytest.raises(CorruptModel):
        VWPolicy(encoder, Exploration(), Learning(), model=b"not a model")
    policy = VWPolicy(encoder, Exploration(), Learning(bits=17))
    model = policy.to_bytes()
    policy.close()
    with pytest.raises(CorruptModel):
        VWPolicy(encoder, Exploration(), Learning(bits=20), model=model)


def test_a_closed_policy_refuses_to_answer(rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    policy.pmf({}, ACTIONS)
    policy.close()
    policy.close()
    with pytest.raises(RuntimeError, match="closed"):
        policy.pmf({}, ACTIONS)


def test_a_closed_regression_refuses_to_learn_actions_that_come_again(rows: list[Interaction]) -> None:
    policy = VWPolicy(encoder_of(rows), Exploration(), Learning())
    text = RowTexts(policy.encoder).of({}, ACTIONS, 0)
    policy.learn_text(text, ACTIONS, -1.0, 0.25, told=True)
    policy.close()
    for told in (True, False):
        with pytest.raises(RuntimeError, match="closed"):
            policy.learn_text(text, ACTIONS, -1.0, 0.25, told=told)


def test_arguments_are_built_from_an_allow_list() -> None:
    for algorithm in ALGORITHMS:
        arguments = policy_arguments(Exploration(algorithm=algorithm), Learning(), ["ci"])
        assert all(argument.startswith("--") or not argument.startswith("-") for argument in arguments)
    with pytest.raises(ValueError, match="interactions"):
        policy_arguments(Exploration(), Learning(), ["ci -f x"])


def test_a_workspace_gives_one_number_per_action(rows: list[Interaction]) -> None:
    encoder = encoder_of(rows)
    arguments: list[Any] = policy_arguments(Exploration(), Learning(), encoder.interactions)
    workspace = VWWorkspace(encoder, arguments)
    for k in (1, 2, 17, 300):
        assert len(workspace.predict({"x": 1.0}, tuple(Action(f"a{i}") for i in range(k)))) == k
    workspace.close()


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


def test_a_rarely_drawn_action_moves_squarecb_no_further_than_one_drawn_one_time_in_ten(
    rows: list[Interaction],
) -> None:
    def learnt(algorithm: Algorithm, propensity: float) -> list[float]:
        policy = VWPolicy(encoder_of(rows), Exploration(algorithm=algorithm, temperature=1.0), Learning())
        learn(policy, rows[:100])
        policy.learn(rows[100].context, ACTIONS, rows[100].index, -1.0, propensity)
        pmf = policy.pmf(rows[100].context, ACTIONS)
        policy.close()
        return pmf

    assert learnt("squarecb", 0.01) == learnt("squarecb", 0.1) != learnt("squarecb", 0.9)
    assert learnt("softmax", 0.01) != learnt("softmax", 0.1)


@given(
    table=st.lists(
        st.lists(st.sampled_from([-1.5, -1.0, -0.75, -0.0, 0.0, 0.3]) | st.floats(-1.25, 1.0, width=32), min_size=1),
        min_size=1,
    ),
    rows=st.integers(1, 10**7),
)
def test_many_rows_at_once_are_explored_as_each_alone_to_the_bit(table: list[list[float]], rows: int) -> None:
    gammas = [3.0 * rows**0.6 / headroom(min(costs), -1.0, rows) for costs in table]
    each = [probability for costs, gamma in zip(table, gammas, strict=True) for probability in squarecb(costs, gamma)]
    together = np.array([cost for costs in table for cost in costs]), np.array([len(costs) for costs in table])
    assert squarecb_rows(*together, np.array(gammas)).tolist() == each
    best = np.array([min(costs) for costs in table])
    assert headroom_rows(best, -1.0, np.full(len(table), rows)).tolist() == [headroom(b, -1.0, rows) for b in best]


def test_many_rows_at_once_are_refused_when_one_cost_is_no_number() -> None:
    with pytest.raises(ValueError):
        squarecb_rows(np.array([0.0, -0.5, math.nan, 0.1]), np.array([2, 2]), np.array([3.0, 3.0]))


@pytest.mark.parametrize(
    "exploration",
    [Exploration(algorithm=algorithm) for algorithm in ALGORITHMS]
    + [Exploration(headroom=False), Exploration(probability_floor=0.01)],
)
def test_rows_learnt_together_are_explored_as_each_alone_to_the_bit(
    exploration: Exploration, rows: list[Interaction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bandit.vw_policy.NUMBERS_MAX", 400)
    asked = [
        replace(row, actions=(*row.actions[: 2 + number % 3], Action(f"new-{number // 100}")), index=number % 2)
        for number, row in enumerate(rows[:300])
    ]
    encoder = encoder_of(asked)
    alone, together = (VWPolicy(encoder, exploration, Learning()) for _ in range(2))
    texts = RowTexts(encoder)
    labelled = [(texts.of(row.context, row.actions, row.index), -row.reward, row) for row in asked]
    pmfs = []
    for text, cost, row in labelled:
        said = alone.learn_text(text, row.actions, cost, row.propensity, told=True)
        pmfs += alone.explore(said, alone.rows_learnt, row.actions)
        alone.count(row.actions[row.index])
    told = [together.learn_rows(part, told=True) for part in (labelled[:130], labelled[130:], [])]
    assert np.concatenate(told).tolist() == pmfs
    assert together.rows_learnt == 300 and together.action_counts == alone.action_counts
    assert together.learn_rows(labelled[:5], told=False).tolist() == []
    alone.close()
    together.close()
