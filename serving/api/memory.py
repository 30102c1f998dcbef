"""What a worker remembers of its last answers, so that a retry is answered alike and a clash is refused.

Only ids that the client chose are kept: nobody can retry with an id they were not told. Bounded twice, by
ids and by bytes, since one answer may rank a thousand actions; the oldest go first. Values are tuples of
bytes, which the garbage collector need not walk.
"""

from __future__ import annotations

from bandit.errors import Conflict

IDS_MAX = 100_000
BYTES_MAX = 128 * 1024 * 1024
_OVERHEAD_BYTES = 250


class RetryMemory:
    """event_id → (digest of the question, encoded answer), the last `ids_max` of them."""

    def __init__(self, ids_max: int = IDS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.ids_max = ids_max
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self._answers: dict[str, tuple[str, bytes]] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def recall(self, event_id: str, digest: str) -> bytes | None:
        """The answer given before, None when the id is new; raises `Conflict` when another question had it."""
        known = self._answers.get(event_id)
        if known is None:
            return None
        if known[0] != digest:
            raise Conflict("event_id: was used before with another body; a retry must repeat it unchanged")
        return known[1]

    def remember(self, event_id: str, digest: str, answer: bytes) -> None:
        """Keep an answer, and let the oldest go where a bound is reached."""
        self._answers[event_id] = (digest, answer)
        self.bytes_held += len(answer) + _OVERHEAD_BYTES
        while len(self._answers) > self.ids_max or self.bytes_held > self.bytes_max:
            self.forget(next(iter(self._answers)))

    def forget(self, event_id: str) -> None:
        """Drop an answer that never became durable, or is the oldest."""
        known = self._answers.pop(event_id, None)
        if known is not None:
            self.bytes_held -= len(known[1]) + _OVERHEAD_BYTES
