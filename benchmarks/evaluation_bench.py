"""What offline evaluation costs, against the time of reading the same numbers once.

One core. The yardstick of the arithmetic is a plain sum over the three arrays it has to read; that of a cycle is one
scoring pass of the Vowpal Wabbit policy over the same rows. The comparison with Open Bandit Pipeline needs an
environment of its own: benchmarks/obp_agreement.py.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bandit.settings import ExperimentSettings
from bandit.training import Learning
from bandit.types import Action, Interaction, Policy
from benchmarks.claims import claim
from benchmarks.gate_study import world
from evaluation.certificate import certificate
from evaluation.fast import paired_summary
from evaluation.gate import GateRules, judge
from evaluation.report import render_report
from evaluation.scored import ScoredRows
from joiner.parquet import write_parquet


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
    whole = (scoring + gate + certify + report) / scoring
    print(
        f"{n:,} rows, k = 5: gate {gate:.4f} s, certificate {certify:.4f} s, report {report:.4f} s; one VW pass "
        f"{scoring:.3f} s: scoring and gate take {(scoring + gate) / scoring:.3f} of it, with certificate and report "
        f"{whole:.3f}"
    )
    claim(f"gate end to end / one VW scoring pass, {n:,} rows", whole, at_most=1.3)


def memory(folder: Path, n: int) -> float:
    """Peak memory, in MB, of a process that evaluates a file of n scored rows."""
    path = folder / f"{n}.parquet"
    write_parquet(path, world(0.05, base=0.3).log(np.random.default_rng(2), n).to_frame())
    code = (
        "import sys; from pathlib import Path\n"
        "from evaluation.answer import answer; from serving.cli.scored_file import ScoredFile\n"
        "answer(ScoredFile(Path(sys.argv[1])))\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(int(status.split('VmHWM:')[1].split()[0]) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return float(done.stdout)


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
    with tempfile.TemporaryDirectory() as name:
        few, many = (memory(Path(name), n) for n in (20_000, 200_000))
    print(f"evaluate --scored: {few:.0f} MB at the peak for 20,000 rows, {many:.0f} MB for 200,000")
    claim("evaluate --scored: memory for 200,000 rows / for 20,000", many / few, at_most=1.25)


if __name__ == "__main__":
    main()
