"""Stretches of a log weigh what they can tell, whatever was drawn or earned in them."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.caution import caution
from evaluation.estimators import Estimate
from evaluation.gate import GateRules, judge
from evaluation.lift import paired_lift, weighted_lift
from evaluation.scored import ScoredRows
from evaluation.sequential import AlphaLedger
from evaluation.weighting import STRETCH, per_decision, stretch_weights
from tests.evaluation.worlds import World, make_world

ONE_LOOK = GateRules(horizon_rows=100)


def with_trial(world: World, rng: np.random.Generator, before: int, after: int, share: float = 0.3) -> ScoredRows:
    """A log of the champion alone, then with the candidate's share in it."""
    sharp = replace(world, mu=0.99 * world.champion + 0.01 / world.champion.shape[1])
    mixed = replace(world, mu=(1 - share) * world.champion + share * world.candidate)
    return ScoredRows.concat([sharp.log(rng, before), mixed.log(rng, after)])


def sure(lift: float) -> World:
    """Champion and candidate are nearly sure of themselves, and of different things in a third of the contexts."""
    base = make_world(31, lift=None, types=30)
    champion = 0.98 * np.eye(5)[np.arange(30) % 5] + 0.02 / 5
    candidate = champion.copy()
    candidate[:10] = np.roll(champion[:10], 1, axis=1)
    truth = np.full((30, 5), 0.5)
    change = candidate - champion
    truth = truth + lift * change / (change**2).sum(axis=1).mean()
    return World(truth, champion, candidate, champion, np.clip(truth + 0.05 * (base.truth - 0.4), 0, 1))


def test_rows_with_the_candidates_share_weigh_many_times_more() -> None:
    weights = stretch_weights(with_trial(sure(0.0), np.random.default_rng(1), 4 * STRETCH, 4 * STRETCH))
    assert len(np.unique(weights)) >= 4
    assert weights[-1] > 20 * weights[0]


def test_neither_actions_nor_rewards_enter_the_weights() -> None:
    rows = make_world(32).log(np.random.default_rng(1), 1000)
    other = replace(rows, reward=1 - rows.reward, action=np.argmax(rows.pmf.reshape(1000, 5), axis=1))
    assert np.array_equal(stretch_weights(rows), stretch_weights(other))


def test_more_rows_leave_the_weights_of_full_stretches_alone() -> None:
    rows = make_world(33).log(np.random.default_rng(1), 1600)
    whole = stretch_weights(rows)
    for n in (500, 750, 1100, 1500):
        full = n // STRETCH * STRETCH
        assert np.array_equal(stretch_weights(rows.slice(0, n))[:full], whole[:full])


def test_a_lift_is_found_in_spite_of_the_rows_before_the_trial() -> None:
    rng, runs, found = np.random.default_rng(34), 40, {True: 0, False: 0}
    for _ in range(runs):
        rows = with_trial(sure(0.05), rng, 1000, 2000)
        for weighted in found:
            found[weighted] += judge(rows, replace(ONE_LOOK, weighted=weighted)).promote
    assert found[True] >= 0.8 * runs
    assert found[False] <= 0.4 * runs


def test_without_a_lift_weighing_promotes_no_more_than_alpha() -> None:
    rng, runs = np.random.default_rng(35), 400
    promoted = sum(judge(with_trial(sure(0.0), rng, 500, 1000), ONE_LOOK).promote for _ in range(runs))
    assert promoted <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)


def nearly_alike_then_wrong(rng: np.random.Generator, wrong: int) -> ScoredRows:
    """A candidate hardly better than the champion in 5,000 rows, and much worse in as many more as `wrong` says."""
    right = np.eye(4)[np.arange(20) % 4]
    champion = 0.9 * right + 0.1 / 4
    q = np.clip(right, 0.02, 0.98)
    alike = World(right, champion, champion + 0.001 * (right - champion), champion, q)
    worse = World(right, champion, champion + 0.3 * (np.roll(right, 1, axis=1) - champion), champion, q)
    return ScoredRows.concat([alike.log(rng, 5000), worse.log(rng, wrong)] if wrong else [alike.log(rng, 5000)])


def test_a_lift_where_the_policies_hardly_differ_does_not_outweigh_a_loss_where_they_do() -> None:
    better = judge(nearly_alike_then_wrong(np.random.default_rng(39), 0), ONE_LOOK)
    assert better.promote
    verdict = judge(nearly_alike_then_wrong(np.random.default_rng(39), 250), ONE_LOOK)
    assert verdict.lower > 0 > verdict.lift.value + 2 * verdict.lift.se
    assert (verdict.outcome, verdict.rejected, verdict.looked) == ("hold", False, True)
    assert "Contradictory" in verdict.reason


def alike_at_first(rng: np.random.Generator, world: World, difference: float) -> ScoredRows:
    """500 rows in which the policies differ by no more than this, then 1,500 in which the challenger is on trial."""
    towards = 1.0 / world.champion.shape[1] - world.champion
    drawn = world.champion * 0.7 + 0.3 * world.candidate
    alike = replace(world, mu=drawn, candidate=world.champion + difference * towards)
    return ScoredRows.concat([alike.log(rng, 500), replace(world, mu=drawn).log(rng, 1500)])


@pytest.mark.parametrize("difference", [1e-16, 1e-6, 1e-3])
def test_a_challenger_worse_than_is_tolerated_passes_no_more_than_alpha_however_alike_it_was_at_first(
    difference: float,
) -> None:
    rules = replace(ONE_LOOK, mode="noninferiority", margin=0.02)
    rng, runs, promoted = np.random.default_rng(40), 150, 0
    world = sure(0.0)
    value = float((world.champion * world.truth).sum(axis=1).mean())
    worse = sure(-0.02 * value * 2000 / 1500)  # over all rows, of which there is nothing between them in a quarter
    for _ in range(runs):
        promoted += judge(alike_at_first(rng, worse, difference), rules).promote
    assert promoted <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)


@pytest.mark.parametrize("difference", [1e-9, 1e-2])
def test_what_little_early_changes_are_worth_is_not_taken_for_the_worth_of_later_ones(difference: float) -> None:
    """A changed choice is worth .3 while there are hardly any, and .03 in the half of the rows that count."""
    rules, kinds, k = replace(ONE_LOOK, margin=0.012), 20, 4
    right = np.eye(k)[np.arange(kinds) % k]
    champion = np.full((kinds, k), 0.25)
    change = 0.4 * (right - champion)
    early = World(
        0.5 + 0.3 * (right - 0.25), champion, champion + difference * change, champion, np.full_like(right, 0.5)
    )
    late = World(0.5 + 0.03 * (right - 0.25), champion, champion + change, champion, np.full_like(right, 0.5))
    rng, runs = np.random.default_rng(45), 100
    logs = (ScoredRows.concat([early.log(rng, 1000), late.log(rng, 1000)]) for _ in range(runs))
    assert (early.lift + late.lift) / 2 < 0.8 * rules.margin
    assert sum(judge(log, rules).promote for log in logs) <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)


@pytest.mark.parametrize("difference", [1e-16, 1e-6, 1e-3])
def test_a_lift_beyond_the_margin_is_found_however_alike_the_policies_were_at_first(difference: float) -> None:
    rows = alike_at_first(np.random.default_rng(41), sure(0.15), difference)
    verdict = judge(rows, replace(ONE_LOOK, margin=0.02))
    assert verdict.promote
    assert abs(verdict.weighed.value - verdict.lift.value) < 2 * verdict.weighed.se


def test_what_is_left_of_rounding_between_policies_changes_no_number() -> None:
    rows = alike_at_first(np.random.default_rng(42), sure(0.05), 0.0)
    noise = np.random.default_rng(43).uniform(-1e-16, 1e-16, rows.values)
    noise[rows.offsets[500] :] = 0.0
    rounded = judge(replace(rows, candidate=rows.candidate + noise), ONE_LOOK)
    exact = judge(rows, ONE_LOOK)
    assert (rounded.outcome, rounded.rows_to_show) == (exact.outcome, exact.rows_to_show)
    for name in ("lower", "upper", "z"):
        assert getattr(rounded, name) == pytest.approx(getattr(exact, name), rel=1e-9)
    assert rounded.weighed.value == pytest.approx(exact.weighed.value, rel=1e-9)


def test_the_weighted_lift_is_one_per_decision_whatever_the_weights_amount_to() -> None:
    rows = alike_at_first(np.random.default_rng(44), sure(0.1), 1e-3)
    events, weights = rows.reduce(), stretch_weights(rows)
    lift = weighted_lift(rows, events, weights / per_decision(rows, weights))
    tenfold = weighted_lift(rows, events, 10 * weights / per_decision(rows, 10 * weights))
    assert tenfold.value == pytest.approx(lift.value, rel=1e-12)
    assert per_decision(rows, np.full(len(rows), 3.0)) == pytest.approx(3.0)
    same = replace(rows, candidate=rows.champion)
    assert per_decision(same, stretch_weights(same)) == 1.0


def test_a_margin_that_changes_within_a_tenure_leaves_the_next_look_and_what_is_left_of_alpha() -> None:
    rows, rules = with_trial(sure(0.0), np.random.default_rng(46), 0, 2000), GateRules(horizon_rows=4000)
    asked = judge(rows.slice(0, 1000), replace(rules, margin=5.0)).ledger
    later = judge(rows, rules, ledger=asked)
    assert later.looked and not later.promote
    assert [look.weighted for look in later.ledger.looks] == [False, True]
    assert asked.spent < later.ledger.spent < rules.alpha
    assert later.ledger == AlphaLedger.from_dict(later.ledger.to_dict())
    assert judge(with_trial(sure(0.1), np.random.default_rng(47), 0, 2000), rules, ledger=asked).promote


def test_equal_weights_are_the_plain_lift() -> None:
    rows = make_world(36).log(np.random.default_rng(1), 500)
    plain = paired_lift(rows)
    same = weighted_lift(rows, rows.reduce(), np.ones(500))
    assert (same.value, same.se) == (plain.value, plain.se)
    assert caution(rows, plain, weights=np.ones(500)) == caution(rows, plain)


def test_rare_large_gains_move_the_bound_towards_the_lift_but_never_with_subjects() -> None:
    """Rewards of about .1 and a candidate that is drawn rarely: the plain 5% bound is right in far more than 95%."""
    world = make_world(37, lift=0.0, sharp=12.0)
    poor = World(world.truth * 0.1, world.mu, world.candidate, world.champion, world.q * 0.1)
    rng, plain, ours, runs = np.random.default_rng(38), 0, 0, 600
    for _ in range(runs):
        rows = poor.log(rng, 1500)
        lift = paired_lift(rows)
        care = caution(rows, lift)
        plain += lift.value - 1.645 * lift.se > poor.lift
        ours += lift.value - care.reach(1.645) > poor.lift
    assert plain < ours <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)
    rows = poor.log(np.random.default_rng(1), 1500)
    lift = Estimate(0.0, paired_lift(rows).se, 1500)
    assert caution(rows, lift).shift < 0 <= caution(replace(rows, cluster=[str(i) for i in range(1500)]), lift).shift
    assert caution(rows, lift).reach(2.0) < 2.0 * caution(rows, lift).se < caution(rows, lift).reach_up(2.0)


def test_too_few_telling_draws_are_said_in_words() -> None:
    rows = sure(0.0).log(np.random.default_rng(1), 600)
    verdict = judge(rows, ONE_LOOK)
    assert verdict.outcome == "insufficient"
    assert "telling draws" in verdict.reason
    assert verdict.alpha_look == 0.0
    check = next(check for check in verdict.checks if check.name == "telling_draws")
    assert check.value == pytest.approx(caution(rows, verdict.lift).draws, rel=0.2)
