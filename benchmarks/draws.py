"""Are actions drawn with the probabilities that are logged? 20,000 draws for each exploration algorithm.

With exclusions, several slots, a control slice and a challenger on trial, on fixed event_ids: chi-square of the
drawn actions against the sums of their logged probabilities, and of the two branches of the control slice against
its fraction.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from scipy.stats import chi2

from bandit.experiment import SECRET_BYTES, Experiment
from bandit.registry import ModelRegistry, Trial
from bandit.settings import Algorithm
from bandit.types import SLICE_CONTROL
from benchmarks.api_bench import CATALOGUE, context, publish, rows, train
from benchmarks.claims import claim
from serving.api.decider import ExperimentServer
from serving.api.requests import RecommendRequest

DRAWS = 20_000
FRACTION = 0.1
TRIAL_SHARE = 0.3
SHAPES: dict[str, dict[str, object]] = {
    "plain": {},
    "excluded": {"excluded": ["class-3"]},
    "slots": {"slots": 3},
    "trial": {},
}


def draw(algorithm: str, shape: str, draws: int, seed: int = 0) -> dict[str, float]:
    """The p-values of one configuration."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-draws-") as folder:
        settings = {
            "actions": CATALOGUE,
            "exploration": {"algorithm": algorithm, "epsilon": 0.2},
            "serving": {"control_fraction": FRACTION, "control_policy": "uniform", "trial_share": TRIAL_SHARE},
        }
        secret = f"{algorithm} {shape} {seed}".encode().ljust(SECRET_BYTES, b"\0")
        experiment = train(Path(folder), "default", settings, lambda rng: CATALOGUE, secret=secret)
        if shape == "trial":
            put_on_trial(experiment)
        server = ExperimentServer(
            Path(folder), "default", writer_id="w0", clock=lambda: datetime.now(UTC), durable=False
        )
        rng = random.Random(seed)
        contexts = [context(rng) for _ in range(500)]
        drawn: dict[str, float] = {}
        expected: dict[str, float] = {}
        control = count = number = 0
        while count < draws:
            question = RecommendRequest(
                context=contexts[number % 500],
                event_id=f"{seed}-{number}",
                **SHAPES[shape],  # type: ignore[arg-type]
            )
            number += 1
            for event in server.decide(question)[0]:
                count += 1
                if (event.trial_model_id is not None) != (shape == "trial"):
                    raise SystemExit(f"{algorithm}, {shape}: the trial's share is not where it should be")
                control += event.slice == SLICE_CONTROL
                drawn[event.action] = drawn.get(event.action, 0.0) + 1
                offered = [entry["id"] for entry in CATALOGUE if entry["id"] not in (event.excluded or [])]
                for action, probability in zip(offered, event.pmf or [], strict=True):
                    expected[action] = expected.get(action, 0.0) + probability
        server.close()
    statistic = sum((drawn.get(action, 0.0) - sum_) ** 2 / sum_ for action, sum_ in expected.items())
    share = (control - FRACTION * count) ** 2 / (FRACTION * (1 - FRACTION) * count)
    return {"actions": float(chi2.sf(statistic, len(expected) - 1)), "control slice": float(chi2.sf(share, 1))}


def put_on_trial(experiment: Experiment) -> None:
    """Give a challenger that learnt something else its share of each decision."""
    now = datetime.now(UTC)
    registry = ModelRegistry(experiment.paths)
    champion = registry.champion()
    assert champion is not None
    learnt = rows(lambda rng: CATALOGUE, now, seed=8, rewarded="x5")
    model_id = publish(experiment, learnt, now)
    registry.set_trial(
        Trial(
            model_id=model_id,
            champion=champion.model_id,
            challenger="other",
            learnt=len(learnt),
            since=now,
            share=TRIAL_SHARE,
        )
    )


def main() -> None:
    """Print one line per configuration; leaves with 1 when a p-value is below 0.001."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS)
    chosen = parser.parse_args()
    smallest = 1.0
    for algorithm in get_args(Algorithm):
        for shape in SHAPES:
            values = draw(algorithm, shape, chosen.draws)
            smallest = min([smallest, *values.values()])
            told = "   ".join(f"p({name}) = {value:.4f}" for name, value in values.items())
            print(f"{algorithm:14} {shape:9} {told}", flush=True)
    if not claim(
        f"draws follow their logged probabilities, {chosen.draws:,} each: smallest p", smallest, at_least=0.001
    ):
        raise SystemExit("a draw does not follow its logged probabilities")


if __name__ == "__main__":
    main()
