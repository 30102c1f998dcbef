"""How large the learner's steps should be: large where rewards are clear, small where they are mostly chance.

No one learning rate serves both. Where the right action always pays, large steps learn from few rows; where it pays six
times in ten and another five, they follow the luck of the newest rows, and thousands teach no more than hundreds. So
whenever everything is learnt anew, rates are tried on the first rows, from large to small as long as it pays, each row
foretold before it is learnt (prequential choice: Dawid 1984, "Statistical theory: the prequential approach").
"""

from __future__ import annotations

from collections.abc import Sequence

from bandit.encoder import FeatureEncoder
from bandit.example_text import RowTexts
from bandit.settings import Learning
from bandit.types import Interaction
from bandit.vw_options import trial_arguments
from bandit.vw_workspace import VWWorkspace

RATES = (0.5, 0.1, 0.02, 0.004)
"""The rates that are tried."""

TRIED_ROWS_MAX = 2_000
"""On so many of the first rows, which are those of a log that explore most."""

TOLERANCE = 1.05
"""The largest rate is taken whose squared error is at most so many times the least one: it is the quicker learner."""

IMPORTANCE_MAX = 1_000.0
"""Bound on 1/propensity as the weight of an error: what a policy must tell apart is all actions, not those it likes."""


def choose_rate(
    encoder: FeatureEncoder, learning: Learning, rows: Sequence[Interaction], costs: Sequence[float]
) -> float:
    """The rate at which a regression of `costs`, shape (n,), on n rows does well at foretelling the second half."""
    texts = RowTexts(encoder)
    examples = [
        (texts.of(row.context, row.actions, row.index, whole=False), cost)
        for row, cost in zip(rows, costs, strict=True)
    ]
    weights = [min(1.0 / row.propensity, IMPORTANCE_MAX) for row in rows]
    half = len(rows) // 2
    missed: dict[float, float] = {}
    for rate in RATES:
        trial = VWWorkspace(encoder, trial_arguments(learning, encoder.interactions, rate))
        try:
            misses = [(cost - trial.foretell(text, cost)) ** 2 for text, cost in examples]
        finally:
            trial.close()
        missed[rate] = sum(weight * miss for weight, miss in zip(weights[half:], misses[half:], strict=True))
        least = min(missed.values())
        if missed[rate] > TOLERANCE * least:
            break  # smaller ones learn slower still
    return next(rate for rate in missed if missed[rate] <= TOLERANCE * least)
