"""Entries of history in words, as the console and `rewardloop history` show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bandit.registry import CHANGES
from serving.learner.reports import RUN, SETTINGS

STEERED = frozenset({SETTINGS, "pin", "unpin", "pause", "resume", *CHANGES})
"""The kinds that tell what was changed: settings, schedule, champion."""

_ORIGINS = {"api": "over the API", "command": "by command", "configuration": "by a start's configuration"}


def in_words(entry: Mapping[str, Any]) -> str:
    """What one entry says: of a run its outcome, of a change what changed and why."""
    if entry.get("kind") == SETTINGS:
        origin = _ORIGINS.get(entry.get("origin", ""))
        told = f"version {entry['version']}{f' {origin}' if origin else ''}: {', '.join(entry['changed'])}"
        return told + (f"; learn anew: {', '.join(entry['learns_anew'])}" if entry["learns_anew"] else "")
    about = entry.get("outcome") if entry.get("kind") == RUN else entry.get("model_id") or entry.get("challenger")
    return ": ".join(str(part) for part in (about, entry.get("error") or entry.get("reason")) if part)
