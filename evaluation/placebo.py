"""A placebo on the user's own log: how often would the rule promote a challenger whose lift is known to be 0?

Actions are drawn anew from the logged pmf and rewards are shuffled over the rows, so that no choice earns more than
another, while contexts, exploration and the two policies stay what they are. (Shuffling without redrawing is no
placebo: the logged actions would keep what made them be chosen.) A rule worth its α promotes about that share; a
higher point estimate promotes half.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from evaluation.caution import caution
from evaluation.lift import paired_lift
from evaluation.scored import ScoredRows

REPORT_RUNS = 40
REPORT_ROWS_MAX = 2000
"""Runs and (latest) rows of the placebo in each certificate: a few dozen milliseconds."""


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
    for _ in range(runs):
        again = redraw(used, rng)
        lift = paired_lift(again)
        higher += lift.value > 0
        promoted += lift.value > caution(again, lift).reach(z)
    return Placebo(runs, len(used), promoted, higher, alpha)


def redraw(rows: ScoredRows, rng: np.random.Generator) -> ScoredRows:
    """The same rows with actions drawn anew from μ and rewards shuffled: every policy is worth the mean reward."""
    assert rows.pmf is not None
    n = len(rows)
    # one cumulative sum over all rows; each row's share of it begins at its own offset
    total = np.cumsum(rows.pmf)
    before = total[rows.offsets[:-1]] - rows.pmf[rows.offsets[:-1]]
    width = total[rows.offsets[1:] - 1] - before
    at = np.searchsorted(total, before + rng.random(n) * width, side="right")
    at = np.clip(at, rows.offsets[:-1], rows.offsets[1:] - 1)
    # rounding may hit an action of probability 0: the most probable one stands in for it
    zero = rows.pmf[at] <= 0
    for i in np.flatnonzero(zero).tolist():
        at[i] = rows.offsets[i] + int(np.argmax(rows.pmf[rows.offsets[i] : rows.offsets[i + 1]]))
    return replace(
        rows,
        action=at - rows.offsets[:-1],
        propensity=np.minimum(rows.pmf[at], 1.0),
        reward=rng.permutation(rows.reward),
    )
