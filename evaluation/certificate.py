"""Certificates: what was decided, on which rows, by which rules; recomputable by anyone who has the rows.

A certificate is a JSON object. Everything in it that is a number follows from the scored rows, the rules, the
ledger of α before the look, and the checks handed in; `verify_certificate` computes it all again and names each
difference. The certificate and the row set carry SHA-256 digests.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bandit.errors import InvalidScores
from evaluation.audit import propensity_checks
from evaluation.checks import Check, without_support
from evaluation.diagnostics import diagnose
from evaluation.estimators import ESTIMATORS, ROLES, Estimate, Hyper, Totals, totals_of_events
from evaluation.gate import RULES_VERSION, GateRules, Verdict, judge, rules_to_dict
from evaluation.lift import paired_lift
from evaluation.placebo import REPORT_ROWS_MAX, REPORT_RUNS, placebo
from evaluation.scored import ScoredRows
from evaluation.sequential import AlphaLedger

FORMAT = 1
ALIKE_COUNT_SINCE = 4
"""The rule version since which rows count that were certain, where both policies are as certain."""
ANSWERS_COUNT_SINCE = 5
"""The rule version since which the slots of one answer count as one, where rows have no subject.

Since then, too, the standard errors of all estimators count subjects; before, only that of the lift did.
"""
RATES_PASSED_OVER_SINCE = 5
"""The rule version since which a learning rate that foretells clearly less than the best one is passed over."""
NAMED_SINCE = 7
"""The rule version since which rows may tell the ids of their actions, and reports name nothing else."""
FLOORS_ALONE_SINCE = 7
"""The rule version since which rows needed are those of the floors, and what would show a lift is told apart."""
TOLERANCE = 1e-9
"""Relative difference between machines that is rounding, not a change."""

_TOLD_TWICE = re.compile(r" \([+-][\d.]+%\)| At the rates so far that takes [^.]+\.| Forecast(?: from these few)?: .*$")
"""What a verdict's reason says of numbers that stand beside it: the relative lift, and how many rows would show one."""

_IDENTITY = frozenset({"format", "kind", "rules_version", "digest"})
_GIVEN = frozenset({"rules", "challengers", "hyper", "ledger_before", "ledger_after", "given_checks"})
_ARITHMETIC = frozenset({"rows", "estimators", "ess", "max_weight", "mean_weight", "logged"})
_FOUND = _ARITHMETIC | {"verdict", "lift", "checks"}
_OWN = _IDENTITY | _GIVEN | _FOUND | {"diagnostics", "placebo"}


def certificate(
    rows: ScoredRows,
    verdict: Verdict,
    rules: GateRules,
    *,
    ledger: AlphaLedger | None = None,
    about: Mapping[str, Any] | None = None,
    checks: tuple[Check, ...] | list[Check] = (),
    challengers: int = 1,
    hyper: Hyper | None = None,
) -> dict[str, Any]:
    """The certificate of a verdict; `ledger`, `checks`, `challengers`, `hyper` as they were given to `judge`.

    `about` is what the rows cannot know: id, created_at, tests ("procedure" or "artefact"), candidate, champion
    (ids and digests), data (window, as-of), excluded by reason, options, seed. Its
    keys stand beside the certificate's own; raises ValueError when one would hide an own key.
    """
    about = dict(about or {})
    if hidden := _OWN & about.keys():
        raise ValueError(f"'about' may not set {', '.join(sorted(hidden))}")
    ledger = ledger or AlphaLedger()
    body = {
        **about,
        "format": FORMAT,
        "kind": "gate",
        "rules_version": RULES_VERSION,
        "rules": rules_to_dict(rules),
        "challengers": challengers,
        "hyper": _hyper_dict(hyper or Hyper()),
        "ledger_before": ledger.to_dict(),
        "given_checks": [check.to_dict() for check in checks],
        **_figures(rows, rows.where(~without_support(rows)), verdict.totals, verdict.excluded),
        "verdict": {
            "outcome": verdict.outcome,
            "reason": verdict.reason,
            "rejected": verdict.rejected,
            "looked": verdict.looked,
            "rows_needed": verdict.rows_needed,
            "rows_to_show": verdict.rows_to_show,
        },
        "lift": {
            **_interval(verdict.lift),
            "relative": _number(verdict.relative),
            "weighed": _interval(verdict.weighed),
            "bound_lower": _number(verdict.lower),
            "bound_upper": _number(verdict.upper),
            "z": _number(verdict.z),
            "alpha_look": verdict.alpha_look,
            "alpha_spent": ledger.spent + verdict.alpha_look,
            "epoch": ledger.epoch,
        },
        "checks": [check.to_dict() for check in verdict.checks],
        "placebo": _placebo(rows, rules.alpha),
        "ledger_after": verdict.ledger.to_dict(),
    }
    return _sealed(body)


def initial_certificate(rows: ScoredRows, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The certificate of the first model of a warm start: it had nothing to beat, so no gate was asked.

    `rows` are scored progressively, `champion` being uniform choice: the DR report is against uniform and against
    the mean reward of whoever did the logging.
    """
    about = dict(about or {})
    if hidden := _OWN & about.keys():
        raise ValueError(f"'about' may not set {', '.join(sorted(hidden))}")
    unsupported = without_support(rows)
    used = rows.where(~unsupported)
    excluded = {"no_support": int(unsupported.sum())} if unsupported.any() else {}
    events = used.reduce()
    totals = totals_of_events(events, cluster=used.cluster)
    lift = paired_lift(used, events)
    value, logged = totals.estimate("dr", "candidate"), totals.mean_reward()
    if totals.n:
        within = f" ± {1.96 * value.se:.4f}" if math.isfinite(value.se) else ""
        reason = (
            f"The first model, published outside the gate: there was no champion to beat. On {totals.n:,} logged rows "
            f"its doubly-robust value is {value.value:.4f}{within}; uniform choice is worth "
            f"{totals.estimate('dr', 'champion').value:.4f}, and the logged decisions earned {logged.value:.4f}."
        )
    else:
        reason = "The first model, published outside the gate: no logged row could tell what it is worth."
    body = {
        **about,
        "format": FORMAT,
        "kind": "initial",
        "rules_version": RULES_VERSION,
        "hyper": _hyper_dict(Hyper()),
        **_figures(rows, used, totals, excluded),
        "verdict": {"outcome": "initial", "reason": reason, "rejected": False, "looked": False, "rows_needed": None},
        "lift": {**_interval(lift), "relative": None},
        "checks": [check.to_dict() for check in (propensity_checks(used) if len(used) else [])],
    }
    return _sealed(body)


def verify_certificate(cert: Mapping[str, Any], rows: ScoredRows) -> list[str]:
    """Compute the certificate again from `rows`; gives one line per difference, none when it holds.

    Of a certificate made by other rules (see `made_by_other_rules`) the seals and the arithmetic are checked, which do
    not depend on the rules; the last line then says so.
    """
    differences = []
    if not seal_holds(cert):
        differences.append("the certificate was changed after it was sealed (its digest does not match)")
    if rows.digest() != _said(cert, "rows", "digest"):
        differences.append("the scored rows are not those the certificate was made from (their digest does not match)")
    try:
        return differences + _again(cert, rows)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, InvalidScores) as error:
        if not differences:
            raise
        return [*differences, f"it cannot be computed again ({type(error).__name__}: {error})"]


def _said(cert: Mapping[str, Any], *path: str) -> Any:
    """What stands there in a certificate that may be damaged; None where nothing does."""
    at: Any = cert
    for key in path:
        at = at.get(key) if isinstance(at, Mapping) else None
    return at


def seal_holds(cert: Mapping[str, Any]) -> bool:
    """Whether a certificate is what it was when it was sealed."""
    try:
        return bool(cert.get("digest") == _digest(cert))
    except (AttributeError, TypeError, ValueError):
        return False


def _again(cert: Mapping[str, Any], rows: ScoredRows) -> list[str]:
    differences: list[str] = []
    if other := made_by_other_rules(cert):
        alike_too = rules_version(cert) < ALIKE_COUNT_SINCE
        used = rows.where(~without_support(rows, alike_too=alike_too))
        totals = totals_of_events(used.reduce(), _hyper_of(cert["hyper"]))
        figures = json.loads(canonical(_figures(rows, used, totals, cert["rows"]["excluded"])))
        for key in sorted(_ARITHMETIC):
            differences += _compare(key, cert.get(key), figures[key])
        return [*differences, other]
    about = {key: value for key, value in cert.items() if key not in _OWN}
    if cert["kind"] == "initial":
        again = initial_certificate(rows, about)
    else:
        rules, hyper = GateRules.of(cert["rules"]), _hyper_of(cert["hyper"])
        ledger = AlphaLedger.from_dict(cert["ledger_before"])
        given = [Check(**check) for check in cert["given_checks"]]
        many = int(cert["challengers"])
        verdict = judge(rows, rules, ledger=ledger, challengers=many, checks=given, hyper=hyper)
        again = certificate(
            rows, verdict, rules, ledger=ledger, about=about, checks=given, challengers=many, hyper=hyper
        )
    plain = json.loads(canonical(again))
    for key in sorted(_OWN - {"digest"}):
        differences += _compare(key, cert.get(key), plain.get(key))
    return differences


def made_by_other_rules(cert: Mapping[str, Any]) -> str | None:
    """The sentence that a certificate was made by another version of the gate's rules; None when it was by this one."""
    version = rules_version(cert)
    if version == RULES_VERSION:
        return None
    return (
        f"the certificate was made by rule version {version}, this is version {RULES_VERSION}: "
        "its verdict cannot be computed again here"
    )


def rules_version(cert: Mapping[str, Any]) -> int:
    """The version of the gate's rules that a certificate was made by."""
    return int(cert.get("rules_version", 1))


def canonical(body: Mapping[str, Any]) -> bytes:
    """The bytes that the digest is taken of: sorted keys, no spaces, UTF-8."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "surrogatepass"
    )


def _sealed(body: dict[str, Any]) -> dict[str, Any]:
    text = canonical(body)
    sealed: dict[str, Any] = json.loads(text)
    sealed["digest"] = hashlib.sha256(text).hexdigest()
    return sealed


def _digest(cert: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical({key: value for key, value in cert.items() if key != "digest"})).hexdigest()


def _figures(rows: ScoredRows, used: ScoredRows, totals: Totals, excluded: Mapping[str, int]) -> dict[str, Any]:
    """Everything that depends on the rows alone; `used` are those that can speak."""
    times = rows.decided_at
    known = times is not None and len(times) > 0
    return {
        "rows": {
            "n": totals.n,
            "digest": rows.digest(),
            "offers_digest": rows.offers_digest(),
            "first": str(times.min()) + "Z" if known and times is not None else None,
            "last": str(times.max()) + "Z" if known and times is not None else None,
            "excluded": dict(excluded),
            "clusters": len(set(used.cluster)) if used.cluster is not None else None,
        },
        "estimators": {name: {role: _interval(totals.estimate(name, role)) for role in ROLES} for name in ESTIMATORS},
        "ess": {role: _number(totals.ess(role)) for role in ROLES},
        "max_weight": dict(zip(ROLES, totals.max_weight, strict=True)),
        "mean_weight": {role: _number(totals.mean_weight(role)) for role in ROLES},
        "logged": _interval(totals.mean_reward()),
        "diagnostics": diagnose(used, used.reduce()),
    }


def _placebo(rows: ScoredRows, alpha: float) -> dict[str, Any] | None:
    latest = rows.slice(max(0, len(rows) - REPORT_ROWS_MAX))
    found = placebo(latest, alpha=alpha, runs=REPORT_RUNS, seed=0)
    return found.to_dict() if found else None


def _interval(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": _number(estimate.value),
        "se": _number(estimate.se),
        "lower": _number(estimate.lower),
        "upper": _number(estimate.upper),
        "n": estimate.n,
    }


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _hyper_dict(hyper: Hyper) -> dict[str, float | None]:
    plain = {"clip": hyper.clip, "switch": hyper.switch, "shrinkage": hyper.shrinkage}
    return {name: _number(value) for name, value in plain.items()}


def _hyper_of(plain: Mapping[str, Any]) -> Hyper:
    return Hyper(**{name: math.inf if value is None else float(value) for name, value in plain.items()})


def _compare(path: str, stored: Any, again: Any) -> list[str]:
    if isinstance(stored, Mapping) and isinstance(again, Mapping):
        keys = sorted(set(stored) | set(again))
        return [line for key in keys for line in _compare(f"{path}.{key}", stored.get(key), again.get(key))]
    if isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        pairs = enumerate(zip(stored, again, strict=True))
        return [line for i, (a, b) in pairs for line in _compare(f"{path}[{i}]", a, b)]
    if isinstance(stored, (int, float)) and isinstance(again, (int, float)):
        same = math.isclose(stored, again, rel_tol=TOLERANCE, abs_tol=1e-12)
    elif path == "verdict.reason" and isinstance(stored, str) and isinstance(again, str):
        same = _TOLD_TWICE.sub("", stored) == _TOLD_TWICE.sub("", again)  # the numbers are compared by themselves
    else:
        same = stored == again
    return [] if same else [f"{path}: the certificate says {_short(stored)}, computed again it is {_short(again)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
