"""Ids and digests: UUIDv7 strings where the client gives none, and the digest that tells two bodies apart."""

from __future__ import annotations

import os
from datetime import datetime
from hashlib import blake2b

import msgspec

from serving.api.requests import RecommendRequest

_encoder = msgspec.json.Encoder(order="deterministic")


class _Random:
    """Random bytes of the operating system, fetched many at a time: each call gives up the interpreter's lock."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.stock = b""
        self.used = 0

    def take(self) -> bytes:
        if self.used >= len(self.stock):
            self.stock = os.urandom(_RANDOM_BYTES * 512)
            self.used = 0
        start = self.used
        self.used = start + _RANDOM_BYTES
        return self.stock[start : self.used]


_RANDOM_BYTES = 10
_random = _Random()
os.register_at_fork(after_in_child=_random.forget)  # two processes must never draw from the same stock


def uuid7(now: datetime) -> str:
    """A UUIDv7 string (RFC 9562): milliseconds of `now` (aware), then 74 random bits."""
    milliseconds = int(now.timestamp() * 1000) & 0xFFFF_FFFF_FFFF
    random = _random.take().hex()
    variant = _VARIANT[random[4]]
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{random[1:4]}-{variant}{random[5:8]}-{random[8:]}"


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def body_digest(request: RecommendRequest) -> str:
    """32 hex digits over what was asked; white space and the order of keys do not count."""
    return blake2b(_encoder.encode(request), digest_size=16).hexdigest()
