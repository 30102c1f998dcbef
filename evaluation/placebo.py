"""A placebo on the user's own log: how often would the rule promote a challenger whose lift is known to be 0?

Actions are drawn anew from the logged pmf and rewards are shuffled over the rows, so that no choice earns more than
another, while contexts, exploration and the two policies stay what they are. (Shuffling without redrawing is no
placebo: the logged actions would keep what made them be chosen.) A rule worth its α promotes about that share; a
higher point estimate promotes half.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from evaluation.caution import caution_of, implied_sums, sums_of_draws
from evaluation.lift import mean_lift, subjects_of
from evaluation.scored import Floats, Ints, ScoredRows

REPORT_RUNS = 40
REPORT_ROWS_MAX = 2000
"""Runs and (latest) rows of the placebo in each certificate: some ten milliseconds."""


@dataclass(frozen=True, slots=True)
class Placebo:
    """Of `runs` placebo runs on `rows` rows: those that the gate's bound promotes, and those with a higher estimate."""

    runs: int
    rows: int
    promoted: int
    higher: int
    alpha: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with a sentence in `text`."""
        return {**asdict(self), "text": self.text}

    @property
    def text(self) -> str:
        """The result in a sentence."""
        return (
            f"On {self.runs:,} versions of the latest {self.rows:,} rows with redrawn actions and shuffled rewards, "
            f"where no policy is better, one look at level {self.alpha:.3g} promotes {self.promoted / self.runs:.1%}, "
            f"a rule that takes the higher estimate {self.higher / self.runs:.0%}."
        )


def placebo(rows: ScoredRows, *, alpha: float, runs: int, seed: int) -> Placebo | None:
    """Run the placebo; None where fewer than two rows carry a pmf, or the policies do not differ."""
    if rows.pmf is None or len(rows) == 0:
        return None
    used = rows.where(np.isfinite(rows.per_row(rows.pmf)))
    assert used.pmf is not None
    if len(used) < 2 or np.array_equal(used.candidate, used.champion):
        return None
    z = NormalDist().inv_cdf(1 - alpha)
    promoted = higher = 0
    at, rewards = redraws(used, np.random.default_rng(seed), runs)
    propensity, miss = np.minimum(used.pmf[at], 1.0), rewards - used.q[at]
    candidate, champion = used.candidate[at], used.champion[at]
    events, implied, subjects = used.reduce(), implied_sums(used), subjects_of(used)  # what no draw changes, once
    lifts = (events.dm_candidate - events.dm_champion) + (candidate / propensity - champion / propensity) * miss
    drawn = np.array(sums_of_draws((candidate - champion) / propensity, miss))
    for run in range(runs):
        lift = mean_lift(lifts[run], used.cluster)
        care = caution_of(np.array([*implied, *drawn[:, run]]), len(used), lift.se, subjects=subjects)
        higher += lift.value > 0
        promoted += lift.value > care.reach(z)
    return Placebo(runs, len(used), promoted, higher, alpha)


def redraws(rows: ScoredRows, rng: np.random.Generator, runs: int) -> tuple[Ints, Floats]:
    """The same n rows with actions drawn anew from μ and rewards shuffled: every policy is worth the mean reward.

    Gives where the drawn actions stand in the ragged arrays, and the rewards, both of shape (runs, n).
    """
    assert rows.pmf is not None
    n, starts, lasts = len(rows), rows.offsets[:-1], rows.offsets[1:] - 1
    # one cumulative sum over all rows; each row's share of it begins at its own offset
    total = np.cumsum(rows.pmf)
    before = total[starts] - rows.pmf[starts]
    width = total[lasts] - before
    chance, rewards = np.empty((runs, n)), np.empty((runs, n))
    for run in range(runs):
        chance[run], rewards[run] = rng.random(n), rng.permutation(rows.reward)
    at = np.clip(np.searchsorted(total, before + chance * width, side="right"), starts, lasts)
    # rounding may hit an action of probability 0: the most probable one stands in for it
    for run, i in np.argwhere(rows.pmf[at] <= 0).tolist():
        at[run, i] = starts[i] + int(np.argmax(rows.pmf[starts[i] : lasts[i] + 1]))
    return at, rewards
