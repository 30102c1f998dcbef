"""The gate promotes what is better, holds what is equal or worse, and says when it cannot tell."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.gate_study import Tenures
from benchmarks.gate_study import World as StudyWorld
from evaluation.checks import Check, newest_check
from evaluation.gate import ROWS_TOLD_MAX, GateRules, judge
from evaluation.scored import ScoredRows
from evaluation.sequential import AlphaLedger, confidence_sequence_z
from tests.evaluation.worlds import World, make_world

RULES = GateRules()
ONE_LOOK = GateRules(horizon_rows=100)


def tenure(rows: ScoredRows, rules: GateRules, batch: int) -> list[str]:
    """The verdicts of one challenger, a look each `batch` rows, until it is promoted."""
    ledger, start, outcomes = None, 0, []
    for stop in range(batch, len(rows) + 1, batch):
        verdict = judge(rows.slice(start, stop), rules, ledger=ledger)
        ledger = AlphaLedger.from_dict(verdict.ledger.to_dict())
        outcomes.append(verdict.outcome)
        if verdict.promote:
            break
        if not verdict.keep_rows:
            start = stop
    return outcomes


def classes(wrong: int) -> World:
    """Ten kinds of context with one right action each; the champion is wrong about some, the candidate about none."""
    right = np.full((10, 5), 0.05) + 0.75 * np.eye(5)[np.arange(10) % 5]
    champion = right.copy()
    champion[:wrong] = np.roll(right[:wrong], 1, axis=1)
    truth = 0.1 + 0.8 * np.eye(5)[np.arange(10) % 5]
    return World(truth, champion, right, champion, np.clip(truth + 0.05, 0, 0.85))


def test_a_large_lift_is_promoted_within_two_batches() -> None:
    world = classes(wrong=3)
    assert world.lift == pytest.approx(0.8 * 0.75 * 0.3)
    logs = [world.log(np.random.default_rng(seed), 1000) for seed in range(20)]
    assert sum("promote" in tenure(rows, RULES, 500) for rows in logs) >= 19


def test_a_worse_challenger_is_held_and_rejected() -> None:
    world = make_world(11, lift=0.12, sharp=12.0)
    rows = world.log(np.random.default_rng(1), 3000)
    worse = replace(rows, candidate=rows.champion, champion=rows.candidate)
    verdict = judge(worse, RULES)
    assert verdict.outcome == "hold"
    assert verdict.rejected
    assert not verdict.keep_rows
    assert verdict.ledger.rows_before == 3000


def test_an_identical_challenger_is_never_promoted() -> None:
    rows = make_world(12).log(np.random.default_rng(1), 3000)
    for mode in ("superiority", "noninferiority"):
        verdict = judge(replace(rows, candidate=rows.champion), GateRules(mode=mode, margin=0.05))
        assert verdict.outcome == "hold"
        assert verdict.lift.value == 0.0
        assert not verdict.rejected


def test_policies_that_choose_alike_end_an_epoch_at_its_horizon() -> None:
    rows = make_world(12).log(np.random.default_rng(1), 600)
    alike, rules = replace(rows, candidate=rows.champion), GateRules(horizon_rows=500)
    early = judge(alike.slice(0, 300), rules)
    assert (early.outcome, early.keep_rows) == ("hold", True)
    verdict = judge(alike, rules, ledger=early.ledger)
    assert (verdict.outcome, verdict.keep_rows, verdict.rejected) == ("hold", False, False)
    assert verdict.ledger == AlphaLedger(epoch=2)
    assert judge(alike, replace(rules, enabled=False)).promote


def test_rounding_between_equal_policies_promotes_nothing() -> None:
    rows = make_world(12).log(np.random.default_rng(1), 3000)
    up = np.where(rows.q > rows.q.mean(), 1e-16, -1e-16)  # the better actions a last bit up: a lift without variance
    verdict = judge(replace(rows, candidate=rows.champion + up), GateRules())
    assert (verdict.outcome, verdict.reason) == (
        "hold",
        "Both policies chose alike in all 3,000 rows: there is nothing to promote.",
    )


def test_equal_challengers_are_promoted_no_more_often_than_alpha_over_thirty_looks() -> None:
    """200 tenures of thirty looks. Their rows are sums over the kinds of row there are: what the gate's bound knows."""
    world = make_world(13, lift=0.0)
    drawn = Tenures.draw(StudyWorld(world.truth, world.champion, world.candidate, world.q), 200, 13, batch=100)
    promoted = drawn.rules()
    assert promoted["default gate"].any(axis=1).sum() <= 16
    assert promoted["paired lower bound at each look"].any(axis=1).sum() > 16


def test_equal_challengers_pass_the_whole_gate_no_more_often_than_alpha() -> None:
    """Tenures through all checks and floors, with fewer looks, because each is made of rows."""
    world = make_world(13, lift=0.0)
    rng, runs = np.random.default_rng(13), 60
    rules = GateRules(horizon_rows=1500, rows_min=100)
    promoted = sum("promote" in tenure(world.log(rng, 1500), rules, 150) for _ in range(runs))
    assert promoted <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)


def test_too_few_rows_are_insufficient_and_say_how_many_more() -> None:
    verdict = judge(make_world(14).log(np.random.default_rng(1), 120), RULES)
    assert verdict.outcome == "insufficient"
    assert verdict.rows_needed is not None and verdict.rows_needed >= 80
    assert "more rows" in verdict.reason
    assert not verdict.looked


def test_rows_needed_are_those_of_the_unmet_floors_and_the_forecast_is_told_apart() -> None:
    verdict = judge(make_world(14).log(np.random.default_rng(1), 120), replace(RULES, detectable_lift=0.001))
    assert verdict.rows_needed == 80
    detectable = verdict.rows_to_show["detectable"]
    assert detectable is not None and detectable > 100_000
    floors, forecast = verdict.reason.split(" Forecast from these few: ")
    assert floors.endswith("At the rates so far that takes about 80 more rows.")
    assert forecast == f"to show a lift of 0.1%, about {detectable:,} more."
    easy = judge(make_world(14).log(np.random.default_rng(1), 120), replace(RULES, detectable_lift=10.0))
    assert easy.rows_needed == 80 and "Forecast" not in easy.reason


def test_a_floor_on_a_share_is_given_no_number_of_rows() -> None:
    verdict = judge(make_world(14).log(np.random.default_rng(1), 120), replace(RULES, top_share_max=0.001))
    assert {"rows", "weight_tail"} <= {check.name for check in verdict.checks if check.status == "insufficient"}
    assert (verdict.outcome, verdict.rows_needed) == ("insufficient", None)
    assert "At the rates so far" not in verdict.reason


def test_a_hold_foretells_the_rows_for_the_observed_lift_beside_those_for_a_small_one() -> None:
    world = make_world(14, lift=0.03)
    verdict = judge(world.log(np.random.default_rng(1), 600), replace(RULES, detectable_lift=0.01))
    small, seen = verdict.rows_to_show["detectable"], verdict.rows_to_show["observed"]
    assert (verdict.outcome, verdict.rows_needed) == ("hold", None)
    assert small is not None and seen is not None and 0 < seen < small
    assert verdict.reason.endswith(
        f" Forecast: about {small:,} more rows would show a lift of 1%, "
        f"about {seen:,} the one observed so far, if that is the true one."
    )
    more = judge(world.log(np.random.default_rng(1), 600 + 2 * seen), replace(RULES, detectable_lift=0.01))
    assert more.promote


def test_a_hold_on_a_loss_foretells_no_rows_that_would_show_a_gain() -> None:
    verdict = judge(make_world(14, lift=-0.01).log(np.random.default_rng(2), 600), RULES)
    assert verdict.outcome == "hold" and verdict.weighed.value < 0
    assert verdict.rows_to_show["observed"] is None and "observed so far" not in verdict.reason


def test_a_forecast_beyond_all_bounds_is_given_no_number() -> None:
    rows = make_world(14, lift=0.03).log(np.random.default_rng(1), 600)
    for some, said in (
        (rows, "Forecast: more than a billion more rows would show a lift of 0.0001%, about "),
        (rows.slice(0, 120), "to show a lift of 0.0001%, more than a billion more."),
    ):
        verdict = judge(some, replace(RULES, detectable_lift=1e-6))
        assert said in verdict.reason and "1,000,000,000" not in verdict.reason
        assert verdict.rows_to_show["detectable"] == ROWS_TOLD_MAX


def test_a_lift_over_next_to_nothing_is_not_told_in_percent() -> None:
    rows = make_world(14, lift=0.03).log(np.random.default_rng(1), 600)
    assert "%) on 600 rows" in judge(rows, RULES).reason
    value = judge(rows, RULES).totals.estimate("dr", "champion").value
    near_0 = judge(replace(rows, reward=rows.reward - value, q=rows.q - value), RULES)
    assert near_0.relative is not None and abs(near_0.relative) > 1
    assert " per decision on 600 rows" in near_0.reason


def test_no_rows_at_all_are_insufficient() -> None:
    assert judge(ScoredRows.empty(), RULES).outcome == "insufficient"


def test_rows_without_support_are_left_out_and_counted() -> None:
    rows = make_world(15).log(np.random.default_rng(1), 1000)
    sure = np.arange(1000) < 400
    pmf = rows.pmf.copy()
    at = rows.offsets[:-1] + rows.action
    pmf[np.repeat(sure, rows.lengths)] = 0.0
    pmf[at[sure]] = 1.0
    apprentice = replace(rows, propensity=np.where(sure, 1.0, rows.propensity), pmf=pmf)
    verdict = judge(apprentice, RULES)
    assert verdict.excluded == {"no_support": 400}
    assert verdict.n == 600
    assert judge(apprentice.slice(0, 400), RULES).outcome == "insufficient"


def test_a_choice_the_log_can_never_show_is_refused() -> None:
    world = make_world(16)
    mu = world.mu.copy()
    mu[:, 0] = 0.0
    mu /= mu.sum(axis=1, keepdims=True)
    blind = World(world.truth, mu, world.candidate, mu, world.q)
    verdict = judge(blind.log(np.random.default_rng(1), 2000), RULES)
    assert verdict.outcome == "insufficient"
    assert "can never show" in verdict.reason


def test_an_alarm_blocks_whatever_the_lift() -> None:
    rows = make_world(11, lift=0.12, sharp=12.0).log(np.random.default_rng(1), 3000)
    replay = Check("replay", "alarm", "fail", 3.0, 0.0, "3 of 50 replayed decisions gave other probabilities.")
    verdict = judge(rows, RULES, checks=[replay])
    assert verdict.outcome == "hold"
    assert verdict.rejected
    assert verdict.reason.startswith("Alarm")
    assert verdict.alpha_look == 0.0


def test_noninferiority_accepts_what_superiority_cannot_prove() -> None:
    world = make_world(17, lift=0.004)
    rows = world.log(np.random.default_rng(4), 6000)
    assert judge(rows, ONE_LOOK).outcome == "hold"
    assert judge(rows, replace(ONE_LOOK, mode="noninferiority", margin=0.1)).outcome == "promote"


def test_several_challengers_share_alpha() -> None:
    rows = make_world(18, lift=0.03).log(np.random.default_rng(4), 6000)
    alone, one_of_ten = judge(rows, ONE_LOOK), judge(rows, ONE_LOOK, challengers=10)
    assert one_of_ten.z > alone.z
    assert one_of_ten.lower < alone.lower


def test_a_margin_must_be_exceeded() -> None:
    rows = make_world(11, lift=0.12, sharp=12.0).log(np.random.default_rng(1), 3000)
    assert judge(rows, replace(ONE_LOOK, margin=0.03)).outcome == "promote"
    assert judge(rows, replace(ONE_LOOK, margin=0.3)).outcome == "hold"


def test_a_gate_that_is_off_promotes_and_says_so() -> None:
    verdict = judge(make_world(19).log(np.random.default_rng(1), 300), GateRules(enabled=False))
    assert verdict.outcome == "promote"
    assert "switched off" in verdict.reason


def test_a_flattering_reward_model_does_not_pass_where_nothing_was_drawn() -> None:
    """Where 3 telling draws are expected the sample's own bound promotes a candidate without lift in many logs."""
    rng, naive, passed = np.random.default_rng(20), 0, 0
    base, other = np.array([0.99, 0.005, 0.005]), np.array([0.005, 0.99, 0.005])
    truth = np.vstack([np.full((8, 3), 0.8), np.full((2, 3), 0.5)])
    champion = np.tile(base, (10, 1))
    candidate = np.vstack([np.tile(base, (8, 1)), np.tile(other, (2, 1))])
    q = truth.copy()
    q[8:, 1] = 0.8
    world = World(truth, champion, candidate, champion, q)
    rules = replace(ONE_LOOK, ess_min=1.0, top_share_max=1.0, informative_min=1)
    for _ in range(300):
        verdict = judge(world.log(rng, 2000), rules)
        naive += verdict.lift.value - 1.645 * verdict.lift.se > 0
        passed += verdict.promote
    assert naive > 0.12 * 300
    assert passed <= 0.05 * 300 + 2 * np.sqrt(0.05 * 0.95 * 300)


def test_the_lower_bound_is_above_the_truth_in_at_most_alpha_of_logs() -> None:
    rng, above, runs = np.random.default_rng(121), 0, 600
    world = make_world(21, sharp=10, noise=0.2)
    for _ in range(runs):
        verdict = judge(world.log(rng, 1000), ONE_LOOK)
        assert verdict.looked
        above += verdict.lower > world.lift
    assert above <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)


@pytest.mark.parametrize("looks", ["planned", "anytime"])
def test_the_ledger_survives_a_round_trip(looks: str) -> None:
    rows = make_world(22, lift=0.0).log(np.random.default_rng(1), 2000)
    rules = GateRules(looks=looks)
    ledger = judge(rows.slice(0, 1000), rules).ledger
    assert AlphaLedger.from_dict(ledger.to_dict()) == ledger
    first = judge(rows, rules, ledger=ledger)
    assert judge(rows, rules, ledger=AlphaLedger.from_dict(ledger.to_dict())).lower == first.lower


def test_planned_looks_after_a_confidence_sequence_have_no_alpha_left() -> None:
    rows = make_world(22, lift=0.0).log(np.random.default_rng(1), 4000)
    first = judge(rows.slice(0, 2000), GateRules(looks="anytime"))
    assert first.ledger.spent == GateRules().alpha
    verdict = judge(rows, GateRules(looks="planned"), ledger=first.ledger)
    assert not verdict.looked
    assert "All of its α has been spent" in verdict.reason


def test_a_confidence_sequence_keeps_the_alpha_it_began_with() -> None:
    rows = make_world(22, lift=0.0).log(np.random.default_rng(1), 2000)
    rules = GateRules(looks="anytime")
    first = judge(rows.slice(0, 1000), rules, ledger=AlphaLedger(spent=0.02, taken=1))
    assert (first.alpha_look, first.ledger.spent) == pytest.approx((0.03, 0.05))
    last = judge(rows, rules, ledger=first.ledger)
    assert last.looked and last.alpha_look == 0.0 and last.ledger.spent == first.ledger.spent
    assert last.z == confidence_sequence_z(2000, alpha=0.03, tuned_at=rules.horizon_rows / 6)


def test_a_veto_holds_what_would_be_promoted_and_what_the_look_spent_stays_spent() -> None:
    rows = classes(wrong=3).log(np.random.default_rng(1), 1000)
    promoted = judge(rows, RULES, checks=[newest_check(0.01, 250, 0.0)])
    assert promoted.promote
    held = judge(rows, RULES, checks=[newest_check(-0.01, 250, 0.0)])
    assert (held.outcome, held.rejected, held.keep_rows) == ("hold", False, True)
    assert (held.lower, held.alpha_look) == (promoted.lower, promoted.alpha_look)
    assert held.ledger.spent == held.alpha_look > 0.0
    assert "by the reward model" in held.reason


def test_no_alpha_is_spent_on_rows_already_looked_at() -> None:
    rows = make_world(23, lift=0.0).log(np.random.default_rng(1), 1000)
    first = judge(rows, RULES)
    again = judge(rows, RULES, ledger=first.ledger)
    assert first.looked and not again.looked
    assert again.ledger.spent == first.ledger.spent
    assert again.outcome == "hold"


def test_a_spent_epoch_gives_way_to_fresh_rows_and_a_fresh_alpha() -> None:
    rows = make_world(24, lift=0.0).log(np.random.default_rng(5), 3000)
    rules = GateRules(horizon_rows=2000)
    first = judge(rows.slice(0, 1000), rules)
    last = judge(rows.slice(0, 2000), rules, ledger=first.ledger)
    assert last.outcome == "hold"
    assert not last.keep_rows
    assert last.ledger == AlphaLedger(epoch=2)
