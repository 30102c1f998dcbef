"""Pictures of runs: something to see of the shortest, and lines that everybody can tell apart."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from bandit.settings import Algorithm
from serving.cli.compare import LABELS
from simulator import style
from simulator.charts import Panel, Series, comparison_picture, shares_picture
from simulator.environment import Vector
from simulator.runner import Run

SEEN_BY = {
    "everybody": np.eye(3),
    "those who see no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "those who see no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
"""How linear RGB is seen (Machado, Oliveira, Fernandes 2009)."""

TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def as_seen(colour: str, matrix: Vector) -> Vector:
    """A colour in CIELAB, where distances are those that eyes see."""
    shares = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(matrix @ linear, 0, 1) / WHITE
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("people", SEEN_BY)
def test_a_series_looks_like_no_other_and_like_no_reference_line(people: str) -> None:
    references = {style.ORACLE, style.FIXED, style.RANDOM}
    pairs = [pair for pair in combinations([*style.SERIES, *references], 2) if not references.issuperset(pair)]
    for one, other in pairs:
        least = 38 if people == "everybody" else 19
        assert np.linalg.norm(as_seen(one, SEEN_BY[people]) - as_seen(other, SEEN_BY[people])) > least, (one, other)


def test_every_algorithm_has_a_colour_of_its_own_which_no_other_line_takes() -> None:
    names = {*get_args(Algorithm), *LABELS}
    assert names == set(style.ALGORITHMS) and len(set(style.ALGORITHMS.values())) == len(names)
    labels = ["wide", "narrow", "ε-greedy 0.001", "ε-greedy 0.1", "ε-greedy 0.3"]
    colours = style.colours_of(labels, {label: name for name, label in LABELS.items()}, "wide")
    assert colours["wide"] == style.AGENT and colours["ε-greedy 0.001"] == style.ALGORITHMS["egreedy"]
    assert len(set(colours.values())) == len(labels)
    assert set(style.colours_of([str(number) for number in range(20)], {}, "0")) == set(map(str, range(20)))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would be saved."""
    saved: list[Any] = []
    monkeypatch.setattr("simulator.charts.style.save", lambda figure, path: (saved.append(figure), path)[1])
    return saved


def flat_run(seed: int, played: int, *, random: float = 0.5, expected: float = 0.5, oracle: float = 0.5) -> Run:
    """A run that earned the same all the time, always by action a."""
    run = Run.empty(seed, played)
    run.random[:], run.expected[:], run.oracle[:] = random, expected, oracle
    run.rewards[:] = expected
    run.probabilities[:] = 0.5
    run.actions = ["a"] * played
    return run


def drawn(panel: Panel, path: Path) -> None:
    comparison_picture([panel], None, path / "c.png", title="", subtitle="", fixed_label="")


@pytest.mark.parametrize("played", [1, 2, 7, 20, 21, 39])
def test_all_of_a_very_short_run_is_drawn(played: int, tmp_path: Path, figures: list[Any]) -> None:
    panel = Panel("", [Series("rewardloop", [flat_run(0, played)], style.AGENT)])
    drawn(panel, tmp_path)
    shares_picture([panel], tmp_path / "s.png")
    compared, shares = figures
    for axes in compared.axes:
        (line,) = [line for line in axes.lines if line.get_color() == style.AGENT]
        assert len(line.get_xdata()) == played and (played > 1 or line.get_marker() == style.POINT)
    (area,) = shares.axes[0].collections
    assert np.ptp(area.get_paths()[0].vertices[:, 0]) > 0


def test_the_lines_of_a_world_that_changes_are_means_over_the_seeds(tmp_path: Path, figures: list[Any]) -> None:
    runs = [flat_run(0, 50, random=0.1, oracle=0.8), flat_run(1, 50, random=0.3, oracle=1.0)]
    drawn(Panel("", [Series("rewardloop", runs, style.AGENT)]), tmp_path)
    above = figures[0].axes[0]
    ends = {line.get_color(): line.get_ydata()[-1] for line in above.lines}
    assert ends[style.RANDOM] == pytest.approx(0.2) and ends[style.ORACLE] == pytest.approx(0.9)
    assert {"oracle  0.900", "random  0.200"} <= {text.get_text() for text in above.texts}


def test_labels_of_lines_that_end_together_stand_around_them_in_the_order_of_their_numbers(
    tmp_path: Path, figures: list[Any]
) -> None:
    series = []
    for number, (before, after) in enumerate([(0.9, 0.52), (0.1, 0.53), (0.5, 0.51)]):
        run = flat_run(0, 400, random=0.1, oracle=0.95)
        run.expected[:200], run.expected[200:] = before, after
        series.append(Series(f"s{number}", [run], style.SERIES[number]))
    drawn(Panel("", series), tmp_path)
    above = figures[0].axes[0]
    told = sorted((text.xy[1], text.get_text()) for text in above.texts)
    heights = {text.split()[0]: height for height, text in told}
    assert [text.split()[0] for _, text in told] == ["random", "s1", "s2", "s0", "oracle"]
    assert heights["s1"] < 0.51 < heights["s2"] < 0.53 < heights["s0"]
    assert (heights["random"], heights["oracle"]) == pytest.approx((0.1, 0.95))
    colours = {leader.get_color(): leader.get_ydata() for leader in figures[0].artists}
    assert set(colours) >= {style.SERIES[0], style.SERIES[1]} and style.ORACLE not in colours
    assert tuple(colours[style.SERIES[0]]) == pytest.approx((0.52, heights["s0"]))


def test_long_titles_are_broken_rather_than_cut_off(tmp_path: Path, figures: list[Any]) -> None:
    panel = Panel("", [Series("rewardloop", [flat_run(0, 50)], style.AGENT)])
    long = {"title": f"rewardloop on {'w' * 120}.csv", "subtitle": "many more words than there is room for, " * 5}
    comparison_picture([panel], None, tmp_path / "c.png", **long, fixed_label="")
    (figure,) = figures
    texts = [text.get_window_extent() for text in figure.texts]
    assert len(texts) > 4 and all(0 <= box.x0 < box.x1 <= figure.bbox.width for box in texts)
    assert all(upper.y0 > lower.y1 - 1 for upper, lower in pairwise(texts))
    assert texts[-1].y0 > figure.axes[0].get_window_extent().y1


def chosen_by_turns(names: list[str], played: int) -> Run:
    """A run that chose one after the other."""
    run = flat_run(0, played)
    run.actions = [names[number % len(names)] for number in range(played)]
    return run


def test_shares_of_actions_have_named_axes_and_reach_from_the_first_interaction_to_the_last(
    tmp_path: Path, figures: list[Any]
) -> None:
    several = [Series(name, [chosen_by_turns(["a", "b"], 10_000)], style.AGENT) for name in ("x", "y", "z")]
    shares_picture([Panel("numbers in bins", several)], tmp_path / "s.png")
    (figure,) = figures
    figure.draw_without_rendering()
    assert figure.axes[0].get_ylabel() == "share of decisions"
    assert "numbers in bins" in [text.get_text() for text in figure.axes[0].texts]
    for cell in figure.axes:
        x = cell.collections[0].get_paths()[0].vertices[:, 0]
        assert cell.get_xlabel() == "interactions" and (x.min(), x.max()) == cell.get_xlim() == (0, 10_000)
    ticks = [tick.get_window_extent() for cell in figure.axes for tick in cell.get_xticklabels()]
    assert all(right.x0 - left.x1 > 5 for left, right in pairwise(ticks))


@pytest.mark.parametrize("letters", [3, 40])
def test_a_legend_is_no_taller_than_its_plot_and_within_the_picture(
    letters: int, tmp_path: Path, figures: list[Any]
) -> None:
    names = [f"{number}-" + "\u4e00" * letters for number in range(14)]
    shares_picture([Panel("", [Series("x", [chosen_by_turns(names, 140)], style.AGENT)])], tmp_path / "s.png")
    (figure,) = figures
    figure.draw_without_rendering()
    plot, legend = figure.axes[0].get_tightbbox(), figure.legends[0].get_window_extent()
    assert legend.height < plot.height and legend.y1 < plot.y0 and 0 <= legend.x0 < legend.x1 <= figure.bbox.width
