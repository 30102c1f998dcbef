"""What is drawn and tabulated of runs: rolling means, bands over seeds, shares of actions, and summaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.environment import Vector
from simulator.runner import Run

ROLLING = 100
EDGE = 500
SHARES_BINS = 15
FLICKER = 20


def rolling_mean(values: Vector, width: int = ROLLING) -> Vector:
    """Mean of the last `width` values at each position (of as many as there are before that)."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    means: npt.NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def first_drawn(count: int) -> int:
    """Where a curve of rolling means begins to be drawn: the very first rest on a handful of rewards and only flicker,
    but a short run has hardly others.
    """
    return FLICKER if count >= 2 * FLICKER else 0


@dataclass(frozen=True, slots=True)
class Band:
    """Mean over seeds with the least and greatest, at each position; arrays of equal length."""

    mean: Vector
    lower: Vector
    upper: Vector


def band(curves: Sequence[Vector]) -> Band:
    """The band of several curves, as far as the shortest goes (replays of one log count a different number)."""
    shortest = min(map(len, curves))
    stacked = np.stack([curve[:shortest] for curve in curves])
    return Band(stacked.mean(axis=0), stacked.min(axis=0), stacked.max(axis=0))


def action_shares(run: Run, bins: int = SHARES_BINS) -> dict[str, Vector]:
    """Share of each action in `bins` equal stretches of the run; actions in order of their total."""
    chosen = np.asarray(run.actions)
    stretches = np.array_split(chosen, min(bins, len(chosen)))
    names, counts = np.unique(chosen, return_counts=True)
    return {str(names[i]): np.array([np.mean(s == names[i]) for s in stretches]) for i in np.argsort(-counts)}


@dataclass(frozen=True, slots=True)
class Failure:
    """A run of the learner that failed: after which batch (0: after the warm start), and why."""

    batch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in its numbers, and the learner's runs that failed: what tables print and `--json` gives.

    Of `asked` questions `counted` count: all of them but in a replay, whose means rest on those alone. `holds`,
    `insufficient` and `failed` are None where the loop was seen from outside alone.
    """

    seed: int
    asked: int
    counted: int
    mean_reward: float
    first_500: float
    last_500: float
    regret: float
    promotions: int
    holds: int | None
    insufficient: int | None
    failed: int | None
    failures: tuple[Failure, ...]


def summarise(run: Run) -> Summary:
    """The numbers of one run; the initial model counts in none of the verdicts."""
    heard = all(batch.settled.heard for batch in run.batches)
    settled = [(0, run.initial), *((batch.number, batch.settled) for batch in run.batches)]
    failures = tuple(Failure(number, one.reason) for number, one in settled if one and one.outcome == "failed")
    return Summary(
        seed=run.seed,
        asked=run.asked,
        counted=run.played,
        mean_reward=float(run.rewards.mean()),
        first_500=float(run.rewards[:EDGE].mean()),
        last_500=float(run.rewards[-EDGE:].mean()),
        regret=float(run.regret()[-1]),
        promotions=run.count("promote"),
        holds=run.count("hold") if heard else None,
        insufficient=run.count("insufficient") if heard else None,
        failed=len(failures) if heard else None,
        failures=failures,
    )


MEASURES = (
    *("counted", "mean_reward", "first_500", "last_500", "regret"),
    *("promotions", "holds", "insufficient", "failed"),
)


def over_seeds(summaries: Sequence[Summary]) -> tuple[dict[str, float], dict[str, float | None]]:
    """Mean and standard error of each measure over seeds (NaN where nobody knows it); a single seed's error is None."""
    columns = {name: np.array([getattr(one, name) for one in summaries], dtype=np.float64) for name in MEASURES}
    means = {name: float(values.mean()) for name, values in columns.items()}
    n = len(summaries)
    errors = {name: float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None for name, values in columns.items()}
    return means, errors
