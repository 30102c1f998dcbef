"""A placebo on the user's own log: how often would the rule promote a challenger whose lift is known to be 0?

Actions are drawn anew from the logged pmf and rewards are shuffled over the rows, so that no choice earns more than
another, while contexts, exploration and the two policies stay what they are. (Shuffling without redrawing is no
placebo: the logged actions would keep what made them be chosen.) A rule worth its α promotes about that share; a
higher point estimate promotes half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from evaluation.caution import caution_of, drawn_sums, implied_sums
from evaluation.lift import paired_lift, subjects_of
from evaluation.scored import ScoredRows

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
    if len(used) < 2 or np.array_equal(used.candidate, used.champion):
        return None
    rng = np.random.default_rng(seed)
    z = NormalDist().inv_cdf(1 - alpha)
    promoted = higher = 0
    events, implied, subjects = used.reduce(), implied_sums(used), subjects_of(used)  # what no draw changes, once
    for again in redraws(used, rng, runs):
        lift = paired_lift(again, events._replace(**again.logged()))
        care = caution_of(np.array([*implied, *drawn_sums(again)]), len(used), lift.se, subjects=subjects)
        higher += lift.value > 0
        promoted += lift.value > care.reach(z)
    return Placebo(runs, len(used), promoted, higher, alpha)


def redraws(rows: ScoredRows, rng: np.random.Generator, runs: int) -> Iterator[ScoredRows]:
    """The same rows with actions drawn anew from μ and rewards shuffled: every policy is worth the mean reward."""
    assert rows.pmf is not None
    n, starts, lasts = len(rows), rows.offsets[:-1], rows.offsets[1:] - 1
    # one cumulative sum over all rows; each row's share of it begins at its own offset
    total = np.cumsum(rows.pmf)
    before = total[starts] - rows.pmf[starts]
    width = total[lasts] - before
    for _ in range(runs):
        at = np.searchsorted(total, before + rng.random(n) * width, side="right")
        at = np.clip(at, starts, lasts)
        # rounding may hit an action of probability 0: the most probable one stands in for it
        for i in np.flatnonzero(rows.pmf[at] <= 0).tolist():
            at[i] = starts[i] + int(np.argmax(rows.pmf[starts[i] : lasts[i] + 1]))
        yield replace(
            rows,
            action=at - starts,
            propensity=np.minimum(rows.pmf[at], 1.0),
            reward=rng.permutation(rows.reward),
        )
