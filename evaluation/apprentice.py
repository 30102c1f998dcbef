"""What an apprentice saw: how often it would have agreed with the baseline, and its guess at what it would have earned.

An apprentice watches while the baseline action is always taken (logged with probability 1). Such rows carry no
evidence about any other action, so no estimator may be used on them and the gate refuses them; what is left is
counting agreement, and the reward model's own guess, which is marked as one wherever it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.scored import ScoredRows


@dataclass(frozen=True, slots=True)
class Apprenticeship:
    """Over n watched rows: chance of agreeing, share whose favourite was the baseline, earned and guessed reward."""

    n: int
    agreement: float
    favourite: float
    earned: float
    guess: float

    def sentence(self) -> str:
        """The report in one breath, with the guess marked as a guess."""
        return (
            f"In {self.n:,} watched decisions it would have agreed {self.agreement:.0%} of the time; the baseline "
            f"earned {self.earned:.4f} per decision, and the model guesses {self.guess:.4f} for itself. A guess: it "
            "never saw what other actions earn"
        )


def watched(rows: ScoredRows) -> Apprenticeship | None:
    """The report on the rows logged with probability 1 out of several actions, None where there are none.

    Agreement is the mean of π(a) over the logged actions a, the guess the mean of Σ_k π_k q̂_k; each row was scored
    before it was learnt. Fails as an estimate of value: q̂ is an extrapolation wherever π leaves the baseline.
    """
    chosen = np.flatnonzero((rows.propensity >= 1.0) & (np.diff(rows.offsets) > 1))  # one action: nothing to agree on
    if len(chosen) == 0:
        return None
    logged = rows.offsets[:-1] + rows.action
    guesses = np.add.reduceat(rows.candidate * rows.q, rows.offsets[:-1])
    best = np.maximum.reduceat(rows.candidate, rows.offsets[:-1])
    agreeing = rows.candidate[logged]
    return Apprenticeship(
        n=len(chosen),
        agreement=float(np.mean(agreeing[chosen])),
        favourite=float(np.mean(agreeing[chosen] >= best[chosen])),
        earned=float(np.mean(rows.reward[chosen])),
        guess=float(np.mean(guesses[chosen])),
    )
