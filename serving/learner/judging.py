"""The evaluation step: judge every challenger that has scored rows, and carry the gate's state to the next look.

All challengers of a look share α (the gate corrects for their number). The rows judged are all those scored in this
champion's tenure and epoch; when the gate says that they are used up, the next look starts with fresh ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bandit.registry import Champion
from evaluation.gate import GateRules, Verdict, judge
from evaluation.scored import ScoredRows
from evaluation.sequential import AlphaLedger
from serving.learner.challengers import KIND_FROZEN, STANDING, ChallengerState, ChallengerStore
from serving.learner.reports import Judgement
from serving.learner.workspace import Workspace


@dataclass(slots=True)
class Look:
    """One challenger, judged: its state, the rows it was judged on, the gate's verdict, and what is said of it."""

    state: ChallengerState
    rows: ScoredRows
    rules: GateRules
    verdict: Verdict
    judgement: Judgement
    at: datetime
    challengers: int = 1


def judge_all(
    workspace: Workspace, store: ChallengerStore, states: Sequence[ChallengerState], *, at: datetime
) -> list[Look]:
    """Judge each challenger on its scored rows; nothing on disk changes yet."""
    rules = GateRules.of(workspace.experiment.settings.gate)
    looks = []
    for state in states:
        rows = ScoredRows.concat([ScoredRows.of(chunk) for chunk in store.scores(state)])
        ledger = AlphaLedger.from_dict(state.gate) if state.gate else None
        verdict = judge(rows, rules, ledger=ledger, challengers=len(states))
        looks.append(Look(state, rows, rules, verdict, _judgement(state, verdict), at, len(states)))
    return looks


def carry_on(workspace: Workspace, store: ChallengerStore, look: Look, champion: Champion | None) -> None:
    """Save what an unpromoted challenger takes to the next look, or end it when it was rejected.

    A rejected standing challenger starts again from the champion, with the ledger of this tenure; the rows that it
    was rejected on are not learnt a second time by it. A rejected offered model leaves the field.
    """
    state = look.state
    ledger = look.verdict.ledger.to_dict()
    if look.verdict.rejected and state.kind == KIND_FROZEN:
        store.drop(state.name)
        return
    files = None
    if look.verdict.rejected and champion is not None:
        files = workspace.registry.load(champion.model_id).files
    store.save(state, files=files, gate=ledger, fresh_epoch=not look.verdict.keep_rows)


def _judgement(state: ChallengerState, verdict: Verdict) -> Judgement:
    seen = verdict.n > 0
    return Judgement(
        challenger=state.name,
        outcome=verdict.outcome,
        reason=verdict.reason,
        lift=verdict.lift.value if seen else None,
        lower=verdict.lower if seen else None,
        upper=verdict.upper if seen else None,
        rows=verdict.n,
        rows_needed=verdict.rows_needed,
        rejected=verdict.rejected,
        model_id=state.model_id if state.name != STANDING else None,
    )
