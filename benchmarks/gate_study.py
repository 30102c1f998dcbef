"""The gate against the rules that others use, on logs whose truth is known.

Simulated tenures of thirty looks at 2,000 rows each: an equal challenger (how often is it promoted?), one that is 10%
better (how often, and after how many rows, is it found?), one that is 10% worse. Reward lost is what was missed by not
serving the better policy from the first row on, or by serving the worse one after a wrong promotion, per decision.
`python -m benchmarks.gate_study` takes some minutes and prints what benchmarks/results/gate_study.txt holds.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evaluation.caution import caution, caution_of, caution_sums
from evaluation.gate import GateRules, judge
from evaluation.lift import mean_with_se, paired_lift
from evaluation.scored import ScoredRows
from evaluation.sequential import AlphaLedger, Look, confidence_sequence_z, critical_value, spend

LOOKS, BATCH, ALPHA = 30, 2000, 0.05
Z = 1.6448536269514722


@dataclass(frozen=True)
class World:
    """Kinds of context with k actions: chances of reward, the logging champion, the candidate, the reward model."""

    truth: np.ndarray
    champion: np.ndarray
    candidate: np.ndarray
    q: np.ndarray

    @property
    def lift(self) -> float:
        return float(((self.candidate - self.champion) * self.truth).sum(axis=1).mean())

    @property
    def value(self) -> float:
        return float((self.champion * self.truth).sum(axis=1).mean())

    def log(self, rng: np.random.Generator, n: int) -> ScoredRows:
        kind = rng.integers(len(self.truth), size=n)
        mu = self.champion[kind]
        action = np.minimum((mu.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), mu.shape[1] - 1)
        at = np.arange(n), action
        reward = (rng.random(n) < self.truth[kind][at]).astype(float)
        return ScoredRows.from_matrices(
            candidate=self.candidate[kind],
            champion=mu,
            q=self.q[kind],
            action=action,
            reward=reward,
            propensity=mu[at],
            pmf=mu,
        )


def world(relative: float, *, seed: int = 7, k: int = 5, kinds: int = 200, base: float = 0.1) -> World:
    """The candidate's true lift is `relative` times the champion's value; both explore 10% uniformly."""
    rng = np.random.default_rng(seed)
    spread = np.eye(k)
    champion = 0.9 * spread[rng.integers(k, size=kinds)] + 0.1 / k
    candidate = champion.copy()
    differing = rng.random(kinds) < 0.3
    candidate[differing] = np.roll(champion[differing], 1, axis=1)
    truth = rng.uniform(0.5, 1.5, (kinds, k)) * base
    change = candidate - champion
    for _ in range(3):
        missing = relative * float((champion * truth).sum(axis=1).mean()) - float((change * truth).sum(axis=1).mean())
        truth = truth + missing * change / float((change**2).sum(axis=1).mean())
    q = np.clip(truth * rng.uniform(0.7, 1.3, truth.shape), 0, 1)
    assert truth.min() >= 0 and truth.max() <= 1
    return World(truth, champion, candidate, q)


def point(d: np.ndarray, _: int) -> bool:
    return bool(d.mean() > 0)


def each_look(d: np.ndarray, _: int) -> bool:
    estimate = mean_with_se(d)
    return estimate.value - Z * estimate.se > 0


def alpha_k(d: np.ndarray, look: int) -> bool:
    from statistics import NormalDist

    estimate = mean_with_se(d)
    z = NormalDist().inv_cdf(1 - 6 * ALPHA / (math.pi**2 * look**2))
    return estimate.value - z * estimate.se > 0


def sequence(d: np.ndarray, _: int) -> bool:
    estimate = mean_with_se(d)
    return estimate.value - confidence_sequence_z(len(d), alpha=ALPHA, tuned_at=10_000) * estimate.se > 0


class Unpaired:
    """Two separate intervals: the challenger's mean higher and its lower bound above the champion's."""

    def __init__(self, rows: ScoredRows) -> None:
        events = rows.reduce()
        self.candidate = events.dm_candidate + events.w_candidate * events.residual
        self.champion = events.dm_champion + events.w_champion * events.residual

    def __call__(self, d: np.ndarray, _: int) -> bool:
        a, b = mean_with_se(self.candidate[: len(d)]), mean_with_se(self.champion[: len(d)])
        return a.value > b.value and a.value - Z * a.se > b.value - Z * b.se


def obrien_fleming() -> Callable[[np.ndarray, int], bool]:
    """The classical bound for exactly thirty planned looks, its constant found by simulation."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(100_000, LOOKS))
    constant = float(np.quantile((np.cumsum(steps, axis=1) / math.sqrt(LOOKS)).max(axis=1), 1 - ALPHA))

    def rule(d: np.ndarray, look: int) -> bool:
        estimate = mean_with_se(d)
        return estimate.value - constant * math.sqrt(LOOKS / look) * estimate.se > 0

    return rule


def ours(rows: ScoredRows) -> int | None:
    """The look at which the default bound promotes (without the checks, which are studied apart)."""
    ledger, d = AlphaLedger(), rows.reduce().lift
    sums = np.zeros(7)
    for look in range(1, LOOKS + 1):
        n = look * BATCH
        sums = sums + caution_sums(rows.slice(n - BATCH, n))
        share = spend(ledger, n, alpha=ALPHA, horizon_rows=LOOKS * BATCH)
        if share <= 0:
            continue
        lift = mean_with_se(d[:n])
        care = caution_of(sums, n, lift.se)
        z = critical_value(ledger.looks, care.clock, share)
        ledger = ledger.looked(Look(n, care.clock, share, z))
        if lift.value > care.reach(z):
            return look
    return None


def tenures(relative: float, runs: int, seed: int) -> dict[str, list[int | None]]:
    """The look at which each rule promotes, per run."""
    place, rng = world(relative), np.random.default_rng(seed)
    rules: dict[str, Callable[[np.ndarray, int], bool]] = {
        "point estimate higher": point,
        "paired lower bound at each look": each_look,
        "alpha_k = 6 alpha/(pi^2 k^2)": alpha_k,
        "asymptotic confidence sequence": sequence,
        "O'Brien-Fleming, 30 looks": obrien_fleming(),
    }
    found: dict[str, list[int | None]] = {}
    for _ in range(runs):
        rows = place.log(rng, LOOKS * BATCH)
        d = rows.reduce().lift
        every = {**rules, "mean and lower bound higher, unpaired": Unpaired(rows)}
        for name, rule in every.items():
            looks = (look for look in range(1, LOOKS + 1) if rule(d[: look * BATCH], look))
            found.setdefault(name, []).append(next(looks, None))
        found.setdefault("default gate", []).append(ours(rows))
    return found


def coverage(runs: int) -> None:
    """The paired 95% interval at n = 2,000, and the gate's one-sided bound at a single look."""
    place, rng = world(0.1, base=0.3), np.random.default_rng(3)
    covered = above = width = unpaired = 0.0
    for _ in range(runs):
        rows = place.log(rng, 2000)
        lift = paired_lift(rows)
        covered += lift.lower <= place.lift <= lift.upper
        width += 2 * Z_95 * lift.se
        two = Unpaired(rows)
        unpaired += 2 * Z_95 * math.hypot(mean_with_se(two.candidate).se, mean_with_se(two.champion).se)
        above += lift.value - caution(rows, lift).reach(Z) > place.lift
    print(
        f"paired 95% interval, n = 2,000, {runs} logs: covers {covered / runs:.3f}, width {width / runs:.4f} "
        f"(unpaired {unpaired / runs:.4f}); the gate's 5% lower bound exceeds the truth in {above / runs:.3f}"
    )


Z_95 = 1.959963984540054


def whole_gate(runs: int) -> None:
    """A/A tenures through `judge` itself, all checks and floors on, thirty looks at 500 rows."""
    place, rng = world(0.0, base=0.3), np.random.default_rng(5)
    rules = GateRules(horizon_rows=15_000)
    promoted = alarms = 0
    for _ in range(runs):
        rows, ledger = place.log(rng, 15_000), None
        for n in range(500, 15_001, 500):
            verdict = judge(rows.slice(0, n), rules, ledger=ledger)
            ledger = verdict.ledger
            alarms += verdict.reason.startswith("Alarm")
            if not verdict.keep_rows:
                promoted += verdict.promote
                break
    print(
        f"whole gate, equal challenger, 30 looks at 500 rows, {runs} tenures: "
        f"promoted {promoted / runs:.3f}, alarms {alarms}"
    )


def main() -> None:
    """Print the study's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="few runs, to see that it works")
    arguments = parser.parse_args()
    runs = 40 if arguments.quick else arguments.runs
    start = time.perf_counter()
    print(
        f"{LOOKS} looks at {BATCH:,} rows, alpha {ALPHA}, k = 5, 10% exploration, reward about .1; "
        f"{runs:,} tenures with an equal challenger, {runs // 4:,} each with one 10% worse and one 10% better"
    )
    equal, better, worse = (tenures(r, n, s) for r, n, s in ((0.0, runs, 1), (0.1, runs // 4, 2), (-0.1, runs // 4, 4)))
    lift = abs(world(0.1).lift)
    print(f"{'rule':40s} {'equal':>7s} {'worse':>7s} {'better':>7s} {'rows':>7s} {'lost per 1,000 decisions':>25s}")
    for name in equal:
        share = [np.mean([look is not None for look in found[name]]) for found in (equal, worse, better)]
        rows = [BATCH * look for look in better[name] if look is not None]
        waited = [(LOOKS if look is None else look) / LOOKS for look in better[name]]
        served = [0.0 if look is None else 1 - look / LOOKS for look in worse[name]]
        lost = 1000 * lift * (np.mean(waited) + np.mean(served)) / 2
        median = f"{np.median(rows):,.0f}" if rows else "-"
        print(f"{name:40s} {share[0]:7.3f} {share[1]:7.3f} {share[2]:7.3f} {median:>7s} {lost:25.2f}")
    coverage(max(200, runs // 2))
    whole_gate(max(50, runs // 10))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
