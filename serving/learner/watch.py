"""After a promotion: does every worker serve what was trained, and does serving stay healthy?

Two things undo a promotion at once, without waiting for rewards: a worker whose canaries answer otherwise than the
manifest says (or that cannot load the model at all), and a guardrail on errors and latency measured since the swap.
Both read the workers' heartbeats only, and take what these say: one that does not name a model, or whose worker has not
come to the new champion yet, speaks neither for it nor against it, however long loading takes. Whether the new champion
earns less is a slower question (see `guard`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from bandit.eventlog import Heartbeat
from bandit.eventlog.heartbeat import UNREADABLE
from bandit.registry import Champion, Manifest
from bandit.settings import Rollback

GRACE_S = 10.0
"""How long a worker must say that it cannot load a new champion. One of a release that does not tell that has so long
to serve it. Heartbeats that are older than this say nothing about now."""

DECISIONS_MAX = 20_000
"""The guardrail looks at so many decisions after a swap; what happens later is not the model's doing."""

LATENCY_EDGES_MS = (0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0)
"""Upper edges of the workers' latency histogram."""

ROUTE = "recommend"

UNREADABLE_S = 60.0
"""How long, where its files could not be read for a reason that may pass, such as too many open files."""

_Process = tuple[str, int]
"""A worker as it runs: a writer's name is taken again by the next process, whose counters begin anew."""


@dataclass(slots=True)
class Watch:
    """What is remembered of one tenure: each process's counters when it was first seen serving the champion.

    `told`: whether it was said already that a problem cannot be helped. `refused`: since when each one says in all
    its heartbeats that it cannot load the champion.
    """

    tenure: tuple[str, int] | None = None
    told: bool = False
    before: dict[_Process, Mapping[str, float]] = field(default_factory=dict)
    refused: dict[_Process, datetime] = field(default_factory=dict)

    def problem(
        self,
        champion: Champion,
        manifest: Manifest | None,
        beats: Sequence[Heartbeat],
        rules: Rollback,
        *,
        now: datetime,
    ) -> str | None:
        """Why this promotion should be undone, None when all is well so far; without manifest, nothing is compared."""
        if self.tenure != (champion.model_id, champion.generation):
            self.tenure = (champion.model_id, champion.generation)
            self.told, self.before, self.refused = False, {}, {}
        workers = [beat for beat in beats if beat.kind == "worker"]
        for beat in workers:
            if self._cannot_load(beat, champion, now):
                return f"worker {beat.writer_id} still serves {beat.model_id}: it cannot load the new champion"
            if beat.model_id == champion.model_id:
                self.before.setdefault(_process(beat), beat.counters)
                if manifest is not None and _answers_otherwise(beat, manifest):
                    return f"worker {beat.writer_id} answers the canaries otherwise than when the model was trained"
        return self._guardrail(workers, rules)

    def _cannot_load(self, beat: Heartbeat, champion: Champion, now: datetime) -> bool:
        """Whether a worker has said long enough that it serves another model because it cannot load the champion."""
        grace = timedelta(seconds=GRACE_S)
        if beat.model_id is None or now - beat.at >= grace:
            return False
        if beat.model_id == champion.model_id or beat.generation not in (None, champion.generation):
            self.refused.pop(_process(beat), None)
            return False
        if beat.generation is None:
            return beat.at > champion.since + grace
        patience = timedelta(seconds=UNREADABLE_S) if beat.unusable == UNREADABLE else grace
        return beat.at >= self.refused.setdefault(_process(beat), beat.at) + patience

    def _guardrail(self, workers: Sequence[Heartbeat], rules: Rollback) -> str | None:
        counted: dict[str, float] = {}
        for beat in workers:
            before = self.before.get(_process(beat))
            if before is None:
                continue
            for name, value in beat.counters.items():
                counted[name] = counted.get(name, 0.0) + value - before.get(name, 0.0)
        decisions = counted.get("decisions", 0.0)
        failures = counted.get("policy_errors", 0.0) + counted.get("error:internal", 0.0)
        asked = decisions + counted.get("error:internal", 0.0)
        if asked < rules.decisions_min or decisions > DECISIONS_MAX:
            return None
        if failures / asked > rules.error_rate_max:
            return f"{failures / asked:.1%} of {asked:,.0f} requests failed (limit: {rules.error_rate_max:.1%})"
        p99 = latency_ms(counted, 0.99)
        if p99 is not None and p99 > rules.latency_p99_ms_max:
            return f"the 99th percentile of latency is above {p99:g} ms (limit: {rules.latency_p99_ms_max:g} ms)"
        return None


def _process(beat: Heartbeat) -> _Process:
    return beat.writer_id, beat.pid


def _answers_otherwise(beat: Heartbeat, manifest: Manifest) -> bool:
    """Whether a worker's answers are other than the manifest's; one that loaded the model before canaries were erased
    was asked other questions, which tells nothing.
    """
    if beat.canary_digest is None or beat.manifest_digest not in (None, manifest.digest):
        return False
    return beat.canary_digest != recorded_digest(manifest)


def recorded_digest(manifest: Manifest) -> str:
    """The digest that a worker reports when its answers to the canaries are those recorded at training."""
    rounded = [[round(p, 6) for p in canary["pmf"]] for canary in manifest.canaries]
    return hashlib.sha256(msgspec.json.encode(rounded)).hexdigest()[:16]


def latency_ms(counted: Mapping[str, float], quantile: float) -> float | None:
    """The lower edge of the histogram's bin that holds the quantile (so never too high), None without requests."""
    bins = [counted.get(f"latency:{ROUTE}:{index}", 0.0) for index in range(len(LATENCY_EDGES_MS) + 1)]
    total = sum(bins)
    if total <= 0:
        return None
    seen = 0.0
    for index, count in enumerate(bins):
        seen += count
        if seen >= quantile * total:
            return LATENCY_EDGES_MS[index - 1] if index else 0.0
    return LATENCY_EDGES_MS[-1]
