"""Many simulated runs at once: each configuration and seed is an experiment of its own in one data directory.

Runs go to worker processes, one world handed to each process once; every run depends on its own seed alone, so
neither their number nor their order changes a result.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from bandit.errors import DurabilityLost, InvalidInput, RewardloopError
from bandit.settings import ExperimentSettings, merge_settings
from serving.in_process import QUESTION_EVERY_S, in_process
from serving.learner.training.trainer import GC_THRESHOLD, end_with_parent, interrupts_held_back
from simulator.channel import Channel, Delay
from simulator.environment import Environment
from simulator.runner import Run, Script, play

REWARD_WINDOW_S = 60.0
SEEDS_MAX = 1000

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended."""

HELPED_INTERACTIONS_MIN = 2_000
"""A shorter run is over before a helper has started."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run: which world (by its place among the worlds handed over), under which settings, and its script."""

    name: str
    settings: ExperimentSettings
    script: Script
    world: int = 0
    channel: Channel = field(default_factory=Delay)
    question_every_s: float = QUESTION_EVERY_S
    barrier: bool = True


def simulated_settings(
    world: Environment, base: ExperimentSettings, changes: dict[str, Any] | None = None
) -> ExperimentSettings:
    """`base` fitted to a world: its catalogue and reward range; `changes` are laid over last."""
    low, high = world.reward_range
    fitted: dict[str, Any] = {"rewards": {"min": low, "max": high, "default": min(max(0.0, low), high)}}
    if world.catalogue is not None:
        fitted["actions"] = [{"id": action.id, "features": dict(action.features)} for action in world.catalogue]
    return merge_settings(merge_settings(base, fitted), changes or {})


def run_jobs(
    worlds: Sequence[Environment],
    jobs: Sequence[Job],
    data_dir: Path,
    *,
    processes: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> list[Run]:
    """Run all jobs, `processes` at a time; the runs in the order of the jobs.

    Where there are twice as many processes as jobs, each long run gets a second one for its declared challengers.
    `on_progress` is told how many more interactions were played. Raises what the first failing job raised; then, and
    when interrupted, the other runs end after the question, or the run of the learner, that they are at.
    """
    with _interrupts_noted(data_dir) as answer_interrupt:
        return _run_all(worlds, jobs, data_dir, processes, on_progress or (lambda _: None), answer_interrupt)


def _run_all(  # noqa: PLR0917
    worlds: Sequence[Environment],
    jobs: Sequence[Job],
    data_dir: Path,
    processes: int,
    tell: Callable[[int], None],
    answer_interrupt: Callable[[], None],
) -> list[Run]:
    spare = processes >= 2 * len(jobs)
    helped = [spare and job.script.interactions >= HELPED_INTERACTIONS_MIN for job in jobs]
    if processes <= 1 or len(jobs) == 1:
        return [
            run_job(worlds[job.world], job, data_dir, tell, check=answer_interrupt, helper=helper)
            for job, helper in zip(jobs, helped, strict=True)
        ]
    context = multiprocessing.get_context("spawn")
    played: Any = context.Queue()
    stopped: Any = context.Event()
    runs: dict[int, Run] = {}
    with ProcessPoolExecutor(
        min(processes, len(jobs)),
        context,
        initializer=_start_worker,
        initargs=(list(worlds), data_dir, played, stopped),
    ) as pool:
        try:
            with interrupts_held_back():
                waiting = {pool.submit(_work, job, helped[number]): number for number, job in enumerate(jobs)}
            while waiting:
                _drain(played, tell)
                answer_interrupt()
                for future in [future for future in waiting if future.done()]:
                    runs[waiting.pop(future)] = future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
        _drain(played, tell, wait_s=0.0)
    return [runs[number] for number in range(len(jobs))]


def run_job(
    world: Environment,
    job: Job,
    data_dir: Path,
    tell: Callable[[int], None],
    *,
    check: Callable[[], None] | None = None,
    helper: bool = False,
) -> Run:
    """One run in this process; with a `helper` its declared challengers learn in another.

    `tell` hears of each batch; what `check` raises ends the run, at the next question.
    """
    with (
        _placed(data_dir),
        _little_garbage(),
        in_process(
            data_dir,
            job.name,
            job.settings,
            job.script.seed,
            question_every_s=job.question_every_s,
            barrier=job.barrier,
            helper=helper,
        ) as transport,
    ):
        return play(
            world,
            transport,
            job.script,
            channel=job.channel,
            on_batch=lambda _, batch: tell(batch.stop - batch.start),
            check=check,
        )


def parse_seeds(text: str) -> list[int]:
    """`3` is seed 3, `0-9` a range, `1,5,7` a list (ranges may be among them); raises `InvalidInput`."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))):
            raise InvalidInput("--seeds", "is not a seed (3), a range (0-9) or a list (1,5,7)")
        low, high = int(first), int(last) if dash else int(first)
        if high < low or high - low >= SEEDS_MAX:
            raise InvalidInput("--seeds", "has a range that is empty or too long", f"{SEEDS_MAX} seeds")
        seeds += range(low, high + 1)
    if len(set(seeds)) != len(seeds):
        raise InvalidInput("--seeds", "names a seed twice")
    if len(seeds) > SEEDS_MAX:
        raise InvalidInput("--seeds", "names too many", f"{SEEDS_MAX} seeds")
    return seeds


@contextmanager
def _placed(data_dir: Path) -> Iterator[None]:
    """What a disk refuses in the block is told with the folder: which it was, nobody sees from another process."""
    try:
        yield
    except DurabilityLost as error:
        raise DurabilityLost(f"{data_dir}: {error}") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(data_dir / (error.filename or ""))) from None


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Garbage is looked for less often in the block: rows and answers are kept, and looking takes longer than them."""
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _interrupts_noted(data_dir: Path) -> Iterator[Callable[[], None]]:
    """Ctrl-C in the block is noted, and raised by what the block gets; a second one names `data_dir` and
    ends the process where it is.

    Raised wherever it lands, it would be taken for an error of DuckDB's and counted as a failed run, or stop a write
    half way. Where it is ignored, or another thread answers it, nothing changes.
    """
    pressed: list[int] = []

    def note(number: int, _: Any) -> None:
        if pressed:
            os.write(2, os.fsencode(f"\ndata    {data_dir}\nrewardloop: interrupted\n"))
            os._exit(INTERRUPTED)
        pressed.append(number)

    def answer() -> None:
        if pressed:
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield answer
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield answer
    finally:
        signal.signal(signal.SIGINT, before)


_WORKER: dict[str, Any] = {}


def _start_worker(worlds: list[Environment], data_dir: Path, played: Any, stopped: Any) -> None:
    end_with_parent()
    _WORKER.update(worlds=worlds, data_dir=data_dir, played=played, stopped=stopped)


def _work(job: Job, helper: bool) -> Run:
    world = _WORKER["worlds"][job.world]
    return run_job(world, job, _WORKER["data_dir"], _WORKER["played"].put, check=_check, helper=helper)


def _check() -> None:
    if _WORKER["stopped"].is_set():
        raise RewardloopError("the other runs were stopped")


def _drain(played: Any, tell: Callable[[int], None], wait_s: float = 0.1) -> None:
    """Pass on what the workers have reported; sleeps a moment when they have not."""
    try:
        tell(played.get(timeout=wait_s) if wait_s else played.get_nowait())
        while True:
            tell(played.get_nowait())
    except Empty:
        return
