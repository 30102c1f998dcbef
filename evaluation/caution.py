"""How uncertain the lift really is, when most of what could contradict it was never drawn.

The sample variance of the paired lifts knows only the actions that were drawn. Where the log explores little, the
rare draws that would reveal a flattering reward model are mostly missing, and a normal bound lies: with one draw
expected it was above the truth in 70 of 100 simulated logs. But μ says how often each action *would* be drawn, so the
variance and the skewness of the unseen part are known up to the size of the reward model's misses, and those are
estimated with a few pseudo-draws of ordinary misses mixed in, the more the stricter the level.

With Δ = (c − b)/μ:  V₂ = ΣΣ μ Δ²,  V₃ = ΣΣ μ |Δ|³,  h = V₂³/V₃² effective draws of size w = V₃/V₂;
e² = (Σ Δ_a² (r − q̂_a)² + κ w² s²)/(Σ Δ_a² + κ w²), the signed third moment likewise, s² = mean (r − q̂_a)².
At critical value z, κ is z², at least 4: that none of h draws contradicts a model happens by that chance where a share
of z²/(h + z²) would contradict it, so no bound at that level may leave it out (Wilson 1927; Agresti & Coull 1998). The
bound's SE is the larger of √(V₂ e²)/n and the sample's; its critical value is moved with the skewness (Hall 1992, "On
the removal of skewness by transformation"): up by at most .75 where large losses are rare, down by at most .3 where
large gains are, because then the mean and its own SE rise together and the plain bound is right too often; and up by
(z³ + z)/(4h), at least 1.5/h, as Student's t does, because with few draws the misses themselves are hardly known. With
G effective subjects where the policies differ it rises by (z³ + z)/(4(G − 1)) as well: their spread is known from so
many numbers only. An interval that counts rare misses by itself (`evaluation.rare`) takes κ = 4 and 1.5/h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaluation.estimators import Estimate
from evaluation.lift import subjects_of
from evaluation.scored import Floats, ScoredRows

PSEUDO_DRAWS = 4.0
"""κ at the 5% point: ordinary misses mixed into what was seen; with 2 the level rose to .066 with three to five telling
draws. With 4 at every level, tenures in which silence is the best reward and the reward model believed in it promoted
1.45% at their first looks, which may spend .58% (`benchmarks.gate_study`)."""


SKEW_SHIFT = (2 * 1.6448536269514722**2 + 1) / 6
"""Hall's factor at the one-sided 5% point; further out the expansion breaks down and would freeze the gate."""

SHIFT_UP_MAX, SHIFT_DOWN_MAX = 0.75, 0.3
"""Largest shifts of the critical value with skewness. Up by .5 only, the level rose to .07 in the worst worlds; down by
.5 to .065, by .3 it stayed below .061 (worlds with at least eight telling draws)."""

FEW_DRAWS = 1.5
"""The critical value rises by this over the telling draws at least, as that of Student's t does at the 5% point:
without it the level rose to .18 with two draws and .09 with four, with half of it to .11 and .08
(`benchmarks.caution_study`)."""

SUMS = 7


@dataclass(frozen=True, slots=True)
class Spread:
    """What the misses of n rows add up to: V₂, seen and drawn squares, the squares of draw and of ordinary miss.

    `sample` is the square of the sample's own SE, times n².
    """

    n: int
    seconds: float
    seen: float
    drawn: float
    size: float
    usual: float
    sample: float

    def se(self, pseudo_draws: float) -> float:
        """The SE with so many ordinary misses mixed in."""
        pseudo = pseudo_draws * self.size
        missed = (self.seen + pseudo * self.usual) / (self.drawn + pseudo)
        return math.sqrt(max(self.seconds * missed, self.sample)) / self.n


@dataclass(frozen=True, slots=True)
class Caution:
    """The SE and skewness that a bound should reckon with, and the effective number of telling draws expected.

    `se` is that at the 5% point. `clock` is V₂, the information so far up to a factor: it only grows, whatever the
    rewards. `subjects`: the effective number of subjects where the policies differ, infinite where rows stand for
    themselves. `spread` is what the SE at other levels follows from.
    """

    se: float
    skewness: float
    draws: float
    clock: float
    subjects: float = math.inf
    spread: Spread | None = None

    def se_at(self, z: float) -> float:
        """The SE of a bound at critical value `z`."""
        return self.spread.se(max(PSEUDO_DRAWS, z * z)) if self.spread is not None else self.se

    @property
    def shift(self) -> float:
        """How far the critical value is moved with skewness: up where large losses are rare, down where gains are."""
        return max(-SHIFT_DOWN_MAX, min(SHIFT_UP_MAX, self.skewness * SKEW_SHIFT))

    def doubt(self, z: float) -> float:
        """How far the critical value `z` is moved up because few draws, or few subjects, tell."""
        return self._few(max(FEW_DRAWS, _student(z)), z)

    def reach(self, z: float) -> float:
        """How far below the lift its lower bound lies at critical value `z`."""
        return (z + self.shift + self.doubt(z)) * self.se_at(z)

    def reach_up(self, z: float) -> float:
        """How far above the lift its upper bound lies; a skewed estimate never brings it nearer."""
        return (z + abs(self.shift) + self.doubt(z)) * self.se_at(z)

    def reach_beside_a_count(self, z: float) -> float:
        """How far an interval reaches to both sides that also counts how often the model was wrong."""
        return (z + abs(self.shift) + self._few(FEW_DRAWS, z)) * self.se

    def _few(self, of_draws: float, z: float) -> float:
        few = of_draws / self.draws if self.draws > 0 else 0.0
        if not 0 < self.subjects < math.inf:
            return few
        return few + max(0.0, _student(z)) / (max(2.0, self.subjects) - 1)


def _student(z: float) -> float:
    """By how much Student's t exceeds `z` at the same level, times its degrees of freedom, as these grow."""
    return (z**3 + z) / 4


def caution(rows: ScoredRows, estimate: Estimate, *, paired: bool = True, weights: Floats | None = None) -> Caution:
    """The caution due to `estimate`: the paired lift of `rows`, or (not `paired`) the candidate's DR value.

    With `weights`, shape (n,), the estimate is the weighted mean. Where only the propensity was logged, the
    rest of μ is taken to be spread evenly over the other actions. With subjects (`rows.cluster`) the critical value is
    never moved down: how their rows add up to rare large gains is not known.
    """
    sums, start = np.zeros(SUMS), 0
    for chunk in rows.chunks():
        part = None if weights is None else weights[start : start + len(chunk)]
        sums += caution_sums(chunk, paired=paired, weights=part)
        start += len(chunk)
    return caution_of(sums, len(rows), estimate.se, subjects=subjects_of(rows, paired=paired, weights=weights))


def caution_of(sums: Floats, n: int, se: float, *, subjects: float = math.inf) -> Caution:
    """The caution due to an estimate with standard error `se` on n rows, from their (added up) `caution_sums`.

    `subjects`: the effective number of subjects, infinite where rows stand for themselves.
    """
    if n < 2:
        return Caution(0.0, 0.0, 0.0, 0.0, subjects)
    seconds, thirds, drawn_seconds, drawn_thirds, seen_seconds, seen_thirds, misses = sums.tolist()
    if seconds <= 0 or thirds <= 0:
        return Caution(se, 0.0, 0.0, 0.0, subjects)
    size, usual = thirds / seconds, misses / n
    sample = (n * se) ** 2 if math.isfinite(se) else 0.0
    spread = Spread(n, seconds, seen_seconds, drawn_seconds, size**2, usual, sample)
    usual_se = spread.se(PSEUDO_DRAWS)
    skewed = (-seen_thirds + PSEUDO_DRAWS * size**3 * usual**1.5) / (drawn_thirds + PSEUDO_DRAWS * size**3)
    skewness = thirds * skewed / (n * usual_se) ** 3 if usual_se > 0 else 0.0
    if math.isfinite(subjects):
        skewness = max(0.0, skewness)
    return Caution(usual_se, skewness, seconds**3 / thirds**2, seconds, subjects, spread)


def caution_sums(rows: ScoredRows, *, paired: bool = True, weights: Floats | None = None) -> Floats:
    """Seven sums that add over shards (all with Δ times the row's weight).

    V₂ and V₃ as implied by μ; ΣΔ_a² and Σ|Δ_a|³ as drawn; ΣΔ_a² e² and ΣΔ_a³ e³ as seen; Σe².
    """
    return np.array(
        [
            *implied_sums(rows, paired=paired, weights=weights),
            *drawn_sums(rows, paired=paired, weights=weights),
        ]
    )


def implied_sums(rows: ScoredRows, *, paired: bool = True, weights: Floats | None = None) -> tuple[float, ...]:
    """The first two of them, in which it does not show what was drawn."""
    mu = logged_distribution(rows)
    change = rows.candidate - rows.champion if paired else rows.candidate
    if weights is not None:
        change = change * np.repeat(weights, rows.lengths)
    ratio = np.divide(change, mu, out=np.zeros_like(change), where=mu > 0)
    return (change * ratio).sum(), (abs(change) * ratio**2).sum()


def drawn_sums(rows: ScoredRows, *, paired: bool = True, weights: Floats | None = None) -> tuple[Floats, ...]:
    """The other five."""
    change = rows.at_action(rows.candidate)
    if paired:
        change = change - rows.at_action(rows.champion)
    if weights is not None:
        change = change * weights
    return sums_of_draws(change / rows.propensity, rows.reward - rows.at_action(rows.q))


def sums_of_draws(drawn: Floats, miss: Floats) -> tuple[Floats, ...]:
    """Those five out of Δ and r − q̂ of the drawn actions, shape (…, n): sums over the last axis."""
    product = drawn * miss
    squared, product_squared = drawn * drawn, product * product
    summed = (squared, squared * abs(drawn), product_squared, product_squared * product, miss * miss)
    return tuple(values.sum(axis=-1) for values in summed)


def logged_distribution(rows: ScoredRows) -> Floats:
    """μ as logged, or the propensity with the rest spread evenly where no pmf was logged."""
    if rows.pmf is not None and np.isfinite(rows.pmf).all():
        return rows.pmf
    k = np.repeat(rows.lengths, rows.lengths)
    p = np.repeat(rows.propensity, rows.lengths)
    spread = (1 - p) / np.maximum(k - 1, 1)
    spread[rows.offsets[:-1] + rows.action] = rows.propensity
    if rows.pmf is None:
        return spread
    return np.where(np.isfinite(rows.pmf), rows.pmf, spread)
