"""One experiment with everything an operation on it may need: its files, its warehouse, its models, the clock.

The warehouse is opened on first use, because a DuckDB file has one owner: whoever builds a workspace must hold
the learner's lock (the learner does, a command takes it first).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from joiner.warehouse import Warehouse


class Workspace:
    """What operations and the cycle work on; `lock` makes those that write take turns; `run_lock` is held by a run."""

    def __init__(
        self,
        experiment: Experiment,
        clock: Callable[[], datetime],
        *,
        durable: bool = True,
        warehouse: Warehouse | None = None,
    ) -> None:
        self.experiment = experiment
        self.clock = clock
        self.durable = durable
        self.registry = ModelRegistry(experiment.paths, durable=durable)
        self.lock = threading.RLock()
        self.run_lock = threading.Lock()
        self._warehouse = warehouse
        self._pinned: tuple[str | None] | None = None

    @property
    def warehouse(self) -> Warehouse:
        """The experiment's warehouse, opened on first use."""
        with self.lock:
            if self._warehouse is None:
                self._warehouse = Warehouse(self.experiment)
            return self._warehouse

    @property
    def pinned(self) -> str | None:
        """The model that is pinned as champion, None where none is: the last word about it in history."""
        if self._pinned is None:
            entries = [entry for entry in self.registry.history() if entry.get("kind") in ("pin", "unpin")]
            self._pinned = (entries[-1]["model_id"] if entries and entries[-1]["kind"] == "pin" else None,)
        return self._pinned[0]

    def pin(self, model_id: str | None, *, reason: str) -> None:
        """Pin the champion so that nothing takes its place by itself, or let go of it (None); in history."""
        self.registry.record("pin" if model_id else "unpin", now=self.clock(), model_id=model_id, reason=reason)
        self._pinned = (model_id,)

    def release_warehouse(self) -> None:
        """Close the warehouse so that its file may be replaced; the next use opens it again."""
        with self.lock:
            if self._warehouse is not None:
                self._warehouse.close()
                self._warehouse = None

    def close(self) -> None:
        """Close what was opened."""
        self.release_warehouse()
