"""Harm done on purpose, to show that the loop withstands it: a bad challenger, and a killed learner.

The challenger is trained, in earnest, on the run's own log with every reward reversed, published like any model
and offered to the running learner. The learner is killed with SIGKILL while a batch is being played.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bandit.errors import NotFound
from bandit.eventlog import read_events
from bandit.events import DecisionEvent, RewardEvent
from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from bandit.training import Learning
from bandit.types import ORIGIN_IMPORT, ORIGIN_LIVE, Interaction
from serving.learner.address import running_learner


@dataclass(slots=True)
class LoggedEvents:
    """What sealed segments hold, by event_id; imported history is kept apart."""

    decisions: dict[str, DecisionEvent] = field(default_factory=dict)
    rewards: dict[str, RewardEvent] = field(default_factory=dict)
    imported: dict[str, DecisionEvent] = field(default_factory=dict)
    imported_rewards: dict[str, RewardEvent] = field(default_factory=dict)


def read_log(experiment: Experiment) -> LoggedEvents:
    """Read every sealed segment of an experiment; raises `CorruptLog`."""
    found = LoggedEvents()
    for path in sorted(experiment.paths.events.glob("*.jsonl")):
        for event in read_events(path):
            if isinstance(event, DecisionEvent):
                (found.decisions if event.imported_at is None else found.imported)[event.event_id] = event
            elif isinstance(event, RewardEvent):
                rewards = found.rewards if event.imported_at is None else found.imported_rewards
                rewards.setdefault(event.event_id, event)
    return found


def reversed_challenger(experiment: Experiment, *, now: datetime) -> str:
    """Train on the log with reversed rewards, publish, and return the model's id; `NotFound` without a log."""
    settings = experiment.settings
    rows = list(_reversed_rows(experiment, read_log(experiment)))
    if not rows:
        raise NotFound("the log holds no rewarded decision to learn from")
    learning = Learning.fresh(settings, rows)
    learning.step(rows, champion=None, champion_id=None)
    registry = ModelRegistry(experiment.paths)
    champion = registry.champion()
    times = [row.decided_at for row in rows]
    cut = max(row.matures_at or row.decided_at for row in rows)
    manifest = registry.publish(
        learning.files(),
        now=now,
        parent=champion.model_id if champion else None,
        kind="offered",
        options=learning.options(),
        settings_version=experiment.settings_version,
        data={
            "rows": len(rows),
            "first": min(times).isoformat(),
            "last": max(times).isoformat(),
            "cut": cut.isoformat(),
        },
        canaries=learning.canaries(rows),
        note="trained on reversed rewards, to be held",
    )
    return manifest.model_id


def kill_learner(data_dir: Path) -> int | None:
    """SIGKILL the running learner; returns its process id, None where none runs."""
    address = running_learner(data_dir)
    if address is None:
        return None
    os.kill(address.pid, signal.SIGKILL)
    return address.pid


def verdict_on(report: Mapping[str, Any], model_id: str) -> Mapping[str, Any] | None:
    """What a run's report says of one challenger."""
    return next((verdict for verdict in report.get("verdicts", []) if verdict.get("model_id") == model_id), None)


def _reversed_rows(experiment: Experiment, log: LoggedEvents) -> Iterator[Interaction]:
    rewards = experiment.settings.rewards
    rewards_of = log.imported_rewards | log.rewards
    for event_id, decision in (log.imported | log.decisions).items():
        reward = rewards_of.get(event_id)
        actions = experiment.catalogue(decision.catalogue_version)
        if reward is None or actions is None:
            continue
        window = timedelta(seconds=experiment.settings_of(decision.settings_version).rewards.window_s)
        yield Interaction(
            event_id=event_id,
            decided_at=decision.decided_at,
            model_id=decision.model_id,
            context=decision.context,
            actions=actions,
            index=decision.index,
            propensity=decision.probability,
            pmf=tuple(decision.pmf) if decision.pmf is not None else None,
            reward=rewards.min + rewards.max - reward.reward,
            slice=decision.slice,
            origin=ORIGIN_LIVE if decision.imported_at is None else ORIGIN_IMPORT,
            matures_at=decision.imported_at or decision.decided_at + window,
        )
