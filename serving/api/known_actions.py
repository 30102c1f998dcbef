"""Actions of earlier requests, recognised by their JSON bytes, so that each is parsed and checked once.

Applications offer the same items again and again. A recognised action is also the same object as before, by
which the policy recognises the example that it has parsed for it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bandit.features import check_features, check_name
from bandit.settings import Limits
from bandit.types import Action

ENTRIES_MAX = 20_000
BYTES_MAX = 32 * 1024 * 1024
"""Beyond either bound everything is forgotten, and learnt again from the requests that come."""


class WireAction(msgspec.Struct, forbid_unknown_fields=True):
    """An action as a request spells it; a misspelt key is refused, since what stands under it would be lost."""

    id: str
    features: dict[str, Any] = {}

    def action(self) -> Action:
        """The action it describes."""
        return Action(self.id, self.features)


_decoder = msgspec.json.Decoder(WireAction)


class KnownActions:
    """JSON bytes → checked action, under one set of limits."""

    def __init__(self, limits: Limits, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.limits = limits
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self._bytes = 0
        self._known: dict[bytes, Action] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, raw: msgspec.Raw) -> Action:
        """The action that `raw` is; raises what decoding or checking it raises, without its place in the request."""
        key = bytes(raw)
        action = self._known.get(key)
        if action is None:
            action = _decoder.decode(key).action()
            check_name(action.id, "id", self.limits)
            check_features(action.features, "features", self.limits)
            self._bytes += len(key)
            if len(self._known) >= self.entries_max or self._bytes > self.bytes_max:
                self._known.clear()
                self._bytes = len(key)
            self._known[key] = action
        return action
