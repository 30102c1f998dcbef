"""Has what a policy earns fallen, and since when?

One cut through the rows of a tenure, the one that parts them most (binary segmentation; Page 1954, "Continuous
inspection schemes"; Bifet and Gavaldà 2007, "Learning from time-changing data with adaptive windowing"). Nothing is
promoted or undone on it: it only says from where on the log is worth learning from anew, so a false alarm costs little.

Rows of one subject hang together: a visitor in a good mood looks like a rise, the next one like a fall. So where rows
have subjects the spread is that of their sums. With A_g and B_g the sums of a subject's deviations in the n₁ rows
before the cut and the n₂ after it, each from the mean of its side, Var = Σ_g (A_g/n₁ − B_g/n₂)²: a subject on both
sides is compared with itself. And it is at least what subjects who are alike would give, s² ((1 − ρ)(1/n₁ + 1/n₂) +
ρ Σ_g (c_g/n₁ − d_g/n₂)²), with c_g and d_g its rows, s² the variance and ρ the correlation within subjects over both
sides (Kish 1965): a short stretch may hold few subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evaluation.checks import SUBJECTS_MIN
from evaluation.lift import effective_subjects, numbered
from evaluation.scored import Floats, Ints, ScoredRows

ROWS_MIN = 50
"""Neither stretch may be shorter; nor, where rows have subjects, hold fewer than `SUBJECTS_MIN` effective ones."""


@dataclass(frozen=True, slots=True)
class Fall:
    """From row `at` on the mean is `after`, where it was `before`."""

    at: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many values with their mean and their spread, the sum of squared deviations (of a subject's, summed first).

    `subjects` is the effective number of their subjects, None where values stand for themselves or it was not noted.
    """

    rows: int
    mean: float
    spread: float
    subjects: float | None = None

    @classmethod
    def last(cls, values: Floats, cluster: Sequence[str] | None = None) -> Stretch:
        """That of `values`, shape (n,), since their own fall if there was one; `cluster` names their subjects."""
        fall = find_fall(values, cluster)
        at = 0 if fall is None else fall.at
        stretch = values[at:]
        subjects = None if cluster is None else numbered(cluster[at:])
        spread = _spread(stretch - stretch.mean(), subjects)
        return cls(len(stretch), float(stretch.mean()), spread, None if subjects is None else _effective(subjects))


def champion_values(rows: ScoredRows) -> Floats:
    """What each row says of the champion's value, shape (n,): its doubly-robust terms, whoever made the decision."""
    events = rows.reduce()
    return events.dm_champion + events.w_champion * events.residual


def find_fall_since(
    before: Stretch, values: Floats, cluster: Sequence[str] | None = None, *, alpha: float = 0.001
) -> Fall | None:
    """Whether all of `values`, shape (n,), are convincingly lower than those `before`; None where they are not.

    `before` may be what another policy earned, if the one that earned `values` is proven to earn no less in the same
    world: an alarm then comes with a chance of less than `alpha` (a z-test, with the SE of `find_fall`). `cluster`
    names the subjects of `values`; those who were there before count as others. Neither side may hold too few.
    """
    n, m = len(values), before.rows
    if min(n, m) < ROWS_MIN:
        return None
    z = NormalDist().inv_cdf(1 - alpha)
    subjects = None if cluster is None else numbered(cluster)
    counted = [] if before.subjects is None else [before.subjects]
    if subjects is not None:
        counted.append(_effective(subjects))
    if counted:
        fewest = min(counted)
        if fewest < SUBJECTS_MIN:
            return None
        z += (z**3 + z) / (4 * (fewest - 1))  # as Student's t has it: one place alone leaves no room for a small excess
    after = float(values.mean())
    spread = _spread(values - after, subjects)
    se = max((before.spread + spread) / (m + n) * (1 / m + 1 / n), before.spread / m**2 + spread / n**2) ** 0.5
    fallen = before.mean - after
    return Fall(0, before.mean, after) if fallen > z * se + 1e-12 else None


def find_fall(values: Floats, cluster: Sequence[str] | None = None, *, alpha: float = 0.001) -> Fall | None:
    """The most telling place from which the mean of `values`, shape (n,), is lower; None where none is convincing.

    With equal means an alarm comes with a chance of less than about `alpha`, whichever of the n places it is (a z-test
    at each, Bonferroni). The SE is the larger of the pooled one, which knows how little a short stretch of rare rewards
    says, and the two stretches' own, which a few huge rewards in one of them do not deceive. `cluster` names the
    subjects of `values`, whose rows hang together.
    """
    n = len(values)
    if n < 2 * ROWS_MIN:
        return None
    first = np.arange(ROWS_MIN, n - ROWS_MIN + 1, dtype=np.float64)
    last = n - first
    centred = values - values.mean()
    sums, squares = np.cumsum(centred), np.cumsum(centred * centred)
    places = first.astype(np.int64) - 1
    before, after = sums[places] / first, (sums[-1] - sums[places]) / last
    spread_before = np.maximum(squares[places] - first * before**2, 0.0)
    spread_after = np.maximum(squares[-1] - squares[places] - last * after**2, 0.0)
    pooled = (spread_before + spread_after) / n * (1 / first + 1 / last)
    own = spread_before / first**2 + spread_after / last**2
    fallen = before - after
    variance = np.maximum(pooled, own)
    if cluster is not None:
        spread = spread_before + spread_after
        variance = _of_subjects(centred, numbered(cluster), places, spread)
    best = int(np.argmax(fallen / np.sqrt(variance + 1e-300)))
    z = NormalDist().inv_cdf(1 - alpha / len(first))
    if not fallen[best] > z * np.sqrt(variance[best]) + 1e-12:
        return None
    at = int(first[best])
    return Fall(at, float(values[:at].mean()), float(values[at:].mean()))


def _of_subjects(values: Floats, of_row: Ints, places: Ints, spread: Floats) -> Floats:
    """The variance of the difference between the means of both sides, counting subjects, for each of `places`.

    Those are the last rows before a cut; it is infinite where a side holds too few subjects. `of_row` numbers the
    subjects of `values`, shape (n,); `spread` is the sum of squared deviations of rows from the mean of their side.
    """
    n, first = len(values), places + 1.0
    last = n - first
    running = np.cumsum(values)
    before, after = running[places] / first, (running[-1] - running[places]) / last
    sums, rows = np.bincount(of_row, values), np.bincount(of_row).astype(np.float64)
    earlier, so_far = _of_the_same_before(values, of_row)
    total, count = np.asarray(sums[of_row], np.float64), np.asarray(rows[of_row], np.float64)

    def upto(added: Floats) -> Floats:
        return np.asarray(np.cumsum(added)[places], np.float64)

    # Σ_g over products of sums and rows of each subject: up to the cut (pp, pc, cc), over all rows (t…), after it (qq…)
    pp = upto(values * (2 * earlier + values))
    pc = upto(earlier + values * so_far + values)
    cc = upto(2 * so_far + 1)
    pt, pn, ct, cn = upto(values * total), upto(values * count), upto(total), upto(count)
    qq, qd, dd = sums @ sums - 2 * pt + pp, sums @ rows - ct - pn + pc, rows @ rows - 2 * cn + cc
    pq, pd, cq, cd = pt - pp, pn - pc, ct - pc, cn - cc
    squares_before = pp - 2 * before * pc + before**2 * cc
    squares_after = qq - 2 * after * qd + after**2 * dd
    both = pq - after * pd - before * cq + before * after * cd
    own = squares_before / first**2 + squares_after / last**2 - 2 * both / (first * last)
    shared = np.maximum(squares_before + squares_after - spread, 0.0)
    pairs = cc + dd - n
    # ρ s² of Kish, at most s²
    alike = np.minimum(np.divide(shared, pairs, out=np.zeros_like(shared), where=pairs > 0), spread / n)
    pooled = (spread / n - alike) * (1 / first + 1 / last)
    pooled += alike * (cc / first**2 + dd / last**2 - 2 * cd / (first * last))
    enough = (first**2 >= SUBJECTS_MIN * cc) & (last**2 >= SUBJECTS_MIN * dd)
    return np.where(enough, np.maximum(pooled, own), np.inf)


def _of_the_same_before(values: Floats, of_row: Ints) -> tuple[Floats, Floats]:
    """The sum and the number of earlier rows of each row's subject, both of shape (n,)."""
    order = np.argsort(of_row, kind="stable")
    sizes = np.bincount(of_row)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    running = np.concatenate([np.zeros(1), np.cumsum(values[order])])
    sums, rows = np.empty(len(values)), np.empty(len(values))
    sums[order] = running[:-1] - running[starts]
    rows[order] = np.arange(len(values)) - starts
    return sums, rows


def _spread(deviations: Floats, of_row: Ints | None) -> float:
    """The sum of squares of `deviations`, shape (n,); with subjects, of their sums."""
    return float(np.sum((deviations if of_row is None else np.bincount(of_row, deviations)) ** 2))


def _effective(of_row: Ints) -> float:
    """The effective number of subjects whose numbers these are, row by row; each counts by its rows."""
    return effective_subjects(np.bincount(of_row).astype(np.float64))
