"""The console's pictures put numbers where they belong: promotions between rewards, intervals on one scale with 0."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from joiner.pulse import Stretch
from serving.learner.admin.board import age
from serving.learner.admin.pictures import bars, interval, lift_scale, reward_picture
from tests.joiner.logs import START


def stretches(*means: float) -> list[Stretch]:
    """Ten interactions in each minute, with a pause of half a minute after it."""
    minutes = [START + timedelta(minutes=1.5 * number) for number in range(len(means))]
    return [Stretch(10, mean, at, at + timedelta(minutes=1)) for mean, at in zip(means, minutes, strict=True)]


def test_the_curve_is_the_mean_of_the_last_ten_stretches_and_promotions_stand_at_their_time() -> None:
    promotions = {
        "before": START - timedelta(hours=1),
        "2": START + timedelta(minutes=1.5 + 0.5),  # in the middle of the second stretch
        "3": START + timedelta(minutes=4.25),  # in the pause after the third
    }
    curve = reward_picture(stretches(*[0.0] * 2, *[1.0] * 18), promotions)
    assert curve is not None
    assert (curve.last, curve.averaged, curve.rows) == (1.0, 100, 200)
    assert [(mark.text, mark.at) for mark in curve.promotions] == [("2", 7.5), ("3", 15.0)]
    assert [level.text for level in curve.levels] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert curve.levels[0].at > curve.levels[-1].at  # percent from the top
    assert reward_picture([], promotions) is None


def test_generations_that_followed_each_other_at_once_share_a_label_so_that_none_lies_on_another() -> None:
    minutes = {"1": 2.0, "2": 30.0, "3": 30.6, "9": 50.0, "10": 50.5, "12": 60.0, "11": 51.0}
    curve = reward_picture(
        stretches(*[0.5] * 50), {name: START + timedelta(minutes=minute) for name, minute in minutes.items()}
    )
    assert curve is not None
    assert [mark.text for mark in curve.promotions] == ["1", "2, 3", "9–11", "12"]
    assert curve.svg.count('class="promotion"') == 7
    two = curve.promotions[1]
    assert 39.9 < two.at < 41


def test_intervals_share_a_scale_with_nought_in_it_and_a_thin_look_does_not_flatten_the_others() -> None:
    sure = {"lift": 0.2, "lower": 0.1, "upper": 0.3}
    wild = {"lift": 0.0, "lower": -50.0, "upper": 70.0}
    scale = lift_scale([sure, wild])
    assert scale(0.3) - scale(0.1) > 5
    found = re.search(r'class="ci" d="M([\d.]+) 5H([\d.]+)"', interval(wild, scale))
    assert found is not None
    assert 0 <= float(found[1]) < scale(0.0) < float(found[2]) <= 100


def test_the_highest_bar_fills_the_height_and_silence_draws_none() -> None:
    assert 'height="1.0000"' in bars([0, 3, 12], "x")
    assert set(re.findall(r' height="([\d.]+)"', bars([0, 0], "x"))) == {"0.0000"}


@pytest.mark.parametrize(
    ("seconds", "said"), [(-3, "0 s"), (45, "45 s"), (100, "2 min"), (5000, "83 min"), (5401, "2 h"), (200_000, "2 d")]
)
def test_age_is_said_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert age(START + timedelta(seconds=seconds), START) == said
