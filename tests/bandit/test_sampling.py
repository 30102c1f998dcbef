"""The draw is honest and can be replayed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.exploration import scaled
from bandit.sampling import draw_index, mix, uniform_draw

SECRET = b"s" * 32
weights = st.lists(st.floats(0, 1e6), min_size=1, max_size=50).filter(lambda values: sum(values) > 1e-300)


def test_the_same_event_gets_the_same_number_and_another_secret_another() -> None:
    assert uniform_draw(SECRET, "event-1") == uniform_draw(SECRET, "event-1")
    assert uniform_draw(SECRET, "event-1") != uniform_draw(b"t" * 32, "event-1")
    assert uniform_draw(SECRET, "event-1") != uniform_draw(SECRET, "event-2")


def test_draws_over_events_are_uniform() -> None:
    n = 20_000
    buckets = [0] * 10
    for index in range(n):
        buckets[int(uniform_draw(SECRET, f"e{index}") * 10)] += 1
    chi_square = sum((count - n / 10) ** 2 / (n / 10) for count in buckets)
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


def test_actions_are_drawn_as_often_as_their_probability_says() -> None:
    pmf = [0.5, 0.0, 0.3, 0.2]
    n = 20_000
    counts = [0] * 4
    for index in range(n):
        counts[draw_index(pmf, uniform_draw(SECRET, f"e{index}"))] += 1
    assert counts[1] == 0
    for count, probability in zip(counts, pmf, strict=True):
        assert abs(count / n - probability) <= 4 * math.sqrt(probability * (1 - probability) / n)


@given(weights)
def test_a_normalised_pmf_sums_to_one_and_keeps_its_order(values: list[float]) -> None:
    pmf = scaled(values)
    assert math.isclose(sum(pmf), 1.0, abs_tol=1e-12)
    assert [p > 0 for p in pmf] == [v / sum(values) > 0 for v in values]


@given(weights, st.floats(0, 1, exclude_max=True))
def test_an_action_of_probability_zero_is_never_drawn(values: list[float], u: float) -> None:
    pmf = scaled(values)
    assert pmf[draw_index(pmf, u)] > 0


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [float("nan"), 1.0], [-1.0, 2.0], [float("inf"), 1.0]])
def test_weights_that_are_no_distribution_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        scaled(values)


def test_a_mixture_is_the_weighted_sum_of_its_branches() -> None:
    assert mix([1.0, 0.0], [0.5, 0.5], 0.2) == [0.8 + 0.1, 0.1]
