"""The audit of propensities finds a faulty logger and leaves a correct one alone."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.audit import propensity_checks, weight_audits
from evaluation.checks import Check, without_support
from evaluation.diagnostics import diagnose, lift_by_segment, weight_histogram
from evaluation.gate import GateRules, judge
from evaluation.intervals import bernstein_interval, bootstrap_interval, normal_interval
from evaluation.scored import ScoredRows

K = 7


def greedy_log(
    rng: np.random.Generator, n: int, epsilon: float, *, fault: bool = False, pmf: bool = True
) -> ScoredRows:
    """An ε-greedy log; the candidate is the logger's greedy form. The fault logs 1 − ε for the greedy action."""
    best = rng.integers(K, size=n)
    mu = np.full((n, K), epsilon / K)
    mu[np.arange(n), best] += 1 - epsilon
    action = np.where(rng.random(n) < epsilon, rng.integers(K, size=n), best)
    logged = mu.copy()
    if fault:
        logged[np.arange(n), best] = 1 - epsilon
    greedy = np.zeros((n, K))
    greedy[np.arange(n), best] = 1.0
    return ScoredRows.from_matrices(
        candidate=greedy,
        champion=mu,
        q=np.full((n, K), 0.5),
        action=action,
        reward=(rng.random(n) < np.where(action == best, 0.6, 0.3)).astype(float),
        propensity=logged[np.arange(n), action],
        pmf=logged if pmf else None,
    )


def alarms(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.kind == "alarm" and check.status == "fail"]


@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_a_wrong_greedy_probability_is_seen_at_once_on_our_own_log(epsilon: float) -> None:
    rows = greedy_log(np.random.default_rng(1), 200, epsilon, fault=True)
    assert "pmf_sums_to_one" in alarms(propensity_checks(rows))
    verdict = judge(rows, GateRules())
    assert verdict.outcome == "hold"
    assert verdict.reason.startswith("Alarm")


@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_a_wrong_greedy_probability_is_found_in_an_imported_log_without_pmf(epsilon: float) -> None:
    rows = greedy_log(np.random.default_rng(2), 60_000, epsilon, fault=True, pmf=False)
    assert "weights_candidate" in alarms(propensity_checks(rows))


@pytest.mark.parametrize("pmf", [True, False])
@pytest.mark.parametrize("epsilon", [0.001, 0.01, 0.1])
def test_correct_logs_raise_no_alarm(epsilon: float, pmf: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        assert not alarms(propensity_checks(greedy_log(rng, 2000, epsilon, pmf=pmf)))


def test_too_few_expected_hits_are_no_alarm_but_an_open_question() -> None:
    rows = greedy_log(np.random.default_rng(4), 300, 0.001)
    found = {check.name: check.status for check in propensity_checks(rows)}
    assert found["weights_uniform"] == "insufficient"


def test_a_probability_that_is_not_the_drawn_entry_is_an_alarm() -> None:
    rows = greedy_log(np.random.default_rng(5), 500, 0.1)
    wrong = rows.propensity.copy()
    wrong[3] *= 0.9
    assert "propensity_is_in_pmf" in alarms(propensity_checks(replace(rows, propensity=wrong)))


def test_actions_drawn_otherwise_than_logged_are_an_alarm() -> None:
    rng = np.random.default_rng(6)
    rows = greedy_log(rng, 5000, 0.3)
    uniform = np.full(rows.values, 1 / K)
    lying = replace(
        rows, pmf=uniform, propensity=np.full(5000, 1 / K), action=np.where(rng.random(5000) < 0.3, 0, rows.action)
    )
    assert "action_counts" in alarms(propensity_checks(lying))


def test_a_policy_that_is_the_logger_has_weights_of_exactly_one() -> None:
    audit = weight_audits(greedy_log(np.random.default_rng(7), 1000, 0.1))["champion"]
    assert audit.z == 0.0
    assert audit.mean == pytest.approx(1.0)


def test_the_bootstrap_and_normal_theory_agree_on_many_rows_and_bernstein_is_wider() -> None:
    values = np.random.default_rng(8).uniform(size=4000)
    normal, boot = normal_interval(values), bootstrap_interval(values, np.random.default_rng(9))
    assert boot == pytest.approx(normal, abs=0.15 * (normal[1] - normal[0]))
    wide = bernstein_interval(values, low=0.0, high=1.0)
    assert wide[0] < normal[0] < normal[1] < wide[1]
    with pytest.raises(ValueError, match="range"):
        bernstein_interval(values, low=0.0, high=0.5)


def test_diagnostics_add_up() -> None:
    rows = greedy_log(np.random.default_rng(10), 3000, 0.1)
    rows = replace(rows, decided_at=np.datetime64("2026-01-01", "us") + np.arange(3000) * np.timedelta64(60, "s"))
    found = diagnose(rows, rows.reduce())
    assert sum(day["n"] for day in found["days"]) == 3000
    assert len(found["days"]) == 3
    assert found["curve"][-1][0] == 3000
    assert found["curve"][-1][1] == pytest.approx(rows.reduce().lift.mean(), abs=1e-12)
    for role in ("candidate", "champion"):
        histogram = found["weights"][role]
        assert sum(histogram["counts"]) + histogram["zeros"] == 3000
        assert sum(entry[role] for entry in found["actions"]) == pytest.approx(1.0)
    assert found["differing"] == pytest.approx(0.1 * 6 / 7, abs=1e-9)
    parts = lift_by_segment(rows.reduce().lift, ["a"] * 1000 + ["b"] * 2000)
    assert [part["segment"] for part in parts] == ["b", "a"]


def test_a_histogram_of_nothing_but_zeros_is_empty() -> None:
    assert weight_histogram(np.zeros(5))["zeros"] == 5


def mostly_alike(n: int) -> ScoredRows:
    """Four rows of five logged with probability 1, of whose action both policies are sure; the fifth at even chances.

    There each policy is sure of another action: the candidate's pays with chance .9, the champion's with .1.
    """
    rng = np.random.default_rng(11)
    fifth = np.arange(n) % 5 == 4
    first, second = np.tile([1.0, 0.0], (n, 1)), np.tile([0.0, 1.0], (n, 1))
    action = np.where(fifth, rng.integers(2, size=n), 0)
    return ScoredRows.from_matrices(
        candidate=np.where(fifth[:, None], second, first),
        champion=first,
        q=np.full((n, 2), 0.5),
        action=action,
        reward=(rng.random(n) < np.where(action == 1, 0.9, 0.1)).astype(float),
        propensity=np.where(fifth, 0.5, 1.0),
        pmf=np.where(fifth[:, None], 0.5, first),
    )


def test_only_rows_that_leave_a_policys_action_untold_are_without_support() -> None:
    rows = mostly_alike(5)
    assert not without_support(rows).any()
    candidate, champion = rows.candidate.copy(), rows.champion.copy()
    candidate[:2], champion[2:4] = (0.9, 0.1), (0.0, 1.0)
    assert list(without_support(replace(rows, candidate=candidate))) == [True, False, False, False, False]
    assert list(without_support(replace(rows, champion=champion))) == [False, True, False, False, False]


def test_the_lift_is_that_over_all_rows_although_the_policies_are_sure_of_the_same_action_in_most() -> None:
    rows = mostly_alike(2000)
    fifth = rows.where(np.arange(2000) % 5 == 4)
    verdict, alone = judge(rows, GateRules(margin=0.5)), judge(fifth, GateRules(margin=0.5))
    assert verdict.n == 2000 and sum(verdict.excluded.values()) == 0
    assert verdict.lift.value == pytest.approx(alone.lift.value / 5) == pytest.approx(0.16, abs=0.02)
    assert verdict.looked and verdict.outcome == "hold" and alone.promote
    assert judge(rows, GateRules(margin=0.1)).promote
