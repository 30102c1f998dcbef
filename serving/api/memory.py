"""What a worker remembers of its last answers, so that a retry is answered alike and a clash is refused.

Only ids that the client chose are kept: nobody can retry with an id they were not told. Bounded twice, by
ids and by bytes, since one answer may rank a thousand actions; the oldest go first. Values are tuples of
bytes, which the garbage collector need not walk.
"""

from __future__ import annotations

from bandit.errors import Conflict
from serving.api.requests import slot_event_id

IDS_MAX = 100_000
BYTES_MAX = 128 * 1024 * 1024
_OVERHEAD_BYTES = 250


class RetryMemory:
    """event_id → (digest of the question, encoded answer, slots), the last `ids_max` of them.

    The decisions of a question for several slots have ids of their own, which no other question may use, either.
    """

    def __init__(self, ids_max: int = IDS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self.ids_max = ids_max
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self._answers: dict[str, tuple[str, bytes, int]] = {}
        self._slots: set[str] = set()

    def __len__(self) -> int:
        return len(self._answers)

    def recall(self, event_id: str, digest: str, slots: int = 1) -> bytes | None:
        """The answer given before, None when the id is new; raises `Conflict` when another question had it."""
        known = self._answers.get(event_id)
        if known is None:
            self._refuse_what_is_decided(event_id, slots)
            return None
        if known[0] != digest:
            raise Conflict("event_id: was used before with another body; a retry must repeat it unchanged")
        return known[1]

    def remember(self, event_id: str, digest: str, answer: bytes, slots: int = 1) -> None:
        """Keep an answer, and let the oldest go where a bound is reached."""
        self._answers[event_id] = (digest, answer, slots)
        self._slots.update(_slot_ids(event_id, slots))
        self.bytes_held += _bytes_of(answer, slots)
        while len(self._answers) > self.ids_max or self.bytes_held > self.bytes_max:
            self.forget(next(iter(self._answers)))

    def forget(self, event_id: str) -> None:
        """Drop an answer that never became durable, or is the oldest."""
        known = self._answers.pop(event_id, None)
        if known is not None:
            _, answer, slots = known
            self._slots.difference_update(_slot_ids(event_id, slots))
            self.bytes_held -= _bytes_of(answer, slots)

    def _refuse_what_is_decided(self, event_id: str, slots: int) -> None:
        """Raise `Conflict` where a decision of this question would have the id of another's."""
        if slots == 1:
            if event_id in self._slots:
                raise Conflict("event_id: is that of a slot of another request; choose another")
            return
        for slot_id in _slot_ids(event_id, slots):
            known = self._answers.get(slot_id)
            if known is not None and known[2] == 1:
                raise Conflict(
                    f"event_id: its slots would be called as another request was ({slot_id}); choose another"
                )


def _slot_ids(event_id: str, slots: int) -> list[str]:
    return [slot_event_id(event_id, slot) for slot in range(1, slots + 1)] if slots > 1 else []


def _bytes_of(answer: bytes, slots: int) -> int:
    return len(answer) + _OVERHEAD_BYTES * (1 if slots == 1 else 1 + slots)
