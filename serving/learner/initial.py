"""The warm start: enough imported history and no champion yet give the *initial* model, outside the gate.

There is nothing to beat, so nothing is gated; what the rows say about it is reported all the same: its doubly-robust
value beside that of uniform choice and the mean reward as logged, each row scored before it was learnt.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime

from bandit.scoring import segments_of
from bandit.settings import ExperimentSettings, settings_to_dict
from bandit.types import ORIGIN_IMPORT
from evaluation.gate import RULES_VERSION, GateRules, judge
from evaluation.scored import ScoredRows
from joiner.export import learnt_rows
from serving.learner import reports
from serving.learner.challengers.plans import new_state
from serving.learner.challengers.store import STANDING, ChallengerState, ChallengerStore, Origin
from serving.learner.reports import Judgement, RunReport
from serving.learner.training.jobs import UNIFORM, Job, Outcome
from serving.learner.training.trainer import Trainer
from serving.learner.training_step import rows_file
from serving.learner.verdicts.certificates import file_evaluation
from serving.learner.verdicts.judging import Look
from serving.learner.verdicts.promotion import no_promotion_because, publish_learning, stand_on
from serving.learner.workspace import Workspace

INITIAL_ROWS_MIN = 20
"""So many rows of history a first model is made of at least, as many as the gate asks subjects.

Nothing else stands between what it learnt and all decisions; fewer rows may as well prove themselves through the gate.
"""


def wants_initial(workspace: Workspace, watermark: datetime) -> bool:
    """Whether there is enough imported history to learn from and no model yet."""
    return _history_rows(workspace, watermark) >= INITIAL_ROWS_MIN


def short_of_initial(workspace: Workspace, watermark: datetime) -> str | None:
    """That there is some imported history, too short for a first model, as a clause; None where it is not so."""
    rows = _history_rows(workspace, watermark)
    if not 0 < rows < INITIAL_ROWS_MIN:
        return None
    are = "row of history is" if rows == 1 else "rows of history are"
    return f"{rows} imported {are} too few for a first model, which is made of {INITIAL_ROWS_MIN} or more"


def _history_rows(workspace: Workspace, watermark: datetime) -> int:
    """How many rows of imported history a first model could learn, 0 where none may be made of them."""
    if workspace.registry.champion() is not None or no_promotion_because(workspace):
        return 0
    rows = replace(learnt_rows(workspace.experiment.settings.learning), origin=ORIGIN_IMPORT)
    return workspace.warehouse.count_matured(None, watermark, rows)


def publish_initial(
    workspace: Workspace,
    store: ChallengerStore,
    trainer: Trainer,
    watermark: datetime,
    *,
    report: RunReport,
    step: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Learn everything matured so far and make it the first champion; fills `report`.

    Raises `TrainingFailed`, `CorruptModel` or `Conflict`; no champion is set then.
    """
    version, settings, _ = workspace.experiment.in_force
    state = new_state(workspace, STANDING, None, store.load(STANDING), version=version)
    state.cut, state.origin = watermark, Origin(rules_version=RULES_VERSION)
    with (
        step("train"),
        rows_file(workspace, "initial", settings.learning, after=None, until=watermark) as (path, report.rows),
    ):
        job = Job(
            root=workspace.experiment.paths.root,
            name=STANDING,
            settings=settings_to_dict(settings),
            champion=UNIFORM,
            score=path,
        )
        outcome: Outcome = trainer.run("advance", job, limits=settings.training)
    state.learnt, state.canaries = outcome.learnt, outcome.canaries
    with step("evaluate"):
        look = _look(settings, state, outcome, report)
    with step("promote"):
        manifest = publish_learning(workspace, trainer, state, outcome.files, kind="initial", parent=None)
        look.judgement.model_id = manifest.model_id
        evaluation_id = file_evaluation(workspace, look, champion=None, model_id=manifest.model_id, initial=True)
        look.judgement.evaluation_id = evaluation_id
        workspace.registry.swap(manifest.model_id, expected=None, now=workspace.clock(), reason=look.judgement.reason)
        workspace.registry.history.record(
            "initial",
            now=workspace.clock(),
            model_id=manifest.model_id,
            evaluation_id=evaluation_id,
            reason=look.judgement.reason,
        )
        stand_on(store, state, manifest.model_id, outcome.files)
    report.outcome, report.reason = reports.INITIAL, look.judgement.reason
    for name in reports.FIGURES:
        setattr(report, name, getattr(look.judgement, name))
    report.model_id, report.evaluation_id = manifest.model_id, evaluation_id
    report.verdicts = [look.judgement]


def _look(settings: ExperimentSettings, state: ChallengerState, outcome: Outcome, report: RunReport) -> Look:
    rows = ScoredRows.empty() if outcome.scores is None else ScoredRows.of(outcome.scores)
    by = settings.serving.segment_field
    rows = replace(rows, segment=segments_of(rows.segment, len(rows), by))
    rules = GateRules.of(settings.gate)
    verdict = judge(rows, rules)
    value = verdict.totals.estimate("dr", "candidate")
    uniform = verdict.totals.estimate("dr", "champion")
    logged = verdict.totals.mean_reward()
    reason = (
        f"First model, learnt from {report.rows:,} rows of history, outside the gate. While learning, its "
        f"doubly-robust value was {value.value:.4f} ± {value.se:.4f}; choosing uniformly would earn "
        f"{uniform.value:.4f} ± {uniform.se:.4f}, as logged was {logged.value:.4f}."
    )
    judgement = Judgement(
        challenger=STANDING,
        outcome=reports.INITIAL,
        reason=reason,
        lift=verdict.lift.value,
        weighed=verdict.weighed.value,
        lower=verdict.lower,
        upper=verdict.upper,
        value=value.value,
        champion_value=uniform.value,
        rows=verdict.n,
    )
    return Look(state, rows, rules, verdict, judgement, report.at, segment_field=by)
