"""What a reader wants to see beside the verdict: where the lift comes from and how far to trust it.

Everything here is for information; nothing decides. All results are plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.lift import mean_with_se
from evaluation.scored import ScoredEvents, ScoredRows

Floats = NDArray[np.float64]

CURVE_POINTS = 60
CALIBRATION_BINS = 10
DAYS_MAX = 366
ACTIONS_MAX = 200
SEGMENTS_MAX, SEGMENTS_KNOWN_MAX = 50, 1000
OTHER_SEGMENTS = "(others)"


def diagnose(rows: ScoredRows, events: ScoredEvents) -> dict[str, Any]:
    """Lift over rows, days, slots and segments, weights, action shares, overlap and calibration of the reward model."""
    if len(rows) == 0:
        return {}
    return {
        "differing": differing_share(rows),
        "curve": lift_curve(events.lift),
        "days": lift_by_day(rows, events.lift),
        "slots": [] if rows.slot is None else lift_by_segment(events.lift, rows.slot),
        "segments": [] if rows.segment is None else lift_by_segment(events.lift, rows.segment),
        "weights": {
            "candidate": weight_histogram(events.w_candidate),
            "champion": weight_histogram(events.w_champion),
        },
        "actions": action_shares(rows),
        "calibration": calibration(events),
    }


def differing_share(rows: ScoredRows) -> float:
    """Mean total variation ½ Σ|c − b|: the share of decisions that would come out differently."""
    if len(rows) == 0:
        return 0.0
    return float(rows.per_row(abs(rows.candidate - rows.champion)).mean() / 2)


def lift_curve(lifts: Floats) -> list[list[float]]:
    """Running mean lift with its SE at up to 60 counts of rows: [n, lift, se]."""
    n = len(lifts)
    if n < 2:
        return []
    at = np.unique(np.linspace(max(2, n // CURVE_POINTS), n, CURVE_POINTS).astype(np.int64))
    centre = float(lifts.mean())
    sums, squares = np.cumsum(lifts - centre)[at - 1], np.cumsum((lifts - centre) ** 2)[at - 1]
    variance = np.maximum(squares - sums**2 / at, 0.0) / (at - 1)
    points = zip(at.tolist(), (centre + sums / at).tolist(), np.sqrt(variance / at).tolist(), strict=True)
    return [[n_rows, mean, se] for n_rows, mean, se in points]


def lift_by_day(rows: ScoredRows, lifts: Floats) -> list[dict[str, Any]]:
    """Lift of each UTC day (the latest 366), empty without times."""
    if rows.decided_at is None:
        return []
    days = rows.decided_at.astype("datetime64[D]")
    names, of_row = np.unique(days, return_inverse=True)
    first = max(0, len(names) - DAYS_MAX)
    out = []
    for index in range(first, len(names)):
        estimate = mean_with_se(lifts[of_row == index])
        out.append({"day": str(names[index]), "n": estimate.n, "lift": estimate.value, "se": estimate.se})
    return out


def lift_by_segment(lifts: Floats, segment: Sequence[str]) -> list[dict[str, Any]]:
    """Lift within each value of a declared segment, by falling number of rows: the first 50, each by itself."""
    segments = Segments()
    segments.add(lifts, segment)
    return segments.table()


class Segments:
    """Sums of lifts by segment, for rows that come chunk by chunk; beyond 1,000 segments the later ones are one."""

    def __init__(self) -> None:
        self._sums: dict[str, Floats] = {}

    def add(self, lifts: Floats, segment: Sequence[str]) -> None:
        """Take in more rows."""
        labels, of_row = np.unique(np.asarray(segment, dtype=object).astype(str), return_inverse=True)
        sums = np.array([np.bincount(of_row, lifts**power, len(labels)) for power in range(3)]).T
        for label, added in zip(labels.tolist(), sums, strict=True):
            name = label if label in self._sums or len(self._sums) < SEGMENTS_KNOWN_MAX else OTHER_SEGMENTS
            self._sums[name] = self._sums.get(name, np.zeros(3)) + added

    def table(self) -> list[dict[str, Any]]:
        """The lift of each segment with its SE, by falling number of rows: the first 50."""
        out: list[dict[str, Any]] = []
        for name, (n, total, squares) in self._sums.items():
            mean = total / n
            spread = max(squares - n * mean**2, 0.0) / (n - 1) if n > 1 else 0.0
            out.append({"segment": name, "n": int(n), "lift": float(mean), "se": math.sqrt(spread / n)})
        return sorted(out, key=lambda entry: (-entry["n"], entry["segment"]))[:SEGMENTS_MAX]


def weight_histogram(weights: Floats) -> dict[str, Any]:
    """Counts of weights by powers of two, `edges` of length bins + 1, zeros apart; ESS and the largest."""
    positive = weights[weights > 0]
    total, squares = float(weights.sum()), float((weights**2).sum())
    shape = {
        "n": len(weights),
        "zeros": int(len(weights) - len(positive)),
        "ess": total**2 / squares if squares else 0.0,
        "max": float(weights.max()) if len(weights) else 0.0,
        "mean": float(weights.mean()) if len(weights) else 0.0,
    }
    if len(positive) == 0:
        return {**shape, "edges": [], "counts": []}
    low = max(-10, math.floor(math.log2(float(positive.min()))))
    high = max(low + 1, math.floor(math.log2(float(positive.max()))) + 1)
    edges = np.arange(low, high + 1)
    counts = np.histogram(np.clip(np.log2(positive), low, high), edges)[0]
    return {**shape, "edges": (2.0**edges).tolist(), "counts": counts.tolist()}


def action_shares(rows: ScoredRows) -> list[dict[str, float]]:
    """Per position in the list of actions: mean probability under both policies, share logged, overlap.

    `hits` is the effective number of rows that speak about the candidate's use of the action: (Σw)²/Σw² over the
    rows that logged it.
    """
    n = len(rows)
    position = np.arange(rows.values) - np.repeat(rows.offsets[:-1], rows.lengths)
    k = int(rows.lengths.max())
    candidate = np.bincount(position, rows.candidate, k) / n
    champion = np.bincount(position, rows.champion, k) / n
    logged = np.bincount(rows.action, minlength=k) / n
    w = rows.at_action(rows.candidate) / rows.propensity
    sums, squares = np.bincount(rows.action, w, k), np.bincount(rows.action, w**2, k)
    hits = np.divide(sums**2, squares, out=np.zeros(k), where=squares > 0)
    rewards = np.divide(np.bincount(rows.action, rows.reward, k), logged * n, out=np.full(k, np.nan), where=logged > 0)
    order = np.argsort(-(candidate + champion), kind="stable")[:ACTIONS_MAX]
    return [
        {
            "action": int(a),
            "candidate": float(candidate[a]),
            "champion": float(champion[a]),
            "logged": float(logged[a]),
            "mean_reward": float(rewards[a]) if np.isfinite(rewards[a]) else 0.0,
            "hits": float(hits[a]),
        }
        for a in order.tolist()
    ]


def calibration(events: ScoredEvents) -> list[dict[str, float]]:
    """Predicted against observed reward of the logged actions, in ten bins of equal size."""
    n = len(events.reward)
    bins = min(CALIBRATION_BINS, n // 5)
    if bins < 2:
        return []
    order = np.argsort(events.q_logged, kind="stable")
    out = []
    for part in np.array_split(order, bins):
        observed = mean_with_se(events.reward[part])
        predicted = float(events.q_logged[part].mean())
        out.append({"n": len(part), "predicted": predicted, "observed": observed.value, "se": observed.se})
    return out
