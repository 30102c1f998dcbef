"""Ids and digests: UUIDv7 strings where the client gives none, and the digest that tells two bodies apart."""

from __future__ import annotations

import os
from datetime import datetime
from hashlib import blake2b

import msgspec

from serving.api.requests import RecommendRequest

_encoder = msgspec.json.Encoder(order="deterministic")


def uuid7(now: datetime) -> str:
    """A UUIDv7 string (RFC 9562): milliseconds of `now` (aware), then 74 random bits."""
    random = int.from_bytes(os.urandom(10), "big")
    milliseconds = int(now.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
    value = milliseconds << 80 | 0x7000 << 64 | (random >> 68) << 64 | 0x2 << 62 | random & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def body_digest(request: RecommendRequest) -> str:
    """32 hex digits over what was asked; white space and the order of keys do not count."""
    return blake2b(_encoder.encode(request), digest_size=16).hexdigest()


def slot_event_id(event_id: str, slot: int) -> str:
    """The event_id of slot `slot` (counted from 1) of a request for several."""
    return f"{event_id}:{slot}"
