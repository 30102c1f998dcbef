"""The live lift over the control slice: what serving the policy earned more than the control policy would have.

A declared fraction f of the decisions is the control policy's, so the logged distribution is the mixture
μ = (1 − f)·π + f·c and both branches' weights are known exactly, whichever branch was drawn. All rows speak for
both branches, which narrows the interval against comparing the two groups, and needs no model of rewards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from bandit.errors import InvalidScores
from evaluation.lift import effective_subjects

ESS_MIN = 30.0
"""Below so many effective control decisions, or subjects of such, the normal interval is said not to be trusted."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class ControlLift:
    """Value of policy and control branch per decision, and their difference with its interval; n rows.

    `ess_control` and `subjects_control` are the effective numbers of control decisions and of their subjects, the
    latter None where rows stand for themselves. One subject alone tells no interval: its error is infinite.
    """

    n: int
    policy: float
    control: float
    lift: float
    se: float
    lower: float
    upper: float
    confidence: float
    ess_control: float
    subjects_control: float | None = None

    @property
    def trusted(self) -> bool:
        """Whether enough control decisions, of enough subjects, were drawn for the interval to mean what it says."""
        enough = self.ess_control if self.subjects_control is None else self.subjects_control
        return math.isfinite(self.se) and enough >= ESS_MIN

    def sentence(self) -> str:
        """The lift per 1,000 decisions, as one says it."""
        told = f"{1000 * self.lift:+.1f} per 1,000 decisions over control"
        if not math.isfinite(self.se):
            return f"{told}; decisions of one visitor, or of one answer, tell no interval"
        told += f", [{1000 * self.lower:+.1f}, {1000 * self.upper:+.1f}]"
        if self.trusted:
            return told
        few = f"control decisions ({self.ess_control:.0f} effective)"
        if self.subjects_control is not None:
            few = f"subjects with control decisions ({self.subjects_control:.0f} effective)"
        return f"{told}; too few {few} to rely on the interval"


def control_lift(
    reward: Floats,
    propensity: Floats,
    control: Floats,
    fraction: Floats,
    *,
    confidence: float = 0.95,
    cluster: Sequence[Any] | None = None,
) -> ControlLift:
    """The lift of the policy branch over the control branch.

    With a the logged action of row i: `reward` r, `propensity` μ(a), `control` c(a), `fraction` f in (0, 1), each (n,).
    π(a) = (μ(a) − f·c(a)) / (1 − f); D_i = (π(a) − c(a)) / μ(a) · (r − r̄); lift = mean D, SE = s/√n (ddof 1), over
    sums within a cluster where `cluster` is given. Assumes that rewards of one decision do not change another's.
    Fails where the control branch was hardly drawn (see `ess_control`). Raises `InvalidScores`.

    >>> import numpy as np
    >>> half = np.full(3, 0.5)
    >>> lift = control_lift(np.array([1.0, 0.0, 0.0]), half, np.array([0.0, 1.0, 1.0]), np.full(3, 0.5))
    >>> round(lift.policy, 3), round(lift.control, 3), lift.trusted
    (0.778, -0.111, False)
    """
    n = len(reward)
    if n < 2 or not (len(propensity) == len(control) == len(fraction) == n):
        raise InvalidScores("rows", "at least two rows and arrays of one length are needed")
    if not np.all(np.isfinite(reward)):
        raise InvalidScores("reward", "must be finite")
    if not (np.all(propensity > 0) and np.all(propensity <= 1) and np.all((fraction > 0) & (fraction < 1))):
        raise InvalidScores("propensity", "must lie in (0, 1], and the fraction in (0, 1)")
    policy = (propensity - fraction * control) / (1.0 - fraction)
    if np.any(policy < -1e-9):
        raise InvalidScores("propensity", "is smaller than the control slice's share of it")
    weight_policy = np.maximum(policy, 0.0) / propensity
    weight_control = control / propensity
    mean = float(np.mean(reward))
    centred = reward - mean
    difference = (weight_policy - weight_control) * centred
    lift = float(np.mean(difference))
    of_row = None
    if cluster is not None:
        of_row = np.unique(np.asarray(cluster, dtype=object).astype(str), return_inverse=True)[1]
    se = _standard_error(difference, of_row)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    squares = float(np.sum(weight_control**2))
    return ControlLift(
        n=n,
        policy=mean + float(np.mean(weight_policy * centred)),
        control=mean + float(np.mean(weight_control * centred)),
        lift=lift,
        se=se,
        lower=lift - z * se,
        upper=lift + z * se,
        confidence=confidence,
        ess_control=float(np.sum(weight_control)) ** 2 / squares if squares > 0 else 0.0,
        subjects_control=None if of_row is None else _subjects(of_row, weight_control),
    )


def _subjects(of_row: Ints, weights: Floats) -> float:
    """The effective number of subjects whose numbers `of_row` gives, each counting by the sum of its `weights`."""
    return effective_subjects(np.asarray(np.bincount(of_row, weights), np.float64))


def _standard_error(difference: Floats, of_row: Ints | None) -> float:
    """That of the mean over rows, or over the subjects whose numbers `of_row` gives; infinite with one subject."""
    n = len(difference)
    if of_row is None:
        return float(np.std(difference, ddof=1)) / float(np.sqrt(n))
    sums = np.bincount(of_row, weights=difference - np.mean(difference))
    groups = len(sums)
    if groups < 2:
        return float("inf")
    return float(np.sqrt(groups / (groups - 1) * np.sum(sums**2))) / n
