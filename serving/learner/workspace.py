"""One experiment with everything an operation on it may need: its files, its warehouse, its models, the clock.

The warehouse is opened on first use, because a DuckDB file has one owner: whoever builds a workspace must hold
the learner's lock (the learner does, a command takes it first).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from bandit.errors import Busy
from bandit.eventlog.recovery import DAMAGED_SUFFIX
from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from joiner.archive import dropped, forget_dropped, ingest_archives
from joiner.doctor import DATABASE_ERRORS
from joiner.rebuild import RebuildReport, rebuild
from joiner.warehouse import Warehouse
from serving.learner.asked_with import asked_with
from serving.learner.training.evaluator import Evaluator
from serving.learner.training.trainer import InlineTrainer, Trainer

log = logging.getLogger("rewardloop.learner")

READERS_S = 60.0
"""How long whoever replaces the database waits for those who read it."""


class Workspace:
    """What operations and the cycle work on; `lock` makes those that write take turns; `run_lock` is held by a run.

    `telling` is held by who puts changes of the settings into history, up to the version `settings_told`.
    """

    def __init__(
        self,
        experiment: Experiment,
        clock: Callable[[], datetime],
        *,
        durable: bool = True,
        warehouse: Warehouse | None = None,
        trainer: Trainer | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        self.experiment = experiment
        self.clock = clock
        self.durable = durable
        self.registry = ModelRegistry(experiment.paths, durable=durable)
        self.lock = threading.RLock()
        self.run_lock = threading.Lock()
        self._warehouse = warehouse
        self._trainer = trainer
        self._evaluator = evaluator
        self._pinned: tuple[str | None] | None = None
        self._paused: bool | None = None
        self.telling = threading.Lock()
        self.settings_told: tuple[int, datetime] | None = None

    @property
    def warehouse(self) -> Warehouse:
        """The experiment's warehouse, opened on first use; a damaged one is made anew, and history says so."""
        with self.lock:
            try:
                return self.warehouse_as_it_is()
            except DATABASE_ERRORS as error:
                problem = str(error).partition("\n")[0]
                log.error("experiment %s: its database is made anew from the log: %s", self.experiment.name, problem)
                report = self.rebuild()
                tell_damaged(report.quarantined)
                self.registry.history.record("rebuild", now=self.clock(), reason=problem, events=report.events)
                return self.warehouse_as_it_is()

    def warehouse_as_it_is(self) -> Warehouse:
        """The same, but what DuckDB says about a damaged file is raised (`joiner.doctor.DATABASE_ERRORS`)."""
        with self.lock:
            if self._warehouse is None:
                # one core is left to decisions, which don't wait then until a query gives it back
                warehouse = Warehouse(self.experiment, threads=max(1, (os.cpu_count() or 1) - 1))
                try:
                    ingest_archives(warehouse)  # a file that was deleted, restored or outdated knows none of them
                except BaseException:
                    warehouse.close()
                    raise
                self._warehouse = warehouse
            return self._warehouse

    def rebuild(self, *, watermark: datetime | None = None) -> RebuildReport:
        """Make the database anew from the log, as `joiner.rebuild.rebuild` does; what was dropped is in it no more.

        A drop that was cut short is finished by it, with its line of history. Raises `Busy` where somebody reads it for
        longer than `READERS_S`, OSError when there is no room.
        """
        with self.lock:
            gone = dropped(self.experiment.paths)
            if gone:
                self._tell_dropped({archive.folder.name: archive.events for archive in gone})
            self.release_warehouse()
            report = rebuild(self.experiment, watermark=watermark)
            forget_dropped(self.experiment.paths, gone)
            return report

    def _tell_dropped(self, gone: Mapping[str, int]) -> None:
        """Put into history which archives were dropped, and how many events with them, unless it is there already."""
        told = {name for entry in self.registry.history.entries("drop") for name in entry.get("names", ())}
        events = {name: count for name, count in gone.items() if name not in told}
        if events:
            self.registry.history.record(
                "drop", now=self.clock(), archives=len(events), events=sum(events.values()), names=sorted(events)
            )

    @contextmanager
    def reading(self) -> Iterator[Warehouse]:
        """The warehouse, which nobody replaces before the end of the block, while polls and whoever undoes go on."""
        with self.lock:
            warehouse = self.warehouse
            held = warehouse.cursor()
        try:
            yield warehouse
        finally:
            held.close()
            del held  # not to be kept by the traceback of what was raised

    @contextmanager
    def training(self) -> Iterator[Trainer]:
        """Where models are trained, loaded and asked: the learner's processes if it runs, else this very process."""
        if self._trainer is not None:
            yield self._trainer
            return
        with closing(InlineTrainer()) as trainer:
            yield trainer

    @contextmanager
    def evaluating(self) -> Iterator[Evaluator]:
        """What evaluates policies, for one evaluation: a process of the learner if it runs, else of this command.

        Raises `Busy` while the learner has another one under way.
        """
        place = closing(Evaluator()) if self._evaluator is None else nullcontext(self._evaluator)
        with place as evaluator, evaluator.turn():
            yield evaluator

    @property
    def pinned(self) -> str | None:
        """The model that is pinned as champion, None where none is: the last word about it in history."""
        if self._pinned is None:
            with self.lock:  # nobody may pin between the look and the note of it
                last = self._last_entry("pin", "unpin")
                self._pinned = (last["model_id"] if last and last["kind"] == "pin" else None,)
        return self._pinned[0]

    def pin(self, model_id: str | None, *, reason: str) -> None:
        """Pin the champion so that nothing takes its place by itself, or let go of it (None); in history.

        A pinned champion decides alone: the trial beside it ends.
        """
        kind = "pin" if model_id else "unpin"
        with self.lock:
            self.registry.history.record(kind, now=self.clock(), model_id=model_id, reason=reason, **asked_with())
            self._pinned = (model_id,)
            if model_id is not None:
                self.registry.clear_trial()

    @property
    def paused(self) -> bool:
        """Whether the schedule is paused: no run starts by itself. Survives a restart, as history says."""
        if self._paused is None:
            with self.lock:
                last = self._last_entry("pause", "resume")
                self._paused = last is not None and last["kind"] == "pause"
        return self._paused

    def pause(self, paused: bool, *, reason: str) -> None:
        """Pause or resume the schedule; in history, unless it is so already."""
        with self.lock:
            if self.paused != paused:
                kind = "pause" if paused else "resume"
                self.registry.history.record(kind, now=self.clock(), reason=reason, **asked_with())
                self._paused = paused

    def _last_entry(self, *kinds: str) -> dict[str, Any] | None:
        entries = [entry for entry in self.registry.history.entries() if entry.get("kind") in kinds]
        return entries[-1] if entries else None

    def release_warehouse(self) -> None:
        """Close the warehouse so that its file may be replaced; the next use opens it again.

        Those who read it just now do so to the end; raises `Busy` where that takes longer than `READERS_S`.
        """
        with self.lock:  # who wants to begin waits for it in `warehouse`
            if self._warehouse is not None and not self._warehouse.wait_for_readers(READERS_S):
                raise Busy("the database is being read, and cannot be replaced meanwhile; try again")
            self.close()

    def close(self) -> None:
        """Close what was opened, whoever reads it."""
        with self.lock:
            warehouse, self._warehouse = self._warehouse, None
            if warehouse is not None:
                warehouse.close()


def tell_damaged(quarantined: Iterable[Path]) -> None:
    """Log what of the log has just been set aside as damaged; a torn end and what cannot be read are none of it."""
    for path in quarantined:
        if path.suffix == DAMAGED_SUFFIX:
            log.error(
                "events/quarantine/%s is damaged and set aside, nothing is learnt from it: see `rewardloop doctor`",
                path.name,
            )
