"""A last look at what a promotion would publish: the newest version of a learner, which no row has judged yet.

The gate judges the learner by its versions on the rows before. The newest one has learnt a few rows more, perhaps with
an encoder fitted anew or at another rate, and may have been carried off by the luck of the newest of them. No unbiased
estimate of it is left in the log, which it has learnt; but its reward model, which learns more slowly, can contradict.
"""

from __future__ import annotations

from bandit.settings import settings_to_dict
from bandit.types import COLD_START_MODEL_ID
from evaluation.checks import Check, newest_check
from joiner.export import learnt_rows
from serving.learner.challengers.field import learnt_under
from serving.learner.challengers.store import ChallengerState, ChallengerStore
from serving.learner.training.jobs import Job
from serving.learner.training.trainer import Trainer
from serving.learner.training_step import rows_file
from serving.learner.workspace import Workspace

NEWEST_ROWS = 250
"""On so many of the newest contexts it is compared with the champion; those that matured with the oldest count too."""


def foresee(
    workspace: Workspace, store: ChallengerStore, trainer: Trainer, state: ChallengerState, *, limit: float
) -> Check:
    """The reward model's veto, which fails below a lift of `limit`; raises what the job and the store raise."""
    _, settings = learnt_under(workspace.experiment, state)
    assert state.cut is not None, "who is judged has learnt"
    with workspace.reading() as warehouse:
        after = warehouse.nth_newest_maturity(NEWEST_ROWS, state.cut, learnt_rows(settings.learning))
    with rows_file(workspace, "newest", settings.learning, after=after, until=state.cut) as (path, rows):
        job = Job(
            root=workspace.experiment.paths.root,
            name=state.name,
            settings=settings_to_dict(settings),
            champion=state.champion or COLD_START_MODEL_ID,
            files=store.files(state),
            score=path,
        )
        lift: float = trainer.run("foresee", job, limits=settings.training)
    return newest_check(lift, rows, limit)
