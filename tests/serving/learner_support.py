"""A small world with a known best action, played in process under a simulated clock."""

from __future__ import annotations

import atexit
import json
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from bandit.experiment import Experiment, ExperimentPaths
from bandit.settings import ExperimentSettings, parse_settings
from bandit.types import Action
from serving.in_process import InProcess, SimulatedClock, in_process
from serving.learner.workspace import Workspace
from simulator.transport import Answer, Delivery, Question

ACTIONS = tuple(Action(name) for name in ("north", "east", "south", "west"))
BEST = dict(zip(("cold", "dawn", "warm", "dusk"), (action.id for action in ACTIONS), strict=True))
QUIET: dict[str, Any] = {"rewards": {"window_s": 1.0, "min": 0.0, "max": 1.0}, "schedule": {"interactions": 100}}


class World:
    """Four kinds of context, each with its own best action: that one pays with chance .9, the others with .2."""

    def __init__(self, transport: InProcess, seed: int = 0) -> None:
        self.transport = transport
        self.rng = random.Random(seed)
        self.luck = random.Random(seed + 1)  # apart, so that contexts do not depend on the size of a batch
        self.count = 0

    def play(self, number: int) -> float:
        """Decide and reward `number` times; gives the mean reward. Nothing matures before `settle`."""
        questions = [Question(self._name(), {"sky": self.rng.choice(list(BEST))}, ACTIONS) for _ in range(number)]
        total = 0.0

        def deliveries(index: int, answer: Answer) -> list[Delivery]:
            nonlocal total
            reward = self.pay(questions[index].context["sky"], answer.action)
            total += reward
            return [Delivery(0.1, reward)]

        self.transport.play(questions, deliveries)
        return total / number

    def pay(self, sky: str, action: str) -> float:
        return float(self.luck.random() < (0.9 if BEST[sky] == action else 0.2))

    def history(self, number: int) -> list[dict[str, Any]]:
        return history(number, self.rng, self.pay)

    def _name(self) -> str:
        self.count += 1
        return f"event-{self.count}"


def history(number: int, rng: random.Random, pay: Callable[[str, str], float]) -> list[dict[str, Any]]:
    """Uniformly logged history of this world."""
    rows = []
    for _ in range(number):
        sky, action = rng.choice(list(BEST)), rng.choice(ACTIONS).id
        rows.append(
            {
                "context": {"sky": sky},
                "actions": [{"id": offered.id} for offered in ACTIONS],
                "action": action,
                "probability": 0.25,
                "reward": pay(sky, action),
            }
        )
    return rows


@contextmanager
def world(data_dir: Path, *, seed: int = 0, **sections: Any) -> Iterator[World]:
    """A fresh experiment with this world in front of it."""
    with in_process(data_dir, "test", settings(**sections), seed) as transport:
        yield World(transport, seed)


W = TypeVar("W", bound=World)


@dataclass(frozen=True)
class Kept:
    """A world that was left, and what it takes to come back to it."""

    data_dir: Path
    at: datetime
    luck: tuple[random.Random, random.Random]
    count: int

    @classmethod
    def of(cls, here: World, data_dir: Path) -> Kept:
        """A world that is about to be left, with nothing on its way."""
        assert not here.transport._on_their_way
        return cls(data_dir, here.transport.clock(), (here.rng, here.luck), here.count)


@contextmanager
def back_in(kept: Kept, data_dir: Path, kind: type[W]) -> Iterator[W]:
    """That world in a copy of its data directory, under a learner that has just started."""
    shutil.copytree(kept.data_dir, data_dir, dirs_exist_ok=True)
    with closing(InProcess(data_dir, Experiment.open(data_dir, "test"), clock=SimulatedClock(kept.at))) as transport:
        transport.cycle.recover()
        here = kind(transport)
        here.rng, here.luck = deepcopy(kept.luck)
        here.count = kept.count
        yield here


@contextmanager
def begun(data_dir: Path, rows: int, batches: tuple[int, ...] = (), **sections: Any) -> Iterator[World]:
    """A world after so much imported history and these batches, each with its run, under a learner just started.

    It is played once for all tests that ask for the same.
    """
    with back_in(_begun(rows, batches, json.dumps(sections)), data_dir, World) as here:
        yield here


@cache
def _begun(rows: int, batches: tuple[int, ...], sections: str) -> Kept:
    data_dir = lasting_folder() / "data"
    with world(data_dir, **json.loads(sections)) as here:
        here.transport.warm_start(here.history(rows))
        for number in batches:
            here.play(number)
            here.transport.settle()
        return Kept.of(here, data_dir)


def lasting_folder() -> Path:
    """A folder for what several tests copy; it goes with the process."""
    folder = TemporaryDirectory(prefix="rewardloop-kept-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def played(data_dir: Path, batches: int, **sections: Any) -> Path:
    """A data directory with imported history, an initial model, and so many batches of decisions under it."""
    with world(data_dir, **sections) as here:
        here.transport.warm_start(here.history(60))
        for _ in range(batches):
            here.play(60)
            here.transport.settle()
    return data_dir


def copy_of(data_dir: Path, folder: Path) -> Path:
    """A copy of a data directory, in `folder`, that a test may change."""
    return Path(shutil.copytree(data_dir, folder / "data"))


def paths_of(data_dir: Path) -> ExperimentPaths:
    """The files of the world's experiment."""
    return ExperimentPaths(data_dir / "experiments" / "test")


@contextmanager
def full_disk(room_bytes: int) -> Iterator[None]:
    """A disk on which no file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def settings(**sections: Any) -> ExperimentSettings:
    return parse_settings({**QUIET, **sections})


def twin_of(workspace: Workspace, model_id: str, note: str, *, parent: str | None = None) -> str:
    """Publish a stored model once more, told apart by a note, as a model that is offered; its new id."""
    stored = workspace.registry.load(model_id)
    return workspace.registry.publish(
        stored.files | {"note.txt": note.encode()},
        now=workspace.clock(),
        parent=parent,
        kind="offered",
        options={},
        settings_version=1,
        data=stored.manifest.data,
        canaries=stored.manifest.canaries,
    ).model_id
