"""A reported reward as the event that logs it, worth what the experiment's settings say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from bandit.events import RewardEvent
from bandit.reported_rewards import reported_number
from bandit.settings import Rewards
from serving.api.requests import RewardItem


def reward_event(item: RewardItem, rules: Rewards, stamp: Callable[[], datetime]) -> RewardEvent:
    """The event that logs `item`; raises `InvalidRequest` that names the field and the setting in its way.

    `stamp` gives the log's time and is asked last: only events that get logged are stamped.
    """
    number = reported_number(rules, reward=item.reward, event=item.event, value=item.value, reward_id=item.reward_id)
    return RewardEvent(
        event_id=item.event_id,
        received_at=stamp(),
        reward=number,
        reward_id=item.reward_id,
        event=item.event,
        value=item.value,
        action=item.action,
    )
