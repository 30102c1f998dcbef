"""The gate against the rules that others use, on logs whose truth is known.

Simulated tenures of thirty looks at 2,000 rows each: an equal challenger (how often is it promoted?), one that is 10%
better (how often, and after how many rows, is it found?), one that is 10% worse. Reward lost is what was missed by not
serving the better policy from the first row on, or by serving the worse one after a wrong promotion, per decision.
Rows of one kind, action and reward are all alike here, so a tenure is drawn as counts of them: the same distribution
as row by row, a thousand times faster. Whole tenures through every check and floor are drawn row by row.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from benchmarks.claims import claim
from evaluation.caution import caution, caution_of, caution_sums
from evaluation.gate import GateRules, judge
from evaluation.lift import mean_with_se, paired_lift
from evaluation.scored import ScoredRows
from evaluation.sequential import AlphaLedger, Look, confidence_sequence_z, critical_value, laid_out, spend

LOOKS, BATCH, ALPHA = 30, 2000, 0.05
Z, Z_95 = NormalDist().inv_cdf(0.95), NormalDist().inv_cdf(0.975)

Floats = np.ndarray


@dataclass(frozen=True)
class World:
    """Kinds of context with k actions: chances of reward, the logging champion, the candidate, the reward model."""

    truth: Floats
    champion: Floats
    candidate: Floats
    q: Floats

    @property
    def lift(self) -> float:
        return float(((self.candidate - self.champion) * self.truth).sum(axis=1).mean())

    @property
    def value(self) -> float:
        return float((self.champion * self.truth).sum(axis=1).mean())

    def log(self, rng: np.random.Generator, n: int, *, share: float = 0.0) -> ScoredRows:
        """n rows drawn from (1 − share) champion + share candidate."""
        kind = rng.integers(len(self.truth), size=n)
        mu = (1 - share) * self.champion[kind] + share * self.candidate[kind]
        action = np.minimum((mu.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), mu.shape[1] - 1)
        reward = (rng.random(n) < self.truth[kind, action]).astype(float)
        return self._rows(kind, action, reward, mu)

    def cells(self) -> tuple[ScoredRows, Floats]:
        """One row for each kind, action and reward, and how probable it is in a log of the champion's."""
        kinds, k = self.truth.shape
        kind, action, reward = (part.ravel() for part in np.indices((kinds, k, 2)))
        chance = np.where(reward, self.truth[kind, action], 1 - self.truth[kind, action])
        rows = self._rows(kind, action, reward.astype(float), self.champion[kind])
        weight = self.champion[kind, action] * chance
        return rows, weight / weight.sum()

    def _rows(self, kind: Floats, action: Floats, reward: Floats, mu: Floats) -> ScoredRows:
        return ScoredRows.from_matrices(
            candidate=self.candidate[kind],
            champion=self.champion[kind],
            q=self.q[kind],
            action=action,
            reward=reward,
            propensity=mu[np.arange(len(kind)), action],
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


@dataclass(frozen=True)
class Tenures:
    """Sums over the first 1, 2, … looks' rows of many tenures, each of shape (runs, LOOKS): n, lift, DR values."""

    n: Floats
    sums: Floats

    @classmethod
    def draw(cls, place: World, runs: int, seed: int, *, batch: int = BATCH) -> Tenures:
        """So many tenures, `batch` rows between looks."""
        rows, chances = place.cells()
        events = rows.reduce()
        values = [d + w * events.residual for d, w in zip(events[2:4], events[:2], strict=True)]
        columns = [events.lift, events.lift**2, *(power for v in values for power in (v, v**2))]
        care = np.array([caution_sums(rows.slice(i, i + 1)) for i in range(len(rows))])
        features = np.column_stack([*columns, care])
        rng = np.random.default_rng(seed)
        sums = np.array([rng.multinomial(batch, chances, size=LOOKS) @ features for _ in range(runs)])
        return cls(batch * np.arange(1, LOOKS + 1), sums.cumsum(axis=1))

    def mean_and_se(self, column: int = 0) -> tuple[Floats, Floats]:
        mean = self.sums[..., column] / self.n
        spread = (self.sums[..., column + 1] - self.n * mean**2) / (self.n - 1)
        return mean, np.sqrt(spread / self.n)

    def rules(self) -> dict[str, Floats]:
        """Whether each rule would promote, (runs, LOOKS)."""
        mean, se = self.mean_and_se()
        (challenger, its_se), (champion, champions_se) = self.mean_and_se(2), self.mean_and_se(4)
        look = np.arange(1, LOOKS + 1)
        falling = np.array([NormalDist().inv_cdf(1 - 6 * ALPHA / (math.pi**2 * i**2)) for i in look])
        sequence = np.array([confidence_sequence_z(n, alpha=ALPHA, tuned_at=10_000) for n in self.n])
        unpaired = (challenger > champion) & (challenger - Z * its_se > champion - Z * champions_se)
        return {
            "point estimate higher": mean > 0,
            "mean and lower bound higher, unpaired": unpaired,
            "paired lower bound at each look": mean > Z * se,
            "alpha_k = 6 alpha/(pi^2 k^2)": mean > falling * se,
            "asymptotic confidence sequence": mean > sequence * se,
            "O'Brien-Fleming, 30 looks": mean > obrien_fleming() * np.sqrt(LOOKS / look) * se,
            "default gate": self.gate(mean, se),
        }

    def gate(self, mean: Floats, se: Floats) -> Floats:
        """The default bound (without the checks, which are studied apart)."""
        promoted = np.zeros(mean.shape, bool)
        for run in range(len(mean)):
            ledger = AlphaLedger()
            for look, n in enumerate(self.n.tolist()):
                share = spend(ledger, n, alpha=ALPHA, horizon_rows=int(self.n[-1]))
                if share <= 0:
                    continue
                care = caution_of(self.sums[run, look, 6:], n, float(se[run, look]))
                z = critical_value(ledger.looks, care.clock, share)
                ledger = ledger.looked(Look(n, care.clock, share, z))
                if mean[run, look] > care.reach(z):
                    promoted[run, look] = True
                    break
        return promoted


def obrien_fleming() -> float:
    """The constant of the classical bound for exactly thirty planned looks, by simulation."""
    steps = np.random.default_rng(0).normal(size=(100_000, LOOKS))
    return float(np.quantile((np.cumsum(steps, axis=1) / math.sqrt(LOOKS)).max(axis=1), 1 - ALPHA))


def tenures(runs: int) -> None:
    """The table of rules."""
    print(
        f"{LOOKS} looks at {BATCH:,} rows, alpha {ALPHA}, k = 5, 10% exploration, reward about .1; "
        f"{runs:,} tenures with an equal challenger, {runs // 2:,} each with one 10% worse and one 10% better"
    )
    drawn = [Tenures.draw(world(r), n, s) for r, n, s in ((0.0, runs, 1), (-0.1, runs // 2, 4), (0.1, runs // 2, 2))]
    equal, worse, better = (found.rules() for found in drawn)
    lift = abs(world(0.1).lift)
    print(f"{'rule':40s} {'equal':>7s} {'worse':>7s} {'better':>7s} {'rows':>7s} {'lost per 1,000 decisions':>25s}")
    for name in equal:
        share = [found[name].any(axis=1).mean() for found in (equal, worse, better)]
        waited, hit = _first(better[name])
        served = 1 - _first(worse[name])[0]
        lost = 1000 * lift * (waited.mean() + served.mean()) / 2
        median = f"{np.median(waited[hit]) * LOOKS * BATCH:,.0f}" if hit.any() else "-"
        print(f"{name:40s} {share[0]:7.3f} {share[1]:7.3f} {share[2]:7.3f} {median:>7s} {lost:25.2f}")
        if name == "default gate":
            claim(f"gate: equal challenger promoted, 30 looks, {runs:,} tenures", share[0], at_most=0.06)
            claim("gate: +10% found within 60k rows, one challenger", share[2], at_least=0.60)


def _first(promoted: Floats) -> tuple[Floats, Floats]:
    """Share of the horizon until the first promotion (1 without one), and whether there was one."""
    hit = np.asarray(promoted.any(axis=1))
    return np.where(hit, (promoted.argmax(axis=1) + 1) / LOOKS, 1.0), hit


SCHEDULES: dict[str, Callable[[float], float]] = {
    "the gate's": lambda share: laid_out(share, horizon_rows=60_000),
    "even": lambda share: share,
    "square root": lambda share: share**0.5,
    "rows^3": lambda share: share**3,
    "O'Brien-Fleming": lambda share: 2 * (1 - NormalDist().cdf(Z_95 / math.sqrt(share))) / ALPHA,
}


def schedules(runs: int) -> None:
    """How long lifts of all sizes wait under different schedules of α: a random walk, looks at 500 rows and more."""
    rows = [500]
    while rows[-1] < 60_000:
        rows.append(min(60_000, max(rows[-1] + 500, math.ceil(rows[-1] * 1.05 / 500) * 500)))
    n = np.array(rows, float)
    walk = np.cumsum(np.random.default_rng(0).normal(size=(runs, len(n))) * np.sqrt(np.diff(n, prepend=0.0)), axis=1)
    sizes = (500, 1500, 5000, 15_000, 50_000)
    print("\nmean rows until a lift is found, over the rows at which it is 2.5 standard errors (60,000 when it is not)")
    print(f"{'schedule of alpha':20s}" + "".join(f"{size:>9,d}" for size in sizes) + "    found of the last")
    for name, schedule in SCHEDULES.items():
        ledger, bounds = AlphaLedger(), []
        for m in rows:
            share = max(0.0, ALPHA * schedule(m / 60_000) - ledger.spent)
            z = math.inf if share < 1e-12 else critical_value(ledger.looks, float(m), share)
            ledger = ledger.looked(Look(m, float(m), share, z)) if math.isfinite(z) else ledger
            bounds.append(z)
        line, power = "", 0.0
        for size in sizes:
            crossed = (walk + 2.5 / math.sqrt(size) * n) / np.sqrt(n) > np.array(bounds)
            power = float(crossed.any(axis=1).mean())
            waited = np.where(crossed.any(axis=1), n[crossed.argmax(axis=1)], 60_000)
            line += f"{waited.mean() / size:9.2f}"
        print(f"{name:20s}{line} {power:20.2f}")


def coverage(runs: int) -> None:
    """The paired 95% interval at n = 2,000, and the gate's one-sided bound at a single look."""
    place, rng = world(0.1, base=0.3), np.random.default_rng(3)
    covered = above = width = unpaired = 0.0
    for _ in range(runs):
        rows = place.log(rng, 2000)
        lift = paired_lift(rows)
        covered += lift.lower <= place.lift <= lift.upper
        width += 2 * Z_95 * lift.se
        events = rows.reduce()
        values = [d + w * events.residual for d, w in zip(events[2:4], events[:2], strict=True)]
        unpaired += 2 * Z_95 * math.hypot(*(mean_with_se(value).se for value in values))
        above += lift.value - caution(rows, lift).reach(Z) > place.lift
    print(
        f"\npaired 95% interval, n = 2,000, {runs:,} logs: covers {covered / runs:.3f}, width {width / runs:.4f} "
        f"(unpaired {unpaired / runs:.4f}); the gate's 5% lower bound exceeds the truth in {above / runs:.3f}"
    )
    claim(f"gate: 95% interval covers, {runs:,} logs", covered / runs, at_least=0.93, at_most=0.97)


def whole_gate(runs: int, relative: float, *, trial: bool) -> tuple[float, float]:
    """Tenures through `judge` itself, all checks and floors on, thirty looks at 500 rows: promoted, mean rows.

    With `trial` the challenger has a share in the decisions that follows the evidence, as an experiment's has.
    """
    place, rng = world(relative, base=0.3), np.random.default_rng(5)
    rules = GateRules(horizon_rows=15_000)
    promoted = rows_taken = alarms = 0
    for _ in range(runs):
        rows, ledger, share = ScoredRows.empty(), None, 0.0
        for _ in range(30):
            rows = ScoredRows.concat([rows, place.log(rng, 500, share=share)])
            verdict = judge(rows, rules, ledger=ledger)
            ledger = verdict.ledger
            alarms += verdict.reason.startswith("Alarm")
            if not verdict.keep_rows:
                promoted += verdict.promote
                break
            chance = NormalDist().cdf(verdict.weighed.value / verdict.weighed.se)
            share = min(max(chance - 0.5, 0.1), 0.5) if trial else 0.0
        rows_taken += len(rows) if verdict.promote else 15_000
    assert not alarms, f"{alarms} alarms on sound logs"
    return promoted / runs, rows_taken / runs


def silence(runs: int) -> tuple[float, float]:
    """Tenures in which silence is the best reward and the reward model believes in it: promoted, and what may be.

    Rewards are -1 in three of ten decisions, whatever is chosen, and 0 in the others. The reward model is the mean of
    what was seen, 0 at first, so that it flatters what the champion hardly ever does. From row 500 on the challenger
    has a share of .3. The looks are the first ones of an epoch of the usual length, at 300 to 1,500 rows.
    """
    kinds, k, rows = 6, 4, 1500
    champion = np.full((kinds, k), 0.02)
    champion[np.arange(kinds), np.arange(kinds) % k] = 0.94
    candidate = np.roll(champion, 1, axis=1)
    promoted = 0
    for run in range(runs):
        rng = np.random.default_rng([11, run])
        kind = rng.integers(kinds, size=rows)
        c, b = candidate[kind], champion[kind]
        share = np.where(np.arange(rows) < 500, 0.0, 0.3)[:, None]
        mu = (1 - share) * b + share * c
        action = np.minimum((mu.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1), k - 1)
        reward = -(rng.random(rows) < 0.3).astype(float)
        q = _means_so_far(kind, action, reward, kinds, k)
        ledger = None
        for n in (300, 400, 500, 550, 600, 650, 700, 800, 900, 1050, 1200, 1350, 1500):
            seen = ScoredRows.from_matrices(
                candidate=c[:n],
                champion=b[:n],
                q=q[:n],
                pmf=mu[:n],
                action=action[:n],
                reward=reward[:n],
                propensity=mu[np.arange(n), action[:n]],
            )
            verdict = judge(seen, GateRules(), ledger=ledger)
            ledger = verdict.ledger
            if not verdict.keep_rows:
                promoted += verdict.promote
                break
    horizon = GateRules().horizon_rows
    return promoted / runs, ALPHA * laid_out(rows / horizon, horizon_rows=horizon)


def _means_so_far(kind: Floats, action: Floats, reward: Floats, kinds: int, k: int) -> Floats:
    """For each row and action the mean reward of the rows before of its kind in which that was drawn, 0 without any."""
    means = np.zeros((len(kind), k))
    for one in range(kinds):
        own = np.flatnonzero(kind == one)
        for place in range(k):
            drawn = (action[own] == place).astype(float)
            count, total = np.cumsum(drawn) - drawn, np.cumsum(drawn * reward[own]) - drawn * reward[own]
            means[own, place] = total / np.maximum(count, 1)
    return means


def no_worse(runs: int, difference: float) -> float:
    """How often `noninferiority` with a margin of 2% passes challengers that are worse by just that, at one look.

    In the first 500 of 2,000 rows the policies differ by no more than `difference`; then both have their share, and the
    challenger chooses otherwise in a third of the contexts.
    """
    kinds, k, rows, margin = 30, 5, 2000, 0.02
    rng = np.random.default_rng(17)
    champion = 0.98 * np.eye(k)[np.arange(kinds) % k] + 0.02 / k
    late = champion.copy()
    late[:10] = np.roll(champion[:10], 1, axis=1)
    change = late - champion
    lost = margin * 0.5 * rows / (rows - 500) / (change**2).sum(axis=1).mean()
    truth = 0.5 - lost * change
    promoted = 0
    for _ in range(runs):
        kind = rng.integers(kinds, size=rows)
        b, mu = champion[kind], 0.7 * champion[kind] + 0.3 * late[kind]
        c = np.where(np.arange(rows)[:, None] < 500, b + difference * (1 / k - b), late[kind])
        action = np.minimum((mu.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1), k - 1)
        reward = (rng.random(rows) < truth[kind, action]).astype(float)
        propensity = mu[np.arange(rows), action]
        q = np.full((rows, k), 0.5)
        log = ScoredRows.from_matrices(
            candidate=c, champion=b, q=q, pmf=mu, action=action, reward=reward, propensity=propensity
        )
        promoted += judge(log, GateRules(mode="noninferiority", margin=margin, horizon_rows=100)).promote
    return promoted / runs


def main() -> None:
    """Print the study's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="few runs, to see that it works")
    arguments = parser.parse_args()
    runs = 40 if arguments.quick else arguments.runs
    start = time.perf_counter()
    tenures(runs)
    schedules(max(200, 2 * runs))
    coverage(max(200, runs // 2))
    print(f"\nwhole gate with all checks, 30 looks at 500 rows, {runs // 10:,} tenures each, rewards about .3")
    for trial in (False, True):
        for relative in (0.0, 0.2):
            share, rows = whole_gate(max(20, runs // 10), relative, trial=trial)
            place = "with a share that follows the evidence" if trial else "without a share"
            print(f"challenger {relative:+.0%} {place}: promoted {share:.3f}, mean rows {rows:,.0f}, alarms 0")
            if relative == 0.0:
                limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / max(20, runs // 10))
                claim(f"gate: equal challenger promoted, all checks, {place}", share, at_most=limit)
    share, allowed = silence(runs)
    found = f"promoted {share:.4f}, {allowed:.4f} may be spent by then"
    print(f"\nsilence is best, the first 13 looks of {runs:,} tenures: {found}")
    limit = allowed + 2 * math.sqrt(allowed * (1 - allowed) / runs)
    claim("gate: equal challenger promoted at first looks, silence is best", share, at_most=limit)
    print(f"\nno worse than by 2%: {runs:,} challengers that are worse by 2%, alike in the first quarter of the rows")
    for difference in (0.0, 1e-16, 1e-3):
        share = no_worse(runs, difference)
        print(f"differing by {difference:g} there: promoted {share:.4f}")
        limit = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
        claim(
            f"gate: noninferiority at its limit, policies that differ by {difference:g} at first", share, at_most=limit
        )
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
