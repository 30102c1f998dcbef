"""Can the logged probabilities be right? Row by row where the whole distribution was logged, in the mean for any log.

Everything asked is a sum over rows, so that chunks can be added up one after the other. A failed question is an alarm
and blocks the gate; one that too few rows can answer is `insufficient`, never an alarm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.checks import Check
from evaluation.scored import Floats, ScoredRows

Z_ALARM = 5.0
"""Standard errors of disagreement between weights and propensities that raise an alarm."""

HITS_MIN, HITS_MIN_OBSERVED = 10.0, 25.0
"""Effective number of rare events a weight check needs: with the variance implied by μ, and with it observed."""

PMF_TOLERANCE = 1e-6

AUDITED = ("candidate", "champion", "uniform")


@dataclass(frozen=True, slots=True)
class WeightAudit:
    """Σ(w − m) in units of its standard deviation implied by μ; `hits` is how many rare events that rests on."""

    z: float
    hits: float
    mean: float
    observed: bool

    @property
    def answerable(self) -> bool:
        """Whether enough hits are expected for the normal approximation."""
        return self.hits >= (HITS_MIN_OBSERVED if self.observed else HITS_MIN)


class Audit:
    """The sums that the audit of the propensities rests on; `add` rows, then ask."""

    def __init__(self) -> None:
        self._rows = self._logged = self._off_sum = self._off_at = 0
        self._any_pmf = False
        self._weights = {role: np.zeros(5) for role in AUDITED}
        self._counts = np.zeros((3, 0))

    @classmethod
    def of(cls, rows: ScoredRows) -> Audit:
        """The audit of `rows`."""
        audit = cls()
        for chunk in rows.chunks():
            audit.add(chunk)
        return audit

    def add(self, rows: ScoredRows) -> None:
        """Take in one more chunk of rows."""
        self._rows += len(rows)
        logged = np.zeros(len(rows), bool) if rows.pmf is None else np.isfinite(rows.per_row(rows.pmf))
        uniform = np.repeat(1.0 / rows.lengths, rows.lengths)
        for role, policy in zip(AUDITED, (rows.candidate, rows.champion, uniform), strict=True):
            self._weights[role] += _weight_sums(rows, policy, logged)
        if rows.pmf is None or not np.isfinite(rows.pmf).any():
            return
        self._any_pmf = True
        sums, at = rows.per_row(rows.pmf)[logged], rows.at_action(rows.pmf)[logged]
        self._logged += int(logged.sum())
        self._off_sum += int((abs(sums - 1) > PMF_TOLERANCE).sum() + (rows.pmf < 0).sum())
        self._off_at += int((abs(at - rows.propensity[logged]) > PMF_TOLERANCE * np.maximum(at, 1e-3)).sum())
        counts = _action_sums(rows, logged)
        if counts.shape[1] > self._counts.shape[1]:
            self._counts = np.pad(self._counts, ((0, 0), (0, counts.shape[1] - self._counts.shape[1])))
        self._counts[:, : counts.shape[1]] += counts

    def checks(self) -> list[Check]:
        """All questions with their answers; none without rows."""
        if self._rows == 0:
            return []
        checks = [*self._row_checks(), self._action_check()] if self._any_pmf else []
        return [*checks, *(_weight_check(role, audit) for role, audit in self.weights().items())]

    def weights(self) -> dict[str, WeightAudit]:
        """Mean weight of candidate, champion and uniform choice against 1, with the variance implied by μ.

        With μ logged: V = Σ_i (Σ_k π_k²/μ_k − m_i²), m_i = Σ_{k: μ_k > 0} π_k. Without it the same is estimated from
        the logged action alone, Σ_i w_i (w_i − 1); for a deterministic policy that is Σ (1/p)(1/p − 1) over its hits.
        Effective hits are V³/M² with M the sum of absolute third moments (Lyapunov's ratio): the number of events in
        a Poisson count that would be as skewed.
        """
        n = max(1, self._rows)
        audits = {}
        for role, collected in self._weights.items():
            gap, variance, third, observed, total = (float(value) for value in collected)
            if variance <= 1e-9 * n:
                # nothing random about these weights: with μ known they must be 1, without it nothing can be said
                exact = abs(gap) <= 1e-6 * n
                z = 0.0 if exact or observed else math.copysign(1e6, gap)
                audits[role] = WeightAudit(z, 0.0 if observed and not exact else math.inf, total / n, bool(observed))
                continue
            hits = variance**3 / third**2 if third > 0 else math.inf
            audits[role] = WeightAudit(gap / math.sqrt(variance), hits, total / n, bool(observed))
        return audits

    def _row_checks(self) -> list[Check]:
        n, off_sum, off_at = self._logged, self._off_sum, self._off_at
        return [
            Check(
                "pmf_sums_to_one",
                "alarm",
                "fail" if off_sum else "pass",
                off_sum,
                0,
                f"{off_sum:,} of {n:,} logged distributions do not sum to 1."
                if off_sum
                else f"All {n:,} logged distributions sum to 1.",
            ),
            Check(
                "propensity_is_in_pmf",
                "alarm",
                "fail" if off_at else "pass",
                off_at,
                0,
                f"In {off_at:,} of {n:,} rows the logged probability is not the distribution's entry for that action."
                if off_at
                else f"The logged probability is the distribution's entry for the drawn action in all {n:,} rows.",
            ),
        ]

    def _action_check(self) -> Check:
        """Σ 1{a = k} against Σ μ_k for each position k; the worst |z| counts."""
        taken, expected, variance = self._counts
        able = variance >= HITS_MIN
        if not able.any():
            text = "Too few rows to compare how often each action was drawn with its probabilities."
            return Check("action_counts", "alarm", "insufficient", None, Z_ALARM, text)
        z = (taken - expected)[able] / np.sqrt(variance[able])
        worst = int(np.argmax(abs(z)))
        value, which = float(z[worst]), int(np.flatnonzero(able)[worst])
        if abs(value) > Z_ALARM:
            text = (
                f"The action in position {which} was drawn {int(taken[which]):,} times where the logged probabilities "
                f"promise {expected[which]:,.0f}, {abs(value):.1f} standard errors off."
            )
            return Check("action_counts", "alarm", "fail", value, Z_ALARM, text)
        text = "Each action was drawn about as often as its logged probabilities promise."
        return Check("action_counts", "alarm", "pass", value, Z_ALARM, text)


def propensity_checks(rows: ScoredRows) -> list[Check]:
    """The audit of the propensities of `rows`, question by question."""
    return Audit.of(rows).checks()


def _weight_sums(rows: ScoredRows, policy: Floats, logged: NDArray[np.bool_]) -> Floats:
    """Sums over rows of (w − m), its variance, its absolute third moment, rows judged without μ, w."""
    w = rows.at_action(policy) / rows.propensity
    off = w - 1.0
    gap, variance, third = off, w * off, abs(off) * off * off
    if logged.any():
        assert rows.pmf is not None
        mu = np.nan_to_num(rows.pmf)
        held = mu > 0
        ratio = np.divide(policy, mu, out=np.zeros_like(policy), where=held)
        covered = rows.per_row(np.where(held, policy, 0.0))
        implied = rows.per_row(policy * ratio) - covered**2
        centred = ratio - np.repeat(covered, rows.lengths)
        gap = np.where(logged, w - covered, gap)
        variance = np.where(logged, np.maximum(implied, 0.0), variance)
        third = np.where(logged, rows.per_row(mu * abs(centred) * centred * centred), third)
    return np.array([gap.sum(), variance.sum(), third.sum(), float((~logged).sum()), w.sum()])


def _action_sums(rows: ScoredRows, logged: NDArray[np.bool_]) -> Floats:
    """Per position: how often it was drawn, how often μ promises, and the variance of that; shape (3, k)."""
    assert rows.pmf is not None
    wide = np.repeat(logged, rows.lengths)
    position = (np.arange(rows.values) - np.repeat(rows.offsets[:-1], rows.lengths))[wide]
    chosen = np.zeros(rows.values)
    chosen[rows.offsets[:-1] + rows.action] = 1.0
    mu = np.clip(rows.pmf[wide], 0.0, 1.0)
    return np.array([np.bincount(position, of_each) for of_each in (chosen[wide], mu, mu * (1 - mu))])


def _weight_check(role: str, audit: WeightAudit) -> Check:
    name = f"weights_{role}"
    if not audit.answerable:
        text = f"Too few informative hits to tell whether the logged probabilities fit the {role} policy."
        return Check(name, "alarm", "insufficient", audit.z, Z_ALARM, text)
    if abs(audit.z) > Z_ALARM:
        text = (
            f"The weights of the {role} policy average {audit.mean:.4f} where 1 is expected, {abs(audit.z):.1f} "
            "standard errors off: the logged probabilities are not those the actions were drawn with."
        )
        return Check(name, "alarm", "fail", audit.z, Z_ALARM, text)
    text = f"The weights of the {role} policy average {audit.mean:.4f}, as the logged probabilities imply."
    return Check(name, "alarm", "pass", audit.z, Z_ALARM, text)
