"""Many policies on one log: what each would have earned, ranked, with intervals that hold for all of them at once.

Where the log can hardly show what a policy would do the answer is a refusal in words, not a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from evaluation.audit import propensity_checks
from evaluation.caution import caution
from evaluation.checks import Evidence, subjects_check, without_support
from evaluation.estimators import Estimate, totals_of_events
from evaluation.gate import GateRules
from evaluation.lift import clustered_mean, mean_with_se
from evaluation.rare import reach_of_few
from evaluation.scored import Floats, ScoredRows


@dataclass(frozen=True, slots=True)
class Ranked:
    """One policy's doubly-robust value per decision, its interval among all, its lift over what was logged.

    `answered` is false where the evidence is too poor; then `answer` says why and the numbers are not to be used.
    """

    policy: str
    n: int
    value: float | None
    se: float | None
    lower: float | None
    upper: float | None
    lift_over_logged: float | None
    lift_se: float | None
    ess: float
    answered: bool
    answer: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def rank(policies: Mapping[str, ScoredRows], *, level: float = 0.95, rules: GateRules | None = None) -> list[Ranked]:
    """Evaluate each policy on its rows (π in `candidate`, the comparison in `champion`), best first.

    Intervals count subjects where there are any, are widened for their number (Bonferroni) and for skewness, and are
    never narrower than what the log can vouch for (`evaluation.caution`, and `evaluation.rare` where rewards are).
    Policies without an answer come last. An alarm that one policy raises is about the log: no other is answered from
    the very same rows.
    """
    rules = rules or GateRules()
    z = NormalDist().inv_cdf(1 - (1 - level) / 2 / max(1, len(policies)))
    found, alarms = [], []
    for name, rows in policies.items():
        entry, alarm = _one(name, rows, z, rules)
        found.append(entry)
        if alarm:
            alarms.append((name, rows, alarm))
    for name, rows, alarm in alarms:
        found = [
            replace(entry, answered=False, answer=f"The same rows raise an alarm with {name}: {alarm}")
            if entry.answered and _same_rows(policies[entry.policy], rows)
            else entry
            for entry in found
        ]
    return sorted(found, key=lambda entry: (not entry.answered, -(entry.value or 0.0), entry.policy))


def _same_rows(one: ScoredRows, other: ScoredRows) -> bool:
    """Whether both were drawn alike: what the audit asks the log about, the policies aside."""
    return np.array_equal(one.propensity, other.propensity) and np.array_equal(one.action, other.action)


def _one(name: str, rows: ScoredRows, z: float, rules: GateRules) -> tuple[Ranked, str]:
    """One policy's entry, and the alarm that its weights raise (empty without one)."""
    used = rows.where(~without_support(rows))
    n = len(used)
    if n == 0:
        nothing = "No row of the log can speak about it."
        return Ranked(name, 0, None, None, None, None, None, None, 0.0, False, nothing), ""
    events = used.reduce()
    totals = totals_of_events(events)
    terms = events.dm_candidate + events.w_candidate * events.residual
    value, lift = _mean(terms, used), _mean(terms - events.reward, used)
    care = caution(used, value, paired=False)
    ess = totals.ess("candidate")
    evidence = Evidence(n)
    evidence.add(used)
    checks = evidence.checks(
        totals,
        rows_min=rules.rows_min,
        ess_min=rules.ess_min,
        informative_min=rules.informative_min,
        top_share_max=rules.top_share_max,
        uncovered_max=rules.uncovered_max,
    )
    if used.cluster is not None:
        checks.append(subjects_check(care.subjects))
    audit = propensity_checks(used)
    # the comparison's own evidence is not in question here
    poor = [check.text for check in checks if check.status != "pass" and check.name != "ess_champion"]
    wrong = [check.text for check in audit if check.status == "fail" and check.name != "weights_champion"]
    reach = reach_of_few(care.reach_beside_a_count(z), z, events.w_candidate, events.residual, used.cluster)
    lower, upper = value.value - reach, value.value + reach
    if lower <= used.reward.min() and upper >= used.reward.max():
        poor.append(f"The interval from {lower:.2f} to {upper:.2f} holds every reward there was: the log cannot tell.")
    answer = " ".join(wrong + poor)
    entry = Ranked(
        policy=name,
        n=n,
        value=value.value,
        se=value.se if math.isfinite(value.se) else None,
        lower=lower,
        upper=upper,
        lift_over_logged=lift.value if math.isfinite(lift.value) else None,
        lift_se=lift.se if math.isfinite(lift.se) else None,
        ess=ess,
        answered=not answer,
        answer=answer,
    )
    return entry, " ".join(wrong)


def _mean(values: Floats, rows: ScoredRows) -> Estimate:
    return mean_with_se(values) if rows.cluster is None else clustered_mean(values, rows.cluster)
