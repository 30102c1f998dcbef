"""How often is a 5% lower bound above the truth when the reward model flatters the challenger?

Two policies of equal value that differ in a share of the rows; the reward model is too high by `flattery` for what the
challenger would choose there. The log explores a share ε uniformly over seven actions. Compared are the bound of normal
theory and the gate's (`evaluation.caution`); *draws* are the effective number of draws expected to tell, and logs with
fewer than the gate's floor are refused. Rows of a kind are alike, so a log is drawn as counts of its kinds.
"""

from __future__ import annotations

import argparse
import itertools
import math
from statistics import NormalDist

import numpy as np

from benchmarks.claims import claim
from evaluation.caution import caution_of, caution_sums
from evaluation.gate import GateRules
from evaluation.scored import ScoredRows

Z = NormalDist().inv_cdf(0.95)
K = 7

NOISY, SURE = (0.8, 0.5, 0.1), (0.98, 0.02, 0.02)
"""Mean rewards where both policies agree, where they differ, and of all other actions."""

Place = tuple[tuple[float, float, float], int, float, float, float]
"""Rewards, rows, ε, share of the rows in which the policies differ, flattery."""

SHOWN: list[Place] = [
    *((NOISY, n, e, d, 0.3) for n, e, d in ((2000, 0.02, 0.2), (2000, 0.05, 0.2), (2000, 0.05, 0.5), (2000, 0.1, 0.2))),
    *((NOISY, n, e, d, 0.3) for n, e, d in ((2000, 0.3, 0.2), (500, 0.1, 0.5), (500, 0.3, 0.2))),
    *((SURE, 2000, e, d, 0.3) for e, d in ((0.05, 0.06), (0.2, 0.06), (0.3, 0.2))),
    *((SURE, 2000, e, d, 0.9) for e, d in ((0.05, 0.06), (0.2, 0.06), (0.5, 0.2))),
]
MANY: list[Place] = [
    (rewards, n, epsilon, share, flattery)
    for rewards, n, epsilon, share, flattery in itertools.product(
        (NOISY, SURE, (0.5, 0.5, 0.5), (0.1, 0.1, 0.05), (0.03, 0.03, 0.03)),
        (500, 2000, 8000),
        (0.02, 0.05, 0.1, 0.3),
        (0.06, 0.2, 0.5),
        (-0.1, 0.0, 0.1, 0.3),
    )
    if 0 <= rewards[1] + flattery <= 1
]


def kinds(place: Place) -> tuple[ScoredRows, np.ndarray]:
    """One row for each (differing, action, reward) and its probability.

    The champion prefers action 0, the challenger action 1 where the policies differ.
    """
    (agree, differ, other), _, epsilon, share, flattery = place
    champion = np.full((2, K), epsilon / K)
    champion[:, 0] += 1 - epsilon
    candidate = champion.copy()
    candidate[1, [0, 1]] = candidate[1, [1, 0]]
    truth = np.full((2, K), other)
    truth[0, 0], truth[1, :2] = agree, differ
    q = truth.copy()
    q[1, 1] += flattery
    differing, action, reward = (part.ravel() for part in np.indices((2, K, 2)))
    chance = np.where(reward, truth[differing, action], 1 - truth[differing, action])
    chance = chance * champion[differing, action] * np.where(differing, share, 1 - share)
    rows = ScoredRows.from_matrices(
        candidate=candidate[differing],
        champion=champion[differing],
        q=q[differing],
        action=action,
        reward=reward.astype(float),
        propensity=champion[differing, action],
        pmf=champion[differing],
    )
    return rows, chance / chance.sum()


def levels(place: Place, runs: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Mean telling draws; share of logs whose bound is too high by normal theory and by the gate's; share refused."""
    rows, chances = kinds(place)
    n, lift = place[1], rows.reduce().lift
    care = [caution_sums(rows.slice(i, i + 1)) for i in range(len(rows))]
    sums = rng.multinomial(n, chances, size=runs) @ np.column_stack([lift, lift**2, np.array(care)])
    draws = normal = gate = refused = 0.0
    for total, squares, *parts in sums:
        mean = total / n
        se = math.sqrt(max(squares - n * mean**2, 0.0) / (n - 1) / n)
        found = caution_of(np.array(parts), n, se)
        draws += found.draws
        normal += mean > Z * se
        if found.draws < GateRules().draws_min:
            refused += 1
        else:
            gate += mean > found.reach(Z)
    return draws / runs, normal / runs, gate / runs, refused / runs


def main() -> None:
    """Print one line per world shown, and how the bound fares in many more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="few runs, to see that it works")
    arguments = parser.parse_args()
    runs = 200 if arguments.quick else arguments.runs
    rng = np.random.default_rng(5)
    print(f"share of {runs:,} logs whose 5% lower bound is above the true lift of 0; share that the floor refuses")
    print(
        f"{'rewards':>18s} {'rows':>5s} {'eps':>5s} {'differ':>6s} {'flattery':>8s} "
        f"{'draws':>6s} {'normal':>7s} {'gate':>6s} {'refused':>8s}"
    )
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / min(runs, 600))
    for place in SHOWN:
        rewards, n, epsilon, share, flattery = place
        draws, normal, gate, refused = levels(place, runs, rng)
        print(
            f"{'/'.join(map(str, rewards)):>18s} {n:5d} {epsilon:5.2f} {share:6.2f} {flattery:8.1f} "
            f"{draws:6.1f} {normal:7.3f} {gate:6.3f} {refused:8.3f}"
        )
    each = max(200, runs // 4)
    normals, gates, refusals = np.array([levels(place, each, rng)[1:] for place in MANY]).T
    print(
        f"\n{len(MANY)} worlds, {each:,} logs each: normal theory is above the truth in up to {normals.max():.3f} "
        f"(in more than {limit:.3f} in {(normals > limit).sum()} worlds), the gate in up to {gates.max():.3f} "
        f"(in {(gates > limit).sum()} worlds); it refuses {refusals.mean():.1%} of the logs"
    )
    shown = max(levels(place, runs, rng)[2] for place in SHOWN)
    claim("gate: 5% lower bound above the truth, worst of 13 worlds with a flattering model", shown, at_most=limit)


if __name__ == "__main__":
    main()
