"""How large the learner's steps should be: large where rewards are clear, small where they are mostly chance.

No one learning rate serves both. Where the right action always pays, large steps learn from few rows; where it pays six
times in ten and another five, they follow the luck of the newest rows, and thousands teach no more than hundreds. So
whenever everything is learnt anew, rates are tried on the first rows, each row foretold before it is learnt
(prequential choice: Dawid 1984, "Statistical theory: the prequential approach"). What counts is the correlation of
what was foretold with what came: a policy needs the order of the actions, not the level of their costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bandit.encoder import FeatureEncoder
from bandit.example_text import RowTexts
from bandit.settings import Learning
from bandit.types import Context, Interaction
from bandit.vw_options import trial_arguments
from bandit.vw_workspace import VWWorkspace

RATES = (0.5, 0.1, 0.02)
"""The rates that are tried, the quickest learner first."""

TRIED_ROWS_MAX = 2_000
"""On so many of the first rows, which are those of a log that explore most."""

IMPORTANCE_MAX = 10.0
"""Bound on 1/propensity as a row's weight: all actions must be told apart, not only those that are liked."""

TELLING_Z, ALIKE_MIN = 2.0, 0.75
"""A correlation of less than so many standard errors, and less than this share of the best one, tells nothing."""

Floats = NDArray[np.float64]


def choose_rate(
    encoder: FeatureEncoder,
    learning: Learning,
    rows: Sequence[Interaction],
    costs: Sequence[float],
    *,
    lines: Sequence[str] | None = None,
    passes_over: bool = True,
) -> float:
    """The rate at which a regression of `costs`, shape (n,), on n rows foretells their second half well.

    `lines` are those of the rows' contexts, where they are at hand.

    The largest one whose correlation is not worse than the best one's by more than the standard error of the
    difference, √(2(1 − ρ)/effective rows), ρ being the correlation of what both foretold (Steiger 1980, "Tests
    for comparing elements of a correlation matrix"): it is the quickest. Where the best one foretells something, one
    that cannot be told from none, by a standard error of 1/√(effective rows), and is clearly less, is passed over: with
    few telling rows the error of the difference lets it through, and what it makes of them is luck. Older rules passed
    over none (`passes_over=False`).
    """
    texts = RowTexts(encoder)
    contexts: Sequence[Context | str] = lines or [row.context for row in rows]
    examples = [
        texts.of(context, row.actions, row.index, whole=False) for context, row in zip(contexts, rows, strict=True)
    ]
    later = slice(len(rows) // 2, None)
    came = np.array(costs)[later]
    weights = np.array([min(1.0 / row.propensity, IMPORTANCE_MAX) for row in rows[later]])
    effective = float(weights.sum()) ** 2 / float((weights**2).sum())
    foretold: dict[float, Floats] = {}
    for rate in RATES:
        trial = VWWorkspace(encoder, trial_arguments(learning, encoder.interactions, rate))
        try:
            foretold[rate] = np.array(trial.foretell(examples, costs))[later]
        finally:
            trial.close()
    found = {rate: correlation(values, came, weights) for rate, values in foretold.items()}
    best = max(found, key=found.__getitem__)
    telling = TELLING_Z / math.sqrt(effective)

    def is_good(rate: float) -> bool:
        if passes_over and found[rate] < telling <= found[best] and found[rate] < ALIKE_MIN * found[best]:
            return False
        alike = correlation(foretold[rate], foretold[best], weights)
        return found[best] - found[rate] <= math.sqrt(2.0 * max(1.0 - alike, 0.0) / effective)

    return next(rate for rate in RATES if is_good(rate))


def correlation(left: Floats, right: Floats, weights: Floats) -> float:
    """The weighted correlation of two arrays, shape (n,); 0 where one of them does not vary, or is no number."""
    share = weights / weights.sum()
    left, right = left - (share * left).sum(), right - (share * right).sum()
    spread = math.sqrt(float((share * left**2).sum() * (share * right**2).sum()))
    found = float((share * left * right).sum()) / spread if spread > 0.0 else 0.0
    return found if math.isfinite(found) else 0.0
