"""The evaluation step: judge every challenger that has scored rows, and carry the gate's state to the next look.

All challengers share the experiment's α, so that it holds over the tenure whoever comes and goes: see `alpha_of`. The
rows judged are all those scored in this champion's tenure and epoch; when the gate says that they are used up, the next
look starts afresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bandit.registry import Champion
from bandit.scoring import segments_of
from bandit.settings import ExperimentSettings
from evaluation.change import Stretch, champion_values
from evaluation.checks import Check
from evaluation.gate import RULES_VERSION, GateRules, Verdict, judge
from evaluation.scored import ScoredRows
from evaluation.sequential import AlphaLedger
from serving.learner.challengers.offered import OFFERED_MAX, PREFIX
from serving.learner.challengers.plans import model_time, same_model_settings
from serving.learner.challengers.remembered import mend_retired, spent_by_the_gone
from serving.learner.challengers.store import (
    KIND_FROZEN,
    KIND_GUARD,
    KIND_LEARNING,
    STANDING,
    ChallengerState,
    ChallengerStore,
    Origin,
)
from serving.learner.reports import Judgement
from serving.learner.training.trainer import Trainer
from serving.learner.verdicts.foresight import foresee
from serving.learner.workspace import Workspace

STANDING_PARTS = 8
"""Parts of α of the standing challenger, where declared and offered ones have one part each."""


@dataclass(slots=True)
class Look:
    """One challenger, judged: its state, the rows it was judged on, the gate's verdict, and what is said of it.

    `checks` are those that the gate was given, `segment_field` the one that the rows' segments are of.
    """

    state: ChallengerState
    rows: ScoredRows
    rules: GateRules
    verdict: Verdict
    judgement: Judgement
    at: datetime
    checks: tuple[Check, ...] = ()
    segment_field: str | None = None


def judge_all(
    workspace: Workspace,
    store: ChallengerStore,
    trainer: Trainer,
    states: Sequence[ChallengerState],
    *,
    at: datetime,
    newest: bool = True,
) -> list[Look]:
    """Judge each challenger on its scored rows, and whoever passes by its newest version; nothing on disk changes yet.

    Without `newest` nobody is promoted by the answer, and the newest versions are left alone. Raises what looking at
    them raises.
    """
    looks = []
    settings = workspace.experiment.settings
    by = settings.serving.segment_field
    field = [state for name in store.names() if (state := store.load(name)) is not None]
    champion = workspace.registry.champion()
    mend_retired(workspace, store, champion)
    gone = spent_by_the_gone(workspace, store, champion, field)
    for state in states:
        rules = rules_for(settings, state, field, gone)
        rows = ScoredRows.concat([ScoredRows.of(chunk) for chunk in store.scores(state)])
        rows = replace(rows, segment=segments_of(rows.segment, len(rows), by))
        ledger = AlphaLedger.from_dict(state.gate) if state.gate else None
        checks: tuple[Check, ...] = ()
        verdict = judge(rows, rules, ledger=ledger)
        if newest and verdict.promote and rules.enabled and state.kind == KIND_LEARNING:
            checks = (foresee(workspace, store, trainer, state, limit=_least(verdict, rules)),)
            verdict = judge(rows, rules, ledger=ledger, checks=checks)
        judgement = _judgement(state, verdict)
        if verdict.promote and rules.enabled and rules.mode == "superiority":
            judgement.former = Stretch.last(champion_values(rows), rows.cluster)
        looks.append(Look(state, rows, rules, verdict, judgement, at, checks, segment_field=by))
    return looks


def _least(verdict: Verdict, rules: GateRules) -> float:
    """The lift that the newest version may not fall short of: none at all, or what `noninferiority` tolerates."""
    if rules.mode == "superiority":
        return 0.0
    return -rules.margin * abs(verdict.totals.estimate("dr", "champion").value)


def rules_for(
    settings: ExperimentSettings, state: ChallengerState, field: Sequence[ChallengerState], gone: Mapping[str, float]
) -> GateRules:
    """The rules of the gate with this challenger's own part of α; `field` and `gone` as in `alpha_of`."""
    rules = GateRules.of(settings.gate)
    if state.kind == KIND_GUARD:
        # nobody gives the former champion a share, so its draws stay few; a bound as wide as they make it will do
        return replace(
            rules,
            enabled=True,
            mode="superiority",
            margin=0.0,
            looks="anytime",
            alpha=settings.rollback.alpha,
            draws_min=0.0,
        )
    return replace(rules, alpha=alpha_of(rules.alpha, settings, state, field, gone))


def alpha_of(
    alpha: float,
    settings: ExperimentSettings,
    state: ChallengerState,
    field: Sequence[ChallengerState],
    gone: Mapping[str, float],
) -> float:
    """The α that one challenger may have spent by the end of this tenure, or epoch.

    The standing one has eight parts, the declared ones have one part together where any is declared, the offered ones
    one where any is in the field (`field`: all challengers there are). What those that have left or are lost spent,
    `gone` by name, stays spent, out of the part that was theirs. Whoever comes and goes, all together never spend more
    than `alpha`, and no part more than it is.
    """
    active = [other for other in field if other.kind in (KIND_LEARNING, KIND_FROZEN)]
    offered = [other for other in active if other.kind == KIND_FROZEN]
    parts = STANDING_PARTS + bool(settings.challengers) + bool(offered)
    if state.name == STANDING:
        own = alpha * STANDING_PARTS / parts
    elif state.kind == KIND_FROZEN:
        left = alpha / parts - _sum(gone, offered=True) - sum(map(_spent, offered))
        own = _spent(state) + max(0.0, left) / OFFERED_MAX
    else:
        own = _of_the_declared(alpha / parts - _sum(gone, offered=False), settings, state, active)
    left = alpha - sum(gone.values()) - sum(map(_spent, active))
    return min(own, _spent(state) + max(0.0, left))


def _of_the_declared(
    part: float, settings: ExperimentSettings, state: ChallengerState, active: Sequence[ChallengerState]
) -> float:
    """An even share of the `part` that is left to the declared ones, as far as the others have not spent it."""
    spent = {other.name: _spent(other) for other in active if other.kind == KIND_LEARNING and other.name != STANDING}
    names = {*settings.challengers, *spent}
    wanted = {name: max(0.0, part / len(names) - spent.get(name, 0.0)) for name in names}
    left, total = max(0.0, part - sum(spent.values())), sum(wanted.values())
    return _spent(state) + wanted[state.name] * (min(1.0, left / total) if total > 0.0 else 0.0)


def _sum(gone: Mapping[str, float], *, offered: bool) -> float:
    return sum(spent for name, spent in gone.items() if name and (name.startswith(PREFIX) == offered))


def _spent(state: ChallengerState) -> float:
    return float(state.gate.get("spent", 0.0))


def carry_on(workspace: Workspace, store: ChallengerStore, look: Look, champion: Champion | None) -> None:
    """Save what an unpromoted challenger takes to the next look, or end it when it was rejected.

    A rejected standing challenger starts again from the champion (where settings make another model of it by now, from
    nothing), one of the declared field from its newest window, both with the ledger of this tenure; the rows they were
    rejected on are not scored a second time. A rejected offered model leaves the field.
    """
    state, verdict = look.state, look.verdict
    files = None
    if verdict.rejected:
        if state.kind in (KIND_FROZEN, KIND_GUARD):
            if state.kind == KIND_FROZEN:
                store.retire(state.champion, state.name, verdict.ledger.spent)
            store.drop(state.name)
            return
        state.candidate = None
        if state.name != STANDING or (champion is not None and not _made_as_now(workspace, champion)):
            state.folder = None
        elif champion is not None:
            stored = workspace.registry.load(champion.model_id)
            files = stored.files
            state.learnt = int(stored.manifest.data.get("rows", 0))
            state.since = model_time(stored.manifest.data, "since")
            state.origin = Origin(base=champion.model_id, score_after=state.cut, rules_version=RULES_VERSION)
    if not verdict.keep_rows:
        state.scored_after = state.cut
    ended = state.name == STANDING and state.gate and verdict.ledger.epoch > AlphaLedger.from_dict(state.gate).epoch
    store.save(state, files=files, gate=verdict.ledger.to_dict(), fresh_epoch=not verdict.keep_rows)
    if ended:  # afterwards, so that no crash gives α back within an epoch
        store.release(state.champion)


def _made_as_now(workspace: Workspace, champion: Champion) -> bool:
    version = workspace.registry.manifest(champion.model_id).settings_version
    return same_model_settings(workspace.experiment, version, workspace.experiment.in_force)


def _judgement(state: ChallengerState, verdict: Verdict) -> Judgement:
    seen = verdict.n > 0
    return Judgement(
        challenger=state.name,
        outcome=verdict.outcome,
        reason=verdict.reason,
        lift=verdict.lift.value if seen else None,
        weighed=verdict.weighed.value if seen else None,
        lower=verdict.lower if seen else None,
        upper=verdict.upper if seen else None,
        value=verdict.totals.estimate("dr", "candidate").value if seen else None,
        champion_value=verdict.totals.estimate("dr", "champion").value if seen else None,
        rows=verdict.n,
        rows_needed=verdict.rows_needed,
        rows_to_show=verdict.rows_to_show,
        rejected=verdict.rejected,
        model_id=state.model_id if state.name != STANDING else None,
        ledger={key: value for key, value in verdict.ledger.to_dict().items() if key != "looks"},
        scored_after=state.scored_after if verdict.keep_rows else state.cut,
    )
