"""All experiments of a data directory with their schedule: the owner of every warehouse and of promotion.

A lock held from construction to `close` keeps a second learner out. Every experiment has its cycle; APScheduler polls
each at its declared pace, and a poll that finds a run due leaves it to threads for runs, so that those keep no other
experiment waiting, however long they are, nor their own: its log is read and its champion watched meanwhile. Polls that
were missed coalesce. The scheduler goes by the wall clock, so a thread that does not brings it back when that was set
back, and `late` tells by the monotonic clock what was not polled all the same.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor as Threads
from datetime import UTC, datetime, timedelta
from pathlib import Path

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from bandit.errors import Busy, CorruptSecret, NotFound
from bandit.experiment import Experiment
from serving.learner.address import COMMAND_S, address_path, take_lock
from serving.learner.clock_watch import CLOCK, STEADY_S, Boot, ClockWatch, this_boot
from serving.learner.cycle import Cycle
from serving.learner.every import Every
from serving.learner.leftovers import remove_leftovers
from serving.learner.operations.compact import retain
from serving.learner.training.evaluator import Evaluator
from serving.learner.training.trainer import TrainerPool
from serving.learner.workspace import Workspace

log = logging.getLogger("rewardloop.learner")

TRAINING_PROCESSES = 2
"""For all experiments: one for standing challengers, one for the field; each starts when it is first needed.
While both are at work, a third loads and asks stored models, and ends when it has."""

POLLS = 8
"""So many experiments are polled at a time; the others wait for their turn, and are late if that takes long."""

RUNS = 8
"""So many experiments have a run under way at a time; the others are polled until they have theirs."""

DISCOVER_S = 1.0
RETAIN_S = 3600.0
RETAIN_FIRST_S = 300.0
"""How long after its start a learner first sees to retention: one that is often started anew must come to it, too."""

WATCH_S = 1.0
"""How often the clocks are compared, and the schedule with them."""

LATE_POLLS = 5
LATE_S_MIN = 10.0
"""An experiment is late when it was not polled for so many times its interval, and not for so long."""

STOP_S = 4.0
"""How long a run may go on after SIGTERM before its training process is ended."""

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The server's clock, aware UTC."""
    return datetime.now(UTC)


class LearnerService:
    """All cycles of a data directory with their schedule; holds the learner's lock from construction to `close`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        clock: Clock = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
        boot: Boot | None = None,
    ) -> None:
        """Raises `Busy` when another learner or command owns the directory."""
        self.data_dir = data_dir
        self.clock = clock
        self.monotonic = monotonic
        self.token = secrets.token_urlsafe(24)
        self.trainer = TrainerPool.of(TRAINING_PROCESSES)
        self.evaluator = Evaluator()
        self.cycles: dict[str, Cycle] = {}
        self.failures: dict[str, str] = {}
        self._lock = take_lock(data_dir, patience_with_commands_s=COMMAND_S)
        self.clock_watch = ClockWatch(clock, boot or this_boot(), data_dir)
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._paces: dict[str, float] = {}
        self._polled: dict[str, float] = {}
        self._polling: set[str] = set()
        self._runs: dict[str, Future[None]] = {}
        self._watcher = threading.Thread(target=self._watch, name="clock", daemon=True)
        self._runners = Threads(RUNS, thread_name_prefix="run")
        executors = {"default": ThreadPoolExecutor(POLLS), "upkeep": ThreadPoolExecutor(2)}
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self.scheduler = BackgroundScheduler(executors=executors, job_defaults=defaults, timezone=UTC)

    def start(self) -> None:
        """Open every experiment and start polling."""
        self.discover()
        self.scheduler.add_job(self.discover, Every(DISCOVER_S), id="discover", executor="upkeep")
        first = datetime.now(UTC) + timedelta(seconds=RETAIN_FIRST_S)
        self.scheduler.add_job(self.retain, Every(RETAIN_S), id="retain", executor="upkeep", next_run_time=first)
        self.scheduler.start()
        self._watcher.start()

    def cycle(self, name: str) -> Cycle:
        """The cycle of an experiment, opened if it is new; raises `NotFound`."""
        if name not in self.cycles:
            self.discover()
        if name not in self.cycles:
            raise NotFound(self.failures.get(name) or f"experiment '{name}' does not exist in this data directory")
        return self.cycles[name]

    def discover(self) -> None:
        """Take up experiments that appeared since the last look, and polling paces that changed."""
        with self._changing:
            for name in Experiment.names(self.data_dir):
                if name not in self.cycles:
                    self._open(name)
            for name, cycle in self.cycles.items():
                self._pace(name, cycle.workspace.experiment.settings.schedule.poll_s)

    def retain(self) -> None:
        """Compact and drop the log of each experiment by its retention rules, once the clock can be believed.

        What a drop that was cut short still owes is made good whatever the clock shows.
        """
        self.compare_clocks()
        moment = self.clock_watch.believed()
        for name, cycle in list(self.cycles.items()):
            try:
                retain(cycle.workspace, moment)
            except Exception as error:  # told in /readyz and status, tried again next time
                self._failed(name, error)

    def poll(self, name: str) -> None:
        """One poll of one experiment: take in what is new, and have a run started if one is due."""
        self._polling.add(name)
        try:
            self._poll(name)
        finally:
            self._polled[name] = self.monotonic()
            self._polling.discard(name)

    def late(self) -> dict[str, str]:
        """What was not polled for several times its interval, by the monotonic clock, with the words for `/readyz`."""
        found = {}
        for name, poll_s in self._paces.copy().items():
            if name in self._polling:
                continue
            silent_s = self.monotonic() - self._polled[name]
            if silent_s > max(LATE_POLLS * poll_s, LATE_S_MIN):
                found[name] = f"was not polled for {silent_s:.0f} s, and should be every {poll_s:g} s"
        return found

    def compare_clocks(self) -> None:
        """Tell of a leap of the wall clock: in the log, and in history where retention waits because of it."""
        leap = self.clock_watch.look()
        if leap is None:
            return
        way = "back" if leap < timedelta(0) else "ahead"
        reason = (
            f"the clock leapt {way} by {abs(leap)}; retention waits until it has kept pace for {STEADY_S / 3600:g} h"
        )
        log.warning(reason)
        for name, cycle in list(self.cycles.items()):
            if cycle.workspace.experiment.settings.retention.compact_after_days is None:
                continue
            try:
                cycle.workspace.registry.history.record(
                    CLOCK, now=self.clock(), leap_s=leap.total_seconds(), reason=reason
                )
            except Exception as error:  # a full disk, say
                self._failed(name, error)

    def bring_back(self) -> None:
        """Let no job wait for longer than its interval, as all do once the clock was set back."""
        now = datetime.now(UTC)
        for job in self.scheduler.get_jobs():
            if job.next_run_time > now + job.trigger.interval:
                job.reschedule(job.trigger)

    def close(self) -> None:
        """Stop polling, let runs end (or end their training), close the warehouses, give the lock back."""
        self._stopping.set()
        self.evaluator.close()
        if self._watcher.ident is not None:
            self._watcher.join()
        for cycle in self.cycles.values():
            cycle.stopping = True
        stopper = threading.Timer(STOP_S, self._end_training)
        stopper.start()
        if self.scheduler.running:
            self.scheduler.shutdown(wait=True)
        self._runners.shutdown(wait=True, cancel_futures=True)
        stopper.cancel()
        for cycle in self.cycles.values():
            cycle.close()
        address_path(self.data_dir).unlink(missing_ok=True)
        self._lock.release()

    def _poll(self, name: str) -> None:
        cycle, run = self.cycles[name], self._runs.get(name)
        try:
            cycle.tick()
            due = cycle.due() is not None
        except Exception as error:  # a full disk inside DuckDB, say: told in /readyz and status, tried again next time
            self._failed(name, error)
            return
        try:
            cycle.workspace.experiment.secret  # noqa: B018 - reading checks it
        except CorruptSecret as error:  # workers that start do not decide; what those that run have logged is learnt
            self._failed(name, error)
        else:
            if cycle.intake.silent:
                self._told(name, f"nothing matures: {'; '.join(cycle.intake.silent)}")
            else:
                self.failures.pop(name, None)
        if due and (run is None or run.done()) and not self._stopping.is_set():
            self._runs[name] = self._runners.submit(self._run, name)

    def _run(self, name: str) -> None:
        cycle = self.cycles[name]
        try:
            trigger = cycle.due()  # it may have waited for a thread, and a forced run have come before it
            if trigger is not None:
                with contextlib.suppress(Busy):  # a forced run was quicker
                    cycle.run(trigger=trigger)
        except Exception as error:  # the run's line cannot be written to a full disk, say
            self._failed(name, error)

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            try:
                self.bring_back()
                self.compare_clocks()
            except Exception:  # it must not end: nobody else would bring the schedule back
                log.exception("the clocks could not be compared")

    def _end_training(self) -> None:
        self.trainer.close()

    def _open(self, name: str) -> None:
        try:
            experiment = Experiment.open(self.data_dir, name)
            remove_leftovers(experiment.paths)
            workspace = Workspace(experiment, self.clock, trainer=self.trainer, evaluator=self.evaluator)
            cycle = Cycle(workspace, self.trainer)
            cycle.recover()
            self.cycles[name] = cycle
            self.failures.pop(name, None)
        except Exception as error:  # a damaged warehouse, say: the other experiments go on
            self._failed(name, error)

    def _pace(self, name: str, poll_s: float) -> None:
        if self._paces.get(name) == poll_s:
            return
        self._polled[name] = self.monotonic()
        self._paces[name] = poll_s
        self.scheduler.add_job(
            self.poll,
            Every(poll_s),
            args=[name],
            id=f"poll {name}",
            replace_existing=True,
            next_run_time=datetime.now(UTC),
        )

    def _failed(self, name: str, error: Exception) -> None:
        self._told(name, f"{type(error).__name__}: {error}")

    def _told(self, name: str, message: str) -> None:
        if self.failures.get(name) != message:  # said once, not at every poll
            log.error("experiment %s: %s", name, message)
        self.failures[name] = message
