"""Do the defaults hold on data they were not chosen on? Every algorithm on eleven worlds, nothing tuned per world.

Each world is a labelled table (reward 1 for naming the label, with noise where the label is noisy): contexts are
drawn with replacement, 100 uniform rows warm-start the first model, then batches of 500 are decided by a frozen
model that is replaced after each batch. No gate, so that learning alone is compared. The default must be best, or
within one standard error of the best fixed algorithm, on average rank, and never below the commonest action.
Run with `python -m benchmarks.datasets_study`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sklearn import datasets

from bandit.policies import UniformPolicy, policy_from_files
from bandit.sampling import draw_index
from bandit.settings import ExperimentSettings, merge_settings
from bandit.training import Learning
from bandit.types import Action, Features, Interaction, Policy

Rows = list[tuple[dict[str, Any], int]]
ALGORITHMS: dict[str, dict[str, Any]] = {
    "default": {},
    "squarecb, no headroom": {"exploration": {"headroom": False}},
    "egreedy 0.05": {"exploration": {"algorithm": "egreedy", "epsilon": 0.05}},
    "egreedy 0.1": {"exploration": {"algorithm": "egreedy", "epsilon": 0.1}},
    "bag 5": {"exploration": {"algorithm": "bag", "epsilon": 0.02}},
    "cover 3": {"exploration": {"algorithm": "cover", "epsilon": 0.02}},
    "softmax 0.1": {"exploration": {"algorithm": "softmax", "temperature": 0.1}},
    "explore first 1000": {"exploration": {"algorithm": "explore_first", "explore_first": 1000}},
}
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class World:
    """A labelled table; `drift_after` rotates the labels by one after so many interactions; `offers` gives
    each action features of its own (and ids that say nothing) in every request."""

    rows: Rows
    actions: int
    drift_after: int | None = None
    offers: Callable[[np.random.Generator], tuple[Action, ...]] | None = None
    right: Callable[[dict[str, Any], Sequence[Action], np.random.Generator], int] | None = None


def table(data: Any, labels: Any) -> Rows:
    """Rows of numbers."""
    return [({f"x{j}": float(v) for j, v in enumerate(row)}, int(y)) for row, y in zip(data, labels, strict=True)]


def worlds() -> dict[str, World]:
    """The eleven worlds, each from a fixed seed."""
    made: dict[str, World] = {}
    for name, loader in (
        ("digits", datasets.load_digits),
        ("wine", datasets.load_wine),
        ("breast cancer", datasets.load_breast_cancer),
    ):
        bunch = loader()
        made[name] = World(table(bunch.data, bunch.target), int(bunch.target.max()) + 1)
    x, y = datasets.make_classification(
        6000, n_features=12, n_informative=5, n_redundant=2, n_classes=5, class_sep=1.2, random_state=1
    )
    made["clusters"] = World(table(x, y), 5)
    made["clusters, drifting"] = World(table(x, y), 5, drift_after=1500)
    x, y = datasets.make_classification(6000, n_features=30, n_informative=6, n_classes=3, flip_y=0.2, random_state=2)
    made["noisy labels"] = World(table(x, y), 3)
    x, y = datasets.make_moons(4000, noise=0.2, random_state=3)
    made["moons"] = World(table(x, y), 2)
    made["categories"] = World(_categories(), 6)
    made["mixed types"] = World(_mixed(), 5)
    made["quadrants"] = World(_quadrants(), 4)
    made["action features"] = World(_quadrants(), 6, offers=_offers, right=_taste)
    return made


def _categories() -> Rows:
    rng = np.random.default_rng(4)
    answer = rng.integers(6, size=(8, 12))
    rows: Rows = []
    for _ in range(6000):
        colour, country, other = (int(rng.integers(n)) for n in (8, 12, 5))
        label = int(answer[colour, country]) if rng.random() < 0.85 else int(rng.integers(6))
        context = {"colour": f"c{colour}", "country": f"n{country}", "other": f"o{other}", "vip": bool(rng.integers(2))}
        rows.append((context, label))
    return rows


def _mixed() -> Rows:
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(5, 4))
    rows: Rows = []
    for _ in range(6000):
        age, income = rng.normal(40, 12), float(np.exp(rng.normal(10, 1)))
        device, tags = int(rng.integers(3)), [f"t{i}" for i in range(6) if rng.random() < 0.3]
        z = np.array([(age - 40) / 12, np.log(income) - 10, device - 1, len(tags) - 2])
        label = int(np.argmax(weights @ z + rng.gumbel(size=5) * 0.4))
        context = {"age": float(age), "user": {"income": income}, "device": "mdt"[device], "tags": tags}
        if rng.random() < 0.1:
            del context["age"]
        rows.append((context, label))
    return rows


def _quadrants() -> Rows:
    rng = np.random.default_rng(6)
    rows: Rows = []
    for _ in range(6000):
        x, y = rng.normal(size=2)
        rows.append(({"x": float(x), "y": float(y), "noise": float(rng.random())}, int(x > 0) * 2 + int(y > 0)))
    return rows


def _offers(rng: np.random.Generator) -> tuple[Action, ...]:
    return tuple(
        Action(f"item-{rng.integers(10**6)}-{j}", {"price": float(rng.random()), "kind": "abc"[int(rng.integers(3))]})
        for j in range(6)
    )


def _taste(context: dict[str, Any], offered: Sequence[Action], rng: np.random.Generator) -> int:
    """People right of zero want it cheap, the others want kind b; a little noise."""

    def worth(features: Features) -> float:
        return (1 - features["price"] if context["x"] > 0 else float(features["kind"] == "b")) + 0.1 * rng.random()

    return int(np.argmax([worth(action.features) for action in offered]))


def play(world: World, settings: ExperimentSettings, seed: int, interactions: int, batch: int = 500) -> float:
    """The mean reward of one run."""
    rng = np.random.default_rng(seed)
    catalogue = tuple(Action(f"a{number}") for number in range(world.actions))
    count = 0

    def decide(policy: Policy, rows: int) -> list[Interaction]:
        nonlocal count
        made = []
        for _ in range(rows):
            context, label = world.rows[rng.integers(len(world.rows))]
            actions = world.offers(rng) if world.offers else catalogue
            if world.right:
                label = world.right(context, actions, rng)
            if world.drift_after is not None and count >= world.drift_after:
                label = (label + 1) % world.actions
            pmf = policy.pmf(context, actions)
            index = draw_index(pmf, float(rng.random()))
            when = START + timedelta(seconds=count)
            made.append(
                Interaction(
                    f"e{count}", when, "m", context, actions, index, pmf[index], tuple(pmf), float(index == label)
                )
            )
            count += 1
        return made

    log = decide(UniformPolicy(), 100)
    learning = Learning.fresh(settings, [])
    learning.step(log, champion=None, champion_id=None, history=list, score=False)
    rewards: list[float] = []
    for start in range(0, interactions, batch):
        policy = policy_from_files(learning.files())
        rows = decide(policy, min(batch, interactions - start))
        policy.close()
        rewards += [row.reward for row in rows]
        past = list(log)
        learning.step(rows, champion=None, champion_id=None, history=lambda past=past: past, score=False)  # type: ignore[misc]
        log += rows
    learning.close()
    return float(np.mean(rewards))


def commonest(world: World, seed: int, interactions: int) -> float:
    """What always choosing the commonest label (or position) would have earned, known only afterwards."""
    rng = np.random.default_rng(seed)
    counts: Counter[int] = Counter()
    for number in range(interactions):
        context, label = world.rows[rng.integers(len(world.rows))]
        if world.offers and world.right:
            label = world.right(context, world.offers(rng), rng)
        if world.drift_after is not None and number + 100 >= world.drift_after:
            label = (label + 1) % world.actions
        counts[label] += 1
    return max(counts.values()) / interactions


def main() -> None:
    """Print the table of mean rewards, then average ranks with their standard errors and the verdict."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--interactions", type=int, default=3000)
    parser.add_argument("--seeds", default="0-1")
    parser.add_argument("--worlds", help="names, separated by commas")
    parser.add_argument("--quick", action="store_true", help="one seed and 1,000 interactions")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.interactions, chosen.seeds = 1000, "0"
    low, _, high = str(chosen.seeds).partition("-")
    seeds = range(int(low), int(high or low) + 1)
    picked = worlds()
    if chosen.worlds:
        picked = {name: picked[name] for name in chosen.worlds.split(",")}
    started = time.perf_counter()
    print(f"{'world':20s} " + " ".join(f"{name[:14]:>14s}" for name in ALGORITHMS) + f" {'commonest':>10s}")
    values = np.zeros((len(picked), len(ALGORITHMS), len(seeds)))
    below = []
    for i, (name, world) in enumerate(picked.items()):
        for j, changes in enumerate(ALGORITHMS.values()):
            settings = merge_settings(ExperimentSettings(), changes)
            values[i, j] = [play(world, settings, seed, chosen.interactions) for seed in seeds]
        floor = float(np.mean([commonest(world, seed, chosen.interactions) for seed in seeds]))
        means = values[i].mean(axis=1)
        if means[0] < floor:
            below.append(name)
        print(f"{name:20s} " + " ".join(f"{mean:14.3f}" for mean in means) + f" {floor:10.3f}", flush=True)
    ranks = 1 + (values[:, :, None, :] < values[:, None, :, :] - 1e-9).sum(axis=2)  # (worlds, algorithms, seeds)
    per_world = ranks.mean(axis=2)
    average = per_world.mean(axis=0)
    error = per_world.std(axis=0, ddof=1) / np.sqrt(len(picked))
    print(f"{'average rank':20s} " + " ".join(f"{rank:14.2f}" for rank in average))
    print(f"{'± standard error':20s} " + " ".join(f"{value:14.2f}" for value in error))
    print(f"{'mean reward':20s} " + " ".join(f"{mean:14.3f}" for mean in values.mean(axis=(0, 2))))
    best = int(np.argmin(average))
    gap = per_world[:, 0] - per_world[:, best]
    spread = float(gap.std(ddof=1) / np.sqrt(len(gap))) if best else 0.0
    behind = average[0] - average[best]
    holds = behind <= spread and not below
    print(
        f"best by rank: {list(ALGORITHMS)[best]}; the default is {behind:.2f} ± {spread:.2f} behind; "
        f"worlds where it earns less than the commonest action: {', '.join(below) or 'none'}; "
        f"{'holds' if holds else 'DOES NOT HOLD'} ({time.perf_counter() - started:.0f} s)"
    )
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
