"""What the decision API answers, as typed records; the wire's field names are theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from bandit.types import Action


class RankedAction(Struct, gc=False):
    """One offered action and its probability."""

    action: str
    probability: float


class Answer(Struct):
    """One decision: the drawn action first in `ranking`, then the others by probability."""

    event_id: str
    action: str
    probability: float
    model_id: str
    ranking: list[RankedAction]


class SlotsAnswer(Struct):
    """Several decisions of one request, in the order of the slots."""

    decisions: list[Answer]


AnyAnswer = Answer | SlotsAnswer

_encoder = msgspec.json.Encoder()
_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)
_slots_decoder: msgspec.json.Decoder[SlotsAnswer] = msgspec.json.Decoder(SlotsAnswer)


class RewardsAnswer(Struct):
    """How many rewards are on disk, and what was wrong with the others."""

    accepted: int
    errors: list[dict[str, Any]] = []


def rank(actions: Sequence[Action], pmf: Sequence[float], chosen: int) -> list[RankedAction]:
    """The chosen action, then the others from the most to the least probable (ties in the order offered)."""
    order = sorted(range(len(pmf)), key=pmf.__getitem__, reverse=True)
    order.remove(chosen)
    order.insert(0, chosen)
    return [RankedAction(actions[index].id, pmf[index]) for index in order]


def encode_answer(answer: AnyAnswer) -> bytes:
    """The JSON that a client gets."""
    return _encoder.encode(answer)


def decode_answer(encoded: bytes) -> AnyAnswer:
    """The answer back from its JSON."""
    if encoded.startswith(b'{"decisions"'):
        return _slots_decoder.decode(encoded)
    return _answer_decoder.decode(encoded)
