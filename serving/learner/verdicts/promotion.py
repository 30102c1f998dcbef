"""The promotion step: the best challenger that the gate lets pass becomes champion, with its certificate.

The order is what makes it safe: the model is published complete, loaded back in the training process and asked its
canaries, its certificate is written, and only then does the pointer move, by compare-and-swap. A crash anywhere
leaves the old champion with nothing lost: the standing challenger is found again on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bandit.errors import Conflict, Refused
from bandit.policies import read_state
from bandit.registry import Champion, Manifest
from evaluation.gate import RULES_VERSION
from serving.learner import reports
from serving.learner.challengers.field import learnt_under
from serving.learner.challengers.former import watch_former
from serving.learner.challengers.plans import incarnation, model_options
from serving.learner.challengers.store import (
    FORMER,
    KIND_FROZEN,
    KIND_GUARD,
    KIND_LEARNING,
    STANDING,
    ChallengerState,
    ChallengerStore,
    Origin,
)
from serving.learner.reports import Judgement
from serving.learner.retention import remove_old_models
from serving.learner.training.trainer import Trainer
from serving.learner.verdicts.certificates import file_evaluation
from serving.learner.verdicts.judging import Look, carry_on
from serving.learner.workspace import Workspace


def promote(
    workspace: Workspace,
    store: ChallengerStore,
    trainer: Trainer,
    looks: Sequence[Look],
    champion: Champion | None,
) -> Look | None:
    """Promote the challenger with the greatest lower bound among those that passed; gives its look.

    Every look gets its evaluation; those not promoted carry on. Raises `Conflict` when another champion was set
    meanwhile and `CorruptModel` when the published model does not answer as trained; the pointer stays then.
    """
    guards = [look for look in looks if look.state.kind == KIND_GUARD]
    for look in guards:
        if _judge_former(workspace, store, trainer, look, champion):
            return look
    looks = [look for look in looks if look not in guards]
    if reason := no_promotion_because(workspace):
        _hold_back(looks, reason)
    winner = best_of([look for look in looks if look.judgement.outcome == reports.PROMOTE])
    if winner is not None:
        try:
            _crown(workspace, store, trainer, winner, champion)
        except Refused:  # somebody has pinned the champion meanwhile: what the looks spent stays spent all the same
            _hold_back(looks, no_promotion_because(workspace) or "The champion was pinned meanwhile")
            winner = None
    for look in looks:
        if look is not winner and look.judgement.evaluation_id is None and worth_filing(look):
            look.judgement.evaluation_id = file_evaluation(workspace, look, champion=champion, model_id=None)
        if winner is None:
            carry_on(workspace, store, look, champion)
    return winner


def best_of(looks: Sequence[Look]) -> Look | None:
    """The one with the greatest lower bound among those that passed, None where none did."""
    passed = [look for look in looks if look.verdict.promote]
    return max(passed, key=lambda look: look.verdict.lower, default=None)


def worth_filing(look: Look) -> bool:
    """Whether a look that promoted nothing told anything: not one between two planned looks."""
    verdict = look.verdict
    return verdict.looked or verdict.rejected or verdict.outcome != "hold"


def publish_learning(
    workspace: Workspace,
    trainer: Trainer,
    state: ChallengerState,
    files: dict[str, bytes],
    *,
    kind: str,
    parent: str | None,
    note: str = "",
) -> Manifest:
    """Store a challenger's learning as a model and have it loaded back and verified; raises `CorruptModel`."""
    version, settings = learnt_under(workspace.experiment, state)
    manifest = workspace.registry.publish(
        files,
        now=workspace.clock(),
        parent=parent,
        kind=kind,
        options=model_options(settings),
        settings_version=version,
        data=_data(state, read_state(files).rate),
        canaries=state.canaries,
        note=note,
    )
    trainer.run("verify", workspace.experiment.paths.root, manifest.model_id)
    return manifest


def _crown(
    workspace: Workspace, store: ChallengerStore, trainer: Trainer, look: Look, champion: Champion | None
) -> None:
    state = look.state
    parent = champion.model_id if champion else None
    if state.kind == KIND_FROZEN and state.model_id is not None:
        model_id = state.model_id
        trainer.run("verify", workspace.experiment.paths.root, model_id)
    else:
        files = store.files(state)
        model_id = publish_learning(workspace, trainer, state, files, kind="challenger", parent=parent).model_id
    look.judgement.model_id = model_id
    look.judgement.evaluation_id = file_evaluation(workspace, look, champion=champion, model_id=model_id)
    crown(workspace, store, state, look.judgement, parent=parent)


def crown(
    workspace: Workspace, store: ChallengerStore, state: ChallengerState, judgement: Judgement, *, parent: str | None
) -> None:
    """Move the pointer to a stored, verified and certified model, and let its challenger go on from there.

    Raises `Conflict` when `parent` is not the champion any more, `Refused` when it has been pinned meanwhile.
    """
    model_id = judgement.model_id
    assert model_id is not None, "only what is published can be crowned"
    with workspace.lock:  # whoever undoes it has its entry after this one
        crowned = move_pointer(workspace, model_id, expected=parent, reason=judgement.reason)
        watch_former(workspace, store, crowned, parent)
        workspace.registry.history.record(
            "promotion",
            now=workspace.clock(),
            model_id=model_id,
            previous=parent,
            challenger=state.name,
            evaluation_id=judgement.evaluation_id,
            reason=judgement.reason,
            lift=judgement.lift,
            weighed=judgement.weighed,
            lower=judgement.lower,
            upper=judgement.upper,
            former=judgement.former,
        )
    if state.kind == KIND_FROZEN:
        store.drop(state.name)
    elif state.name == STANDING:
        stand_on(store, state, model_id)
    remove_old_models(workspace, store)


def _judge_former(
    workspace: Workspace, store: ChallengerStore, trainer: Trainer, look: Look, champion: Champion | None
) -> bool:
    """Bring the former champion back when it proved better; end the watch when it proved worse, or proves nothing."""
    verdict, judgement, former = look.verdict, look.judgement, look.state.model_id
    if verdict.promote and champion is not None and former is not None and not no_promotion_because(workspace):
        trainer.run("verify", workspace.experiment.paths.root, former)
        judgement.outcome = reports.ROLLBACK
        judgement.reason = f"The champion before was better on new log, and is back. {judgement.reason}"
        judgement.evaluation_id = file_evaluation(workspace, look, champion=champion, model_id=former)
        try:
            set_back(workspace, champion, former, judgement.reason, evaluation_id=judgement.evaluation_id)
        except Refused:  # somebody has pinned the champion meanwhile: what the look spent stays spent all the same
            _hold_back([look], no_promotion_because(workspace) or "The champion was pinned meanwhile")
        else:
            store.drop(FORMER)
            return True
    over = verdict.n >= look.rules.horizon_rows
    if verdict.rejected or over:
        workspace.registry.history.record(
            "confirmed" if verdict.rejected else "undecided",
            now=workspace.clock(),
            model_id=champion.model_id if champion else None,
            previous=former,
            realised_lift=-verdict.lift.value,
            weighed=-verdict.weighed.value,
            lower=-verdict.upper,
            upper=-verdict.lower,
            rows=verdict.n,
        )
    if over and not verdict.promote:
        store.drop(FORMER)
    else:
        carry_on(workspace, store, look, champion)
    return False


def set_back(
    workspace: Workspace, champion: Champion, former: str, reason: str, *, evaluation_id: str | None = None
) -> None:
    """Make the former champion champion again, without further ado; raises as `move_pointer` does.

    Challengers are left as they are: a run may be at work on them, and the next one lets go of those that are void.
    """
    with workspace.lock:  # a run that starts now must not miss the entry, and write one of its own
        move_pointer(workspace, former, expected=champion.model_id, reason=reason, restored=True)
        workspace.registry.history.record(
            "rollback",
            now=workspace.clock(),
            model_id=former,
            previous=champion.model_id,
            reason=reason,
            automatic=True,
            evaluation_id=evaluation_id,
        )


def expect_champion(workspace: Workspace, champion: Champion | None) -> None:
    """Raise `Conflict` where another champion stands by now than the one that challengers were compared with."""
    expected = champion.model_id if champion else None
    now = workspace.registry.champion()
    if (now.model_id if now else None) != expected:
        raise Conflict(f"it is {now.model_id if now else 'unset'} by now, not {expected or 'unset'}")


def passed_over(damaged: Sequence[str]) -> str:
    """What the reason of a rollback says of earlier champions that could not come back, nothing where all could."""
    return f" (damaged, passed over: {', '.join(damaged)})" if damaged else ""


def move_pointer(
    workspace: Workspace, model_id: str, *, expected: str | None, reason: str, restored: bool = False
) -> Champion:
    """Make a model the champion unless one is pinned at this very moment (`Refused`); raises as `swap` does."""
    with workspace.lock:
        if workspace.pinned is not None:
            raise Refused(f"the champion {workspace.pinned} is pinned; unpin it first")
        return workspace.registry.swap(
            model_id, expected=expected, now=workspace.clock(), reason=reason, restored=restored
        )


def no_promotion_because(workspace: Workspace) -> str | None:
    """Why nothing may be promoted by itself now, whatever the gate says; None when it may."""
    if workspace.pinned is not None:
        return f"The champion {workspace.pinned} is pinned"
    if workspace.experiment.settings.serving.mode == "frozen":
        return "The mode of this experiment is frozen"
    return None


def _hold_back(looks: Sequence[Look], reason: str) -> None:
    for look in looks:
        if look.verdict.promote:
            look.judgement.outcome = reports.HOLD
            look.judgement.reason = f"{reason}, so nothing is promoted. {look.judgement.reason}"


def stand_on(
    store: ChallengerStore, state: ChallengerState, model_id: str, files: dict[str, bytes] | None = None
) -> None:
    """The standing challenger goes on as the continuation of the model it has just become."""
    state.champion, state.candidate = model_id, None
    state.origin = Origin(base=model_id, score_after=state.cut, rules_version=RULES_VERSION)
    state.scored_after = state.cut
    state.kind = KIND_LEARNING
    store.save(state, files=files, fresh_epoch=True)


def _data(state: ChallengerState, rate: float | None) -> dict[str, Any]:
    data: dict[str, Any] = {"rows": state.learnt, "cut": state.cut.isoformat() if state.cut else None}
    data["challenger"], data["incarnation"] = state.name, incarnation(state.origin)
    if state.since is not None:
        data["since"] = state.since.isoformat()
    if rate is not None:
        data["learning_rate"] = rate
    return data
