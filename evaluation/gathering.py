"""Everything that a verdict rests on, gathered from a log chunk by chunk.

What is kept does not grow with the log: sums, the heaviest hundredth of the weights, and where there are subjects the
sums of each, within each segment too. Rows in memory and rows in a file go the same way, so they give the same verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from evaluation.audit import Audit
from evaluation.caution import SUMS, Caution, caution_of, caution_sums
from evaluation.checks import Evidence, without_support
from evaluation.diagnostics import Segments
from evaluation.estimators import Estimate, Hyper, Totals, columns_of, no_subjects, no_totals, totals_of_events
from evaluation.lift import ALIKE, effective_subjects, telling
from evaluation.scored import ScoredRows


class Source(Protocol):
    """Scored rows that come in chunks, again and again in the same order: `ScoredRows` itself, or a file of them."""

    def __len__(self) -> int: ...

    def chunks(self) -> Iterator[ScoredRows]:
        """The rows, a few at a time."""
        ...

    def digest(self) -> str:
        """What `ScoredRows.digest` gives for all rows together."""
        ...


class Gathered:
    """The evidence of the rows that can speak: those logged with probability 1 are left out and counted."""

    def __init__(self, rows_max: int, hyper: Hyper | None = None) -> None:
        self.hyper = hyper or Hyper()
        self.n = self.without_support = 0
        self._totals: Totals = no_totals()
        self._by_subject: Totals | None = None
        self.audit, self.evidence = Audit(), Evidence(rows_max)
        self.identical = True
        self.lift_range = (math.inf, -math.inf)
        self.reward_range = (math.inf, -math.inf)
        self.clustered = False
        self.segments: Segments | None = None
        self._caution = np.zeros(SUMS)
        self._subjects = no_subjects(more=1)

    @classmethod
    def of(cls, source: Source, hyper: Hyper | None = None) -> Gathered:
        """All that `source` has to say."""
        gathered = cls(len(source), hyper)
        for chunk in source.chunks():
            gathered.add(chunk)
        return gathered

    def add(self, rows: ScoredRows) -> None:
        """Take in one more chunk of rows, whether they can speak or not."""
        unsupported = without_support(rows)
        self.without_support += int(unsupported.sum())
        used = rows.where(~unsupported)
        if len(used) == 0:
            return
        self.n += len(used)
        events = used.reduce()
        lifts = events.lift
        self._totals, self._by_subject = self._totals.merge(totals_of_events(events, self.hyper)), None
        self.audit.add(used)
        self.evidence.add(used)
        self._caution += caution_sums(used)
        self.identical = self.identical and bool((abs(used.candidate - used.champion) <= ALIKE).all())
        self.lift_range = _wider(self.lift_range, lifts.min(), lifts.max())
        low, high = min(used.reward.min(), used.q.min()), max(used.reward.max(), used.q.max())
        self.reward_range = _wider(self.reward_range, low, high)
        if used.segment is not None:
            self.segments = self.segments or Segments()
            self.segments.add(lifts, used.segment, used.cluster)
        if used.cluster is not None:
            self.clustered = True
            self._subjects.add(np.vstack([columns_of(events, self.hyper), telling(used)]), used.cluster)

    @property
    def totals(self) -> Totals:
        """What all estimators follow from, their standard errors over subjects where there are any."""
        if not self.clustered:
            return self._totals
        self._by_subject = self._by_subject or self._totals.by_subject(self._subjects)
        return self._by_subject

    @property
    def excluded(self) -> dict[str, int]:
        """Rows left out, by reason."""
        return {"no_support": self.without_support} if self.without_support else {}

    @property
    def subjects(self) -> float:
        """The effective number of subjects where the policies differ; infinite where rows stand for themselves."""
        if not self.clustered:
            return math.inf
        return effective_subjects(self._subjects.sums[-1])

    def lift(self) -> Estimate:
        """The paired DR lift, its SE over subjects where there are any (Liang & Zeger 1986)."""
        return self.totals.lift()

    def caution(self) -> Caution:
        """The caution due to the lift, every row weighing the same."""
        return caution_of(self._caution, self.n, self.lift().se, subjects=self.subjects)


def _wider(known: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    return min(known[0], float(low)), max(known[1], float(high))
