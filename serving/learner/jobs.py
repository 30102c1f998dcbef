"""What the training process does: advance a challenger over new rows, score a frozen one, verify a stored model.

Vowpal Wabbit holds the interpreter's lock and a crash in it ends the process, so none of this runs in the learner
itself. A job gets paths and bytes and answers arrays and bytes; it writes nothing and never opens the warehouse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from bandit.canaries import make_canaries
from bandit.errors import CorruptModel, NotFound, TrainingFailed
from bandit.experiment import Experiment, ExperimentPaths
from bandit.policies import UniformPolicy, cold_start_policy, load_policy, policy_from_files
from bandit.registry import ModelRegistry
from bandit.rows import read_interactions
from bandit.settings import ExperimentSettings, parse_settings
from bandit.training import Learning, Scores, score_rows
from bandit.tried import Tried
from bandit.types import COLD_START_MODEL_ID, Action, Interaction, Policy
from serving.learner.challengers import concatenate

CHUNK_ROWS = 50_000
"""How many rows are in memory at a time; VW reads that many from a file by itself, much faster than one by one."""

REMEMBERED_MAX = 8
"""How many learnings a process keeps in memory (each some tens of megabytes); any other is loaded from its files."""

FIT_ROWS = 50_000
"""The encoder of a fresh learning is fitted on the first so many rows."""

CANARY_ROWS = 20

UNIFORM = "uniform"
"""Stands for the uniform policy where a champion's model_id is asked for."""


@dataclass(frozen=True, slots=True)
class Job:
    """One challenger's step.

    `files` are its learning files (None: learn from nothing). `learn` and `score` are NDJSON row files: rows of the
    first are learnt without being scored, rows of the second are scored and then learnt. `champion` is the model to
    compare with, `COLD_START_MODEL_ID` for the declared cold start, `UNIFORM` for the uniform policy. `challenger` is
    the challenger that learns, if any: models that stood for it on trial carry its name.
    """

    root: Path
    name: str
    settings: dict[str, Any]
    champion: str
    files: Mapping[str, bytes] | None = None
    history: Path | None = None
    learn: Path | None = None
    score: Path | None = None
    challenger: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave: the new learning files, the scores of the `score` rows, canaries, rows learnt."""

    files: dict[str, bytes]
    scores: Scores | None
    canaries: list[dict[str, Any]]
    learnt: int


@dataclass(slots=True)
class Desk:
    """The training process's memory: what it learnt last for each challenger, so that it need not load it again."""

    learnings: dict[tuple[Path, str], tuple[str, Learning]] = field(default_factory=dict)

    def take(self, job: Job, digest: str) -> Learning | None:
        """The learning of that challenger, if it is in the state of that digest; it leaves the desk either way."""
        known, learning = self.learnings.pop((job.root, job.name), ("", None))
        if learning is not None and known != digest:
            learning.close()
            return None
        return learning

    def keep(self, job: Job, digest: str, learning: Learning) -> None:
        """Remember a learning for the next job; the one used longest ago makes room beyond `REMEMBERED_MAX`."""
        self.take(job, "")
        self.learnings[job.root, job.name] = (digest, learning)
        while len(self.learnings) > REMEMBERED_MAX:
            _, oldest = self.learnings.pop(next(iter(self.learnings)))
            oldest.close()


def advance(desk: Desk, job: Job) -> Outcome:
    """Learn the rows of a job, scoring those that are to be scored before they are learnt.

    Raises `TrainingFailed` when there is nothing to learn, and what `Learning` raises.
    """
    settings = parse_settings(job.settings)
    experiment = _experiment(job.root)
    catalogues = _catalogues(experiment)
    learning = _open(desk, job, settings, catalogues)
    recent: list[Interaction] = []
    for chunk in _chunks(job.learn, catalogues):
        learning.step(chunk, champion=None, champion_id=None, score=False)
        recent = chunk
    taken = 0

    def past() -> Iterator[Interaction]:
        """All rows learnt before the chunk at hand, in order."""
        yield from _rows(job.history, catalogues)
        yield from _rows(job.learn, catalogues)
        yield from islice(_rows(job.score, catalogues), taken)

    scored: list[Scores] = []
    may_refit = job.files is None or job.history is not None
    tried = _tried(experiment, job)
    with _champion(experiment, settings, job.champion) as champion:
        for chunk in _chunks(job.score, catalogues):
            history = past if may_refit else None
            scored.append(
                learning.step(chunk, champion=champion, champion_id=job.champion, history=history, tried=tried)
            )
            taken += len(chunk)
            recent = chunk
    if not recent:
        raise TrainingFailed("there are no rows to learn from yet")
    # VW's file carries loss statistics that loading sets to 0: only what was loaded once has the same bytes however
    # the rows were cut into jobs and however often the process was started again
    loaded = Learning.resume(learning.files(), settings)
    learning.close()
    learning, files = loaded, loaded.files()
    desk.keep(job, _digest(files), learning)
    return Outcome(
        files=files,
        scores=concatenate(scored),
        canaries=_canaries(files, recent[-CANARY_ROWS:]),
        learnt=learning.rows_learnt,
    )


def score_frozen(desk: Desk, job: Job, model_id: str) -> Outcome:
    """Score the rows of a job by a stored model that does not learn; raises `CorruptModel` or `NotFound`."""
    del desk
    settings = parse_settings(job.settings)
    experiment = _experiment(job.root)
    catalogues = _catalogues(experiment)
    stored = ModelRegistry(experiment.paths).load(model_id)
    with _champion(experiment, settings, job.champion) as champion:
        scored = [
            score_rows(stored, settings, chunk, champion=champion, champion_id=job.champion)
            for chunk in _chunks(job.score, catalogues)
        ]
    return Outcome(files={}, scores=concatenate(scored), canaries=stored.manifest.canaries, learnt=0)


def verify(desk: Desk, root: Path, model_id: str) -> None:
    """Load a stored model and check its canaries; raises `CorruptModel` or `NotFound`."""
    del desk
    load_policy(ModelRegistry(_experiment(root).paths).load(model_id)).close()


def ping(desk: Desk) -> int:
    """How many learnings the process remembers; shows that it is alive."""
    return len(desk.learnings)


JOBS: dict[str, Callable[..., Any]] = {"advance": advance, "score_frozen": score_frozen, "verify": verify, "ping": ping}


def _experiment(root: Path) -> Experiment:
    return Experiment(root.name, ExperimentPaths(root))


def _catalogues(experiment: Experiment) -> dict[int, tuple[Action, ...]]:
    versions = sorted(int(path.stem) for path in experiment.paths.catalogues.glob("*.json"))
    return {version: experiment.catalogue(version) or () for version in versions}


def _tried(experiment: Experiment, job: Job) -> Tried | None:
    """Which of the job's rows were decided with its challenger on trial; None when no challenger learns."""
    registry = ModelRegistry(experiment.paths)

    def stands_for(model_id: str) -> str | None:
        try:
            name = registry.manifest(model_id).data.get("challenger")
        except (NotFound, CorruptModel):
            return None  # whose it was cannot be told: the row then counts with the challenger as it is now
        return str(name) if name is not None else None

    return Tried(job.challenger, job.champion, stands_for, experiment.settings_of) if job.challenger else None


@contextmanager
def _champion(experiment: Experiment, settings: ExperimentSettings, model_id: str) -> Iterator[Policy]:
    """The policy to compare with, its memory freed at the end of the block."""
    if model_id == UNIFORM:
        yield UniformPolicy()
    elif model_id == COLD_START_MODEL_ID:
        yield cold_start_policy(settings)
    else:
        policy = load_policy(ModelRegistry(experiment.paths).load(model_id))
        try:
            yield policy
        finally:
            policy.close()


def _open(desk: Desk, job: Job, settings: ExperimentSettings, catalogues: Mapping[int, tuple[Action, ...]]) -> Learning:
    if job.files is not None:
        return desk.take(job, _digest(job.files)) or Learning.resume(job.files, settings)
    # rows that are learnt unscored may also teach the encoder; rows to be scored must not, before their turn
    return Learning.fresh(settings, list(islice(_rows(job.learn, catalogues), FIT_ROWS)))


def _canaries(files: Mapping[str, bytes], rows: Sequence[Interaction]) -> list[dict[str, Any]]:
    """Canaries answered by the files as stored: asking the learning itself would move counters in its next files."""
    policy = policy_from_files(files)
    try:
        return make_canaries(policy, [(row.context, row.actions) for row in rows])
    finally:
        policy.close()


def _rows(path: Path | None, catalogues: Mapping[int, tuple[Action, ...]]) -> Iterator[Interaction]:
    return iter(()) if path is None else read_interactions(path, catalogues)


def _chunks(path: Path | None, catalogues: Mapping[int, tuple[Action, ...]]) -> Iterable[list[Interaction]]:
    rows = _rows(path, catalogues)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield chunk


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()
