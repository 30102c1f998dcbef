"""What must be true of a log before any number from it is believed.

*Alarms* (`evaluation.audit`) ask whether the logged probabilities can be right; a failed one blocks the gate. *Floors*
ask whether there is enough evidence for the normal theory of the bound; below one the verdict is "insufficient data".
A failed *veto* holds what the bound would promote. *Notes* are for the reader and block nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Totals
from evaluation.scored import ScoredRows

REWARD_VALUES_MAX = 1 << 16
"""Different rewards that are counted one by one; the commonest is taken to be among the first so many."""

SUBJECTS_MIN = 20
"""Effective number of subjects below which their spread is too badly known for any bound.

Where policies are compared those count whom they treat differently (`evaluation.lift.subjects_of`).
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One question asked of the rows, its number, the limit, and the answer in words."""

    name: str
    kind: Literal["alarm", "floor", "veto", "note"]
    status: Literal["pass", "fail", "insufficient"]
    value: float | None
    limit: float | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with the fields of the check."""
        return asdict(self)


def without_support(rows: ScoredRows, *, alike_too: bool = False) -> NDArray[np.bool_]:
    """Rows logged with probability 1 although there was a choice: they cannot tell what another action earns.

    Where both policies are as sure of that action, nothing is left to be told: their lift is exactly 0 there, and the
    row is kept. Up to rule version 3 it was not (`alike_too`).
    """
    certain = (rows.propensity >= 1.0) & (rows.lengths > 1)
    if alike_too:
        return certain
    return certain & ((rows.at_action(rows.candidate) < 1.0) | (rows.at_action(rows.champion) < 1.0))


class Evidence:
    """What the floors ask about, gathered chunk by chunk; of the weights only the heaviest 1% of `rows_max` are kept.

    `informative`: rows whose reward is not the commonest one, which tell choices apart. `top_share`: share of the
    candidate's weight in the heaviest 1% of the rows (at least one row). `uncovered`: mean probability the candidate
    gives to actions with μ = 0, None where no pmf was logged.
    """

    def __init__(self, rows_max: int) -> None:
        self._n = self._logged = 0
        self._kept = max(1, math.ceil(rows_max / 100))
        self._top = np.zeros(0)
        self._weight = self._outside = 0.0
        self._rewards: dict[float, int] = {}

    def add(self, rows: ScoredRows) -> None:
        """Take in one more chunk of rows."""
        self._n += len(rows)
        weights = rows.at_action(rows.candidate) / rows.propensity
        self._weight += float(weights.sum())
        self._top = np.concatenate([self._top, weights])
        if len(self._top) > self._kept:
            self._top = np.partition(self._top, len(self._top) - self._kept)[-self._kept :]
        for value, count in zip(*(part.tolist() for part in np.unique(rows.reward, return_counts=True)), strict=True):
            if value in self._rewards or len(self._rewards) < REWARD_VALUES_MAX:
                self._rewards[value] = self._rewards.get(value, 0) + count
        if rows.pmf is not None:
            logged = np.isfinite(rows.per_row(rows.pmf))
            self._logged += int(logged.sum())
            self._outside += float(rows.per_row(np.where(rows.pmf == 0, rows.candidate, 0.0))[logged].sum())

    @property
    def informative(self) -> int:
        return self._n - max(self._rewards.values(), default=0)

    @property
    def top_share(self) -> float:
        if self._weight <= 0:
            return 0.0
        top = min(len(self._top), max(1, math.ceil(self._n / 100)))
        return float(np.partition(self._top, len(self._top) - top)[-top:].sum()) / self._weight

    @property
    def uncovered(self) -> float | None:
        return self._outside / self._logged if self._logged else None

    def checks(
        self,
        totals: Totals,
        *,
        rows_min: int,
        ess_min: float,
        informative_min: int,
        top_share_max: float,
        uncovered_max: float,
    ) -> list[Check]:
        """The floors: enough rows, effective rows, unusual rewards, no few rows that decide all, enough overlap."""
        checks = [_at_least("rows", self._n, rows_min, "rows")]
        for role in ("candidate", "champion"):
            checks.append(_at_least(f"ess_{role}", totals.ess(role), ess_min, f"effective rows of the {role}"))
        checks.append(_at_least("informative_rewards", self.informative, informative_min, "unusual rewards"))
        share, lost = self.top_share, self.uncovered
        text = f"The heaviest 1% of the rows carry {share:.0%} of the candidate's weight (at most {top_share_max:.0%})."
        checks.append(_at_most("weight_tail", share, top_share_max, text))
        if lost is not None:
            text = f"{lost:.1%} of the candidate's choices go to actions the log can never show "
            checks.append(_at_most("overlap", lost, uncovered_max, f"{text}(at most {uncovered_max:.0%})."))
        return checks


def draws_check(draws: float, limit: float) -> Check:
    """A floor on the effective number of draws, expected from μ, that tell the two policies apart."""
    enough = draws >= limit
    text = f"{draws:,.1f} telling draws are expected where the policies differ"
    text += "." if enough else f", {limit:,.1f} are needed: the log hardly shows what the candidate would do there."
    return Check("telling_draws", "floor", "pass" if enough else "insufficient", draws, limit, text)


def subjects_check(subjects: float) -> Check:
    """A floor on the effective number of subjects: a spread known from few of them is hardly known."""
    return _at_least("subjects", subjects, SUBJECTS_MIN, "effective subjects")


def newest_check(lift: float, rows: int, limit: float) -> Check:
    """A veto of the reward model against the version that would be published, which no row has judged yet.

    `lift` is the mean of Σ_k (c_k − b_k) q̂_k over the newest `rows` contexts, c being that version.
    """
    text = f"The newest version, which would be published, is worth {lift:+.4g} per decision beside the champion "
    text += f"on the newest {rows:,} contexts, by the reward model alone (at least {limit:+.4g})."
    return Check("newest_version", "veto", "pass" if lift >= limit else "fail", lift, limit, text)


def agreement_note(totals: Totals) -> Check:
    """DR and SNIPS lifts beyond 3 SE of their paired difference are worth a look."""
    z = totals.disagreement()
    if abs(z) > 3:
        text = f"DR and SNIPS disagree about the lift by {abs(z):.1f} standard errors of their difference: look closer."
        return Check("estimators_agree", "note", "fail", z, 3.0, text)
    return Check("estimators_agree", "note", "pass", z, 3.0, "DR and SNIPS agree about the lift.")


def _at_least(name: str, value: float, limit: float, what: str) -> Check:
    enough = value >= limit
    text = f"{value:,.0f} {what}" + ("" if enough else f", {limit:,.0f} are needed") + "."
    return Check(name, "floor", "pass" if enough else "insufficient", float(value), float(limit), text)


def _at_most(name: str, value: float, limit: float, text: str) -> Check:
    return Check(name, "floor", "pass" if value <= limit else "insufficient", value, limit, text)
