"""One experiment's learning loop: survey → ingest → join at every poll, train → evaluate → promote when it is due.

The same class runs in the service (training in a child process, real clock) and under a simulated clock (training
inline). `tick` may be called while `run` is under way in another thread: what a run learns ends at the watermark that
it began with, and one whose champion was undone or replaced meanwhile ends without a verdict. Runs never overlap. A run
that fails leaves every state as it was, is one line of history like any other, and comes again with new rows, or
without any after the interval, then after twice as long, and so on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta

import msgspec

from bandit.errors import Busy, Conflict, CorruptModel, NotFound, Refused, RewardloopError, TrainingStopped
from bandit.files import NO_ROOM
from bandit.registry import Champion
from bandit.types import ORIGIN_IMPORT, ORIGIN_LIVE
from joiner.export import EVERYTHING, RowFilter, learnt_rows
from joiner.history import import_is_under_way
from serving.learner import recovery, reports
from serving.learner.challengers.field import plan_field
from serving.learner.challengers.former import plan_former
from serving.learner.challengers.offered import plan_offered
from serving.learner.challengers.remembered import mend_retired
from serving.learner.challengers.standing import plan_standing
from serving.learner.challengers.store import STANDING, ChallengerState, ChallengerStore
from serving.learner.challengers.unweighed import rows_before_tenure
from serving.learner.cron import next_after
from serving.learner.initial import publish_initial, short_of_initial, wants_initial
from serving.learner.intake import Intake, take_in
from serving.learner.reports import Judgement, RunReport
from serving.learner.settings_told import tell_settings
from serving.learner.training.trainer import Trainer
from serving.learner.training_step import advance_all
from serving.learner.verdicts.fallen import FreshStart, plan_after_fall
from serving.learner.verdicts.judging import Look, judge_all
from serving.learner.verdicts.promotion import expect_champion, passed_over, promote, set_back
from serving.learner.verdicts.trial import update_trial
from serving.learner.watch import Watch
from serving.learner.workspace import Workspace

log = logging.getLogger("rewardloop.learner")


LIVE = RowFilter(origin=ORIGIN_LIVE)
IMPORTED = RowFilter(origin=ORIGIN_IMPORT)

IMPORT_PAUSE_S = 60.0
"""An import that has brought no rows for so long, such as one on a pipe, keeps none of those before waiting."""

IMPORT_WAIT_S = 600.0
"""No row waits for longer than this for the end of an import, however much it goes on bringing."""

UNSCHEDULED = ("logging_only", "frozen")
"""Modes in which no run starts by itself."""

RETRY_DOUBLINGS_MAX = 8
"""After so many failures in a row, the pause before the next attempt grows no longer."""

WAITING_MAX = 4
"""So many may wait for the end of a run at a time, those that ask for one and those that ask for a step."""

UNDONE = "The last promotion was undone"


class Cycle:
    """The loop of one experiment; build it with a workspace whose lock is held and a trainer."""

    def __init__(self, workspace: Workspace, trainer: Trainer) -> None:
        self.workspace = workspace
        self.trainer = trainer
        self.store = ChallengerStore(workspace.experiment.paths, durable=workspace.durable)
        self.intake = Intake()
        self.stopping = False
        self.running: str | None = None
        self._run_lock = workspace.run_lock
        self._places = threading.BoundedSemaphore(WAITING_MAX)
        self._watch = Watch()
        runs = [entry for entry in workspace.registry.history.entries() if entry.get("kind") == reports.RUN]
        self.runs = len(runs)
        self.outcomes = Counter(str(run.get("outcome")) for run in runs)
        self.last_run: RunReport | None = _last(runs)
        self.falls = len({entry.get("at") for entry in workspace.registry.history.entries(reports.FALL)})
        judged = _last([run for run in runs if run.get("verdicts")])
        self.last_looks: list[Judgement] = judged.verdicts if judged else []
        self.last_verdict: dict[str, object] | None = None
        if self.last_run is not None:
            self.last_verdict = {"outcome": self.last_run.outcome, "reason": self.last_run.reason}
        standing = self.store.load(STANDING)
        self._attempted_until: datetime | None = standing.cut if standing else None
        self._learnt_until = self._attempted_until
        self._failures = _trailing_failures(runs)
        # what was missed while no learner ran is made good by one run
        self._attempted_at: datetime = self.last_run.at if self.last_run is not None else workspace.clock()

    # -- polling -----------------------------------------------------------------------------------------

    def tick(self) -> Intake:
        """Take in what is new: sealed segments, settings, matured interactions."""
        self.workspace.experiment.refresh()
        self._attempted_at = min(self._attempted_at, self.workspace.clock())  # a clock that was ahead has been set back
        take_in(self.workspace, self.intake)
        self._watch_champion()
        tell_settings(self.workspace)
        return self.intake

    def due(self) -> str | None:
        """Why a run should start now, None when it should not."""
        if self.stopping or self.workspace.paused or self._run_lock.locked() or self.intake.watermark is None:
            return None
        if self.workspace.experiment.settings.serving.mode in UNSCHEDULED:
            return None
        schedule = self.workspace.experiment.settings.schedule
        new = self.new_rows()
        ready = self.ready_rows(new)
        if self.first_model_is_due(new):
            return "history" if ready else None
        if ready >= schedule.interactions:
            return "rows"
        if self.workspace.clock() >= self.next_run_at():
            if ready:
                return "interval"
            if self.owed_rows() and self.workspace.clock() >= self.retry_at():
                return "retry"
            # nothing to learn at a time of cron: the next run is at the next such time, not before
            if schedule.cron is not None and not new:
                self._attempted_at = self.workspace.clock()
        return None

    def new_rows(self, rows: RowFilter = EVERYTHING) -> int:
        """Interactions, imported ones too, that matured since the last run took its rows."""
        if self.intake.watermark is None:
            return 0
        return self.workspace.warehouse.count_matured(self._attempted_until, self.intake.watermark, rows)

    def ready_rows(self, new: int) -> int:
        """How many of the `new` rows may start a run: while more are imported, imported ones wait for the last of them.

        One run learns them all then. The first model waits for them whatever else is new.
        """
        if not new or not self._import_goes_on():
            return new
        return 0 if self.first_model_is_due(new) else self.new_rows(LIVE)

    def first_model_is_due(self, new: int) -> bool:
        """Whether the next run makes the first model of imported history; not again before there are `new` rows."""
        return new > 0 and self.intake.watermark is not None and wants_initial(self.workspace, self.intake.watermark)

    def owed_rows(self) -> int:
        """Interactions that a run took which then failed, so that no model has learnt them."""
        until = self._attempted_until
        if not self._failures or until is None or until == self._learnt_until:
            return 0
        return self.workspace.warehouse.count_matured(self._learnt_until, until)

    def retry_at(self) -> datetime:
        """When a run that failed is tried again although nothing new has matured."""
        if self.workspace.experiment.settings.schedule.cron is not None:
            return self.next_run_at()
        longer = 1 << min(max(self._failures - 1, 0), RETRY_DOUBLINGS_MAX)
        return self._attempted_at + longer * (self.next_run_at() - self._attempted_at)

    def next_run_at(self) -> datetime:
        """When the interval is over, or cron says so; a run then starts if anything matured."""
        cron = self.workspace.experiment.settings.schedule.cron
        if cron is not None:
            return next_after(cron, self._attempted_at)
        return self._attempted_at + timedelta(seconds=self.workspace.experiment.settings.schedule.interval_s)

    # -- running -----------------------------------------------------------------------------------------

    def run(self, *, force: bool = False, trigger: str = "forced", wait_s: float = 0.0) -> RunReport:
        """Train, evaluate and promote if the gate says so; raises `Busy` when another run takes longer than `wait_s`.

        Whatever goes wrong inside is in the report (`failed`, with the error) and in history, not raised; so is that
        the learner was told to stop before its end (`stopped`).
        Without `force` a run that is not due reports `nothing`.
        """
        with self.exclusive("intake", wait_s=wait_s):
            started = time.perf_counter()
            report = RunReport(at=self.workspace.clock(), trigger=trigger, outcome=reports.NOTHING, reason="")
            try:
                with self._step(report, "intake"):
                    self.tick()
                if force or trigger == "retry" or self.due_now():
                    self._run(report)
                else:
                    report.reason = "no run was due"
                    return report
            except Conflict as error:  # its challengers were compared with a champion that is none any more
                report.reason = f"the champion changed while the run was under way: {error}"
                self._attempted_until = self._learnt_until  # the next run takes the same rows, beside the new one
            except TrainingStopped as error:
                report.outcome, report.reason = reports.STOPPED, f"the run was stopped: {error}"
                self._attempted_until = self._learnt_until
            except Exception as error:  # whatever it is: the loop goes on, and history tells
                self._tell_failure(error)
                report.outcome, report.error = reports.FAILED, f"{type(error).__name__}: {error}"
                report.reason = f"the run failed: {error}"
                # want of room is no fault of the rows: once there is some, they wait for no longer than the interval
                self._failures = max(self._failures, 1) if _lacks_room(error) else self._failures + 1
            report.seconds = round(time.perf_counter() - started, 4)
            self._record(report)
            return report

    def _tell_failure(self, error: Exception) -> None:
        """Log a failed run: in a line where the disk is full, with the traceback where the fault may be ours."""
        name = self.workspace.experiment.name
        if _lacks_room(error):
            log.error("experiment %s: a run failed: %s", name, error)
        elif not isinstance(error, RewardloopError):
            log.exception("experiment %s: a run failed", name)

    def recover(self) -> None:
        """Put into history what a learner that was killed could not; for whoever opens an experiment to run it."""
        with self.exclusive("recovery"):
            recovery.record_champion(self.workspace, self.store)
            if (
                self.workspace.pinned is not None
            ):  # killed right after the pin, or of a release that let the trial go on
                self.workspace.registry.clear_trial()
            report = recovery.cut_short(self.workspace)
            if report is not None:
                self._record(report)

    def mark_attempt(self, watermark: datetime) -> None:
        """Count rows from this watermark on, and the interval from now on."""
        self._attempted_until, self._attempted_at = watermark, self.workspace.clock()

    def mark_learnt(self) -> None:
        """The rows of the last attempt were learnt: nothing is owed."""
        self._learnt_until, self._failures = self._attempted_until, 0

    def due_now(self) -> bool:
        """Whether rows, interval or history ask for a run (for a caller that holds the run lock)."""
        if self.intake.watermark is None:
            return False
        new = self.new_rows()
        return (
            new >= self.workspace.experiment.settings.schedule.interactions
            or (new > 0 and self.workspace.clock() >= self.next_run_at())
            or wants_initial(self.workspace, self.intake.watermark)
        )

    @contextmanager
    def exclusive(self, doing: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Keep runs away for the length of a block.

        Raises `Busy` when one takes longer than `wait_s`, or when enough others wait for it: each holds a thread.
        """
        if not self._run_lock.acquire(blocking=False):
            self._wait_for_the_run(wait_s)
        self.running = doing
        try:
            yield
        finally:
            self.running = None
            self._run_lock.release()

    def _wait_for_the_run(self, wait_s: float) -> None:
        if not self._places.acquire(blocking=False):
            raise Busy(f"a run is under way, and {WAITING_MAX} wait for its end; ask again when it is over")
        try:
            if not self._run_lock.acquire(timeout=max(wait_s, 0.0)):
                raise Busy("a run is under way; runs never overlap")
        finally:
            self._places.release()

    def close(self) -> None:
        """End the trainer and close the warehouse."""
        self.trainer.close()
        self.workspace.close()

    def _run(self, report: RunReport) -> None:
        watermark = self.intake.watermark
        if watermark is None:
            report.reason = "the log is not known to be complete up to any time yet (a writer is starting)"
            return
        if self.workspace.experiment.settings.serving.mode == "logging_only":
            report.reason = "the mode of this experiment is logging_only: decisions are joined, nothing is learnt"
            return
        self.mark_attempt(watermark)  # before anything that may fail: the next attempt comes after the interval
        recovery.begin(self.workspace, report)
        recovery.record_champion(self.workspace, self.store)
        self._learn(report, watermark)
        self.mark_learnt()

    def _learn(self, report: RunReport, watermark: datetime) -> None:
        champion = self.workspace.registry.champion()
        report.champion = champion.model_id if champion else None
        if wants_initial(self.workspace, watermark):
            publish_initial(
                self.workspace, self.store, self.trainer, watermark, report=report, step=self._stepper(report)
            )
            return
        self._compare(report, champion, watermark)
        short = short_of_initial(self.workspace, watermark)
        if short is not None:  # with a full stop where the reason has one
            end = "." if report.reason.endswith(".") else ""
            report.reason = f"{report.reason.removesuffix('.')}; {short}{end}"

    def _compare(self, report: RunReport, champion: Champion | None, watermark: datetime) -> None:
        """Train, judge and promote; fills `report`."""
        with self._step(report, "train"):
            states = self.advance(champion, watermark, report)
        if not states:
            report.reason = self._nothing_new(champion, report.unscored) + _restriction(self.workspace)
            return
        with self._step(report, "evaluate"):
            expect_champion(self.workspace, champion)  # training takes long, and judging needs the champion's files
            looks = judge_all(self.workspace, self.store, self.trainer, states, at=report.at)
        with self._step(report, "promote"):
            winner = promote(self.workspace, self.store, self.trainer, looks, champion)
        report.verdicts = [look.judgement for look in looks]
        fallen, fresh = self.start_anew(looks, watermark, report)
        with self._step(report, "trial"):
            update_trial(
                self.workspace, self.store, self.trainer, looks, champion, decided=winner is not None, fresh=fresh
            )
        _summarise(report, winner, looks)
        report.reason += "".join(f" {each.reason}" for each in fallen)

    def _nothing_new(self, champion: Champion | None, unscored: int) -> str:
        """Why a run has nothing to judge; `unscored` rows were learnt in it all the same."""
        before = rows_before_tenure(self.workspace, self.store, champion)
        if not unscored:
            return "no interaction has matured since the last run" + (f" ({before})" if before else "")
        since = "since then" if before else "since the last run"
        return f"{before or f'{unscored:,} interactions were learnt anew'}; no interaction has matured {since}"

    def advance(self, champion: Champion | None, watermark: datetime, report: RunReport) -> list[ChallengerState]:
        """Bring all challengers up to the watermark; gives those that have something new to be judged on.

        Raises the standing challenger's error; those of the others are told in the report.
        """
        mend_retired(self.workspace, self.store, champion)
        plans = [plan_standing(self.workspace, self.store, champion)]
        plans += plan_field(self.workspace, self.store, champion)
        plans += plan_offered(self.workspace, self.store, champion)
        plans += plan_former(self.workspace, self.store, champion)
        done = advance_all(self.workspace, self.store, self.trainer, plans, watermark=watermark)
        report.rows, report.unscored = done[0].rows, done[0].unscored
        if done[0].error is not None:
            raise done[0].error
        report.errors = {each.state.name: str(each.error) for each in done if each.error is not None}
        return [each.state for each in done if each.error is None and each.state.scored > each.state.judged]

    def start_anew(
        self, looks: Sequence[Look], watermark: datetime, report: RunReport
    ) -> tuple[list[FreshStart], list[ChallengerState]]:
        """Let declared challengers start anew where the value of the champion that was judged fell.

        Gives how they were to, and those that could; the others' errors are in the report.
        """
        fallen = plan_after_fall(self.workspace, self.store, looks, self.workspace.registry.champion())
        if not fallen:
            return [], []
        with self._step(report, "start anew"):
            for each in fallen:
                log.warning("experiment %s: %s", self.workspace.experiment.name, each.reason)
                self.workspace.registry.history.record(
                    reports.FALL,
                    now=self.workspace.clock(),
                    challenger=each.plan.state.name,
                    champion=report.champion,
                    before=each.fall.before,
                    after=each.fall.after,
                    rows=each.rows,
                    reason=each.reason,
                )
            self.falls += 1
            plans = [each.plan for each in fallen]
            done = advance_all(self.workspace, self.store, self.trainer, plans, watermark=watermark)
        report.errors |= {each.state.name: str(each.error) for each in done if each.error is not None}
        return fallen, [each.state for each in done if each.error is None]

    def _watch_champion(self) -> None:
        """Undo a promotion at once when a worker does not serve it as trained, or serving suffers; beside a run too."""
        registry, rules = self.workspace.registry, self.workspace.experiment.settings.rollback
        champion = registry.champion()
        earlier = registry.champions()
        if champion is None or not earlier or not rules.enabled or self.workspace.pinned is not None:
            return
        if earlier[0].model_id == champion.model_id or champion.restored:  # going back is no promotion
            return
        try:
            manifest = registry.manifest(champion.model_id)
        except (CorruptModel, NotFound):  # the next run says so; a worker that cannot load it any more undoes it
            manifest = None
        found = self._watch.problem(champion, manifest, self.intake.live, rules, now=self.workspace.clock())
        if found is None:
            return
        damaged: list[str] = []
        for former in dict.fromkeys(entry.model_id for entry in earlier if entry.model_id != champion.model_id):
            if registry.is_sound(former):
                reason = f"{UNDONE}: {found}{passed_over(damaged)}"
                with suppress(Conflict, Refused):  # another was set meanwhile, or pinned: the next poll sees that
                    set_back(self.workspace, champion, former, reason)
                    log.error("experiment %s: %s", self.workspace.experiment.name, reason)
                return
            damaged.append(former)
        if not self._watch.told:
            self._watch.told = True
            reason = f"The last promotion should be undone, but no earlier champion is sound: {found}"
            log.error("experiment %s: %s", self.workspace.experiment.name, reason)
            registry.history.record("watch", now=self.workspace.clock(), champion=champion.model_id, reason=reason)

    def _import_goes_on(self) -> bool:
        """Whether an import is under way that has brought rows within the last minute, and none has waited for long."""
        watermark = self.intake.watermark
        if watermark is None or not import_is_under_way(self.workspace.experiment.paths):
            return False
        count, now = self.workspace.warehouse.count_matured, self.workspace.clock()
        recent, overdue = now - timedelta(seconds=IMPORT_PAUSE_S), now - timedelta(seconds=IMPORT_WAIT_S)
        return count(recent, watermark, IMPORTED) > 0 and count(self._attempted_until, overdue, IMPORTED) == 0

    def _stepper(self, report: RunReport) -> Callable[[str], AbstractContextManager[None]]:
        return lambda name: self._step(report, name)

    @contextmanager
    def _step(self, report: RunReport, name: str) -> Iterator[None]:
        self.running = name
        started = time.perf_counter()
        try:
            yield
        finally:
            report.steps[name] = round(time.perf_counter() - started, 4)

    def _record(self, report: RunReport) -> None:
        """Write a run's line of history; only then it counts. Raises `OSError`."""
        self.last_run = report
        self.last_looks = report.verdicts or self.last_looks
        self.last_verdict = {"outcome": report.outcome, "reason": report.reason}
        fields = reports.to_plain(report)
        fields["run"] = self.runs + 1
        self.workspace.registry.history.record(reports.RUN, now=fields.pop("at"), **fields)
        self.runs += 1
        self.outcomes[report.outcome] += 1
        recovery.end(self.workspace)


def _lacks_room(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _trailing_failures(runs: list[dict[str, object]]) -> int:
    """How many runs in a row failed, up to the last; one that was stopped is none of them, and ends no such row."""
    ended = [run.get("outcome") for run in reversed(runs) if run.get("outcome") != reports.STOPPED]
    return next((count for count, outcome in enumerate(ended) if outcome != reports.FAILED), len(ended))


def _restriction(workspace: Workspace) -> str:
    """What the settings leave out of learning, as the end of a sentence about there being no rows."""
    restricted = learnt_rows(workspace.experiment.settings.learning) != EVERYTHING
    return " that learning.only_… lets through" if restricted else ""


def _summarise(report: RunReport, winner: Look | None, looks: list[Look]) -> None:
    """The verdict that counts: the promoted challenger's, else the standing one's, else the first."""
    standing = next((look for look in looks if look.judgement.challenger == STANDING), looks[0])
    judgement: Judgement = (winner or standing).judgement
    for name in ("outcome", "reason", *reports.FIGURES, "model_id", "evaluation_id"):
        setattr(report, name, getattr(judgement, name))


def _last(runs: list[dict[str, object]]) -> RunReport | None:
    for entry in reversed(runs):
        try:
            return msgspec.convert(entry, RunReport)
        except msgspec.ValidationError:
            continue
    return None
