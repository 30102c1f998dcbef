"""The draw: which action an event gets, as a pure function of secret, event_id and pmf.

Because the randomness comes from HMAC-SHA256(secret, event_id), a retry of the same question gets the
same answer, any logged decision can be replayed bit for bit, and nobody without the secret can steer
their draw by choosing an event_id.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from itertools import accumulate

_TWO_POW_MINUS_53 = 2.0**-53


def uniform_draw(secret: bytes, key: str) -> float:
    """A number in [0, 1) that depends on `secret` and `key` alone (53 bits of HMAC-SHA256)."""
    digest = hmac.digest(secret, key.encode("utf-8"), "sha256")
    return (int.from_bytes(digest[:8], "big") >> 11) * _TWO_POW_MINUS_53


def normalise(weights: Sequence[float]) -> list[float]:
    """Scale k non-negative finite weights to a pmf; raises ValueError when none is positive.

    The result is what gets drawn from *and* logged, so it is computed once, before the draw.
    """
    total = 0.0
    for weight in weights:
        if not weight >= 0.0 or weight == float("inf"):
            raise ValueError("weights must be finite and non-negative")
        total += weight
    if not 0.0 < total < float("inf"):
        raise ValueError("at least one weight must be positive")
    if total == 1.0:
        return list(weights)
    return [weight / total for weight in weights]


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
