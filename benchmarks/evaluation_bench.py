"""What offline evaluation costs, against the time of reading the same numbers once.

One core. The yardstick of the arithmetic is a plain sum over the three arrays it has to read; that of a cycle is one
scoring pass of the Vowpal Wabbit policy over the same rows. The comparison with Open Bandit Pipeline needs an
environment of its own: benchmarks/obp_agreement.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bandit.settings import ExperimentSettings
from bandit.training import Learning
from bandit.types import Action, Interaction, Policy
from benchmarks.gate_study import world
from evaluation.certificate import certificate
from evaluation.fast import paired_summary
from evaluation.gate import GateRules, judge
from evaluation.report import render_report
from evaluation.scored import ScoredRows


def best_of(work: Callable[[], Any], times: int = 5) -> float:
    """Seconds of the fastest of a few runs."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def arithmetic(n: int, k: int) -> None:
    """Paired DR with variance, ESS and weights of both policies."""
    rng = np.random.default_rng(1)
    p = rng.random((n, k))
    p /= p.sum(axis=1, keepdims=True)
    rows = ScoredRows.from_matrices(
        candidate=p,
        champion=np.roll(p, 1, axis=1),
        q=rng.random((n, k)),
        action=rng.integers(k, size=n),
        reward=rng.random(n),
        propensity=np.full(n, 1 / k),
    )
    read = best_of(lambda: (rows.candidate.sum(), rows.champion.sum(), rows.q.sum()))
    ours = best_of(lambda: paired_summary(rows))
    print(f"paired DR, {n:,} rows, k = {k}: {ours:.4f} s, {ours / read:.2f} x reading the three arrays")


def cycle(n: int) -> None:
    """The gate end to end on n rows (five actions), against one VW scoring pass over as many."""
    rows = world(0.05, base=0.3).log(np.random.default_rng(2), n)
    rules = GateRules()
    gate = best_of(lambda: judge(rows, rules), 3)
    verdict = judge(rows, rules)
    cert = certificate(rows, verdict, rules)
    certify = best_of(lambda: certificate(rows, verdict, rules), 3)
    report = best_of(lambda: render_report(cert), 3)
    scoring = vw_pass(n)
    print(
        f"{n:,} rows, k = 5: gate {gate:.4f} s, certificate {certify:.4f} s, report {report:.4f} s; "
        f"one VW scoring pass {scoring:.3f} s, so scoring and gate are {(scoring + gate) / scoring:.3f} x the pass"
    )


def vw_pass(n: int) -> float:
    """Seconds that a policy takes to give its pmf for n contexts of nine numbers."""
    from datetime import UTC, datetime

    rng = np.random.default_rng(3)
    actions = tuple(Action(name) for name in "abcde")
    contexts = [{f"x{i}": float(v) for i, v in enumerate(row)} for row in rng.normal(size=(n, 9))]
    past = [
        Interaction(f"e{i}", datetime(2026, 1, 1, tzinfo=UTC), "m", contexts[i], actions, i % 5, 0.2, (0.2,) * 5, 0.0)
        for i in range(200)
    ]
    learning = Learning.fresh(ExperimentSettings(), past)
    try:
        learning.step(past, champion=None, champion_id=None)
        return best_of(lambda: _score(learning.policy, contexts, actions), 1)
    finally:
        learning.close()


def _score(policy: Policy, contexts: list[dict[str, float]], actions: tuple[Action, ...]) -> None:
    for context in contexts:
        policy.pmf(context, actions)


def main() -> None:
    """Print one line per measurement."""
    arithmetic(1_000_000, 5)
    arithmetic(200_000, 100)
    cycle(10_000)
    cycle(60_000)


if __name__ == "__main__":
    main()
