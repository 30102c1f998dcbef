"""A few requests with the probabilities a model gave them when it was trained.

VW accepts truncated files, foreign options and later versions without a word, and answers something else.
Asking the loaded model these few questions again finds that out before it serves anybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bandit.errors import CorruptModel
from bandit.types import Action, Context, Policy

CANARIES_MAX = 8
ACTIONS_MAX = 50
TOLERANCE = 1e-6
"""Another processor may add float32 numbers in another order; a misread model is off by far more."""

Canary = dict[str, Any]
"""`{"context": …, "actions": [{"id", "features"}…], "pmf": […]}`"""


def make_canaries(policy: Policy, requests: Sequence[tuple[Context, Sequence[Action]]]) -> list[Canary]:
    """At most eight of `requests`, evenly spread, with the policy's present pmf for each."""
    if len(requests) > CANARIES_MAX:
        requests = [requests[i * (len(requests) - 1) // (CANARIES_MAX - 1)] for i in range(CANARIES_MAX)]
    canaries = []
    for context, actions in requests:
        offered = tuple(actions)[:ACTIONS_MAX]
        canaries.append(
            {
                "context": dict(context),
                "actions": [{"id": action.id, "features": dict(action.features)} for action in offered],
                "pmf": policy.pmf(context, offered),
            }
        )
    return canaries


def answer_canaries(policy: Policy, canaries: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """The policy's pmf for each canary's question."""
    return [
        policy.pmf(canary["context"], tuple(Action(entry["id"], entry["features"]) for entry in canary["actions"]))
        for canary in canaries
    ]


def check_canaries(policy: Policy, canaries: Sequence[Mapping[str, Any]]) -> None:
    """Raise `CorruptModel` unless the policy answers every canary as recorded (to 1e-6)."""
    for number, (canary, pmf) in enumerate(zip(canaries, answer_canaries(policy, canaries), strict=True)):
        expected = canary["pmf"]
        if len(pmf) != len(expected) or any(
            not abs(found - wanted) <= TOLERANCE for found, wanted in zip(pmf, expected, strict=True)
        ):
            raise CorruptModel(f"the model answers canary {number} otherwise than when it was trained")


def canary_digest(policy: Policy, canaries: Sequence[Mapping[str, Any]]) -> str:
    """A short digest of the policy's answers to six decimals; equal models give equal digests."""
    rounded = [[round(p, 6) for p in pmf] for pmf in answer_canaries(policy, canaries)]
    return hashlib.sha256(msgspec.json.encode(rounded)).hexdigest()[:16]
