"""Scored rows in, numbers out: the answer of one evaluation as a plain JSON object.

Anyone can check the arithmetic with it: the columns are documented, nothing else enters. Judged as a single planned
look, at the full α, every row weighing the same.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from evaluation.audit import weight_audits
from evaluation.estimators import ESTIMATORS, ROLES, Z_95, Hyper
from evaluation.gate import GateRules, Verdict, judge
from evaluation.intervals import BOOTSTRAP_RUNS, bernstein_interval, bootstrap_interval, lift_range
from evaluation.scored import ScoredRows


def answer(
    rows: ScoredRows, rules: GateRules | None = None, *, hyper: Hyper | None = None, seed: int = 0, challengers: int = 1
) -> dict[str, Any]:
    """Estimators, paired lift, weights, checks and verdict of one set of rows, JSON-able (no NaN, no infinity).

    `paired.lower` and `paired.upper` are the two-sided 95% interval by normal theory; `paired.bound` is the one-sided
    lower bound the verdict rests on, at level α for one look and reckoning with what the log could not show.
    """
    rules = rules or GateRules()
    single = replace(rules, horizon_rows=max(2, len(rows)), looks="planned", weighted=False)
    verdict = judge(rows, single, hyper=hyper, challengers=challengers)
    audits = weight_audits(rows) if len(rows) else {}
    return {
        "n": verdict.n,
        "excluded": verdict.excluded,
        "estimators": {name: {role: _value(verdict, name, role) for role in ROLES} for name in ESTIMATORS},
        "logged": {
            "value": _number(verdict.totals.mean_reward().value),
            "se": _number(verdict.totals.mean_reward().se),
        },
        "paired": _paired(rows, verdict, seed),
        "ess": {role: _number(verdict.totals.ess(role)) for role in ROLES},
        "max_weight": max(verdict.totals.max_weight),
        "weight_mean_z": {role: _number(audit.z) for role, audit in audits.items()},
        "weight_mean_hits": {role: _number(audit.hits) for role, audit in audits.items()},
        "checks": [check.to_dict() for check in verdict.checks],
        "verdict": verdict.outcome,
        "reason": verdict.reason,
        "rows_needed": verdict.rows_needed,
        "rows_digest": rows.digest(),
    }


def _paired(rows: ScoredRows, verdict: Verdict, seed: int) -> dict[str, Any]:
    lift = verdict.lift
    paired: dict[str, Any] = {
        "lift": _number(lift.value),
        "se": _number(lift.se),
        "lower": _number(lift.value - Z_95 * lift.se),
        "upper": _number(lift.value + Z_95 * lift.se),
        "relative": _number(verdict.relative),
        "bound": _number(verdict.lower),
    }
    if verdict.n >= 2 and rows.cluster is None:
        lifts = rows.where(~((rows.propensity >= 1.0) & (rows.lengths > 1))).reduce().lift
        biggest = max(verdict.totals.max_weight)
        low, high = lift_range(biggest, *_reward_range(rows))
        low, high = min(low, float(lifts.min())), max(high, float(lifts.max()))
        runs = min(BOOTSTRAP_RUNS, max(200, 20_000_000 // len(lifts)))
        paired["bootstrap"] = list(bootstrap_interval(lifts, np.random.default_rng(seed), runs=runs))
        paired["bernstein"] = list(bernstein_interval(lifts, low=low, high=high))
    return paired


def _reward_range(rows: ScoredRows) -> tuple[float, float]:
    return (
        min(float(rows.reward.min()), float(rows.q.min())),
        max(float(rows.reward.max()), float(rows.q.max())),
    )


def _value(verdict: Verdict, name: str, role: str) -> dict[str, float | None]:
    estimate = verdict.totals.estimate(name, role)
    return {"value": _number(estimate.value), "se": _number(estimate.se)}


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
