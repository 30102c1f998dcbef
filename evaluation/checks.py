"""What must be true of a log before any number from it is believed.

*Alarms* ask whether the logged probabilities can be right; a failed one blocks the gate. *Floors* ask whether there
is enough evidence for the normal theory of the bound; below one the verdict is "insufficient data". *Notes* are
for the reader and block nothing. A question that too few rows can answer is `insufficient`, never an alarm.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Totals
from evaluation.scored import ScoredEvents, ScoredRows

Floats = NDArray[np.float64]

Z_ALARM = 5.0
"""Standard errors of disagreement between weights and propensities that raise an alarm."""

HITS_MIN, HITS_MIN_OBSERVED = 10.0, 25.0
"""Effective number of rare events a weight check needs: with the variance implied by μ, and with it observed."""

PMF_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Check:
    """One question asked of the rows, its number, the limit, and the answer in words."""

    name: str
    kind: Literal["alarm", "floor", "note"]
    status: Literal["pass", "fail", "insufficient"]
    value: float | None
    limit: float | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON object with the fields of the check."""
        return asdict(self)


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


def without_support(rows: ScoredRows) -> NDArray[np.bool_]:
    """Rows logged with probability 1 although there was a choice: they cannot tell what another action earns."""
    return (rows.propensity >= 1.0) & (rows.lengths > 1)


def propensity_checks(rows: ScoredRows) -> list[Check]:
    """The audit of the propensities: row by row where the whole pmf was logged, and in the mean for any log."""
    checks = []
    if rows.pmf is not None and np.isfinite(rows.pmf).any():
        checks += _row_checks(rows)
        checks.append(_action_counts(rows))
    for role, audit in weight_audits(rows).items():
        checks.append(_weight_check(role, audit))
    return checks


def weight_audits(rows: ScoredRows) -> dict[str, WeightAudit]:
    """Mean weight of candidate, champion and uniform choice against 1, with the variance implied by μ.

    With μ logged: V = Σ_i (Σ_k π_k²/μ_k − m_i²), m_i = Σ_{k: μ_k > 0} π_k. Without it the same is estimated from
    the logged action alone, Σ_i w_i (w_i − 1); for a deterministic policy that is Σ (1/p)(1/p − 1) over its hits.
    Effective hits are V³/M² with M the sum of absolute third moments (Lyapunov's ratio): the number of events in
    a Poisson count that would be as skewed.
    """
    sums = {role: np.zeros(5) for role in ("candidate", "champion", "uniform")}
    for chunk in rows.chunks():
        uniform = np.repeat(1.0 / chunk.lengths, chunk.lengths)
        logged = np.zeros(len(chunk), bool) if chunk.pmf is None else np.isfinite(chunk.per_row(chunk.pmf))
        for role, policy in (("candidate", chunk.candidate), ("champion", chunk.champion), ("uniform", uniform)):
            sums[role] += _weight_sums(chunk, policy, logged)
    n = max(1, len(rows))
    audits = {}
    for role, collected in sums.items():
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


def _row_checks(rows: ScoredRows) -> list[Check]:
    assert rows.pmf is not None
    sums = rows.per_row(rows.pmf)
    logged = np.isfinite(sums)
    off_sum = int((abs(sums[logged] - 1) > PMF_TOLERANCE).sum() + (rows.pmf < 0).sum())
    at = rows.at_action(rows.pmf)[logged]
    off_at = int((abs(at - rows.propensity[logged]) > PMF_TOLERANCE * np.maximum(at, 1e-3)).sum())
    n = int(logged.sum())
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


def _action_counts(rows: ScoredRows) -> Check:
    """Σ 1{a = k} against Σ μ_k for each position k; the worst |z| counts."""
    assert rows.pmf is not None
    logged = np.repeat(np.isfinite(rows.per_row(rows.pmf)), rows.lengths)
    position = np.arange(rows.values) - np.repeat(rows.offsets[:-1], rows.lengths)
    chosen = np.zeros(rows.values)
    chosen[rows.offsets[:-1] + rows.action] = 1.0
    k = int(rows.lengths.max())
    mu = np.clip(rows.pmf[logged], 0.0, 1.0)
    at = position[logged]
    expected = np.bincount(at, mu, k)
    taken = np.bincount(at, chosen[logged], k)
    variance = np.bincount(at, mu * (1 - mu), k)
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


def evidence_checks(
    rows: ScoredRows,
    events: ScoredEvents,
    totals: Totals,
    *,
    rows_min: int,
    ess_min: float,
    informative_min: int,
    top_share_max: float,
    uncovered_max: float,
) -> list[Check]:
    """The floors: enough rows, effective rows, informative rewards, no few rows that decide all, enough overlap."""
    checks = [_at_least("rows", len(rows), rows_min, "rows")]
    for role in ("candidate", "champion"):
        checks.append(_at_least(f"ess_{role}", totals.ess(role), ess_min, f"effective rows of the {role}"))
    checks.append(_at_least("informative_rewards", informative(events.reward), informative_min, "unusual rewards"))
    share = top_share(events.w_candidate)
    text = f"The heaviest 1% of the rows carry {share:.0%} of the candidate's weight (at most {top_share_max:.0%})."
    status: Literal["pass", "insufficient"] = "pass" if share <= top_share_max else "insufficient"
    checks.append(Check("weight_tail", "floor", status, share, top_share_max, text))
    lost = uncovered(rows)
    if lost is not None:
        text = (
            f"{lost:.1%} of the candidate's choices go to actions the log can never show (at most {uncovered_max:.0%})."
        )
        status = "pass" if lost <= uncovered_max else "insufficient"
        checks.append(Check("overlap", "floor", status, lost, uncovered_max, text))
    return checks


def draws_check(draws: float, limit: float) -> Check:
    """A floor on the effective number of draws, expected from μ, that tell the two policies apart."""
    enough = draws >= limit
    text = f"{draws:,.1f} telling draws are expected where the policies differ"
    text += "." if enough else f", {limit:,.0f} are needed: the log hardly shows what the candidate would do there."
    return Check("telling_draws", "floor", "pass" if enough else "insufficient", draws, limit, text)


def agreement_note(totals: Totals) -> Check:
    """DR and SNIPS lifts beyond 3 SE of their paired difference are worth a look."""
    z = totals.disagreement()
    if abs(z) > 3:
        text = f"DR and SNIPS disagree about the lift by {abs(z):.1f} standard errors of their difference: look closer."
        return Check("estimators_agree", "note", "fail", z, 3.0, text)
    return Check("estimators_agree", "note", "pass", z, 3.0, "DR and SNIPS agree about the lift.")


def informative(reward: Floats) -> int:
    """Rows whose reward is not the commonest one: those that tell choices apart."""
    if len(reward) == 0:
        return 0
    _, counts = np.unique(reward, return_counts=True)
    return int(len(reward) - counts.max())


def top_share(weights: Floats) -> float:
    """Share of the total weight in the heaviest 1% of the rows (at least one row); 0 without weight."""
    total = float(weights.sum())
    if total <= 0:
        return 0.0
    top = max(1, math.ceil(len(weights) / 100))
    return float(np.partition(weights, len(weights) - top)[-top:].sum()) / total


def uncovered(rows: ScoredRows) -> float | None:
    """Mean probability the candidate gives to actions with μ = 0; None where no pmf was logged."""
    if rows.pmf is None or len(rows) == 0:
        return None
    logged = np.isfinite(rows.per_row(rows.pmf))
    if not logged.any():
        return None
    outside = rows.per_row(np.where(rows.pmf == 0, rows.candidate, 0.0))
    return float(outside[logged].mean())


def _at_least(name: str, value: float, limit: float, what: str) -> Check:
    enough = value >= limit
    text = f"{value:,.0f} {what}" + ("" if enough else f", {limit:,.0f} are needed") + "."
    return Check(name, "floor", "pass" if enough else "insufficient", float(value), float(limit), text)
