"""The loop one step at a time, for people who want to look at each: train, evaluate, deploy.

The steps use the functions of a scheduled run, so that the same rows give the same model, byte for byte. The first
step pauses the schedule, until somebody resumes it. A trained candidate is stored, but serves nothing before it is
deployed; without a promote verdict against the present champion that needs an override.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bandit.errors import Conflict, InvalidInput, NotFound, NotYet, Refused, one_of
from bandit.registry import Champion
from serving.learner import models, reports
from serving.learner.catch_up import catch_up
from serving.learner.challengers.offered import PREFIX, offer, plan_offered
from serving.learner.challengers.store import KIND_LEARNING, STANDING, ChallengerState
from serving.learner.challengers.unweighed import rows_before_tenure
from serving.learner.cycle import Cycle
from serving.learner.initial import short_of_initial, wants_initial
from serving.learner.reports import EVALUATION, Judgement, RunReport
from serving.learner.retention import remove_old_models
from serving.learner.training_step import advance_all
from serving.learner.verdicts.certificates import file_evaluation, read_certificate
from serving.learner.verdicts.judging import Look, carry_on, judge_all
from serving.learner.verdicts.promotion import best_of, crown, publish_learning, stand_on, worth_filing
from serving.learner.verdicts.trial import update_trial


def take(cycle: Cycle, step: str, arguments: dict[str, Any], *, wait_s: float = 0.0) -> dict[str, Any]:
    """Take the step of that name; raises `NotFound` for another, `InvalidInput` for wrong arguments."""
    known = {"initialize": set(), "train": set(), "evaluate": {"model_id"}, "deploy": {"model_id", "override"}}
    if step not in known:
        raise NotFound("there is no such step; there are initialize, train, evaluate and deploy")
    unknown = arguments.keys() - known[step]
    if unknown:
        raise InvalidInput(
            min(unknown), f"is not an argument of the step {step}", one_of(sorted(known[step])) or "none"
        )
    model_id, override = arguments.get("model_id"), arguments.get("override", False)
    if "model_id" in known[step] and not isinstance(model_id, str):
        raise InvalidInput("model_id", "must be the id of a model")
    if not isinstance(override, bool):
        raise InvalidInput("override", "must be true or false")
    cycle.workspace.pause(True, reason="stepping through the loop")
    if step == "initialize":
        return initialize(cycle, wait_s=wait_s)
    if step == "train":
        return train(cycle, wait_s=wait_s)
    assert isinstance(model_id, str), "checked above"
    if step == "evaluate":
        return evaluate(cycle, model_id, wait_s=wait_s)
    return deploy(cycle, model_id, override=override, wait_s=wait_s)


def initialize(cycle: Cycle, *, wait_s: float = 0.0) -> dict[str, Any]:
    """Make the *initial* model of imported history; `Refused` where there is one, `NotYet` without enough history."""
    _read_the_log(cycle)
    if cycle.workspace.registry.champion() is not None:
        raise Refused("there is a champion already; the first model can be made once")
    watermark = cycle.intake.watermark
    if watermark is None or not wants_initial(cycle.workspace, watermark):
        short = short_of_initial(cycle.workspace, watermark) if watermark is not None else None
        raise NotYet(
            f"{short}; import more first" if short else "there is no imported history to learn from; import some first"
        )
    report = cycle.run(force=True, trigger="step", wait_s=wait_s)
    if report.outcome != reports.INITIAL:
        raise Refused(report.reason)
    return reports.to_plain(report)


def train(cycle: Cycle, *, wait_s: float = 0.0) -> dict[str, Any]:
    """Bring the standing challenger up to date and store it as a candidate model.

    Raises `NotYet` when nothing has matured since the champion was made, and `TrainingFailed`.
    """
    workspace, store = cycle.workspace, cycle.store
    with cycle.exclusive("train", wait_s=wait_s):
        _read_the_log(cycle)
        if cycle.intake.watermark is None:
            raise NotYet("the log is not known to be complete up to any time yet; try again in a second")
        champion = workspace.registry.champion()
        report = RunReport(at=workspace.clock(), trigger="step", outcome=reports.NOTHING, reason="")
        watermark = cycle.intake.watermark
        cycle.advance(champion, watermark, report)
        cycle.mark_attempt(watermark)
        cycle.mark_learnt()
        state = store.load(STANDING)
        if state is None or not state.scored or state.champion != (champion.model_id if champion else None):
            before = rows_before_tenure(workspace, store, champion)
            if before is not None:
                raise NotYet(f"no interaction has matured in the champion's tenure: {before}")
            since = "since the champion was made" if champion is not None else "yet"
            raise NotYet(f"no interaction has matured {since}: there is nothing to learn")
        candidate = _stored(cycle, state, champion)
        workspace.registry.history.record("trained", now=workspace.clock(), model_id=candidate, rows=report.rows)
        return {"model_id": candidate, "rows": report.rows, "learnt": state.learnt}


def evaluate(cycle: Cycle, model_id: str, *, wait_s: float = 0.0) -> dict[str, Any]:
    """Ask the gate about one model against the champion, on rows that neither has learnt from.

    The candidate of `train` is judged as the procedure it is, and the declared field beside it, as in a run: members
    that pass are stored, `best` is the model that a run would promote (None: none), and after a fall of what the
    champion earns the field starts anew. Any other model is judged alone, as the frozen artefact it is. Raises
    `NotFound`, `CorruptModel`, `Conflict` for the champion itself, `NotYet` when there are no such rows.
    """
    workspace, store = cycle.workspace, cycle.store
    with cycle.exclusive("evaluate", wait_s=wait_s):
        _read_the_log(cycle)
        champion = workspace.registry.champion()
        asked = _challenger(cycle, model_id, champion)
        if asked.scored == asked.judged or not asked.chunks:
            known = last_evaluation(cycle, model_id, champion)
            # one of fewer rows is not the last: a run judged it since, or a step that could not write its verdict down
            if known is not None and asked.scored in (0, known["rows"]):
                return known
            if not asked.chunks:
                raise NotYet(
                    "there are no matured interactions yet that neither this model nor the champion has learnt"
                )
        looks = judge_all(workspace, store, cycle.trainer, _judged_with(cycle, asked, champion), at=workspace.clock())
        best = best_of(looks)
        for look in looks:
            _file(cycle, look, champion, model_id if look.state is asked else None)
        for look in looks:
            verdict = look.verdict
            # one that starts again does so when nothing is deployed: a new champion changes where from
            if best is None or (not (verdict.promote or verdict.rejected) and verdict.keep_rows):
                carry_on(workspace, store, look, champion)
            else:
                look.judgement.ledger = {}
        judgement = next(look.judgement for look in looks if look.state is asked)
        if asked.kind == KIND_LEARNING:
            fresh = _start_anew(cycle, looks, judgement) if best is None else []
            update_trial(workspace, store, cycle.trainer, looks, champion, decided=best is not None, fresh=fresh)
        cycle.last_verdict = {"outcome": judgement.outcome, "reason": judgement.reason}
        about = {
            "champion": champion.model_id if champion else None,
            "best": best.judgement.model_id if best is not None else None,
        }
        others = [reports.to_plain(look.judgement) for look in looks if look.state is not asked]
        for other in others:
            if other["model_id"] is not None:
                workspace.registry.history.record(EVALUATION, now=workspace.clock(), **other, **about)
        fields = {**reports.to_plain(judgement), **about, "others": others}
        workspace.registry.history.record(EVALUATION, now=workspace.clock(), **fields)
        assert judgement.evaluation_id is not None, "whoever is asked about is certified"
        return fields | {"score": score_of(cycle, judgement.evaluation_id)}


def deploy(cycle: Cycle, model_id: str, *, override: bool, wait_s: float = 0.0) -> dict[str, Any]:
    """Make a model champion; raises `Refused` unless its last verdict here is promote, or `override` is given."""
    workspace, store = cycle.workspace, cycle.store
    with cycle.exclusive("promote", wait_s=wait_s):
        champion = workspace.registry.champion()
        previous = champion.model_id if champion else None
        if previous == model_id:
            raise Conflict("this model is the champion already")
        passed = last_evaluation(cycle, model_id, champion)
        state = _state_of(cycle, model_id)
        if passed is None or passed["outcome"] != reports.PROMOTE or state is None:
            answer = models.promote_by_hand(workspace, store, cycle.trainer, model_id, override=override)
            if state is not None and state.name == STANDING:
                stand_on(store, state, model_id)
            return answer | {"verdict": passed["outcome"] if passed else None}
        if workspace.pinned is not None:
            raise Refused(f"the champion {workspace.pinned} is pinned; unpin it first")
        cycle.trainer.run("verify", workspace.experiment.paths.root, model_id)
        fields = {key: value for key, value in passed.items() if key in Judgement.__struct_fields__}
        standing = state if state.name == STANDING else store.load(STANDING)
        judged = [standing] if standing is not None and standing.champion == previous and standing.chunks else []
        looks = judge_all(workspace, store, cycle.trainer, judged, at=workspace.clock(), newest=False)
        judgement = msgspec.convert(fields, Judgement)
        crown(workspace, store, state, judgement, parent=previous)
        _start_anew(cycle, looks, judgement)
        return {"champion": model_id, "previous": previous, "recorded": "promotion", "verdict": reports.PROMOTE}


def verdict(cycle: Cycle, model_id: str) -> dict[str, Any]:
    """The last thing a gate said about a model, in a step or in a run, with its score; raises `NotFound`."""
    for entry in reversed(cycle.workspace.registry.history.entries()):
        if entry["kind"] in (EVALUATION, "promotion", "initial") and entry.get("model_id") == model_id:
            outcome = {"promotion": reports.PROMOTE, "initial": reports.INITIAL}.get(
                entry["kind"], entry.get("outcome")
            )
            return {**entry, "outcome": outcome, "score": score_of(cycle, entry["evaluation_id"])}
    raise NotFound(f"model {model_id} was never evaluated")


def last_evaluation(cycle: Cycle, model_id: str, champion: Champion | None) -> dict[str, Any] | None:
    """The last verdict on a model against the champion that stands, None when there was none."""
    champion_id = champion.model_id if champion else None
    for entry in reversed(cycle.workspace.registry.history.entries(EVALUATION)):
        if entry["model_id"] == model_id and entry["champion"] == champion_id:
            return {**entry, "score": score_of(cycle, entry["evaluation_id"])}
    return None


def score_of(cycle: Cycle, evaluation_id: str) -> dict[str, Any] | None:
    """The candidate's doubly-robust value with its interval, out of the certificate; None when that is gone."""
    try:
        certificate = read_certificate(cycle.workspace.experiment.paths.evaluations / evaluation_id)
    except FileNotFoundError:
        return None
    score: dict[str, Any] = certificate["estimators"]["dr"]["candidate"]
    return score


def _read_the_log(cycle: Cycle) -> None:
    """Take in everything acknowledged before this step, waiting for the workers to seal it."""
    catch_up(cycle.workspace)
    cycle.tick()


def _stored(cycle: Cycle, state: ChallengerState, champion: Champion | None) -> str:
    """The id of the model as which a challenger's learning is stored, now at the latest."""
    if state.candidate is None:
        state.candidate = publish_learning(
            cycle.workspace,
            cycle.trainer,
            state,
            cycle.store.files(state),
            kind="candidate",
            parent=champion.model_id if champion else None,
        ).model_id
        state.sequence = cycle.store.save(state).sequence
        remove_old_models(cycle.workspace, cycle.store)
    return state.candidate


def _file(cycle: Cycle, look: Look, champion: Champion | None, model_id: str | None) -> None:
    """Certify a look at the model of that id, or at a challenger that is none yet: one that passed is stored first."""
    if model_id is None and look.verdict.promote:
        model_id = _stored(cycle, look.state, champion)
    if model_id is not None or worth_filing(look):
        look.judgement.model_id = model_id
        look.judgement.evaluation_id = file_evaluation(cycle.workspace, look, champion=champion, model_id=model_id)


def _judged_with(cycle: Cycle, asked: ChallengerState, champion: Champion | None) -> list[ChallengerState]:
    """The challengers that are judged when one is asked about: beside a learning one, the others with new rows too."""
    if asked.kind != KIND_LEARNING:
        return [asked]
    states = []
    for name in _learning(cycle):
        state = asked if name == asked.name else cycle.store.load(name)
        if state is asked or (
            state is not None
            and state.champion == (champion.model_id if champion else None)
            and state.scored > state.judged
            and state.chunks
        ):
            states.append(state)
    return states


def _start_anew(cycle: Cycle, looks: Sequence[Look], judgement: Judgement) -> list[ChallengerState]:
    """Let the declared field start anew where the champion's value fell, and say so in the verdict; gives who could."""
    (cut,) = {look.state.cut for look in looks if look.state.name == STANDING} or {None}
    if cut is None:
        return []
    report = RunReport(at=cycle.workspace.clock(), trigger="step", outcome=judgement.outcome, reason=judgement.reason)
    champion = cycle.workspace.registry.champion()
    report.champion = champion.model_id if champion else None
    fallen, fresh = cycle.start_anew(looks, cut, report)
    judgement.reason += "".join(f" {each.reason}" for each in fallen)
    judgement.reason += "".join(f" {name} could not: {error}." for name, error in report.errors.items())
    return fresh


def _learning(cycle: Cycle) -> list[str]:
    """The challengers that learn: the standing one and the declared field, in the order of a run."""
    return [STANDING, *sorted(cycle.workspace.experiment.settings.challengers)]


def _challenger(cycle: Cycle, model_id: str, champion: Champion | None) -> ChallengerState:
    """The challenger that this model is; a model that is none yet joins the field and is scored."""
    workspace, store = cycle.workspace, cycle.store
    state = _state_of(cycle, model_id)
    if state is not None and state.kind == KIND_LEARNING:
        if state.champion != (champion.model_id if champion else None):
            raise Refused("this model was scored beside another champion; train again")
        return state
    if state is None:
        offer(workspace, store, model_id)
    if cycle.intake.watermark is None:
        raise NotYet("the log is not known to be complete up to any time yet; try again in a second")
    plans = [plan for plan in plan_offered(workspace, store, champion) if plan.state.model_id == model_id]
    (done,) = advance_all(workspace, store, cycle.trainer, plans, watermark=cycle.intake.watermark)
    if done.error is not None:
        raise done.error
    return done.state


def _state_of(cycle: Cycle, model_id: str) -> ChallengerState | None:
    for name in (*_learning(cycle), PREFIX + model_id):
        state = cycle.store.load(name)
        if state is not None and model_id in (state.candidate, state.model_id):
            return state
    return None
