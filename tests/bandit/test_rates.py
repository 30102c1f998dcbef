"""The learning rate follows the data: small steps where rewards are mostly chance, large ones where they are clear."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec.structs import replace

from bandit.policies import UniformPolicy, read_state
from bandit.rates import RATES, TRIED_ROWS_MAX, correlation
from bandit.training import Learning
from bandit.types import Action, Interaction
from tests.bandit.worlds import START, rows_of, settings


def noisy(count: int, *, seed: int = 1) -> list[Interaction]:
    """The quadrants, where the right action pays with chance .65 and any other with .45."""
    luck = np.random.default_rng([seed, 7])
    return [
        replace(row, reward=float(luck.random() < (0.65 if row.reward else 0.45)))
        for row in rows_of(UniformPolicy(), count, seed=seed)
    ]


def learnt(rows: list[Interaction], **learning: object) -> Learning:
    """Everything learnt from nothing, as a first run does."""
    here = Learning.fresh(settings(learning=learning), [])
    here.step(rows, champion=None, champion_id=None, history=list, score=False)
    return here


def accuracy(learning: Learning, count: int = 1500) -> float:
    """How often the likeliest action is the right one, on fresh contexts."""
    rows = rows_of(UniformPolicy(), count, seed=99)
    hits = 0
    for row in rows:
        x, y = row.context["x"], row.context["y"]
        pmf = learning.policy.pmf(row.context, row.actions)
        hits += int(np.argmax(pmf)) == int(x > 0) * 2 + int(y > 0)
    return hits / count


def test_noise_makes_steps_small_and_small_steps_learn_more_from_it() -> None:
    rows = noisy(4000)
    chosen, fixed = learnt(rows), learnt(rows, learning_rate=RATES[0])
    assert chosen.rate is not None and chosen.rate < RATES[0] and fixed.rate is None
    ours, theirs = accuracy(chosen), accuracy(fixed)
    chosen.close()
    fixed.close()
    assert ours - theirs > 3 * math.sqrt(0.25 * 2 / 1500)


def test_clear_rewards_keep_them_large() -> None:
    learning = learnt(rows_of(UniformPolicy(), 1000, seed=2))
    assert learning.rate == RATES[0]
    learning.close()


def test_a_log_without_a_single_reward_keeps_them_large() -> None:
    learning = learnt([replace(row, reward=0.0) for row in rows_of(UniformPolicy(), 300, seed=3)])
    assert learning.rate == RATES[0]
    learning.close()


def favourites(count: int, *, seed: int) -> list[Interaction]:
    """A log that nearly always shows the action that pays with chance .26, and seldom the three that pay with .16."""
    rng, actions, pmf = np.random.default_rng(seed), tuple(Action(name) for name in "abcd"), (0.85, 0.05, 0.05, 0.05)
    rows = []
    for number in range(count):
        index, hour = int(rng.choice(4, p=pmf)), int(rng.integers(3))
        reward = float(rng.random() < (0.26 if index == 0 else 0.16))
        row = Interaction(f"e{number}", START, "m", {"hour": hour}, actions, index, pmf[index], pmf, reward)
        rows.append(row)
    return rows


@pytest.mark.parametrize("seed", [11, 86])
def test_a_rate_that_foretells_nothing_is_passed_over_where_another_does(seed: int) -> None:
    learning = Learning.fresh(settings(), favourites(1600, seed=seed))
    assert learning.rate is not None and learning.rate < RATES[0]
    learning.close()


def test_by_older_rules_no_rate_is_passed_over() -> None:
    rows = favourites(1600, seed=11)
    older, newer = (Learning.fresh(settings(), rows, passes_over=passes_over) for passes_over in (False, True))
    assert older.rate == RATES[0] != newer.rate
    older.close()
    newer.close()


def test_only_the_first_rows_decide() -> None:
    rows = noisy(TRIED_ROWS_MAX)
    more = [*rows, *rows_of(UniformPolicy(), TRIED_ROWS_MAX + 100, seed=5, first=len(rows))]
    one, other = (Learning.fresh(settings(), given) for given in (rows, more))
    assert one.rate is not None and one.rate < RATES[0]
    assert other.rate is not None and other.rate < RATES[0]
    one.close()
    other.close()


def test_a_rate_is_stored_with_the_model_and_goes_on() -> None:
    rows = noisy(2000)
    learning = learnt(rows)
    files = learning.files()
    again = Learning.resume(files, settings())
    assert read_state(files).rate == again.rate == learning.rate
    for each in (learning, again):
        each.step(noisy(50, seed=4), champion=None, champion_id=None, score=False)
    assert again.files() == learning.files()
    learning.close()
    again.close()


def test_a_rate_that_was_handed_on_is_kept_when_all_is_learnt_anew() -> None:
    rows = rows_of(UniformPolicy(), 400, seed=6)
    learning = Learning.fresh(settings(), rows[:50], rate=0.02)
    past = rows[:50]
    learning.step(past, champion=None, champion_id=None, score=False)
    learning.step(rows[50:], champion=None, champion_id=None, history=lambda: past, score=False)
    assert learning.reread_rows and (learning.rate, learning.keeps_rate) == (0.02, True)
    resumed = Learning.resume(learning.files(), settings())
    assert (resumed.rate, resumed.keeps_rate) == (0.02, True)
    learning.close()
    resumed.close()


def test_settings_that_name_a_rate_have_their_way() -> None:
    learning = Learning.fresh(
        settings(learning={"learning_rate": 0.3}), rows_of(UniformPolicy(), 60, seed=6), rate=0.02
    )
    assert learning.rate is None and "0.3" in learning.policy.arguments
    learning.close()


def test_correlation_is_weighted_and_never_no_number() -> None:
    rng = np.random.default_rng(0)
    left, noise = rng.normal(size=400), rng.normal(size=400)
    counts = rng.integers(1, 5, size=400)
    expected = np.corrcoef(np.repeat(left, counts), np.repeat(left + noise, counts))[0, 1]
    assert correlation(left, left + noise, counts.astype(float)) == pytest.approx(expected)
    assert correlation(np.ones(5), np.arange(5.0), np.ones(5)) == 0.0
    assert correlation(np.array([np.nan, 1.0]), np.arange(2.0), np.ones(2)) == 0.0
