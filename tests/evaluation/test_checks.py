"""The audit of propensities finds a faulty logger and leaves a correct one alone."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.audit import Audit, propensity_checks
from evaluation.checks import Check, without_support
from evaluation.diagnostics import Segments, diagnose, lift_by_segment, weight_histogram
from evaluation.gate import GateRules, judge
from evaluation.intervals import Bootstrap, bernstein_of, percentile_interval
from evaluation.lift import clustered_mean, mean_with_se
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
    audit = Audit.of(greedy_log(np.random.default_rng(7), 1000, 0.1)).weights()["champion"]
    assert audit.z == 0.0
    assert audit.mean == pytest.approx(1.0)


def test_the_bootstrap_and_normal_theory_agree_on_many_rows_and_bernstein_is_wider() -> None:
    values = np.random.default_rng(8).uniform(size=4000)
    mean, bootstrap = mean_with_se(values), Bootstrap(np.random.default_rng(9))
    normal = mean.lower, mean.upper
    bootstrap.add(values)
    assert percentile_interval(bootstrap.means()) == pytest.approx(normal, abs=0.15 * (normal[1] - normal[0]))
    wide = bernstein_of(mean, low=0.0, high=1.0)
    assert wide[0] < normal[0] < normal[1] < wide[1]


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


def of_visitors(n: int) -> tuple[ScoredRows, ScoredRows]:
    """A log of visitors who come again, some with many rows, and the same log without them."""
    rng = np.random.default_rng(13)
    log = greedy_log(rng, n, 0.3)
    plain = replace(
        log,
        reward=log.reward + rng.normal(size=n)[np.arange(n) // 20],
        decided_at=np.datetime64("2026-01-01", "us") + np.arange(n) * np.timedelta64(120, "s"),
        segment=["a" if i % 3 else "b" for i in range(n)],
        slot=[str(i % 2) for i in range(n)],
    )
    return replace(plain, cluster=[f"u{i // 20 % 50}" for i in range(n)]), plain


def test_the_errors_of_diagnostics_count_subjects() -> None:
    rows, plain = of_visitors(3000)
    events = rows.reduce()
    found, of_rows = diagnose(rows, events), diagnose(plain, events)
    names, lifts = np.array(rows.cluster), events.lift

    def error(which: np.ndarray, values: np.ndarray = lifts) -> float:
        return pytest.approx(clustered_mean(values[which], list(names[which])).se, rel=1e-9)

    assert rows.decided_at is not None
    for n, _, se in found["curve"]:
        assert se == error(np.arange(3000) < n)
    assert len(found["curve"]) == 60
    days = rows.decided_at.astype("datetime64[D]").astype(str)
    for day in found["days"]:
        assert day["se"] == error(days == day["day"])
    for name, labels in (("segments", rows.segment), ("slots", rows.slot)):
        for part in found[name]:
            assert part["se"] == error(np.array(labels) == part["segment"])
    bins = np.array_split(np.argsort(events.q_logged, kind="stable"), 10)
    for part, place in zip(found["calibration"], bins, strict=True):
        assert part["se"] == error(np.isin(np.arange(3000), place), rows.reward)
    without = {name: [{**part, "se": 0} for part in found[name]] for name in ("days", "segments", "slots")}
    assert without == {name: [{**part, "se": 0} for part in of_rows[name]] for name in without}
    assert [point[:2] for point in found["curve"]] == [point[:2] for point in of_rows["curve"]]
    assert found["curve"][-1][2] > 1.1 * of_rows["curve"][-1][2]


def test_segments_that_come_in_pieces_are_those_of_all_rows() -> None:
    rows, _ = of_visitors(1000)
    lifts, pieces = rows.reduce().lift, Segments()
    for part in (slice(0, 300), slice(300, 1000)):
        pieces.add(lifts[part], rows.segment[part], rows.cluster[part])
    whole = lift_by_segment(lifts, rows.segment, rows.cluster)
    assert [part["se"] for part in pieces.table()] == pytest.approx([part["se"] for part in whole], rel=1e-12)


def test_what_one_subject_alone_says_has_no_error() -> None:
    rows, _ = of_visitors(3000)
    alone = replace(rows, cluster=["ann"] * 1500 + [f"u{i}" for i in range(1500)])
    found = diagnose(alone, alone.reduce())
    assert found["curve"][0][0] > 1500 and all(point[2] > 0 for point in found["curve"])
    assert [day["se"] is None for day in found["days"]] == [True, True, False, False, False]
    one = diagnose(replace(rows, cluster=["ann"] * 3000), rows.reduce())
    assert one["curve"] == []
    assert all(part["se"] is None for name in ("days", "segments", "slots", "calibration") for part in one[name])


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
