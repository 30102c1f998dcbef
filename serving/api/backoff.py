"""When to try again what failed: soon at first, then ever more rarely, but within a minute of the last try.

It goes by the caller's clock; one that is set back puts nothing off.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

FIRST_S = 1.0
MOST_S = 60.0


@dataclass(slots=True)
class Backoff:
    """What failed last, how often in a row, and when; nothing is due where the last try worked."""

    what: Any = None
    failures: int = 0
    at: datetime | None = None

    def failed(self, what: Any, now: datetime) -> None:
        """Note that `what` failed; something else than the last time begins a row of its own."""
        self.failures = self.failures + 1 if self.failures and self.what == what else 1
        self.what, self.at = what, now

    def worked(self) -> None:
        """Note that there is nothing to try again."""
        self.what, self.failures, self.at = None, 0, None

    def due(self, now: datetime) -> bool:
        """Whether it is time for another try."""
        if self.at is None:
            return False
        pause_s = min(MOST_S, FIRST_S * 2.0 ** (self.failures - 1)) if self.failures < 32 else MOST_S
        return not self.at <= now < self.at + timedelta(seconds=pause_s)
