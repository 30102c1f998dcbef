"""Scored rows in, numbers out: the answer of one evaluation as a plain JSON object.

Anyone can check the arithmetic with it: the columns are documented, nothing else enters. Judged as a single planned
look, at the full α, every row weighing the same. Rows come in chunks, so a file of any length will do.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from evaluation.checks import without_support
from evaluation.estimators import (
    ESTIMATORS,
    LIFT,
    ROLES,
    Z_95,
    Estimate,
    Hyper,
    columns_of,
    range_of_values,
    value_of_means,
)
from evaluation.gate import GateRules, Verdict, judge_gathered
from evaluation.gathering import Gathered, Source
from evaluation.intervals import BOOTSTRAP_RUNS, Bootstrap, bernstein_of, lift_range, percentile_interval
from evaluation.scored import Floats


def answer(
    rows: Source, rules: GateRules | None = None, *, hyper: Hyper | None = None, seed: int = 0, challengers: int = 1
) -> dict[str, Any]:
    """Estimators, paired lift, weights, checks and verdict of one set of rows, JSON-able (no NaN, no infinity).

    `lower` and `upper` are the two-sided 95% interval by normal theory, over subjects where there are any; `bootstrap`
    and `bernstein` the same by resampling and by the empirical Bernstein bound, where rows stand for themselves.
    `paired.bound` is the one-sided lower bound the verdict rests on, at level α for one look and reckoning with what
    the log could not show.
    """
    gathered = Gathered.of(rows, hyper)
    single = replace(rules or GateRules(), horizon_rows=max(2, len(rows)), looks="planned", weighted=False)
    verdict = judge_gathered(gathered, single, challengers=challengers)
    audits = gathered.audit.weights() if gathered.n else {}
    resampled = _resampled(rows, gathered, seed)
    return {
        "n": verdict.n,
        "excluded": verdict.excluded,
        "estimators": {
            name: {role: _value(gathered, verdict, name, role, resampled) for role in ROLES} for name in ESTIMATORS
        },
        "logged": {
            "value": _number(verdict.totals.mean_reward().value),
            "se": _number(verdict.totals.mean_reward().se),
        },
        "paired": _paired(gathered, verdict, resampled),
        "segments": gathered.segments.table() if gathered.segments else [],
        "ess": {role: _number(verdict.totals.ess(role)) for role in ROLES},
        "max_weight": max(verdict.totals.max_weight),
        "weight_mean_z": {role: _number(audit.z) for role, audit in audits.items()},
        "weight_mean_hits": {role: _number(audit.hits) for role, audit in audits.items()},
        "checks": [check.to_dict() for check in verdict.checks],
        "verdict": verdict.outcome,
        "reason": verdict.reason,
        "rows_needed": verdict.rows_needed,
        "rows_to_show": verdict.rows_to_show,
        "rows_digest": rows.digest(),
    }


def _resampled(rows: Source, gathered: Gathered, seed: int) -> Floats | None:
    """Means of what the estimators are functions of over resampled rows, (runs, d); None where rows have subjects."""
    if gathered.n < 2 or gathered.clustered:
        return None
    runs = min(BOOTSTRAP_RUNS, max(200, 20_000_000 // gathered.n))
    bootstrap = Bootstrap(np.random.default_rng(seed), runs=runs, columns=len(gathered.totals.moments.mean))
    for chunk in rows.chunks():
        bootstrap.add(columns_of(chunk.where(~without_support(chunk)).reduce(), gathered.hyper))
    return bootstrap.means()


def _paired(gathered: Gathered, verdict: Verdict, resampled: Floats | None) -> dict[str, Any]:
    lift = verdict.lift
    paired: dict[str, Any] = {
        "lift": _number(lift.value),
        **_normal(lift),
        "relative": _number(verdict.relative),
        "bound": _number(verdict.lower),
    }
    if resampled is not None:
        low, high = lift_range(max(verdict.totals.max_weight), *gathered.reward_range)
        low, high = min(low, gathered.lift_range[0]), max(high, gathered.lift_range[1])
        paired["bootstrap"] = list(percentile_interval(resampled[:, LIFT]))
        paired["bernstein"] = list(bernstein_of(lift, low=low, high=high))
    return paired


def _value(
    gathered: Gathered, verdict: Verdict, name: str, role: str, resampled: Floats | None
) -> dict[str, float | list[float | None] | None]:
    estimate = verdict.totals.estimate(name, role)
    found: dict[str, float | list[float | None] | None] = {"value": _number(estimate.value), **_normal(estimate)}
    if resampled is not None:
        ends = percentile_interval(value_of_means(resampled, name, role))
        found["bootstrap"] = [_number(end) for end in ends]
        biggest = verdict.totals.max_weight[ROLES.index(role)]
        reach = range_of_values(name, gathered.hyper, max_weight=biggest, rewards=gathered.reward_range)
        if reach is not None:
            found["bernstein"] = list(bernstein_of(estimate, low=reach[0], high=reach[1]))
    return found


def _normal(estimate: Estimate) -> dict[str, float | None]:
    reach = Z_95 * estimate.se
    return {
        "se": _number(estimate.se),
        "lower": _number(estimate.value - reach),
        "upper": _number(estimate.value + reach),
    }


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
