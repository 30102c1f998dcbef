"""The records of the event log, and their JSON lines.

Events are immutable, self-contained and carry the version of their format. A decision holds everything
that is needed to learn from it and to replay it; a reward knows only the event_id it belongs to.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

FORMAT_VERSION = 1


class ActionRecord(Struct, frozen=True, omit_defaults=True):
    """An offered action as logged: id and features (left out when empty)."""

    id: str
    features: dict[str, Any] = {}


class DecisionEvent(Struct, frozen=True, tag_field="type", tag="decision", omit_defaults=True, kw_only=True):
    """One decision with its full distribution.

    `actions` are the offered actions after exclusion, or None where the catalogue `catalogue_version` minus
    `excluded` was offered whole. `pmf` is over the offered actions, in order, all mixtures included;
    `probability` is `pmf[index]`. `slice` says which branch of a declared mixture was drawn, or that a challenger
    on trial, `trial_model_id`, had its share `trial_share` in the pmf.
    `imported_at` marks history: mature at once. `pmf` is None only there.
    """

    event_id: str
    decided_at: datetime
    model_id: str
    trial_model_id: str | None = None
    trial_share: float | None = None
    context: dict[str, Any]
    action: str
    index: int
    probability: float
    pmf: list[float] | None = None
    actions: list[ActionRecord] | None = None
    catalogue_version: int | None = None
    excluded: list[str] | None = None
    settings_version: int = 1
    mode: str = "online"
    slice: str = "policy"
    deferred: bool = False
    slot: int | None = None
    body_digest: str | None = None
    imported_at: datetime | None = None
    format: int = FORMAT_VERSION


class RewardEvent(Struct, frozen=True, tag_field="type", tag="reward", omit_defaults=True, kw_only=True):
    """A reward reported for an event; `reward` is the number, worked out on arrival for named events.

    `action`, where given, is the action the client says it rewards. `imported_at` marks history.
    """

    event_id: str
    received_at: datetime
    reward: float
    reward_id: str | None = None
    event: str | None = None
    value: float | None = None
    action: str | None = None
    imported_at: datetime | None = None
    format: int = FORMAT_VERSION


class ActivationEvent(Struct, frozen=True, tag_field="type", tag="activation", omit_defaults=True, kw_only=True):
    """A deferred decision was shown after all."""

    event_id: str
    received_at: datetime
    format: int = FORMAT_VERSION


Event = DecisionEvent | RewardEvent | ActivationEvent

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode_event(event: Event) -> bytes:
    """One JSON line without its newline; raises nothing for events built from checked input."""
    return _encoder.encode(event)


def decode_event(line: bytes) -> Event:
    """The event of one JSON line; raises `msgspec.DecodeError` or `UnicodeDecodeError` when it is not one."""
    return _decoder.decode(line)


def stamped_at(event: Event) -> datetime:
    """The time at which the log stamped the event (for history: when it was imported)."""
    if isinstance(event, DecisionEvent):
        return event.imported_at or event.decided_at
    if isinstance(event, RewardEvent):
        return event.imported_at or event.received_at
    return event.received_at
