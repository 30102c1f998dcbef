"""How often is a 5% lower bound above the truth when the reward model flatters the challenger?

Two policies of equal value that differ in a share of the rows; the reward model is too high by `flattery` for what the
challenger would choose there. The log explores a share ε uniformly over seven actions. Compared are the bound of normal
theory and the gate's (`evaluation.caution`); *draws* are the effective number of draws expected to tell.
"""

from __future__ import annotations

import argparse

import numpy as np

from evaluation.caution import caution
from evaluation.lift import paired_lift
from evaluation.scored import ScoredRows

Z = 1.6448536269514722
K = 7

NOISY = (0.8, 0.5, 0.1)
SURE = (0.98, 0.02, 0.02)
WORLDS = [
    # rewards (where both agree, where they differ, of all other actions), rows, ε, share that differs, flattery
    *((NOISY, n, e, d, 0.3) for n, e, d in ((2000, 0.02, 0.2), (2000, 0.05, 0.2), (2000, 0.05, 0.5), (2000, 0.1, 0.2))),
    *((NOISY, n, e, d, 0.3) for n, e, d in ((2000, 0.3, 0.2), (500, 0.1, 0.5), (500, 0.3, 0.2))),
    *((SURE, 2000, e, d, 0.3) for e, d in ((0.05, 0.06), (0.2, 0.06), (0.3, 0.2))),
    *((SURE, 2000, e, d, 0.9) for e, d in ((0.05, 0.06), (0.2, 0.06), (0.5, 0.2))),
]


def log(rng: np.random.Generator, place: tuple[tuple[float, float, float], int, float, float, float]) -> ScoredRows:
    """One log; the champion prefers action 0, the challenger action 1 where the policies differ."""
    (agree, differ, other), n, epsilon, share, flattery = place
    rare = epsilon / K
    differing = rng.random(n) < share
    champion = np.full((n, K), rare)
    champion[:, 0] = 1 - epsilon + rare
    candidate = champion.copy()
    candidate[differing] = candidate[differing][:, [1, 0, *range(2, K)]]
    truth = np.full((n, K), other)
    truth[:, 0] = np.where(differing, differ, agree)
    truth[differing, 1] = differ
    q = truth.copy()
    q[differing, 1] += flattery
    action = np.where(rng.random(n) < epsilon, rng.integers(K, size=n), 0)
    at = np.arange(n), action
    return ScoredRows.from_matrices(
        candidate=candidate,
        champion=champion,
        q=q,
        action=action,
        reward=(rng.random(n) < truth[at]).astype(float),
        propensity=champion[at],
        pmf=champion,
    )


def main() -> None:
    """Print one line per world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--quick", action="store_true", help="few runs, to see that it works")
    arguments = parser.parse_args()
    runs = 30 if arguments.quick else arguments.runs
    rng = np.random.default_rng(5)
    print(f"share of {runs} logs whose 5% lower bound is above the true lift of 0")
    print(
        f"{'rewards':>18s} {'rows':>5s} {'eps':>5s} {'differ':>6s} {'flattery':>8s} "
        f"{'draws':>6s} {'normal':>7s} {'gate':>6s}"
    )
    for place in WORLDS:
        rewards, n, epsilon, share, flattery = place
        normal = gate = draws = 0.0
        for _ in range(runs):
            rows = log(rng, place)
            lift = paired_lift(rows)
            care = caution(rows, lift)
            normal += lift.value > Z * lift.se
            gate += lift.value > care.reach(Z)
            draws += care.draws
        print(
            f"{'/'.join(map(str, rewards)):>18s} {n:5d} {epsilon:5.2f} {share:6.2f} {flattery:8.1f} "
            f"{draws / runs:6.1f} {normal / runs:7.3f} {gate / runs:6.3f}"
        )


if __name__ == "__main__":
    main()
