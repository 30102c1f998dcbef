"""The declared field: challengers beside the standing one, each a learner of its own that starts anew on a schedule.

Such a challenger learns the newest `window_interactions` rows (or those of the last `window_h` hours) with its own
settings, then goes on learning, scored
progressively, until `every_interactions` rows later it starts anew on what is then the newest window, with fresh
scores and what is left of its α. The default member relearns the recent past: when the world drifts, the champion's
plain continuation is slow to forget. After a fall (see `verdicts.fallen`) no window reaches back over it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from bandit.experiment import Experiment, InForce
from bandit.policies import read_state
from bandit.registry import Champion
from bandit.settings import Challenger, ExperimentSettings
from joiner.export import RowFilter, learnt_rows
from joiner.warehouse import Warehouse
from serving.learner.challengers.plans import Plan, inherited, is_damaged, made_of, model_time, new_state
from serving.learner.challengers.remembered import known_state
from serving.learner.challengers.store import KIND_LEARNING, STANDING, ChallengerState, ChallengerStore
from serving.learner.workspace import Workspace


def plan_field(workspace: Workspace, store: ChallengerStore, champion: Champion | None) -> list[Plan]:
    """How each declared challenger goes on; none while there is no champion or too short a log to differ from it."""
    in_force = workspace.experiment.in_force
    declared = in_force.settings.challengers
    _drop_undeclared(store, set(declared), champion)
    if champion is None:
        return []
    plans = (_plan(workspace, store, name, in_force, champion) for name in sorted(declared))
    return [plan for plan in plans if plan is not None]


def settings_of(settings: ExperimentSettings, declared: Challenger) -> ExperimentSettings:
    """The experiment's settings with what a challenger declares in their place.

    What the experiment ignores a challenger ignores too, whatever encoding it has of its own.
    """
    changes = {
        section: value
        for section in ("exploration", "learning", "encoding")
        if (value := getattr(declared, section)) is not None
    }
    if declared.encoding is not None:
        ignored = sorted({*settings.encoding.ignore, *declared.encoding.ignore})
        changes["encoding"] = msgspec.structs.replace(declared.encoding, ignore=ignored)
    return msgspec.structs.replace(settings, **changes)


def settings_of_challenger(settings: ExperimentSettings, name: str) -> ExperimentSettings:
    """The settings that the challenger of that name learns with."""
    declared = settings.challengers.get(name)
    return settings if declared is None else settings_of(settings, declared)


def learnt_under(experiment: Experiment, state: ChallengerState) -> tuple[int, ExperimentSettings]:
    """The version of the settings that a challenger learnt with, and its own settings under it.

    They are those in force, unless somebody has changed what models are made of since its last step began.
    """
    version, now, _ = experiment.in_force
    settings = settings_of_challenger(now, state.name)
    if state.kind == KIND_LEARNING and version != state.settings_version:
        before = settings_of_challenger(experiment.settings_of(state.settings_version), state.name)
        if made_of(settings) != made_of(before):
            return state.settings_version, before
    return version, settings


def _plan(
    workspace: Workspace,
    store: ChallengerStore,
    name: str,
    in_force: InForce,
    champion: Champion,
) -> Plan | None:
    declared = in_force.settings.challengers[name]
    settings = settings_of(in_force.settings, declared)
    made_of = fingerprint(settings, declared)
    cut = _cut(workspace, champion)
    state = known_state(workspace, store, name, champion)
    changed = state is None or state.champion != champion.model_id
    if state is not None and state.made_of == made_of:
        in_step = state.cut is not None and cut is not None and state.cut >= cut
        goes_on = state.folder is not None and in_step and state.learnt - state.born_with < declared.every_interactions
        if goes_on and not is_damaged(workspace, store, state):
            state.champion = champion.model_id
            return Plan(state, settings, files=store.files(state), score_after=state.cut, fresh_epoch=changed)
    # the window ends where the last run did: what came since is scored before it is learnt. Whatever this one has
    # seen, rows up to the champion's cut must not be compared
    standing = store.load(STANDING)
    cuts = (cut, state.cut if state else None, standing.cut if standing else None)
    cut = max((moment for moment in cuts if moment is not None), default=None)
    if cut is None:
        return None
    since = _window_start(workspace.warehouse, declared, cut, learnt_rows(settings.learning))
    if since is None:  # the log is no longer than the window: this would be the standing challenger once more
        return None
    if state is not None and state.not_before is not None:
        since = max(since, state.not_before)
    return start_anew(workspace, name, champion, state, in_force=in_force, since=since, learn_until=cut)


def start_anew(
    workspace: Workspace,
    name: str,
    champion: Champion,
    state: ChallengerState | None,
    *,
    in_force: InForce,
    since: datetime,
    learn_until: datetime,
) -> Plan:
    """A declared challenger from nothing: rows matured in (since, learn_until] are learnt, later ones scored first.

    `state` is what it was so far. Each incarnation proves itself on its own rows (lifts from before a drift would
    dilute those after it), with what is left of its α.
    """
    declared = in_force.settings.challengers[name]
    settings = settings_of(in_force.settings, declared)
    same_tenure = state is not None and state.champion == champion.model_id
    fresh = new_state(workspace, name, champion.model_id, state, version=in_force.version)
    fresh.made_of, fresh.since = fingerprint(settings, declared), since
    fresh.not_before = state.not_before if state is not None else None
    fresh.born_with = workspace.warehouse.count_matured(since, learn_until, learnt_rows(settings.learning))
    return Plan(
        fresh,
        settings,
        learn_after=since,
        learn_until=learn_until,
        score_after=learn_until,
        starts=True,
        fresh_epoch=True,
        gate=inherited(state) if state is not None and same_tenure else None,
        # a window of a champion's log holds little that explores, which is what a learning rate is chosen on
        rate=read_state(workspace.registry.load(champion.model_id).files).rate,
    )


def _window_start(warehouse: Warehouse, declared: Challenger, cut: datetime, rows: RowFilter) -> datetime | None:
    """From when on the newest window is, in time of maturity; None where it holds the whole log, or nothing."""
    if declared.window_h is None:
        return warehouse.nth_newest_maturity(declared.window_interactions, cut, rows)
    since = cut - timedelta(hours=declared.window_h)
    whole = warehouse.count_matured(None, since, rows) == 0
    return None if whole or warehouse.count_matured(since, cut, rows) == 0 else since


def fingerprint(settings: ExperimentSettings, declared: Challenger) -> str:
    """What a challenger is made of, as text: when it changes, the challenger starts anew."""
    return msgspec.json.encode((*made_of(settings), declared), order="deterministic").decode()


def _drop_undeclared(store: ChallengerStore, declared: set[str], champion: Champion | None) -> None:
    """Forget whoever is declared no more; what α it spent in this tenure stays spent, even if it is declared again."""
    for name in store.names():
        state = store.load(name)
        if state is not None and state.kind == KIND_LEARNING and name != STANDING and name not in declared:
            if champion is not None and state.champion == champion.model_id:
                store.retire(state.champion, name, float(state.gate.get("spent", 0.0)))
            store.drop(name)


def _cut(workspace: Workspace, champion: Champion) -> datetime | None:
    return model_time(workspace.registry.load(champion.model_id).manifest.data, "cut")
