"""The join written down a second time, in plain Python over lists, for comparison row for row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bandit.events import ActivationEvent, DecisionEvent, Event, RewardEvent, stamped_at
from bandit.settings import Rewards


@dataclass(frozen=True)
class Place:
    """A record with its place in the log: who wrote it and where."""

    event: Event
    writer_id: str
    position: int

    @property
    def order(self) -> tuple[datetime, str, int]:
        return stamped_at(self.event), self.writer_id, self.position


def expected_interactions(places: Sequence[Place], rules: Rewards, until: datetime) -> dict[str, tuple[float, int]]:
    """event_id → (reward, number of reports that counted) of every matured event that is learnt from."""
    decisions: dict[str, list[Place]] = defaultdict(list)
    rewards: dict[str, list[Place]] = defaultdict(list)
    activations: dict[str, list[datetime]] = defaultdict(list)
    for place in sorted(places, key=lambda place: place.order):
        event = place.event
        if isinstance(event, DecisionEvent):
            decisions[event.event_id].append(place)
        elif isinstance(event, RewardEvent):
            rewards[event.event_id].append(place)
        else:
            assert isinstance(event, ActivationEvent)
            activations[event.event_id].append(event.received_at)
    found = {}
    for event_id, records in decisions.items():
        first = records[0].event
        assert isinstance(first, DecisionEvent)
        closes = first.imported_at or first.decided_at + timedelta(seconds=rules.window_s)

        def in_time(event: Event, closes: datetime = closes, first: DecisionEvent = first) -> bool:
            return stamped_at(event) < closes or (first.imported_at is not None and stamped_at(event) == closes)

        if closes > until:
            continue
        if any(in_time(other.event) and _differ(first, other.event) for other in records[1:]):
            continue
        if first.deferred and not any(moment < closes for moment in activations[event_id]):
            continue
        found[event_id] = _reward([p.event for p in rewards[event_id] if in_time(p.event)], first, rules)
    return found


def _differ(one: DecisionEvent, other: Event) -> bool:
    assert isinstance(other, DecisionEvent)
    return (one.action, one.probability, one.pmf, one.model_id, one.slot, one.body_digest, one.deferred) != (
        other.action,
        other.probability,
        other.pmf,
        other.model_id,
        other.slot,
        other.body_digest,
        other.deferred,
    ) or (one.body_digest is None and (one.context, one.actions) != (other.context, other.actions))


def _reward(reports: Sequence[Event], decision: DecisionEvent, rules: Rewards) -> tuple[float, int]:
    kept: dict[object, float] = {}
    for report in reports:
        assert isinstance(report, RewardEvent)
        if report.action is not None and report.action != decision.action:
            continue
        content = (report.reward, report.event, report.value, report.action)
        kept.setdefault(("id", report.reward_id) if report.reward_id is not None else content, report.reward)
    numbers = list(kept.values())
    if not numbers:
        return rules.default, 0
    value = {
        "first": numbers[0],
        "last": numbers[-1],
        "sum": sum(sorted(numbers)),
        "mean": sum(sorted(numbers)) / len(numbers),
        "min": min(numbers),
        "max": max(numbers),
    }[rules.aggregation]
    return value, len(numbers)
