"""What a reader wants to see beside the verdict: where the lift comes from and how far to trust it.

Everything here is for information; nothing decides. All results are plain JSON. Where rows have subjects all standard
errors count those; what one subject alone says has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Estimate
from evaluation.lift import Ints, mean_over_subjects, mean_with_se, numbered
from evaluation.moments import SubjectSums
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
    lifts, subjects = events.lift, None if rows.cluster is None else numbered(rows.cluster)
    return {
        "differing": differing_share(rows),
        "curve": lift_curve(lifts, subjects),
        "days": lift_by_day(rows, lifts, subjects),
        "slots": [] if rows.slot is None else lift_by_segment(lifts, rows.slot, rows.cluster),
        "segments": [] if rows.segment is None else lift_by_segment(lifts, rows.segment, rows.cluster),
        "weights": {
            "candidate": weight_histogram(events.w_candidate),
            "champion": weight_histogram(events.w_champion),
        },
        "actions": action_shares(rows),
        "named_actions": named_shares(rows),
        "calibration": calibration(events, subjects),
    }


def differing_share(rows: ScoredRows) -> float:
    """Mean total variation ½ Σ|c − b|: the share of decisions that would come out differently."""
    if len(rows) == 0:
        return 0.0
    return float(rows.per_row(abs(rows.candidate - rows.champion)).mean() / 2)


def lift_curve(lifts: Floats, subjects: Ints | None = None) -> list[list[float]]:
    """Running mean lift with its SE at up to 60 counts of rows: [n, lift, se].

    `subjects` numbers the subject of each row; the curve then begins where the second one has come.
    """
    n = len(lifts)
    if n < 2:
        return []
    at = np.unique(np.linspace(max(2, n // CURVE_POINTS), n, CURVE_POINTS).astype(np.int64))
    centre = float(lifts.mean())
    sums, squares = np.cumsum(lifts - centre)[at - 1], np.cumsum((lifts - centre) ** 2)[at - 1]
    errors = np.sqrt(np.maximum(squares - sums**2 / at, 0.0) / (at - 1) / at)
    if subjects is not None:
        errors = _running_errors(lifts - centre, subjects, at)
    points = zip(at.tolist(), (centre + sums / at).tolist(), errors.tolist(), strict=True)
    return [[n_rows, mean, se] for n_rows, mean, se in points if math.isfinite(se)]


def _running_errors(values: Floats, subjects: Ints, at: NDArray[np.int64]) -> Floats:
    """The SE of the mean of the first rows over their subjects, for each count in `at`; infinite for one subject.

    The sums of the subjects grow along the rows; each error is that of `clustered_mean`.
    """
    sums, rows = np.zeros((2, int(subjects.max()) + 1))
    errors, start = np.full(len(at), np.inf), 0
    for place, stop in enumerate(at.tolist()):
        part = subjects[start:stop]
        sums += np.bincount(part, values[start:stop], len(sums))
        rows += np.bincount(part, minlength=len(rows))
        groups, start = np.count_nonzero(rows), stop
        if groups > 1:
            spread = np.sum((sums - rows * (sums.sum() / stop)) ** 2)
            errors[place] = math.sqrt(groups / (groups - 1) * spread) / stop
    return errors


def lift_by_day(rows: ScoredRows, lifts: Floats, subjects: Ints | None = None) -> list[dict[str, Any]]:
    """Lift of each UTC day (the latest 366), empty without times; `subjects` numbers the subject of each row."""
    if rows.decided_at is None:
        return []
    days = rows.decided_at.astype("datetime64[D]")
    names, of_row = np.unique(days, return_inverse=True)
    first = max(0, len(names) - DAYS_MAX)
    out = []
    for index in range(first, len(names)):
        day = of_row == index
        estimate = _mean(lifts[day], None if subjects is None else subjects[day])
        out.append({"day": str(names[index]), "n": estimate.n, "lift": estimate.value, "se": _known(estimate.se)})
    return out


def _mean(values: Floats, subjects: Ints | None) -> Estimate:
    return mean_with_se(values) if subjects is None else mean_over_subjects(values, subjects)


def _known(error: float) -> float | None:
    return error if math.isfinite(error) else None


def lift_by_segment(
    lifts: Floats, segment: Sequence[str], cluster: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Lift within each value of a declared segment, by falling number of rows: the first 50, each by itself."""
    segments = Segments()
    segments.add(lifts, segment, cluster)
    return segments.table()


class Segments:
    """Sums of lifts by segment, for rows that come chunk by chunk; beyond 1,000 segments the later ones are one.

    Where rows have subjects, those of each subject within each segment are kept, too.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Floats] = {}
        self._of_subjects: SubjectSums | None = None

    def add(self, lifts: Floats, segment: Sequence[str], cluster: Sequence[str] | None = None) -> None:
        """Take in more rows."""
        labels, of_row = np.unique(np.asarray(segment, dtype=object).astype(str), return_inverse=True)
        sums = np.array([np.bincount(of_row, lifts**power, len(labels)) for power in range(3)]).T
        names = []
        for label, added in zip(labels.tolist(), sums, strict=True):
            name = label if label in self._sums or len(self._sums) < SEGMENTS_KNOWN_MAX else OTHER_SEGMENTS
            self._sums[name] = self._sums.get(name, np.zeros(3)) + added
            names.append(name)
        if cluster is not None:
            self._of_subjects = self._of_subjects or SubjectSums(1)
            within = [(names[label], who) for label, who in zip(of_row.tolist(), cluster, strict=True)]
            self._of_subjects.add(lifts[None], within)

    def table(self) -> list[dict[str, Any]]:
        """The lift of each segment with its SE, by falling number of rows: the first 50."""
        out: list[dict[str, Any]] = []
        errors = None if self._of_subjects is None else self._errors(self._of_subjects)
        for name, (n, total, squares) in self._sums.items():
            mean = total / n
            spread = max(squares - n * mean**2, 0.0) / (n - 1) if n > 1 else 0.0
            error = math.sqrt(spread / n) if errors is None else errors[name]
            out.append({"segment": name, "n": int(n), "lift": float(mean), "se": error})
        return sorted(out, key=lambda entry: (-entry["n"], entry["segment"]))[:SEGMENTS_MAX]

    def _errors(self, subjects: SubjectSums) -> dict[str, float | None]:
        """The SE of each segment's lift over its subjects, as `clustered_mean` has it."""
        places = {name: place for place, name in enumerate(self._sums)}
        at = np.array([places[name] for name, _ in subjects.names], np.int64)
        n, totals = (np.array([sums[part] for sums in self._sums.values()]) for part in (0, 1))
        squares = np.bincount(at, (subjects.sums[0] - subjects.rows * (totals / n)[at]) ** 2, len(n))
        groups = np.bincount(at, minlength=len(n))
        out: dict[str, float | None] = {}
        for name, place in places.items():
            many = int(groups[place])
            squared = many / (many - 1) * float(squares[place]) if many > 1 else math.nan
            out[name] = _known(math.sqrt(squared) / float(n[place]))
        return out


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


def named_shares(rows: ScoredRows) -> dict[str, Any] | None:
    """Per action id, wherever it stood: mean probability under both policies, draws, their share and mean reward.

    `count` tells how many ids there are, `shares` has the 200 most chosen; None where rows do not tell their actions.
    """
    if rows.offers is None or rows.offer is None:
        return None
    n, used = len(rows), np.unique(rows.offer)
    numbers: dict[str, int] = {}
    table = [numbers.setdefault(name, len(numbers)) for place in used.tolist() for name in rows.offers[place]]
    k, ids = len(numbers), np.array(table, np.int64)
    starts = np.zeros(len(rows.offers), np.int64)
    starts[used] = np.cumsum([0, *(len(rows.offers[place]) for place in used.tolist())])[:-1]
    sums = np.zeros((5, k))
    for chunk in rows.chunks():
        assert chunk.offer is not None
        first = starts[chunk.offer]
        of_value = ids[np.arange(chunk.values) + np.repeat(first - chunk.offsets[:-1], chunk.lengths)]
        drawn = ids[first + chunk.action]
        sums += [
            np.bincount(of_value, chunk.candidate, k),
            np.bincount(of_value, chunk.champion, k),
            np.bincount(of_value, minlength=k),
            np.bincount(drawn, minlength=k),
            np.bincount(drawn, chunk.reward, k),
        ]
    names = list(numbers)
    order = sorted(range(k), key=lambda at: (-(sums[0, at] + sums[1, at]), names[at]))[:ACTIONS_MAX]
    shares = []
    for at in order:
        candidate, champion, offered, draws, reward = sums[:, at].tolist()
        shares.append(
            {
                "id": names[at],
                "candidate": candidate / n,
                "champion": champion / n,
                "logged": draws / n,
                "offered": int(offered),
                "draws": int(draws),
                "mean_reward": reward / draws if draws else None,
            }
        )
    return {"count": k, "shares": shares}


def calibration(events: ScoredEvents, subjects: Ints | None = None) -> list[dict[str, Any]]:
    """Predicted against observed reward of the logged actions, in ten bins of equal size.

    `subjects` numbers the subject of each row.
    """
    n = len(events.reward)
    bins = min(CALIBRATION_BINS, n // 5)
    if bins < 2:
        return []
    order = np.argsort(events.q_logged, kind="stable")
    out: list[dict[str, Any]] = []
    for part in np.array_split(order, bins):
        observed = _mean(events.reward[part], None if subjects is None else subjects[part])
        predicted = float(events.q_logged[part].mean())
        out.append({"n": len(part), "predicted": predicted, "observed": observed.value, "se": _known(observed.se)})
    return out
