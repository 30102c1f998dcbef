"""The draw: which action an event gets, as a pure function of secret, event_id and pmf.

Because the randomness comes from HMAC-SHA256(secret, event_id), a retry of the same question gets the
same answer, any logged decision can be replayed bit for bit, and nobody without the secret can steer
their draw by choosing an event_id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

_TWO_POW_MINUS_53 = 2.0**-53
_BLOCK_BYTES = 64


def uniform_draw(secret: bytes, key: str) -> float:
    """A number in [0, 1) that depends on `secret` and `key` alone (53 bits of HMAC-SHA256)."""
    inner, outer = _keyed(secret)
    inner, outer = inner.copy(), outer.copy()
    inner.update(key.encode("utf-8"))
    outer.update(inner.digest())
    return (int.from_bytes(outer.digest()[:8], "big") >> 11) * _TWO_POW_MINUS_53


@lru_cache(maxsize=64)
def _keyed(secret: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """HMAC's two SHA-256 states after the key (RFC 2104): `hmac.digest` gives up the interpreter's lock at each
    call, and under load getting it back takes longer than the rest of a decision.
    """
    key = (hashlib.sha256(secret).digest() if len(secret) > _BLOCK_BYTES else secret).ljust(_BLOCK_BYTES, b"\0")
    return hashlib.sha256(bytes(byte ^ 0x36 for byte in key)), hashlib.sha256(bytes(byte ^ 0x5C for byte in key))


def draw_index(pmf: Sequence[float], u: float) -> int:
    """The smallest index whose cumulative probability exceeds `u` in [0, 1); never one of probability 0."""
    last_possible = 0
    for index, cumulative in enumerate(accumulate(pmf)):
        if pmf[index] > 0.0:
            last_possible = index
            if u < cumulative:
                return index
    return last_possible


def mix(pmf: Sequence[float], other: Sequence[float], fraction: float) -> list[float]:
    """The mixture (1 − fraction)·pmf + fraction·other, both of length k."""
    keep = 1.0 - fraction
    return [keep * p + fraction * q for p, q in zip(pmf, other, strict=True)]
