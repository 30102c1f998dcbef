"""The training step: bring challengers up to the watermark, whatever state they were left in, each in its own job.

Rows are written out one plan after the other (the warehouse has one owner), the jobs run side by side, and every
challenger's new state is saved when its job is done. Rows that are scored are always newer than whatever the learner
has seen.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from bandit.policies import read_state
from bandit.scratch import ROOM_BYTES, scratch_folder
from bandit.settings import Learning, settings_to_dict
from bandit.types import COLD_START_MODEL_ID
from evaluation.gate import RULES_VERSION
from joiner.export import RowFilter, learnt_rows
from serving.learner.challengers.plans import Plan, incarnation
from serving.learner.challengers.store import KIND_LEARNING, ChallengerState, ChallengerStore, Origin
from serving.learner.training.jobs import Job, Outcome
from serving.learner.training.trainer import Call, Trainer
from serving.learner.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Advanced:
    """What became of a plan: its state, how many new rows it took, and the error that kept it where it was.

    `unscored` rows were learnt besides, from before those that it is judged on.
    """

    state: ChallengerState
    rows: int
    error: Exception | None = None
    unscored: int = 0


def advance_all(
    workspace: Workspace, store: ChallengerStore, trainer: Trainer, plans: Sequence[Plan], *, watermark: datetime
) -> list[Advanced]:
    """Carry plans out, side by side where the trainer can, and save each new state; in the order of `plans`.

    One whose job fails stays as it was on disk, with its error in the answer.
    """
    with ExitStack() as stack:
        files = _RowFiles(workspace, stack)
        calls: list[Call | None] = []
        counts = []
        for plan in plans:
            call, scored, unscored = _call(workspace, files, plan, watermark)
            calls.append(call)
            counts.append((scored, unscored))
        results = iter(trainer.run_all([call for call in calls if call is not None]))
        outcomes = [next(results) if call is not None else None for call in calls]
    done = []
    for plan, (rows, unscored), outcome in zip(plans, counts, outcomes, strict=True):
        if isinstance(outcome, Exception):
            done.append(Advanced(plan.state, rows, outcome))
        elif outcome is None:
            done.append(Advanced(_unscored(plan), 0))
        else:
            done.append(Advanced(_save(store, plan, outcome, watermark), rows, unscored=unscored))
    return done


def _unscored(plan: Plan) -> ChallengerState:
    """The state of a plan without new rows: what an earlier epoch scored, beside another champion, is no evidence."""
    if not plan.fresh_epoch:
        return plan.state
    return msgspec.structs.replace(plan.state, chunks=[], scored=0, judged=0, gate=plan.gate or {})


def rows_file(
    workspace: Workspace, name: str, learning: Learning, *, after: datetime | None, until: datetime
) -> AbstractContextManager[tuple[Path, int]]:
    """The rows that `learning` wants of those matured in (after, until], as a file for the block, and their number."""
    return selected_rows_file(workspace, name, learnt_rows(learning), after=after, until=until)


@contextmanager
def selected_rows_file(
    workspace: Workspace, name: str, wanted: RowFilter, *, after: datetime | None, until: datetime
) -> Iterator[tuple[Path, int]]:
    """The same for the rows that a filter selects."""
    written = workspace.experiment.paths.scratch / f"{uuid.uuid4().hex}.ndjson"
    try:
        with workspace.reading() as warehouse:
            rows = warehouse.write_training_rows(written, after=after, until=until, rows=wanted)
        room = ROOM_BYTES + written.stat().st_size  # rows may be a hundred bytes wide or a hundred thousand
        with scratch_folder(room, otherwise=workspace.experiment.paths.challengers) as folder:
            path = folder / f"{name}.ndjson"
            shutil.move(written, path)
            yield path, rows
    finally:
        written.unlink(missing_ok=True)


class _RowFiles:
    """The row files of one step: what several challengers need is written once."""

    def __init__(self, workspace: Workspace, stack: ExitStack) -> None:
        self._workspace = workspace
        self._stack = stack
        self._written: dict[tuple[RowFilter, datetime | None, datetime], tuple[Path, int]] = {}

    def of(self, learning: Learning, after: datetime | None, until: datetime) -> tuple[Path, int]:
        """The rows that `learning` wants of those matured in (after, until], and their number."""
        key = (learnt_rows(learning), after, until)
        if key not in self._written:
            file = rows_file(self._workspace, f"rows-{len(self._written)}", learning, after=after, until=until)
            self._written[key] = self._stack.enter_context(file)
        return self._written[key]


def _call(workspace: Workspace, files: _RowFiles, plan: Plan, watermark: datetime) -> tuple[Call | None, int, int]:
    """The job of a plan with its row files, how many rows it scores, and learns unscored; no job for no row."""
    state, name, wanted = plan.state, plan.state.name, plan.settings.learning
    learn, learnt = None, 0
    if plan.learn_until is not None:
        learn, learnt = files.of(wanted, plan.learn_after, plan.learn_until)
    score, scored = files.of(wanted, plan.score_after, watermark)
    if learnt + scored == 0:
        return None, 0, 0
    history = None
    if plan.files is not None and plan.score_after is not None and state.kind == KIND_LEARNING:
        past = read_state(plan.files)
        # only where the encoder is due to be fitted anew are all rows learnt so far needed again
        due = past.refit_at <= past.rows_learnt + learnt + scored
        if due and past.rows_learnt <= plan.settings.encoding.refit_rows_max:
            history, _ = files.of(wanted, state.since, plan.learn_after or plan.score_after)
    job = Job(
        root=workspace.experiment.paths.root,
        name=name,
        settings=settings_to_dict(plan.settings),
        champion=state.champion or COLD_START_MODEL_ID,
        files=plan.files,
        history=history,
        learn=learn if learnt else None,
        score=score if scored else None,
        challenger=name if state.kind == KIND_LEARNING else None,
        rate=plan.rate,
        incarnation=incarnation(_origin(plan)),
    )
    if state.kind != KIND_LEARNING:
        return Call(name, "score_frozen", (job, state.model_id), plan.settings.training), scored, 0
    return Call(name, "advance", (job,), plan.settings.training), scored, learnt


def _origin(plan: Plan) -> Origin | None:
    """Where the challenger of a plan started, or starts now."""
    if not plan.starts:
        return plan.state.origin
    return Origin(
        base=plan.base,
        learn_after=plan.learn_after,
        learn_until=plan.learn_until,
        score_after=plan.score_after,
        rate=plan.rate,
        rules_version=RULES_VERSION,
    )


def _save(store: ChallengerStore, plan: Plan, outcome: Outcome, watermark: datetime) -> ChallengerState:
    state = plan.state
    if plan.fresh_epoch or state.scored_after is None:
        state.scored_after = plan.score_after
    state.cut = watermark
    state.canaries = outcome.canaries
    if state.kind != KIND_LEARNING:
        return store.save(state, scores=outcome.scores, fresh_epoch=plan.fresh_epoch, carried=plan.gate)
    state.origin = _origin(plan)
    state.learnt, state.candidate = outcome.learnt, None
    return store.save(
        state, files=outcome.files, scores=outcome.scores, fresh_epoch=plan.fresh_epoch, carried=plan.gate
    )
