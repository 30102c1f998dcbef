"""How often does at least one what-if interval miss the truth, where 5% is promised for all of them at once?

Seven policies (five constant ones, uniform, greedy) are judged on logs with known truth, most of them with rare
rewards, where few of a policy's own draws tell anything. The same logs are judged by the spread of what was seen alone,
and with the count of `evaluation.rare`. Run with `python -m benchmarks.coverage_study`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np

from benchmarks.claims import claim
from evaluation.ranking import rank
from evaluation.scored import Floats, ScoredRows

K = 5
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of log: n rows; chances of a reward and their model, shape (kinds of context, K); what the log shows most.

    Any action is shown in a share `explored` of the rows, the kind's favourite in the others. Rewards are 1, or amounts
    of mean 1, lognormal with this `spread` of the logarithm.
    """

    name: str
    n: int
    truth: Floats
    q: Floats
    explored: float
    favourites: np.ndarray
    spread: float = 0.0

    @property
    def shown(self) -> Floats:
        """The chance of each action in the log."""
        return self.explored / K + (1 - self.explored) * np.eye(K)[self.favourites]

    def policies(self) -> dict[str, Floats]:
        """The policies that are judged."""
        kinds = len(self.truth)
        greedy = 0.9 * np.eye(K)[self.q.argmax(axis=1)] + 0.1 / K
        constant = {f"always {action}": np.tile(np.eye(K)[action], (kinds, 1)) for action in range(K)}
        return {"uniform": np.full((kinds, K), 1 / K), "greedy": greedy} | constant

    def log(self, rng: np.random.Generator) -> dict[str, ScoredRows]:
        """One log, with each policy as the candidate."""
        kind = rng.integers(len(self.truth), size=self.n)
        shown = self.shown[kind]
        action = np.minimum((shown.cumsum(axis=1) < rng.random((self.n, 1))).sum(axis=1), K - 1)
        reward = (rng.random(self.n) < self.truth[kind, action]).astype(float)
        if self.spread:
            reward *= rng.lognormal(-0.5 * self.spread**2, self.spread, self.n)
        return {
            name: ScoredRows.from_matrices(
                candidate=policy[kind],
                champion=shown,
                q=self.q[kind],
                pmf=shown,
                action=action,
                reward=reward,
                propensity=shown[np.arange(self.n), action],
            )
            for name, policy in self.policies().items()
        }


def plain(base: float, n: int, explored: float) -> Place:
    """One kind of context; the second action pays half more than the others, or fails half as often again."""
    factors = np.array([[1, 1.5, 0.5, 1, 1]])
    truth = base * factors if base < 0.8 else 1 - (1 - base) * factors
    return Place(f"{base:g}", n, truth, np.full((1, K), base), explored, np.array([0]))


def by_context(base: float, n: int, explored: float) -> Place:
    """Ten kinds of context, each with chances of its own, about which the model is roughly right."""
    rng, shape = np.random.default_rng(1), (10, K)
    truth = np.clip(base * np.exp(rng.normal(size=shape)), 0, 0.95)
    q = np.clip(truth * np.exp(0.3 * rng.normal(size=shape)), 0, 1)
    return Place(f"{base:g}, by context", n, truth, q, explored, rng.integers(0, K, 10))


def known(high: float, n: int, explored: float) -> Place:
    """Ten kinds of context, each with one action that nearly always pays, which model and log know."""
    truth = np.where(np.arange(10)[:, None] % K == np.arange(K), high, 1 - high)
    return Place(f"{high:g} or {1 - high:g}, the model knows which", n, truth, truth, explored, truth.argmax(axis=1))


def amounts(base: float, n: int, explored: float) -> Place:
    """The same, where each reward is an amount: some are ten times the others."""
    place = plain(base, n, explored)
    return replace(place, name=f"{base:g}, amounts", spread=1.0)


RARE = (
    plain(0.05, 1000, 0.3),
    plain(0.02, 3000, 0.3),
    plain(0.05, 5000, 0.1),
    plain(0.01, 10_000, 0.3),
    plain(0.95, 1000, 0.3),
    by_context(0.05, 1000, 0.3),
    by_context(0.02, 3000, 0.3),
    known(0.98, 2000, 0.1),
    amounts(0.1, 1000, 0.3),
    amounts(0.05, 5000, 0.3),
)
ORDINARY = (
    plain(0.1, 3000, 0.3),
    plain(0.3, 1000, 0.3),
    plain(0.3, 5000, 0.3),
    plain(0.3, 1000, 0.1),
    plain(0.5, 1000, 0.3),
    by_context(0.3, 1000, 0.3),
)


def intervals(log: Mapping[str, ScoredRows]) -> dict[str, tuple[float, float]]:
    """The interval of each policy that is answered."""
    return {entry.policy: (entry.lower, entry.upper) for entry in rank(log, level=LEVEL) if entry.answered}


def play(place: Place, logs: int) -> tuple[float, float, float]:
    """Shares of logs in which an interval missed, by spread alone and as it is; how much wider intervals became."""
    worth = {name: float((policy * place.truth).sum(axis=1).mean()) for name, policy in place.policies().items()}
    rng = np.random.default_rng(17)
    missed = np.zeros(2)
    wider = []
    for _ in range(logs):
        log = place.log(rng)
        with patch("evaluation.ranking.reach_of_few", lambda reach, *_: reach):
            before = intervals(log)
        now = intervals(log)
        for which, found in enumerate((before, now)):
            missed[which] += any(not low <= worth[name] <= high for name, (low, high) in found.items())
        wider += [(now[name][1] - now[name][0]) / (high - low) for name, (low, high) in before.items() if name in now]
    spread, counted = missed / logs
    return float(spread), float(counted), float(np.mean(wider))


def main() -> None:
    """Print a table with a row for each kind of log, and the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="40 logs each")
    arguments = parser.parse_args()
    logs = 40 if arguments.quick else arguments.logs
    print("| rewards | rows | explored | missed by spread alone | missed | mean width |\n|---|---|---|---|---|---|")
    worst = {}
    for name, places in (("rare", RARE), ("ordinary", ORDINARY)):
        found = []
        for place in places:
            spread, counted, wider = play(place, logs)
            found.append((counted, wider))
            row = (
                f"| {place.name} | {place.n:,} | {place.explored:.0%} | {spread:.3f} | {counted:.3f} | × {wider:.2f} |"
            )
            print(row, flush=True)
        worst[name] = np.array(found).max(axis=0)
    allowed = 1 - LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / logs)
    print(f"\n{logs} logs a row; 0.05 is promised, and two standard errors of it are allowed.\n")
    claim("what-if intervals miss, worst of the rare", worst["rare"][0], at_most=round(allowed, 3))
    claim("what-if intervals miss, worst of the ordinary", worst["ordinary"][0], at_most=round(allowed, 3))
    claim("what-if intervals are wider, worst of the ordinary", worst["ordinary"][1], at_most=1.1)


if __name__ == "__main__":
    main()
