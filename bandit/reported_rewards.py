"""What a reported reward is worth under an experiment's settings: the same by POST as from a file.

A report is a plain number or a named event, which the declared map turns into a number. It is worked out the
moment it arrives, so that a later change of the map does not change what was reported before.
"""

from __future__ import annotations

from bandit.errors import InvalidRequest
from bandit.settings import EventReward, Rewards


def reported_number(
    rules: Rewards,
    *,
    reward: float | None,
    event: str | None = None,
    value: float | None = None,
    reward_id: str | None = None,
) -> float:
    """The number that a report counts as; raises `InvalidRequest` that names the field and the setting in its way."""
    if (reward is None) == (event is None):
        raise InvalidRequest("reward", "give either reward (a number) or event (a declared name), and not both")
    if reward is not None:
        if value is not None:
            raise InvalidRequest("value", "belongs to a named event; report a plain number as reward")
        number, field = reward, "reward"
    else:
        assert event is not None
        declared = rules.events.get(event)
        if declared is None:
            raise InvalidRequest("event", "is not declared", "the keys of rewards.events")
        number, field = _worth(declared, value), "value" if value is not None else "event"
    if number > rules.max:
        raise InvalidRequest(field, "is above the largest reward", f"rewards.max = {rules.max:g}")
    if number < rules.min:
        raise InvalidRequest(field, "is below the smallest reward", f"rewards.min = {rules.min:g}")
    if reward_id is None and rules.aggregation in ("sum", "mean"):
        raise InvalidRequest(
            "reward_id",
            "is required, so that a retry is not counted twice",
            f"rewards.aggregation = {rules.aggregation}",
        )
    return number


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
