"""Policies over VW: honest pmfs, equal after save and reload, deaf to poison and injections."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bandit.encoder import FeatureEncoder
from bandit.errors import CorruptModel, InvalidRequest
from bandit.example_text import RowTexts
from bandit.exploration import headroom, headroom_rows, squarecb, squarecb_rows, with_floor
from bandit.policies import UniformPolicy
from bandit.sampling import draw_index
from bandit.settings import Algorithm, Encoding, Exploration, Learning
from bandit.types import Action, Interaction
from bandit.vw_options import policy_arguments
from bandit.vw_policy import VWPolicy
from bandit.vw_workspace import VWWorkspace
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


def test_an_unseen_action_whose_features_are_all_ignored_is_shown_as_one_without_any(rows: list[Interaction]) -> None:
    encoder = FeatureEncoder(Encoding(ignore=["sku"]))
    policy = VWPolicy(encoder, Exploration(), Learning(), rate=0.5)
    known = Action("known", {"sku": 1})
    for row in rows[:200]:
        policy.learn(row.context, (known,), 0, -1.0, 1.0)
    assert policy.action_counts == {"known": 10}
    pmf = policy.pmf(rows[0].context, (known, Action("unseen", {"sku": 2})))
    assert pmf == policy.pmf(rows[0].context, (Action("known"), Action("unseen"))) == pytest.approx([0.5, 0.5])


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
