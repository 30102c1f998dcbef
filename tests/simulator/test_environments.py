"""Every world agrees with itself: what it says policies are worth is what they earn in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from bandit.types import Action, Features
from joiner.tables import read_table
from simulator.channel import Delay, Lost, Twice
from simulator.drift import Drifting, Permuted
from simulator.environment import Environment, reference_lines, true_value
from simulator.news import NewsWorld
from simulator.noise import Flipped, Noisy
from simulator.statlog import STATLOG_PARQUET, statlog
from simulator.synthetic import LinearWorld, NonLinearWorld
from simulator.tables import LabelledTable, UnusableTable

DRAWS = 2000


@pytest.fixture(scope="module")
def shuttle() -> LabelledTable:
    table = read_table(STATLOG_PARQUET)
    return statlog({str(name): table[name] for name in table.columns})


def small_table() -> LabelledTable:
    rng = np.random.default_rng(3)
    x = rng.normal(size=300)
    return LabelledTable({"x": x, "colour": rng.choice(["red", "blue"], 300)}, np.where(x > 0.3, "high", "low"))


WORLDS: dict[str, Callable[[], Environment]] = {
    "table": small_table,
    "linear": LinearWorld,
    "linear, fresh actions": lambda: LinearWorld(8, fresh=True),
    "non-linear": NonLinearWorld,
    "news": NewsWorld,
    "permuted": lambda: Permuted(small_table()),
    "flipped": lambda: Flipped(small_table(), 0.2),
    "noisy": lambda: Noisy(LinearWorld(), 0.5),
    "abrupt": lambda: Drifting(small_table(), Permuted(small_table()), "abrupt", at=50),
    "gradual": lambda: Drifting(LinearWorld(), Permuted(LinearWorld()), "gradual", length=200),
    "seasonal": lambda: Drifting(LinearWorld(), Permuted(LinearWorld()), "seasonal", length=200),
}


def uniform(_: Features, actions: Sequence[Action]) -> list[float]:
    return [1 / len(actions)] * len(actions)


def first(_: Features, actions: Sequence[Action]) -> list[float]:
    return [1.0] + [0.0] * (len(actions) - 1)


def by_context(context: Features, actions: Sequence[Action]) -> list[float]:
    """Some policy that looks at context and actions: it prefers one position, chosen by the context's text."""
    favourite = sum(map(ord, str(sorted(context.items())))) % len(actions)
    return [0.7 * (position == favourite) + 0.3 / len(actions) for position in range(len(actions))]


@pytest.mark.parametrize("policy", [uniform, first, by_context])
@pytest.mark.parametrize("world", WORLDS)
def test_a_policy_earns_what_the_world_says_it_is_worth(world: str, policy: Any) -> None:
    environment, step = WORLDS[world](), 70
    truth = true_value(environment, policy, rng=np.random.default_rng(1), draws=DRAWS, step=step)
    rng, earned = np.random.default_rng(2), np.empty(DRAWS)
    for number in range(DRAWS):
        one = environment.draw(rng, step)
        index = rng.choice(len(one.actions), p=policy(one.context, one.actions))
        earned[number] = one.outcomes[index]
    error = np.hypot(earned.std(ddof=1) / np.sqrt(DRAWS), truth.se)
    assert abs(earned.mean() - truth.mean) < 3 * error


@pytest.mark.parametrize("world", WORLDS)
def test_the_same_generator_draws_the_same_rounds_and_rewards_stay_in_range(world: str) -> None:
    environment = WORLDS[world]()
    low, high = environment.reward_range
    first_rng, second_rng = np.random.default_rng(5), np.random.default_rng(5)
    for step in range(200):
        one, again = environment.draw(first_rng, step), environment.draw(second_rng, step)
        assert (one.context, one.actions) == (again.context, again.actions)
        assert np.array_equal(one.outcomes, again.outcomes)
        assert low <= one.outcomes.min() and one.outcomes.max() <= high
        assert one.means.shape == one.outcomes.shape == (len(one.actions),)
        if environment.catalogue is not None:
            assert one.actions == environment.catalogue


@pytest.mark.parametrize("world", WORLDS)
def test_knowing_more_never_earns_less(world: str) -> None:
    lines = reference_lines(WORLDS[world](), rng=np.random.default_rng(0), draws=1000)
    assert lines.random <= lines.oracle and lines.fixed <= lines.oracle


def test_statlog_is_the_published_protocol(shuttle: LabelledTable) -> None:
    assert len(shuttle) == 43_483
    assert [action.id for action in shuttle.catalogue] == ["1", "2", "3", "4", "5", "6", "7"]
    lines = shuttle.references()
    summed = reference_lines(shuttle)
    assert (summed.oracle, summed.fixed_action) == (1.0, "1")
    assert (summed.random, summed.fixed) == pytest.approx((lines.random, lines.fixed))
    assert (lines.random, lines.oracle, lines.fixed_action) == (1 / 7, 1.0, "1")
    assert lines.fixed == pytest.approx(34108 / 43483)


def test_on_statlog_uniform_random_earns_a_seventh_and_the_oracle_exactly_one(shuttle: LabelledTable) -> None:
    rng, n = np.random.default_rng(4), 7000
    rounds = [shuttle.draw(rng, 0) for _ in range(n)]
    random = np.array([one.outcomes[rng.integers(7)] for one in rounds])
    assert abs(random.mean() - 1 / 7) < 3 * np.sqrt(6 / 49 / n)
    assert all(one.outcomes[one.means.argmax()] == 1.0 for one in rounds)


def test_the_news_shelf_changes_one_article_at_a_time_and_never_repeats_an_id() -> None:
    world, rng = NewsWorld(5, lifetime=50), np.random.default_rng(0)
    shelves = [[action.id for action in world.draw(rng, step).actions] for step in range(0, 500, 10)]
    for before, after in itertools.pairwise(shelves):
        assert len(set(after) - set(before)) == 1
    assert len({name for shelf in shelves for name in shelf}) == len(shelves) + 4


def test_labels_may_be_any_text_and_missing_cells_are_left_out() -> None:
    labels = ["a|b:c d", "", "\n", "x" * 300, "x" * 300 + "y", "😀", None]
    table = LabelledTable({"n": [1.5, float("nan"), 3, True, None, "t", 1], "": list("abcdefg")}, labels)
    ids = [action.id for action in table.catalogue]
    assert len(set(ids)) == len(ids) == 6
    assert all(0 < len(ident) <= 256 and ident.isprintable() for ident in ids)
    contexts = [one.context for one in table.rounds()]
    assert contexts[1] == {"(empty)": "b"} and contexts[4] == {"(empty)": "e"} and contexts[3]["n"] is True
    assert len(contexts) == 6  # the row without a label is not one


def test_whole_numbers_stored_as_floats_make_the_same_labels() -> None:
    assert [a.id for a in LabelledTable({"x": [1, 2, 3]}, [1.0, 2.0, 10.0]).catalogue] == ["1", "2", "10"]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([float("inf"), float("-inf"), 1.0, float("nan")], ["-inf", "1", "inf"]),
        ([Decimal("1.10"), Decimal("2.00"), Decimal("10")], ["1.1", "2", "10"]),
        ([10**38 + 1, 10**38, Decimal(10**37)], [str(10**37), str(10**38), str(10**38 + 1)]),
        ([1e300, 2.0**53, 2.0**53 + 2], ["9007199254740992.0", "9007199254740994.0", "1e+300"]),
        ([True, False, None], ["False", "True"]),
        (["1", "1.0", "01"], ["01", "1", "1.0"]),
    ],
)
def test_different_labels_are_different_classes_under_names_that_people_know(
    labels: list[Any], classes: list[str]
) -> None:
    table = LabelledTable({"x": range(len(labels))}, labels)  # type: ignore[dict-item]
    assert [action.id for action in table.catalogue] == classes


def test_the_order_of_the_classes_depends_on_no_other_label_and_no_run() -> None:
    labels = ["2", "nan", "1", "NaN", "b", "10", "-inf"]
    for order in (labels, labels[::-1]):
        table = LabelledTable({"x": range(len(order))}, order)  # type: ignore[dict-item]
        assert [action.id for action in table.catalogue] == ["-inf", "1", "2", "10", "NaN", "b", "nan"]


@pytest.mark.parametrize("labels", [["a", "a"], [None, None], list(range(1001))])
def test_a_table_without_a_choice_is_refused(labels: list[Any]) -> None:
    with pytest.raises(UnusableTable):
        LabelledTable({"x": labels}, labels)


def test_channels_lose_double_and_delay_as_often_as_they_say() -> None:
    way, rng, n = Lost(0.3, Twice(0.5, Delay(2.0, "exponential"))), np.random.default_rng(0), 4000
    sent = [way.send(1.0, lambda: rng) for _ in range(n)]
    counts = np.array([len(deliveries) for deliveries in sent])
    delays = np.array([delivery.delay_s for deliveries in sent for delivery in deliveries])
    assert abs(counts.mean() - 1.05) < 3 * counts.std() / np.sqrt(n)
    assert abs(delays.mean() - 2.0) < 3 * 2.0 / np.sqrt(len(delays))
    assert all(delivery.reward == 1.0 for deliveries in sent for delivery in deliveries)
