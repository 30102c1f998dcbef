"""What the training process does: advance a challenger over new rows, score a frozen one, verify a stored model.

Vowpal Wabbit holds the interpreter's lock and a crash in it ends the process, so none of this runs in the learner
itself. A job gets paths and bytes and answers arrays and bytes; it writes nothing and never opens the warehouse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from bandit.canaries import answer_canaries
from bandit.errors import CorruptModel, NotFound, TrainingFailed
from bandit.experiment import Experiment, ExperimentPaths
from bandit.frozen import Frozen
from bandit.policies import UniformPolicy, cold_start_policy
from bandit.registry import ModelRegistry
from bandit.scoring import ServingOf
from bandit.settings import ExperimentSettings, stored_settings
from bandit.training import Learning, Scores
from bandit.tried import Tried
from bandit.types import COLD_START_MODEL_ID, Action, Interaction, Policy
from serving.learner.scores import concatenate
from serving.learner.training import what_if
from serving.learner.training.desk import Desk

CHUNK_ROWS = 50_000
"""How many rows are in memory at a time."""

CHUNK_ACTIONS = 1_000_000
"""How many actions these rows may have together, each offer that several share counted once: one takes half a kB."""

FIT_ROWS = 50_000
"""The encoder of a fresh learning is fitted on the first so many rows."""

CANARY_ROWS = 20

_Catalogues = Mapping[int, tuple[Action, ...]]

UNIFORM = "uniform"
"""Stands for the uniform policy where a champion's model_id is asked for."""


@dataclass(frozen=True, slots=True)
class Job:
    """One challenger's step.

    `files` are its learning files (None: learn from nothing). `learn` and `score` are NDJSON row files: rows of the
    first are learnt without being scored, rows of the second are scored and then learnt. `champion` is the model to
    compare with, `COLD_START_MODEL_ID` for the declared cold start, `UNIFORM` for the uniform policy. `challenger` is
    the challenger that learns, if any, and `incarnation` where it started: models that stood for it on trial state
    both. `rate` is the learning rate that one which learns from nothing keeps, where the settings leave it open.
    `passes_over` (see `choose_rate`) and `answers_count` (see `Scoring`) are False where older rules are followed.
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
    rate: float | None = None
    incarnation: Mapping[str, Any] | None = None
    passes_over: bool = True
    answers_count: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave: the new learning files, the scores of the `score` rows, canaries, rows learnt."""

    files: dict[str, bytes]
    scores: Scores | None
    canaries: list[dict[str, Any]]
    learnt: int


def advance(desk: Desk, job: Job) -> Outcome:
    """Learn the rows of a job, scoring those that are to be scored before they are learnt.

    Raises `TrainingFailed` when there is nothing to learn, and what `Learning` raises.
    """
    settings = stored_settings(job.settings)
    experiment = _experiment(job.root)
    catalogues = _catalogues(experiment)
    learning = _open(desk, job, settings, catalogues)
    try:
        scored, recent = _learn(desk, job, learning, settings, catalogues)
        files = learning.files()
        canaries = learning.canaries(recent, files)
    except BaseException:
        learning.close()
        raise
    desk.keep(job.root, job.name, _digest(files, job.settings), learning)
    return Outcome(
        files=files,
        scores=concatenate(scored),
        canaries=canaries,
        learnt=learning.rows_learnt,
    )


def _learn(
    desk: Desk, job: Job, learning: Learning, settings: ExperimentSettings, catalogues: _Catalogues
) -> tuple[list[Scores], list[Interaction]]:
    """The scores, chunk by chunk, and the newest `CANARY_ROWS` rows of the last chunk."""
    recent: list[Interaction] = []
    for chunk in _chunks(desk, job, job.learn, catalogues):
        learning.step(chunk, champion=None, champion_id=None, score=False)
        recent = chunk[-CANARY_ROWS:]
        del chunk  # gone before the next one is read
    taken = 0

    def past() -> Iterator[Interaction]:
        """All rows learnt before the chunk at hand, in order."""
        yield from _rows(desk, job, job.history, catalogues)
        yield from _rows(desk, job, job.learn, catalogues)
        yield from islice(_rows(desk, job, job.score, catalogues), taken)

    scored: list[Scores] = []
    history = past if job.files is None or job.history is not None else None
    experiment = _experiment(job.root)
    champion, tried, serving_of = _champion(desk, settings, job), _tried(experiment, job), _serving_of(experiment)
    for chunk in _chunks(desk, job, job.score, catalogues):
        scored.append(
            learning.step(
                chunk,
                champion=champion,
                champion_id=job.champion,
                history=history,
                tried=tried,
                serving_of=serving_of,
                passes_over=job.passes_over,
                answers_count=job.answers_count,
            )
        )
        taken += len(chunk)
        recent = chunk[-CANARY_ROWS:]
        del chunk
    if not recent:
        raise TrainingFailed("there are no rows to learn from yet")
    return scored, recent


def score_frozen(desk: Desk, job: Job, model_id: str) -> Outcome:
    """Score the rows of a job by a stored model that does not learn; raises `CorruptModel` or `NotFound`."""
    settings = stored_settings(job.settings)
    experiment = _experiment(job.root)
    catalogues = _catalogues(experiment)
    model = desk.model(job.root, model_id)
    champion = _champion(desk, settings, job)
    scored = [
        model.score(
            chunk,
            settings,
            champion=champion,
            champion_id=job.champion,
            serving_of=_serving_of(experiment),
            answers_count=job.answers_count,
        )
        for chunk in _chunks(desk, job, job.score, catalogues)
    ]
    canaries = ModelRegistry(experiment.paths).manifest(model_id).canaries
    return Outcome(files={}, scores=concatenate(scored), canaries=canaries, learnt=0)


def foresee(desk: Desk, job: Job) -> float:
    """What a learner as it stands earns beside the champion on the rows of a job, by its own reward model alone.

    The mean of Σ_k (c_k − b_k) q̂_k, in units of reward per decision: that it has learnt the rows does no harm, because
    no reward of theirs enters but by the reward model, which learns more slowly. Raises `CorruptModel`.
    """
    assert job.files is not None
    settings, experiment = stored_settings(job.settings), _experiment(job.root)
    rows = list(_rows(desk, job, job.score, _catalogues(experiment)))
    newest = Frozen.of_files(job.files)
    try:
        scores = newest.score(
            rows,
            settings,
            champion=_champion(desk, settings, job),
            champion_id=job.champion,
            serving_of=_serving_of(experiment),
        )
    finally:
        newest.close()
    return float(((scores.candidate - scores.champion) * scores.q).sum() / len(rows))


def verify(desk: Desk, root: Path, model_id: str) -> None:
    """Load a stored model and check its canaries; raises `CorruptModel` or `NotFound`."""
    desk.verify(root, model_id)


def answer(desk: Desk, root: Path, model_id: str, canaries: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """The pmf of a stored model for the question of each canary; raises `CorruptModel` or `NotFound`."""
    return answer_canaries(desk.model(root, model_id), canaries)


def score_policies(desk: Desk, asked: what_if.Asked) -> what_if.Answered:
    """Score policies on the rows of a file; raises what `what_if.score_policies` does."""
    del desk
    return what_if.score_policies(asked)


def ping(desk: Desk) -> int:
    """How many learnings the process remembers; shows that it is alive."""
    return len(desk.learnings)


JOBS: dict[str, Callable[..., Any]] = {
    "advance": advance,
    "score_frozen": score_frozen,
    "foresee": foresee,
    "verify": verify,
    "answer": answer,
    "score_policies": score_policies,
    "ping": ping,
}


def _experiment(root: Path) -> Experiment:
    return Experiment(root.name, ExperimentPaths(root))


def _catalogues(experiment: Experiment) -> _Catalogues:
    versions = sorted(int(path.stem) for path in experiment.paths.catalogues.glob("*.json"))
    return {version: experiment.catalogue(version) or () for version in versions}


def _serving_of(experiment: Experiment) -> ServingOf:
    return lambda version: experiment.settings_of(version).serving


def _tried(experiment: Experiment, job: Job) -> Tried | None:
    """Which of the job's rows were decided with its challenger on trial; None when no challenger learns."""
    registry = ModelRegistry(experiment.paths)

    def stands_for(model_id: str) -> str | None:
        try:
            data = registry.manifest(model_id).data
        except (NotFound, CorruptModel):
            return None  # whose it was cannot be told: the row then counts with the challenger as it is now
        if data.get("incarnation", job.incarnation) != job.incarnation:
            return None  # another learner of this name
        name = data.get("challenger")
        return str(name) if name is not None else None

    return Tried(job.challenger, job.champion, stands_for, experiment.settings_of) if job.challenger else None


def _champion(desk: Desk, settings: ExperimentSettings, job: Job) -> Policy:
    """The policy to compare with."""
    if job.champion == UNIFORM:
        return UniformPolicy()
    if job.champion == COLD_START_MODEL_ID:
        return cold_start_policy(settings.serving)
    return desk.model(job.root, job.champion)


def _open(desk: Desk, job: Job, settings: ExperimentSettings, catalogues: _Catalogues) -> Learning:
    if job.files is not None:
        return desk.take(job.root, job.name, _digest(job.files, job.settings)) or Learning.resume(job.files, settings)
    # rows that are learnt unscored may also teach the encoder; rows to be scored must not, before their turn
    rows = list(islice(_rows(desk, job, job.learn, catalogues), FIT_ROWS))
    return Learning.fresh(settings, rows, rate=job.rate, passes_over=job.passes_over)


def _rows(desk: Desk, job: Job, path: Path | None, catalogues: _Catalogues) -> Iterator[Interaction]:
    return iter(()) if path is None else desk.rows(job.root, path, catalogues)


def _chunks(desk: Desk, job: Job, path: Path | None, catalogues: _Catalogues) -> Iterable[list[Interaction]]:
    chunk: list[Interaction] = []
    actions, last = 0, None
    for row in _rows(desk, job, path, catalogues):
        if row.actions is not last:
            last = row.actions
            actions += len(last)
        chunk.append(row)
        if len(chunk) == CHUNK_ROWS or actions >= CHUNK_ACTIONS:
            yield chunk
            chunk, actions, last = [], 0, None
    if chunk:
        yield chunk


def _digest(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> str:
    """What a learning is remembered by: one that goes on under other settings is loaded from its files."""
    digest = hashlib.sha256(msgspec.json.encode(settings, order="deterministic"))
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()
