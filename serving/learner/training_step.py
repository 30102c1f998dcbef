"""The training step: bring challengers up to the watermark, whatever state they were left in, each in its own job.

A plan says where a challenger starts from and which rows it learns unscored and which it scores first. Rows are
written out one plan after the other (the warehouse has one owner), the jobs run side by side, and every challenger's
new state is saved when its job is done. Rows that are scored are always newer than whatever the learner has seen.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bandit.experiment import Experiment, InForce
from bandit.policies import read_state
from bandit.registry import Champion
from bandit.scoring import RewardScale
from bandit.scratch import ROOM_BYTES, scratch_folder
from bandit.settings import ExperimentSettings, Learning, encoding_to_dict, settings_to_dict
from bandit.types import COLD_START_MODEL_ID
from evaluation.gate import RULES_VERSION
from evaluation.sequential import AlphaLedger
from joiner.export import RowFilter, learnt_rows
from serving.learner.challengers import KIND_LEARNING, STANDING, ChallengerState, ChallengerStore, Origin
from serving.learner.jobs import Job, Outcome
from serving.learner.remembered import known_state
from serving.learner.trainer import Call, Trainer
from serving.learner.workspace import Workspace

MODEL_SECTIONS = ("encoding", "exploration", "learning")
"""The sections of the settings that a manifest states."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a challenger will be advanced.

    It starts from `files` (None: from nothing), learns the rows matured in (`learn_after`, `learn_until`] unscored,
    and scores and learns those in (`score_after`, watermark]. A frozen one only scores. `starts` says that it starts
    anew, from the model `base`; `gate` is the gate's state that a fresh epoch begins with. `settings` are the
    experiment's, with what the challenger declares laid over; `rate` is the learning rate to keep where they leave it
    open.
    """

    state: ChallengerState
    settings: ExperimentSettings
    files: Mapping[str, bytes] | None = None
    learn_after: datetime | None = None
    learn_until: datetime | None = None
    score_after: datetime | None = None
    base: str | None = None
    starts: bool = False
    fresh_epoch: bool = False
    gate: dict[str, Any] | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Advanced:
    """What became of a plan: its state, how many new rows it took, and the error that kept it where it was.

    `unscored` rows were learnt besides, from before those that it is judged on.
    """

    state: ChallengerState
    rows: int
    error: Exception | None = None
    unscored: int = 0


def plan_standing(workspace: Workspace, store: ChallengerStore, champion: Champion | None) -> Plan:
    """How the standing challenger goes on; raises `CorruptModel` for a broken champion.

    It resumes where its state agrees with champion and settings. Otherwise it starts again: from the champion (with
    the rows since the champion's cut), from nothing when there is no champion, or from nothing over the whole log
    when settings of the model itself changed (rows up to the old cut are then learnt unscored).
    """
    experiment = workspace.experiment
    in_force = experiment.in_force
    settings = in_force.settings
    champion_id = champion.model_id if champion else None
    state = known_state(workspace, store, STANDING, champion)
    fresh = new_state(workspace, STANDING, champion_id, state, version=in_force.version)
    if state is not None and state.champion == champion_id:
        if not same_model_settings(experiment, state.settings_version, in_force):
            plan = Plan(fresh, settings, learn_until=state.cut, score_after=state.cut, starts=True, fresh_epoch=True)
            return replace(plan, gate=inherited(state))
        if state.folder is not None and not is_damaged(workspace, store, state):
            return Plan(state, settings, files=store.files(state), score_after=state.cut)
    # one that starts anew in the same tenure, because its files are damaged or gone, cannot spend its α again
    damaged = state if state is not None and state.champion == champion_id else None
    gate, scored_after = (scored_again(damaged), damaged.scored_after) if damaged is not None else (None, None)
    if champion is None:
        plan = Plan(fresh, settings, learn_until=scored_after, score_after=scored_after, starts=True, fresh_epoch=True)
        return replace(plan, gate=gate)
    stored = workspace.registry.load(champion.model_id)
    cut = model_time(stored.manifest.data, "cut")
    if not same_model_settings(experiment, stored.manifest.settings_version, in_force):
        after = _later(cut, scored_after)
        return Plan(fresh, settings, learn_until=after, score_after=after, starts=True, fresh_epoch=True, gate=gate)
    fresh.learnt = int(stored.manifest.data.get("rows", 0))
    fresh.since = model_time(stored.manifest.data, "since")
    # rows from before this tenure (the champion came back, or was set by hand) taught something, but prove nothing, and
    # neither do those that an epoch used up
    after = _later(champion.since if cut is not None else None, scored_after)
    late = after is not None and (cut is None or cut < after)
    return Plan(
        fresh,
        settings,
        files=stored.files,
        learn_after=cut if late else None,
        learn_until=after if late else None,
        score_after=after if late else cut,
        base=champion.model_id,
        starts=True,
        fresh_epoch=True,
        gate=gate,
    )


def is_damaged(workspace: Workspace, store: ChallengerStore, state: ChallengerState) -> bool:
    """Whether files or scores of a challenger are gone or damaged; history then says that it starts anew."""
    damage = store.damage(state)
    if damage is not None:
        workspace.registry.history.record("restart", now=workspace.clock(), challenger=state.name, reason=damage)
    return damage is not None


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


def new_state(
    workspace: Workspace, name: str, champion_id: str | None, previous: ChallengerState | None, *, version: int
) -> ChallengerState:
    """The state of a learning challenger that starts now, under this version of the settings."""
    return ChallengerState(
        name=name,
        kind=KIND_LEARNING,
        champion=champion_id,
        settings_version=version,
        born=workspace.clock(),
        # the sequence names files: it goes on, so that a new state never overwrites files the old one points at
        sequence=previous.sequence if previous else 0,
    )


def inherited(state: ChallengerState) -> dict[str, Any] | None:
    """The gate's state for whoever starts anew in this challenger's place: what α it spent stays spent."""
    return AlphaLedger.from_dict(state.gate).rejected(state.judged).to_dict() if state.gate else None


def scored_again(state: ChallengerState) -> dict[str, Any] | None:
    """The gate's state for a challenger whose rows of this epoch are scored once more, because their scores are lost.

    What α it spent stays spent, and each row counts once on the way to the epoch's end.
    """
    return replace(AlphaLedger.from_dict(state.gate), looks=()).to_dict() if state.gate else None


def same_model_settings(experiment: Experiment, version: int, now: InForce) -> bool:
    """Whether the settings that make a model are the same in `version` as those in force `now`."""
    return version == now.version or made_of(experiment.settings_of(version)) == made_of(now.settings)


def made_of(settings: ExperimentSettings) -> tuple[Any, ...]:
    """What of the settings makes a model: when it changes, a challenger learns anew."""
    return settings.encoding, settings.exploration, settings.learning, RewardScale.of(settings.rewards)


def model_time(data: Mapping[str, object], key: str) -> datetime | None:
    """A time out of a manifest's `data`: `cut`, up to which the model has learnt, or `since`, from which on."""
    moment = data.get(key)
    if isinstance(moment, datetime) or moment is None:
        return moment
    return datetime.fromisoformat(str(moment))


def incarnation(origin: Origin | None) -> dict[str, Any] | None:
    """Where a challenger started, as a manifest states it: what starts elsewhere under its name is another learner."""
    if origin is None:
        return None
    plain: dict[str, Any] = msgspec.to_builtins(origin)
    del plain["rules_version"]  # the same learner, whatever version of the rules started it
    return plain


def model_options(settings: ExperimentSettings) -> dict[str, object]:
    """The settings that a manifest states: how the model encodes, explores and learns."""
    plain = settings_to_dict(settings)
    return {section: plain[section] for section in MODEL_SECTIONS} | {"encoding": encoding_to_dict(settings.encoding)}


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


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)
