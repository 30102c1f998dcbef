"""Events survive their JSON line exactly, floats included."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.events import (
    ActionRecord,
    ActivationEvent,
    DecisionEvent,
    RewardEvent,
    decode_event,
    encode_event,
    stamped_at,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
scalar = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
features = st.dictionaries(
    text, scalar | st.lists(text, max_size=3) | st.dictionaries(text, scalar, max_size=3), max_size=5
)


@given(text, features, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_a_decision_comes_back_bit_for_bit(event_id: str, context: dict[str, object], pmf: list[float]) -> None:
    event = DecisionEvent(
        event_id=event_id,
        decided_at=NOW,
        model_id="m1",
        context=context,
        actions=[ActionRecord(id=event_id, features=context)],
        action=event_id,
        index=0,
        probability=pmf[0],
        pmf=pmf,
    )
    line = encode_event(event)
    assert b"\n" not in line
    assert decode_event(line) == event


def test_rewards_and_activations_come_back_as_what_they_were() -> None:
    reward = RewardEvent(event_id="e", received_at=NOW, reward=0.1 + 0.2, reward_id="r")
    activation = ActivationEvent(event_id="e", received_at=NOW)
    assert decode_event(encode_event(reward)) == reward
    assert decode_event(encode_event(activation)) == activation


def test_history_is_stamped_when_it_was_imported() -> None:
    old = datetime(2020, 1, 1, tzinfo=UTC)
    reward = RewardEvent(event_id="e", received_at=old, reward=1.0, imported_at=NOW)
    assert stamped_at(reward) == NOW
    assert stamped_at(ActivationEvent(event_id="e", received_at=old)) == old


@pytest.mark.parametrize(
    "line", [b"", b"{}", b'{"type":"decision"}', b'{"type":"other"}', b'{"type":"reward","event_id":1}']
)
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_event(line)


def test_a_line_is_plain_json_with_utc_times() -> None:
    plain = json.loads(encode_event(ActivationEvent(event_id="e", received_at=NOW)))
    assert plain == {"type": "activation", "event_id": "e", "received_at": "2026-01-01T12:00:00.123456Z"}
