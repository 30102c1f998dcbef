"""Estimators of a policy's value from rows that another policy logged.

All are functions of the same few numbers per row: the weight w = π(a|x)/p, the model value d = Σ_k π_k q̂_k, the
reward r and the residual e = r − q̂_a. Their means and covariances are collected once, in chunks that fit the
cache, and can be merged over shards; every value and standard error follows from them. Where rows have subjects the
standard errors count those (`Totals.by_subject`).

    dm           mean d                            biased when q̂ is; tiny SE that says nothing about the bias
    ips          mean w r                          unbiased with correct p; noisy when w is large
    snips        Σ w r / Σ w                       small bias, less noise (Swaminathan & Joachims 2015)
    clipped_ips  mean min(w, c) r                  biased towards 0 (Bottou et al. 2013)
    dr           mean d + w e                      unbiased when p is correct (Dudík, Langford & Li 2011)
    sndr         mean d + Σ w e / Σ w              self-normalised DR
    switch_dr    mean d + 1{w ≤ τ} w e             DM where weights are large (Wang, Agarwal & Dudík 2017)
    dros         mean d + λ w/(w² + λ) e           optimistic shrinkage (Su et al. 2020): λ = 0 is DM, ∞ is DR

The shrunk ones (clipped, switch, dros) report the SE of a biased number: look at them, never decide by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.moments import Moments, SubjectSums
from evaluation.scored import ScoredEvents, ScoredRows

Floats = NDArray[np.float64]

ESTIMATORS = ("dm", "ips", "snips", "clipped_ips", "dr", "sndr", "switch_dr", "dros")
ROLES = ("candidate", "champion")
Z_95 = 1.959963984540054

_D, _W, _WR, _CR, _WE, _SE, _OE = range(7)
_PARTS = 7
_LIFT = 2 * _PARTS
_REWARD = _LIFT + 1
_DIMENSIONS = _REWARD + 1


@dataclass(frozen=True, slots=True)
class Hyper:
    """Hyperparameters of the shrunk estimators, λ as Open Bandit Pipeline has them.

    `clip`: largest weight of clipped IPS; `switch`: τ of Switch-DR; `shrinkage`: λ of DRos.
    """

    clip: float = 10.0
    switch: float = 10.0
    shrinkage: float = 100.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error, and the 95% interval by normal theory."""

    value: float
    se: float
    n: int

    @property
    def lower(self) -> float:
        """Lower end of the two-sided 95% interval."""
        return self.value - Z_95 * self.se

    @property
    def upper(self) -> float:
        """Upper end of the two-sided 95% interval."""
        return self.value + Z_95 * self.se

    @property
    def apart_from_0(self) -> bool:
        """Whether 0 is outside the interval; where nothing is known of it, it is not."""
        return self.lower > 0 or self.upper < 0


@dataclass(frozen=True, slots=True)
class Totals:
    """All that the estimators need to know about a set of rows; `merge` adds another set."""

    moments: Moments
    max_weight: tuple[float, float]

    def merge(self, other: Totals) -> Totals:
        """Totals of both sets together."""
        biggest = tuple(max(a, b) for a, b in zip(self.max_weight, other.max_weight, strict=True))
        return Totals(self.moments.merge(other.moments), (biggest[0], biggest[1]))

    def by_subject(self, subjects: SubjectSums) -> Totals:
        """The same totals with standard errors that count `subjects`, the sums of `columns_of` these very rows."""
        return replace(self, moments=self.moments.by_subject(subjects))

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.moments.n

    def estimate(self, name: str, role: str) -> Estimate:
        """One estimator of one policy's value; NaN where it is undefined (no rows, or weights that sum to 0)."""
        base = _PARTS * ROLES.index(role)
        mean = self.moments.mean
        gradient = np.zeros(_DIMENSIONS)
        weight = float(mean[base + _W])
        if self.n == 0 or (name in _SELF_NORMALISED and weight <= 0):
            return Estimate(math.nan, math.nan, self.n)
        if name in _SELF_NORMALISED:
            plain, divided = _SELF_NORMALISED[name]
            gradient[[base + part for part in plain]] = 1
            gradient[base + divided], gradient[base + _W] = 1 / weight, -float(mean[base + divided]) / weight**2
        else:
            gradient[[base + part for part in _LINEAR[name]]] = 1
        value = float(value_of_means(mean, name, role))
        return Estimate(value, math.sqrt(self.moments.variance_of_mean(gradient)), self.n)

    def table(self) -> dict[str, dict[str, Estimate]]:
        """Every estimator for both policies: `table()["dr"]["candidate"]`."""
        return {name: {role: self.estimate(name, role) for role in ROLES} for name in ESTIMATORS}

    def lift(self) -> Estimate:
        """Paired DR lift of candidate over champion: mean D, SE = s/√n with ddof 1, or over subjects."""
        gradient = np.zeros(_DIMENSIONS)
        gradient[_LIFT] = 1
        value = float(self.moments.mean[_LIFT]) if self.n else math.nan
        return Estimate(value, math.sqrt(self.moments.variance_of_mean(gradient)), self.n)

    def disagreement(self) -> float:
        """DR lift minus SNIPS lift in units of the SE of that (paired) difference; 0 where both are the same."""
        mean = self.moments.mean
        gradient = np.zeros(_DIMENSIONS)
        gradient[_LIFT] = 1
        difference = float(mean[_LIFT]) if self.n else 0.0
        for sign, role in ((-1, "candidate"), (1, "champion")):
            base = _PARTS * ROLES.index(role)
            weight = float(mean[base + _W]) if self.n else 0.0
            if weight <= 0:
                return 0.0
            value = float(mean[base + _WR]) / weight
            difference += sign * value
            gradient[base + _WR] += sign / weight
            gradient[base + _W] -= sign * value / weight
        se = math.sqrt(self.moments.variance_of_mean(gradient))
        return difference / se if se > 0 else 0.0

    def ess(self, role: str) -> float:
        """Effective sample size (Σw)²/Σw² of a policy's weights."""
        at = _PARTS * ROLES.index(role) + _W
        n, mean = self.n, float(self.moments.mean[at])
        squares = float(self.moments.scatter[at, at]) + n * mean**2
        return (n * mean) ** 2 / squares if squares > 0 else 0.0

    def mean_weight(self, role: str) -> float:
        """Mean importance weight; 1 in expectation when the propensities are right."""
        return float(self.moments.mean[_PARTS * ROLES.index(role) + _W])

    def mean_reward(self) -> Estimate:
        """Mean logged reward, the value of whatever did the logging."""
        gradient = np.zeros(_DIMENSIONS)
        gradient[_REWARD] = 1
        value = float(self.moments.mean[_REWARD]) if self.n else math.nan
        return Estimate(value, math.sqrt(self.moments.variance_of_mean(gradient)), self.n)


LIFT = _LIFT
"""The column that holds the paired DR lift (see `columns_of`)."""

_LINEAR = {
    "dm": (_D,),
    "ips": (_WR,),
    "clipped_ips": (_CR,),
    "dr": (_D, _WE),
    "switch_dr": (_D, _SE),
    "dros": (_D, _OE),
}
_SELF_NORMALISED: dict[str, tuple[tuple[int, ...], int]] = {"snips": ((), _WR), "sndr": ((_D,), _WE)}
"""Parts whose means are added as they are, and the one whose mean is divided by the mean weight."""


def value_of_means(means: Floats, name: str, role: str) -> Floats:
    """An estimator's value from the means of `columns_of`, shape (…, d) → (…,); NaN where the mean weight is 0."""
    part = means[..., _PARTS * ROLES.index(role) : _PARTS * (1 + ROLES.index(role))]
    if name not in _SELF_NORMALISED:
        return np.asarray(sum(part[..., column] for column in _LINEAR[name]), np.float64)
    plain, divided = _SELF_NORMALISED[name]
    nothing = np.full(part.shape[:-1], np.nan)
    ratio = np.divide(part[..., divided], part[..., _W], out=nothing, where=part[..., _W] > 0)
    return np.asarray(sum((part[..., column] for column in plain), ratio), np.float64)


def range_of_values(
    name: str, hyper: Hyper, *, max_weight: float, rewards: tuple[float, float]
) -> tuple[float, float] | None:
    """Bounds of an estimator's term of one row, for weights up to `max_weight` and rewards and q̂ in `rewards`.

    None for the self-normalised ones, which are no mean of such terms.
    """
    if name in _SELF_NORMALISED:
        return None
    (low, high), w = rewards, max_weight
    if name in {"ips", "clipped_ips"}:
        w = min(w, hyper.clip) if name == "clipped_ips" else w
        return min(0.0, w * low), max(0.0, w * high)
    # λw/(w² + λ) is largest at w = √λ, where it is √λ/2
    caps = {"dm": 0.0, "dr": w, "switch_dr": min(w, hyper.switch), "dros": min(w, math.sqrt(hyper.shrinkage) / 2)}
    reach = caps[name] * (high - low)
    return low - reach, high + reach


def totals(rows: ScoredRows, hyper: Hyper | None = None) -> Totals:
    """Collect what all estimators need, chunk by chunk.

    >>> import numpy as np
    >>> half = np.full((3, 2), 0.5)
    >>> rows = ScoredRows.from_matrices(
    ...     candidate=np.array([[1.0, 0.0]] * 3), champion=half, q=np.zeros((3, 2)),
    ...     action=np.array([0, 1, 0]), reward=np.array([1.0, 0.0, 0.5]), propensity=np.full(3, 0.5))
    >>> totals(rows).estimate("ips", "candidate").value, totals(rows).estimate("snips", "candidate").value
    (1.0, 0.75)
    """
    hyper = hyper or Hyper()
    whole = no_totals()
    for chunk in rows.chunks():
        whole = whole.merge(_chunk_totals(chunk.reduce(), hyper))
    return whole


def no_totals() -> Totals:
    """The totals of no rows, to merge others into."""
    return Totals(Moments.of(np.zeros((_DIMENSIONS, 0))), (0.0, 0.0))


def no_subjects(*, more: int = 0) -> SubjectSums:
    """The sums of no subjects, to add `columns_of` rows to, with so many `more` columns below them."""
    return SubjectSums(_DIMENSIONS + more)


def totals_of_events(
    events: ScoredEvents, hyper: Hyper | None = None, *, cluster: Sequence[str] | None = None
) -> Totals:
    """The same from already reduced events; standard errors count subjects where `cluster` names them."""
    hyper = hyper or Hyper()
    whole = no_totals()
    for start in range(0, len(events.reward), 8192):
        part = ScoredEvents(*(column[start : start + 8192] for column in events))
        whole = whole.merge(_chunk_totals(part, hyper))
    if cluster is None or len(cluster) == 0:
        return whole
    subjects = no_subjects()
    subjects.add(columns_of(events, hyper), cluster)
    return whole.by_subject(subjects)


def _chunk_totals(events: ScoredEvents, hyper: Hyper) -> Totals:
    biggest = [float(w.max()) if len(w) else 0.0 for w in (events.w_candidate, events.w_champion)]
    return Totals(Moments.of(columns_of(events, hyper)), (biggest[0], biggest[1]))


def columns_of(events: ScoredEvents, hyper: Hyper) -> Floats:
    """The numbers per row whose means all estimators are functions of, shape (d, n)."""
    columns = np.empty((_DIMENSIONS, len(events.reward)))
    residual = events.residual
    weights = (events.w_candidate, events.w_champion)
    models = (events.dm_candidate, events.dm_champion)
    for role, (w, d) in enumerate(zip(weights, models, strict=True)):
        part = columns[role * _PARTS : (role + 1) * _PARTS]
        part[_D], part[_W] = d, w
        np.multiply(w, events.reward, out=part[_WR])
        np.multiply(np.minimum(w, hyper.clip), events.reward, out=part[_CR])
        np.multiply(w, residual, out=part[_WE])
        np.multiply(w <= hyper.switch, part[_WE], out=part[_SE])
        np.multiply(_shrunk(w, hyper.shrinkage), residual, out=part[_OE])
    columns[_LIFT] = events.lift
    columns[_REWARD] = events.reward
    return columns


def _shrunk(w: Floats, shrinkage: float) -> Floats:
    """λw/(w² + λ): 0 at λ = 0 and w at λ = ∞."""
    if math.isinf(shrinkage):
        return w
    if shrinkage == 0:
        return np.zeros_like(w)
    return np.asarray(shrinkage * w / (w**2 + shrinkage), np.float64)
