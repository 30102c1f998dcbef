"""A fall of a policy's value is found where it happened, and seldom where there was none."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from evaluation.change import ROWS_MIN, Stretch, champion_values, find_fall, find_fall_since
from evaluation.scored import ScoredRows


@pytest.mark.parametrize(("before", "after", "rows"), [(0.99, 0.0, 60), (0.6, 0.3, 400), (0.1, 0.02, 1500)])
def test_a_fall_is_found_near_where_it_happened(before: float, after: float, rows: int) -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.random(2000) < before, rng.random(rows) < after]).astype(float)
    fall = find_fall(values)
    assert fall is not None and abs(fall.at - 2000) <= 60
    assert fall.before == values[: fall.at].mean() and fall.after == values[fall.at :].mean()


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: (rng.random(n) < 0.5).astype(float),
        lambda rng, n: (rng.random(n) < 0.01).astype(float),
        lambda rng, n: np.minimum(rng.lognormal(0.0, 2.0, n), 1000.0),
        lambda rng, n: np.where(rng.random(n) < 0.002, 500.0, rng.random(n)),
    ],
    ids=["even", "rare", "skewed", "a few huge ones"],
)
def test_equal_means_seldom_alarm(draw: object) -> None:
    """At alpha .02, 1,000 series of 1,000 rows: no more alarms than alpha and three standard errors."""
    rng = np.random.default_rng(2)
    alarms = sum(find_fall(draw(rng, 1000), alpha=0.02) is not None for _ in range(1000))  # type: ignore[operator]
    assert alarms <= 1000 * 0.02 + 3 * math.sqrt(1000 * 0.02 * 0.98)


def test_a_rise_is_no_fall() -> None:
    assert find_fall(np.repeat([0.0, 1.0], 500)) is None
    assert find_fall(np.repeat([1.0, 0.0], 500)) is not None


def test_neither_stretch_is_shorter_than_it_may_be() -> None:
    assert find_fall(np.repeat([1.0, 0.0], ROWS_MIN - 1)) is None
    fall = find_fall(np.repeat([1.0, 0.0], ROWS_MIN))
    assert fall is not None and (fall.at, fall.before, fall.after) == (ROWS_MIN, 1.0, 0.0)
    assert find_fall(np.array([])) is None
    assert find_fall(np.full(1000, 0.3)) is None


def test_what_was_earned_before_shows_a_fall_that_has_no_before_of_its_own() -> None:
    rng = np.random.default_rng(4)
    before = Stretch.last((rng.random(300) < 0.8).astype(float))
    values = (rng.random(100) < 0.4).astype(float)
    fall = find_fall_since(before, values)
    assert fall is not None and (fall.at, fall.before, fall.after) == (0, before.mean, values.mean())
    assert find_fall(values) is None and find_fall_since(before, (rng.random(100) < 0.85).astype(float)) is None
    assert find_fall_since(before, values[: ROWS_MIN - 1]) is None


def test_equal_stretches_seldom_alarm() -> None:
    rng, alpha = np.random.default_rng(5), 0.02
    alarms = 0
    for _ in range(1000):
        before, after = rng.random((2, 300)) < 0.5
        stretch = Stretch(300, float(before.mean()), float(before.var() * 300))
        alarms += find_fall_since(stretch, after.astype(float), alpha=alpha) is not None
    assert 0 < alarms <= 1000 * alpha + 3 * math.sqrt(1000 * alpha * (1 - alpha))


def visits(rng: np.random.Generator, visitors: int, each: int, *, mixed: bool = False) -> tuple[np.ndarray, list[str]]:
    """Rewards of visitors in moods of mean .2 and deviation .18; one visitor after the other, or mixed."""
    who = np.repeat(np.arange(visitors), each)
    if mixed:
        who = rng.permutation(who)
    mood = rng.beta(0.8, 3.2, size=visitors)
    return (rng.random(len(who)) < mood[who]).astype(float), [f"v{i}" for i in who]


@pytest.mark.parametrize("each", [10, 40])
def test_visitors_who_stay_a_while_are_no_fall(each: int) -> None:
    """At alpha .02, 200 series of 2,000 rows, where counting rows alarms far too often."""
    rng, runs, alpha = np.random.default_rng(6), 200, 0.02
    alarms = by_rows = 0
    for _ in range(runs):
        values, subjects = visits(rng, 2000 // each, each)
        alarms += find_fall(values, subjects, alpha=alpha) is not None
        by_rows += find_fall(values, alpha=alpha) is not None
    most = runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))
    assert alarms <= most < by_rows


def test_what_few_visitors_earned_after_others_is_seldom_a_fall() -> None:
    """Twenty visitors with ten rows each, after forty of the kind before the promotion."""
    rng, runs, alpha = np.random.default_rng(7), 500, 0.02
    alarms = by_rows = 0
    for _ in range(runs):
        (earlier, known), (values, subjects) = visits(rng, 40, 10), visits(rng, 20, 10)
        alarms += find_fall_since(Stretch.last(earlier, known), values, subjects, alpha=alpha) is not None
        by_rows += find_fall_since(Stretch.last(earlier), values, alpha=alpha) is not None
    most = runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))
    assert alarms <= most < by_rows


def test_visitors_on_both_sides_of_a_fall_are_compared_with_themselves() -> None:
    """Forty visitors all the time see a fall to half at once; forty before and forty others after it hardly do."""
    rng, runs = np.random.default_rng(8), 100
    seen = of_others = 0
    for _ in range(runs):
        values, subjects = visits(rng, 40, 50, mixed=True)
        values[1200:] *= rng.random(800) < 0.5
        seen += find_fall(values, subjects) is not None
        others = [f"other {name}" for name in subjects[1200:]]
        of_others += find_fall(values, subjects[:1200] + others) is not None
    assert seen > runs / 2 > 4 * of_others


def test_rows_of_their_own_are_judged_as_rows() -> None:
    rng = np.random.default_rng(9)
    values = np.concatenate([rng.random(600) < 0.6, rng.random(400) < 0.3]).astype(float)
    alone = [f"v{i}" for i in range(1000)]
    fall = find_fall(values)
    assert fall is not None and find_fall(values, alone) == fall
    assert Stretch.last(values, alone).spread == pytest.approx(Stretch.last(values).spread)


def test_fewer_than_twenty_subjects_on_a_side_are_no_fall() -> None:
    values, before = np.repeat([1.0, 0.0], 500), Stretch(500, 1.0, 0.0)
    for subjects, found in ((20, True), (19, False), (1, False)):
        names = [f"v{i % subjects}" for i in range(1000)]
        assert (find_fall(values, names) is not None) is found
        assert (find_fall_since(before, values[500:], names[500:]) is not None) is found


def test_what_a_few_visitors_earned_before_shows_no_fall() -> None:
    """Nineteen before are too few, however many came since; where nobody noted how many they were, nothing is asked."""
    rng = np.random.default_rng(10)
    earned, since = np.repeat([1.0, 0.9], 250), rng.random(500) * 0.1
    names = [f"v{i % 100}" for i in range(500)]
    for subjects, found in ((20, True), (19, False), (1, False)):
        before = Stretch.last(earned, [f"u{i % subjects}" for i in range(500)])
        assert before.subjects == pytest.approx(subjects, rel=0.01)
        assert (find_fall_since(before, since, names) is not None) is found
        assert (find_fall_since(before, since) is not None) is found
        assert find_fall_since(replace(before, subjects=None), since, names) is not None
    one_of_many = ["bot"] * 350 + [f"u{i}" for i in range(150)]
    assert find_fall_since(Stretch.last(earned, one_of_many), since, names) is None


def test_the_side_with_fewer_visitors_says_how_far_a_fall_must_go() -> None:
    """A fall of 3.5 standard errors is one among hundreds of visitors, and none where twenty came before."""
    values, names = np.tile([0.0, 1.0], 200), [f"v{i}" for i in range(400)]
    se = math.sqrt(2 * 100) / 400
    many = Stretch(400, 0.5 + 3.5 * se, 100.0, 400.0)
    assert find_fall_since(many, values, names) is not None
    assert find_fall_since(replace(many, subjects=20.0), values, names) is None


def test_what_an_older_release_noted_of_a_stretch_is_still_read() -> None:
    noted = {"rows": 300, "mean": 0.5, "spread": 75.0}
    assert msgspec.convert(noted, Stretch) == Stretch(300, 0.5, 75.0, None)
    assert msgspec.convert(noted | {"subjects": 31.5}, Stretch).subjects == 31.5


def test_what_was_earned_at_last_begins_at_its_own_fall() -> None:
    stretch = Stretch.last(np.repeat([1.0, 0.0], 200))
    assert (stretch.rows, stretch.mean, stretch.spread) == (200, 0.0, 0.0)


def test_the_values_are_the_champions_whoever_decided() -> None:
    """Drawn from another policy, the rows' mean is still the champion's true value, within three standard errors."""
    rng, n = np.random.default_rng(3), 4000
    action = (rng.random(n) < 0.5).astype(int)
    rows = ScoredRows.from_matrices(
        candidate=np.full((n, 2), 0.5),
        champion=np.tile([0.9, 0.1], (n, 1)),
        q=np.full((n, 2), 0.4),
        action=action,
        reward=(rng.random(n) < np.where(action == 0, 0.8, 0.2)).astype(float),
        propensity=np.full(n, 0.5),
    )
    values = champion_values(rows)
    truth = 0.9 * 0.8 + 0.1 * 0.2
    assert abs(values.mean() - truth) <= 3 * values.std() / math.sqrt(n)
