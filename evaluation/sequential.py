"""Looking at growing evidence again and again without fooling oneself.

A champion is compared with its challenger at every cycle. A bound that is right for one look is wrong for thirty:
an equal challenger would pass in one tenure of five. Two cures live here. *Planned looks*: each look may spend a
share of α, and its critical value follows exactly from the joint distribution of all looks so far (Armitage,
McPherson & Rowe 1969; Lan & DeMets 1983). *Confidence sequence*: one bound that holds at all times at once
(Waudby-Smith et al. 2021, arXiv 2103.06476), wider, and free of any plan.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NORMAL = NormalDist()
_GRID = 161
_REACH = 7.0
_STEPS_MAX, _PRECISION = 100, 1e-12
GROWTH_MIN = 1.02
"""The information clock must have grown by this factor since the last look; less is no new evidence."""

SPACING = 1.05
"""Looks are planned at least this factor of rows apart (the one at the horizon excepted)."""

EARLY_SHARE = 0.4
"""Share of α laid out evenly over the doublings of the rows (beyond `EARLY_ROWS`), so that no large lift waits long."""

EARLY_ROWS = 500

LATE_POWER = 2.5
"""The rest is laid out as (rows / horizon)^power, so that a small lift is not lost to a bound that only ever rises."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look taken: rows so far, information clock, α spent on it, critical value on the z scale.

    `weighted`: whether it was at the weighed lift or at the plain one, whose clocks are no measure of each other.
    """

    rows: int
    clock: float
    alpha: float
    z: float
    weighted: bool = True


@dataclass(frozen=True, slots=True)
class AlphaLedger:
    """What has been spent of α over a champion's tenure; the small state carried from cycle to cycle.

    `epoch` counts from 1; an epoch ends after `horizon_rows` rows, and the next has fresh rows and a fresh α.
    `rows_before`: rows of the epoch that earlier, rejected challengers used up. `spent`, `taken`:
    α spent and looks taken in this epoch by all of them. `looks`: those of the present challenger. `sequence`: how much
    of what is spent went to a confidence sequence, which goes on with it from look to look.
    """

    epoch: int = 1
    rows_before: int = 0
    spent: float = 0.0
    taken: int = 0
    looks: tuple[Look, ...] = ()
    sequence: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads back exactly."""
        plain = asdict(self)
        plain["looks"] = [
            [look.rows, look.clock, look.alpha, look.z, *([] if look.weighted else [False])] for look in self.looks
        ]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> AlphaLedger:
        """The ledger that `to_dict` wrote."""
        looks = tuple(Look(int(rows), *others) for rows, *others in plain["looks"])
        return cls(
            epoch=plain["epoch"],
            rows_before=plain["rows_before"],
            spent=plain["spent"],
            taken=plain["taken"],
            looks=looks,
            sequence=plain.get("sequence", 0.0),
        )

    def looked(self, look: Look, *, sequence: bool = False) -> AlphaLedger:
        """The ledger after `look`; one of a `sequence` has what is spent at its first look for all that follow."""
        more = replace(self, spent=self.spent + look.alpha, taken=self.taken + 1, looks=(*self.looks, look))
        return replace(more, sequence=self.sequence + look.alpha) if sequence else more

    def rejected(self, rows: int) -> AlphaLedger:
        """The ledger for the next challenger of the same tenure, after one was rejected at `rows` rows."""
        return replace(self, rows_before=self.rows_before + rows, looks=())

    def next_epoch(self) -> AlphaLedger:
        """A fresh α for rows that no look has seen."""
        return AlphaLedger(epoch=self.epoch + 1)


def laid_out(share: float, *, horizon_rows: int) -> float:
    """The part of α that may be spent once `share` of the horizon's rows are in: 0 at the start, 1 at the end.

    Of the schedules tried (`python -m benchmarks.gate_study`) the one that wastes least: O'Brien–Fleming's finds small
    lifts hardly more often, and large ones only after five times as many rows.
    """
    if share >= 1:
        return 1.0
    doublings = horizon_rows / EARLY_ROWS
    early = math.log1p(share * doublings) / math.log1p(doublings)
    return EARLY_SHARE * early + (1 - EARLY_SHARE) * float(share**LATE_POWER)


def spend(ledger: AlphaLedger, rows: int, *, alpha: float, horizon_rows: int) -> float:
    """α for a look at `rows` rows of the present challenger; 0 where no look is planned yet.

    What `laid_out` allows and earlier looks of this epoch have not spent; all that is left at the horizon. The
    schedule depends on row counts alone, never on outcomes (Lan & DeMets 1983).
    """
    total = ledger.rows_before + rows
    before = ledger.rows_before + ledger.looks[-1].rows if ledger.looks else 0
    if total < horizon_rows and ledger.looks and total < before * SPACING:
        return 0.0
    return max(0.0, alpha * laid_out(total / horizon_rows, horizon_rows=horizon_rows) - ledger.spent)


def critical_value(looks: tuple[Look, ...], clock: float, alpha: float) -> float:
    """z such that a driftless challenger crosses at this look, not having crossed before, with chance `alpha`.

    The sum of the paired lifts is a random walk in a clock V proportional to Σ Var(D): between looks it moves by
    N(0, ΔV). The density of the walks still below every earlier bound is carried forward on a grid. Raises ValueError
    when the clock has not grown by `GROWTH_MIN`.
    """
    if not 0 < alpha < 1:
        return math.inf
    if not looks:
        return -_NORMAL.inv_cdf(alpha)
    if clock < looks[-1].clock * GROWTH_MIN:
        raise ValueError("the clock has not grown enough for another look")
    grid, mass = _surviving(looks)
    root = math.sqrt(clock)
    step = math.sqrt(clock - looks[-1].clock)
    low, high = -_REACH, _REACH + 3
    z = -_NORMAL.inv_cdf(alpha)
    for _ in range(_STEPS_MAX):
        at = (z * root - grid) / step
        excess = float(mass @ _upper_tail(at)) - alpha
        low, high = (z, high) if excess > 0 else (low, z)
        slope = float(mass @ np.exp(-0.5 * at * at)) * root / step / math.sqrt(2 * math.pi)
        newton = z + excess / slope if slope > 0 else math.inf
        following = newton if low < newton < high else (low + high) / 2
        if abs(following - z) < _PRECISION:
            return following
        z = following
    return z


@lru_cache(maxsize=512)
def _surviving(looks: tuple[Look, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Grid of the walk at the last look and the probability mass at each point of those not yet stopped.

    Remembered, because each look builds on the one before: a tenure of many looks costs one step per look.
    """
    onto, width = _points(looks[-1])
    if len(looks) == 1:
        density = np.exp(-0.5 * onto**2 / looks[0].clock) / math.sqrt(2 * math.pi * looks[0].clock)
        return onto, width * density
    grid, mass = _surviving(looks[:-1])
    variance = looks[-1].clock - looks[-2].clock
    kernel = np.exp(-0.5 * (onto[:, None] - grid[None, :]) ** 2 / variance) / math.sqrt(2 * math.pi * variance)
    return onto, width * (kernel @ mass)


def _points(look: Look) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Simpson's points and weights below the look's bound, from far out in the lower tail."""
    root = math.sqrt(look.clock)
    high = min(look.z, _REACH) * root
    grid = np.linspace(-_REACH * root, high, _GRID)
    weights = np.full(_GRID, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    return grid, weights * (grid[1] - grid[0]) / 3


_TAIL_AT = np.linspace(-9.0, 9.0, 36_001)
_TAIL = np.array([0.5 * math.erfc(z / math.sqrt(2)) for z in _TAIL_AT.tolist()])


def _upper_tail(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 − Φ(z), from a table fine enough for an error below 1e-8."""
    return np.asarray(np.interp(z, _TAIL_AT, _TAIL), np.float64)


RHO2_MIN = 0.1
"""Least ρ² of the confidence sequence, at one row: what its authors' choice comes to at α = .42."""


def confidence_sequence_z(clock: float, *, alpha: float, tuned_at: float) -> float:
    """Critical value of a one-sided asymptotic confidence sequence at `clock` rows.

    `mean − z·SE` is a lower bound valid at all times at once; tightest near `tuned_at` (same unit as `clock`).
    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, arXiv 2103.06476, one-sided form (proposition B.1). `alpha` in
    (0, ½); any ρ² > 0 is valid, and theirs, which is good for small `alpha`, is not positive for a large one.
    """
    if clock <= 0:
        return math.inf
    odds = -2 * math.log(2 * alpha)
    rho2 = max(odds + math.log(odds) + 1, RHO2_MIN) / tuned_at
    scaled = clock * rho2
    return math.sqrt((scaled + 1) / scaled * 2 * math.log(1 + math.sqrt(scaled + 1) / (2 * alpha)))
