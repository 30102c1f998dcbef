"""The training step: bring one challenger up to the watermark, whatever state it was left in.

A challenger is resumed where its state agrees with the champion and the settings in force. Otherwise it starts
again: from the champion (taking the rows since the champion's cut), from nothing when there is no champion, or from
nothing over the whole log when settings of the model itself changed (rows up to the old cut are then learnt unscored).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bandit.experiment import Experiment
from bandit.policies import read_state
from bandit.registry import Champion
from bandit.settings import ExperimentSettings, settings_to_dict
from bandit.training import REFIT_ROWS_MAX
from bandit.types import COLD_START_MODEL_ID
from serving.learner.challengers import KIND_LEARNING, STANDING, ChallengerState, ChallengerStore
from serving.learner.jobs import Job, Outcome
from serving.learner.trainer import Trainer
from serving.learner.workspace import Workspace

MODEL_SECTIONS = ("encoding", "exploration", "learning")
"""The settings that a model is made of: when one changes, the standing challenger learns the log anew."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a challenger will be advanced.

    It starts from `files` (None: from nothing), learns the rows matured in (None, `learn_until`] unscored, and scores
    and learns those in (`score_after`, watermark].
    """

    state: ChallengerState
    files: Mapping[str, bytes] | None
    learn_until: datetime | None
    score_after: datetime | None
    fresh_epoch: bool


def plan_standing(workspace: Workspace, store: ChallengerStore, champion: Champion | None) -> Plan:
    """How the standing challenger goes on from the state on disk; raises `CorruptModel` for a broken champion."""
    experiment = workspace.experiment
    champion_id = champion.model_id if champion else None
    state = store.load(STANDING)
    if state is not None and state.champion == champion_id:
        if not same_model_settings(experiment, state.settings_version):
            return Plan(_new_state(workspace, champion_id, state), None, state.cut, state.cut, True)
        try:
            return Plan(state, store.files(state), None, state.cut, False)
        except FileNotFoundError:  # a crash between an unlink and the pointer: start again below
            state = None
    fresh = _new_state(workspace, champion_id, state)
    if champion is None:
        return Plan(fresh, None, None, None, True)
    stored = workspace.registry.load(champion.model_id)
    cut = model_cut(stored.manifest.data)
    if not same_model_settings(experiment, stored.manifest.settings_version):
        return Plan(fresh, None, cut, cut, True)
    fresh.learnt = int(stored.manifest.data.get("rows", 0))
    return Plan(fresh, stored.files, None, cut, True)


def advance(
    workspace: Workspace, store: ChallengerStore, trainer: Trainer, plan: Plan, *, watermark: datetime
) -> tuple[ChallengerState, Outcome | None, int]:
    """Carry a plan out and save the state; gives the state, the outcome (None: no new row) and the new rows.

    Raises `TrainingFailed`; the state on disk is then as before.
    """
    with ExitStack() as stack:
        learn, learnt = None, 0
        if plan.learn_until is not None:
            learn, learnt = stack.enter_context(rows_file(workspace, "learn", after=None, until=plan.learn_until))
        score, scored = stack.enter_context(rows_file(workspace, "score", after=plan.score_after, until=watermark))
        if learnt + scored == 0:
            return plan.state, None, 0
        experiment = workspace.experiment
        outcome: Outcome = trainer.run(
            "advance",
            Job(
                root=experiment.paths.root,
                name=plan.state.name,
                settings=settings_to_dict(experiment.settings),
                champion=plan.state.champion or COLD_START_MODEL_ID,
                files=plan.files,
                history=_history(workspace, stack, plan, scored),
                learn=learn if learnt else None,
                score=score if scored else None,
            ),
        )
    state = plan.state
    state.cut = watermark
    state.learnt = outcome.learnt
    state.canaries = outcome.canaries
    state = store.save(state, files=outcome.files, scores=outcome.scores, fresh_epoch=plan.fresh_epoch)
    return state, outcome, scored


def same_model_settings(experiment: Experiment, version: int) -> bool:
    """Whether the settings that make a model are the same in `version` as now."""
    if version == experiment.settings_version:
        return True
    old, new = experiment.settings_of(version), experiment.settings
    return all(getattr(old, section) == getattr(new, section) for section in MODEL_SECTIONS)


def model_cut(data: Mapping[str, object]) -> datetime | None:
    """The maturity time up to which a stored model has learnt, from its manifest's `data`."""
    cut = data.get("cut")
    if isinstance(cut, datetime) or cut is None:
        return cut
    return datetime.fromisoformat(str(cut))


def model_options(settings: ExperimentSettings) -> dict[str, object]:
    """The settings that a manifest states: how the model encodes, explores and learns."""
    plain = settings_to_dict(settings)
    return {section: plain[section] for section in MODEL_SECTIONS}


def _new_state(workspace: Workspace, champion_id: str | None, previous: ChallengerState | None) -> ChallengerState:
    return ChallengerState(
        name=STANDING,
        kind=KIND_LEARNING,
        champion=champion_id,
        settings_version=workspace.experiment.settings_version,
        born=workspace.clock(),
        # the sequence names files: it goes on, so that a new state never overwrites files the old one points at
        sequence=previous.sequence if previous else 0,
    )


def _history(workspace: Workspace, stack: ExitStack, plan: Plan, new_rows: int) -> Path | None:
    """All rows that the plan's files have learnt, written out only when the encoder is due to be fitted anew."""
    if plan.files is None or plan.score_after is None:
        return None
    state = read_state(plan.files)
    if not state.refit_at <= state.rows_learnt + new_rows or state.rows_learnt > REFIT_ROWS_MAX:
        return None
    path, _ = stack.enter_context(rows_file(workspace, "history", after=None, until=plan.score_after))
    return path


@contextmanager
def rows_file(
    workspace: Workspace, name: str, *, after: datetime | None, until: datetime
) -> Iterator[tuple[Path, int]]:
    """The training rows matured in (after, until] as a file that lives as long as the block, and their number."""
    path = workspace.experiment.paths.challengers / f".{name}.ndjson"
    try:
        with workspace.lock:
            rows = workspace.warehouse.write_training_rows(path, after=after, until=until)
        yield path, rows
    finally:
        path.unlink(missing_ok=True)
