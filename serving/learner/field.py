"""The field beside the standing challenger: models offered from outside, scored as they are, gated like any other.

An offered model is frozen: it does not learn here. It is scored on rows matured after its own cut and after the
champion's, so neither has learnt from them, and it leaves the field when it is promoted or rejected.
"""

from __future__ import annotations

from datetime import datetime

from bandit.errors import Conflict, Refused
from bandit.registry import Champion
from bandit.settings import settings_to_dict
from bandit.types import COLD_START_MODEL_ID
from serving.learner.challengers import KIND_FROZEN, ChallengerState, ChallengerStore
from serving.learner.jobs import Job, Outcome
from serving.learner.trainer import Trainer
from serving.learner.training_step import model_cut, rows_file
from serving.learner.workspace import Workspace

OFFERED_MAX = 8
"""How many offered models may be in the field at once; each one makes the gate stricter for all."""

PREFIX = "offered-"


def offer(workspace: Workspace, store: ChallengerStore, model_id: str) -> ChallengerState:
    """Let a stored model join the field; raises `NotFound`, `CorruptModel`, `Conflict`, or `Refused` when full."""
    champion = workspace.registry.champion()
    if champion is not None and champion.model_id == model_id:
        raise Conflict("this model is the champion")
    stored = workspace.registry.load(model_id)
    name = PREFIX + model_id
    present = [known for known in store.names() if known.startswith(PREFIX)]
    if name in present:
        raise Conflict("this model is in the field already")
    if len(present) >= OFFERED_MAX:
        raise Refused(f"{OFFERED_MAX} offered models are in the field; wait for their verdicts")
    state = ChallengerState(
        name=name,
        kind=KIND_FROZEN,
        champion=champion.model_id if champion else None,
        settings_version=workspace.experiment.settings_version,
        born=workspace.clock(),
        cut=_unseen_after(workspace, champion, model_cut(stored.manifest.data)),
        model_id=model_id,
    )
    state = store.save(state)
    workspace.registry.record("offer", now=workspace.clock(), model_id=model_id)
    return state


def drop_orphans(workspace: Workspace, store: ChallengerStore, champion: Champion | None) -> None:
    """Compare the field with the champion that stands now: another one starts every comparison afresh."""
    champion_id = champion.model_id if champion else None
    for name in store.names():
        state = store.load(name)
        if state is None or state.kind != KIND_FROZEN or state.champion == champion_id:
            continue
        if state.model_id == champion_id:
            store.drop(name)
            continue
        state.champion = champion_id
        state.cut = _unseen_after(workspace, champion, state.cut)
        store.save(state, fresh_epoch=True)


def advance_field(
    workspace: Workspace, store: ChallengerStore, trainer: Trainer, champion: Champion | None, *, watermark: datetime
) -> list[ChallengerState]:
    """Score the frozen challengers on what matured since their cut; gives those that have rows to be judged on."""
    states = []
    for name in store.names():
        state = store.load(name)
        if state is None or state.kind != KIND_FROZEN or state.model_id is None:
            continue
        with rows_file(workspace, name, after=state.cut, until=watermark) as (path, rows):
            if rows:
                outcome: Outcome = trainer.run(
                    "score_frozen",
                    Job(
                        root=workspace.experiment.paths.root,
                        name=name,
                        settings=settings_to_dict(workspace.experiment.settings),
                        champion=champion.model_id if champion else COLD_START_MODEL_ID,
                        score=path,
                    ),
                    state.model_id,
                )
                state.cut = watermark
                state.canaries = outcome.canaries
                state = store.save(state, scores=outcome.scores)
        if state.scored > state.judged:
            states.append(state)
    return states


def _unseen_after(workspace: Workspace, champion: Champion | None, cut: datetime | None) -> datetime | None:
    if champion is None:
        return cut
    champion_cut = model_cut(workspace.registry.load(champion.model_id).manifest.data)
    cuts = [moment for moment in (cut, champion_cut) if moment is not None]
    return max(cuts, default=None)
