"""What a reported reward is worth under an experiment's settings, worked out the moment it arrives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from bandit.errors import InvalidRequest
from bandit.events import RewardEvent
from bandit.settings import EventReward, Rewards
from serving.api.requests import RewardItem


def reward_event(item: RewardItem, rules: Rewards, stamp: Callable[[], datetime]) -> RewardEvent:
    """The event that logs `item`; raises `InvalidRequest` that names the field and the setting in its way.

    `stamp` gives the log's time and is asked last: only events that get logged are stamped.
    """
    if (item.reward is None) == (item.event is None):
        raise InvalidRequest("reward", "give either reward (a number) or event (a declared name), and not both")
    if item.event is None:
        if item.value is not None:
            raise InvalidRequest("value", "belongs to a named event; report a plain number as reward")
        assert item.reward is not None
        number, field = item.reward, "reward"
    else:
        declared = rules.events.get(item.event)
        if declared is None:
            raise InvalidRequest("event", "is not declared", "the keys of rewards.events")
        number, field = _worth(declared, item.value), "value" if item.value is not None else "event"
    if number > rules.max:
        raise InvalidRequest(field, "is above the largest reward", f"rewards.max = {rules.max:g}")
    if number < rules.min:
        raise InvalidRequest(field, "is below the smallest reward", f"rewards.min = {rules.min:g}")
    if item.reward_id is None and rules.aggregation in ("sum", "mean"):
        raise InvalidRequest(
            "reward_id",
            "is required, so that a retry is not counted twice",
            f"rewards.aggregation = {rules.aggregation}",
        )
    return RewardEvent(
        event_id=item.event_id,
        received_at=stamp(),
        reward=number,
        reward_id=item.reward_id,
        event=item.event,
        value=item.value,
        action=item.action,
    )


def _worth(declared: EventReward, value: float | None) -> float:
    if declared.value is not None:
        return declared.value
    if value is None:
        raise InvalidRequest("value", "is required by this event", "rewards.events")
    number = value * declared.scale
    if declared.min is not None:
        number = max(number, declared.min)
    if declared.max is not None:
        number = min(number, declared.max)
    return number
