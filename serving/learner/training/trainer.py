"""Where training runs: in child processes that outlive their jobs (the service), or inline (simulated time), where a
child may take the declared challengers.

The child is started on the first job and again after a crash, a timeout or a breach of its memory limit; each of
these is a `TrainingFailed` that says which, and costs one run. It ends when its parent is gone, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import signal
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Protocol

from bandit.errors import (
    BeyondLimits,
    Busy,
    CorruptModel,
    InvalidInput,
    NotFound,
    RewardloopError,
    TrainingFailed,
    TrainingStopped,
)
from bandit.settings import Training
from serving.learner.training.desk import Desk
from serving.learner.training.jobs import JOBS
from serving.learner.training.parcels import receive, send
from serving.learner.training.priority import lower_trainer

_TRAVELLING = (TrainingFailed, CorruptModel, InvalidInput, NotFound)
"""Errors that keep their class on the way to the parent; any other arrives as a `TrainingFailed` that names it."""

STOPPING = "the learner is stopping; what this run did not learn is learnt by the next"

DEFAULT = Training()
"""The limits of a job that belongs to no experiment's settings."""

SHORT = ("verify", "answer")
"""Jobs that take no longer than loading a model does; people wait for them, such as with a rollback by hand."""

GC_THRESHOLD = (100_000, 50, 100)
"""Rows come by the hundred thousand, and none of them is garbage while they are learnt."""


@dataclass(frozen=True, slots=True)
class Call:
    """One job: its name, its arguments, its limits, and the challenger it is for (whose process remembers it)."""

    challenger: str
    job: str
    arguments: tuple[Any, ...]
    limits: Training = DEFAULT


class Trainer(Protocol):
    """Runs a job of `jobs` by name, within limits, and gives its answer; raises what the job raises."""

    def run(self, job: str, /, *arguments: Any, limits: Training = DEFAULT) -> Any: ...

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run several jobs; in their order the answers, or for one that failed its exception."""
        ...

    def close(self) -> None: ...


class InlineTrainer:
    """Runs jobs in this very thread, without limits: for simulations, where the clock stands still meanwhile."""

    busy = False

    def __init__(self) -> None:
        self._desk = Desk()

    def run(self, job: str, /, *arguments: Any, limits: Training = DEFAULT) -> Any:
        return JOBS[job](self._desk, *arguments)

    def run_at_once(self, job: str, /, *arguments: Any, limits: Training = DEFAULT) -> Any:
        """The same: there is nobody else."""
        return self.run(job, *arguments, limits=limits)

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        return [_attempt(self, call) for call in calls]

    def close(self) -> None:
        self._desk.close()


class ChildTrainer:
    """Runs jobs in one persistent child process, one at a time, which gives way to decisions.

    One that is not `bounded` is for simulations: like the inline one it has no limits, and nothing to give way to.
    `work` is what it does, in the words of its errors.
    """

    def __init__(self, *, bounded: bool = True, work: str = "training") -> None:
        self.restarts = 0
        self._work = work
        self._bounded = bounded
        self._lock = threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False

    def start(self) -> None:
        """Start the child ahead of its first job, without waiting for it."""
        with self._lock:
            self._alive()

    def run(self, job: str, /, *arguments: Any, limits: Training = DEFAULT) -> Any:
        """Run one job in the child; raises what the job raised, or `TrainingFailed` when the child died."""
        with self._lock:
            return self._run(job, arguments, limits)

    def run_at_once(self, job: str, /, *arguments: Any, limits: Training = DEFAULT) -> Any:
        """The same, unless another job is under way (`Busy`)."""
        if not self._lock.acquire(blocking=False):
            raise Busy("a training process is at work")
        try:
            return self._run(job, arguments, limits)
        finally:
            self._lock.release()

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """One after the other."""
        return [_attempt(self, call) for call in calls]

    def rest(self) -> None:
        """End the child until the next job, which starts another: what a job took is given back."""
        with self._lock:
            self._kill()

    def interrupt(self) -> None:
        """End the child in the middle of its job, which fails; for another thread than that which waits for it."""
        if self._process is not None:
            self._kill()

    def close(self) -> None:
        """End the child for good: a job that follows fails, it starts no other."""
        self._closed = True
        self.interrupt()

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._lock.locked()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while none runs."""
        return None if self._process is None else self._process.pid

    def _run(self, job: str, arguments: tuple[Any, ...], limits: Training) -> Any:
        pipe = self._alive()
        try:
            pipe.send((job, arguments, limits.memory_bytes_max if self._bounded else None))
            if not pipe.poll(limits.time_s_max if self._bounded else None):
                self._kill()
                raise BeyondLimits(f"{self._work} took longer than training.time_s_max = {limits.time_s_max:g} s")
            kind, answer = receive(pipe)
        except (EOFError, OSError):  # the child died, or `close` ended it while it worked
            ended = self._kill()
            if self._closed:
                raise TrainingStopped(STOPPING) from None
            raise TrainingFailed(f"the training process ended ({ended}); it will be started again") from None
        except BaseException:  # its answer, if it comes, must not be taken for that of the next job
            self._kill()
            raise
        if kind == "done":
            return answer
        if isinstance(answer, RewardloopError):
            raise answer
        raise TrainingFailed(str(answer))

    def _alive(self) -> Connection:
        if self._closed:
            raise TrainingStopped(STOPPING)
        if self._process is not None and not self._process.is_alive():
            self._kill()
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, self._bounded, self._work), name="rewardloop-trainer", daemon=True
            )
            with interrupts_held_back():
                process.start()  # before anybody knows of it: one that has not started cannot be ended
            theirs.close()
            self._pipe, self._process = ours, process
            self.restarts += 1
            if self._closed:  # meanwhile
                self._kill()
                raise TrainingStopped(STOPPING)
            return ours
        return self._pipe

    def _kill(self) -> str:
        """End the child and say how it ended."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if pipe is not None:
            pipe.close()
        if process is None:
            return "stopped"
        process.join(timeout=0.2)
        if process.exitcode is None:
            process.kill()
            process.join()
            return "stopped"
        code = process.exitcode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class TrainerPool:
    """Several places to train; a challenger always comes to the same one, which remembers its learning.

    While all of them are at work, short jobs go to a process beside them, one at a time, which ends with its job.
    """

    def __init__(self, trainers: Sequence[InlineTrainer | ChildTrainer]) -> None:
        self.trainers = tuple(trainers)
        self.spare = ChildTrainer()

    @classmethod
    def of(cls, processes: int) -> TrainerPool:
        """So many processes."""
        return cls([ChildTrainer() for _ in range(max(1, processes))])

    def run(self, job: str, /, *arguments: Any, limits: Training = DEFAULT) -> Any:
        """Run one job where nothing else runs: a rollback by hand need not wait for a long training."""
        for trainer in self.trainers:
            with contextlib.suppress(Busy):
                return trainer.run_at_once(job, *arguments, limits=limits)
        if job not in SHORT:
            return self.trainers[0].run(job, *arguments, limits=limits)
        try:
            return self.spare.run(job, *arguments, limits=limits)
        finally:
            self.spare.rest()  # it takes memory only while it is needed

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run the calls of each place in order, the places side by side."""
        results: dict[int, Any] = {}
        lanes: list[list[int]] = [[] for _ in self.trainers]
        for number, call in enumerate(calls):
            lanes[self._lane(call, number)].append(number)

        def work(lane: int) -> None:
            for number in lanes[lane]:
                results[number] = _attempt(self.trainers[lane], calls[number])

        threads = [threading.Thread(target=work, args=(lane,)) for lane in range(1, len(lanes)) if lanes[lane]]
        for thread in threads:
            thread.start()
        work(0)
        for thread in threads:
            thread.join()
        return [results[number] for number in range(len(calls))]

    def close(self) -> None:
        """End all of them."""
        for trainer in (*self.trainers, self.spare):
            trainer.close()

    def _lane(self, call: Call, number: int) -> int:
        # the first call is the standing challenger's: it has a place of its own, the field shares the others
        others = len(self.trainers) - 1
        return 0 if number == 0 or not others else 1 + zlib.crc32(call.challenger.encode()) % others


class HelpedTrainer(TrainerPool):
    """This thread, and a process beside it for all challengers but the first; it starts at once.

    For simulations, where no accident may change a result: what the process fails at is done here.
    """

    def __init__(self) -> None:
        helper = ChildTrainer(bounded=False)
        helper.start()
        super().__init__([InlineTrainer(), helper])

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """As in any pool."""
        return [
            _attempt(self.trainers[0], call) if isinstance(result, Exception) else result
            for call, result in zip(calls, super().run_all(calls), strict=True)
        ]


def _attempt(trainer: Trainer, call: Call) -> Any:
    try:
        return trainer.run(call.job, *call.arguments, limits=call.limits)
    except Exception as error:  # the caller tells each challenger's error in the run's report
        return error


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Processes started in the block never see Ctrl-C, which reaches all of a terminal: the parent alone answers it."""
    resource_tracker.ensure_running()  # the first process would start it, after which nothing is held back any more
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Let this process, which another one started, end as soon as that one is gone, in the middle of whatever it does.

    An open pipe alone is not enough: it is read between two jobs, and may be held open by a sibling.
    """

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _serve(pipe: Connection, bounded: bool, work: str) -> None:
    """The child's life: take a job, answer, until the parent goes away."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if bounded:
        lower_trainer()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    desk = Desk()
    until_read = contextlib.ExitStack()
    while True:
        try:
            job, arguments, memory_bytes_max = pipe.recv()
        except (EOFError, ConnectionResetError):
            break
        finally:  # who asks again, or goes away, has read the answer before or never will
            until_read.close()
        if memory_bytes_max is not None:
            _bound_memory(memory_bytes_max)
        try:
            answer: tuple[str, Any] = ("done", JOBS[job](desk, *arguments))
        except RewardloopError as error:
            answer = ("failed", error if isinstance(error, _TRAVELLING) else f"{type(error).__name__}: {error}")
        except MemoryError:
            answer = (
                "failed",
                BeyondLimits(f"{work} needs more than training.memory_bytes_max = {memory_bytes_max:,}"),
            )
        except Exception as error:  # told to the parent, as text: foreign exceptions may not survive pickling
            answer = ("failed", f"{type(error).__name__}: {error}")
        with contextlib.suppress(BrokenPipeError):
            send(pipe, answer, until_read)
    os._exit(0)  # nothing is left to be tidied, and a library that notes what it leaves would fill the parent's log


def _bound_memory(bytes_max: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = bytes_max if hard == resource.RLIM_INFINITY else min(bytes_max, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
