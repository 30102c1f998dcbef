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
from evaluation.estimators import ESTIMATORS, ROLES, Z_95, Hyper
from evaluation.gate import GateRules, Verdict, judge_gathered
from evaluation.gathering import Gathered, Source
from evaluation.intervals import BOOTSTRAP_RUNS, Bootstrap, bernstein_of, lift_range


def answer(
    rows: Source, rules: GateRules | None = None, *, hyper: Hyper | None = None, seed: int = 0, challengers: int = 1
) -> dict[str, Any]:
    """Estimators, paired lift, weights, checks and verdict of one set of rows, JSON-able (no NaN, no infinity).

    `paired.lower` and `paired.upper` are the two-sided 95% interval by normal theory; `paired.bound` is the one-sided
    lower bound the verdict rests on, at level α for one look and reckoning with what the log could not show.
    """
    gathered = Gathered.of(rows, hyper)
    single = replace(rules or GateRules(), horizon_rows=max(2, len(rows)), looks="planned", weighted=False)
    verdict = judge_gathered(gathered, single, challengers=challengers)
    audits = gathered.audit.weights() if gathered.n else {}
    return {
        "n": verdict.n,
        "excluded": verdict.excluded,
        "estimators": {name: {role: _value(verdict, name, role) for role in ROLES} for name in ESTIMATORS},
        "logged": {
            "value": _number(verdict.totals.mean_reward().value),
            "se": _number(verdict.totals.mean_reward().se),
        },
        "paired": _paired(rows, gathered, verdict, seed),
        "segments": gathered.segments.table() if gathered.segments else [],
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


def _paired(rows: Source, gathered: Gathered, verdict: Verdict, seed: int) -> dict[str, Any]:
    lift = verdict.lift
    paired: dict[str, Any] = {
        "lift": _number(lift.value),
        "se": _number(lift.se),
        "lower": _number(lift.value - Z_95 * lift.se),
        "upper": _number(lift.value + Z_95 * lift.se),
        "relative": _number(verdict.relative),
        "bound": _number(verdict.lower),
    }
    if verdict.n >= 2 and not gathered.clustered:
        low, high = lift_range(max(verdict.totals.max_weight), *gathered.reward_range)
        low, high = min(low, gathered.lift_range[0]), max(high, gathered.lift_range[1])
        runs = min(BOOTSTRAP_RUNS, max(200, 20_000_000 // verdict.n))
        bootstrap = Bootstrap(np.random.default_rng(seed), runs=runs)
        for chunk in rows.chunks():
            bootstrap.add(chunk.where(~without_support(chunk)).reduce().lift)
        paired["bootstrap"] = list(bootstrap.interval())
        paired["bernstein"] = list(bernstein_of(lift, low=low, high=high))
    return paired


def _value(verdict: Verdict, name: str, role: str) -> dict[str, float | None]:
    estimate = verdict.totals.estimate(name, role)
    return {"value": _number(estimate.value), "se": _number(estimate.se)}


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
