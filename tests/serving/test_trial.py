"""A challenger on trial: its share of the pmf is logged as drawn, bounded, replayable, and ends with the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bandit.eventlog import read_events
from bandit.eventlog.survey import sealed_segments
from bandit.events import DecisionEvent
from bandit.policies import load_policy
from bandit.replay import offered_actions, replay
from bandit.sampling import mix
from bandit.settings import Serving
from bandit.types import SLICE_POLICY, SLICE_TRIAL
from evaluation.gate import GateRules, Verdict, judge
from evaluation.scored import ScoredRows
from serving.learner import models
from serving.learner.verdicts import trial as trials
from serving.learner.verdicts.promotion import publish_learning
from serving.learner.verdicts.trial import share_for
from tests.serving.learner_support import World, world

FEW = 30
"""So few rows teach a first model that is often wrong, and leave the gate undecided for a while."""


@contextmanager
def undecided(data_dir: Path, **serving: Any) -> Iterator[World]:
    """A world whose champion learnt from a few rows, and whose challenger the gate has not judged yet."""
    with world(data_dir, gate={"alpha": 1e-9}, serving=serving) as here:
        here.transport.warm_start(here.history(FEW))
        for _ in range(5):
            here.play(100)
            here.transport.settle()
            if here.transport.server.registry.trial() is not None:
                break
        yield here


def decisions(here: World) -> list[DecisionEvent]:
    here.transport.server.writer.seal()
    events = [event for path in sealed_segments(here.transport.experiment.paths.events) for event in read_events(path)]
    return [event for event in events if isinstance(event, DecisionEvent) and event.imported_at is None]


def verdict_on(lift: float, rows: int = 400) -> Verdict:
    """The gate's verdict on a challenger that always takes the second action, where uniform was logged."""
    rng = np.random.default_rng(1)
    action = np.arange(rows) % 2
    reward = (rng.random(rows) < 0.5).astype(float)
    reward += lift * (2 * action - 1)
    return judge(
        ScoredRows(
            offsets=np.arange(rows + 1) * 2,
            candidate=np.tile([0.0, 1.0], rows),
            champion=np.tile([1.0, 0.0], rows),
            q=np.full(2 * rows, 0.5),
            pmf=np.full(2 * rows, 0.5),
            action=action,
            reward=reward,
            propensity=np.full(rows, 0.5),
        ),
        GateRules(alpha=1e-9),
    )


def test_an_undecided_challenger_gets_its_share_and_the_mixture_is_what_is_logged(tmp_path: Path) -> None:
    with undecided(tmp_path) as here:
        registry = here.transport.server.registry
        trial = registry.trial()
        assert trial is not None
        here.play(50)
        champion = registry.champion()
        assert champion is not None and champion.model_id == trial.champion
        served, tried = (load_policy(registry.load(name)) for name in (champion.model_id, trial.model_id))
        for event in decisions(here)[-50:]:
            assert (event.slice, event.trial_model_id, event.trial_share) == (SLICE_TRIAL, trial.model_id, trial.share)
            actions = offered_actions(event, here.transport.experiment.catalogue)
            assert actions is not None
            expected = mix(served.pmf(event.context, actions), tried.pmf(event.context, actions), trial.share)
            assert event.pmf == expected


def test_the_share_grows_with_the_evidence_and_keeps_its_bounds() -> None:
    shares = [share_for(verdict_on(lift), Serving()) for lift in (-0.3, -0.1, 0.02, 0.05, 0.4)]
    start, most = Serving().trial_share, Serving().trial_share_max
    assert shares == sorted(shares) and shares[0] == round(start / 3, 3)
    assert start < shares[3] < shares[4] <= most
    careful = Serving(trial_share=0.03, trial_share_max=0.05)
    assert [share_for(verdict_on(lift), careful) for lift in (-0.3, 0.4)] == [0.01, 0.05]


def test_every_decision_of_a_trial_replays_bit_for_bit(tmp_path: Path) -> None:
    with undecided(tmp_path) as here:
        here.play(50)
        experiment, registry = here.transport.experiment, here.transport.server.registry
        policies = {name: load_policy(registry.load(name)) for name in registry.model_ids()}
        events = decisions(here)
        assert {event.slice for event in events} == {SLICE_POLICY, SLICE_TRIAL}
        for event in events:
            actions = offered_actions(event, experiment.catalogue)
            assert actions is not None
            again = replay(
                event,
                actions=actions,
                policy=policies[event.model_id],
                settings=experiment.settings_of(event.settings_version),
                secret=experiment.secret,
                trial=policies.get(event.trial_model_id or ""),
            )
            assert again is not None and again.agrees_with(event)


def test_the_trial_ends_when_another_champion_stands(tmp_path: Path) -> None:
    with undecided(tmp_path) as here:
        registry = here.transport.server.registry
        trial, champion = registry.trial(), registry.champion()
        assert trial is not None and champion is not None
        registry.swap(trial.model_id, expected=champion.model_id, now=here.transport.clock(), reason="by hand")
        assert registry.trial() is None
        here.transport.server.refresh()
        here.play(20)
        assert {event.slice for event in decisions(here)[-20:]} == {SLICE_POLICY}


def test_a_damaged_model_on_trial_is_left_out_and_nobody_is_refused(tmp_path: Path) -> None:
    with undecided(tmp_path) as here:
        registry = here.transport.server.registry
        trial = registry.trial()
        assert trial is not None
        copy = msgspec.structs.replace(trial, challenger="other", learnt=1)
        registry.clear_trial()
        here.transport.server.refresh()
        registry.set_trial(copy)
        path = here.transport.experiment.paths.models / trial.model_id / "policy.vw"
        sound = path.read_bytes()
        path.write_bytes(sound + b"one byte too many")
        here.transport.server.refresh()
        here.play(20)
        assert {event.slice for event in decisions(here)[-20:]} == {SLICE_POLICY}
        path.write_bytes(sound)
        here.transport.clock.advance(60)  # it is tried again within a minute
        here.transport.server.refresh()
        here.play(20)
        assert {event.slice for event in decisions(here)[-20:]} == {SLICE_TRIAL}


def test_a_pinned_champion_decides_alone_until_the_run_after_it_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with undecided(tmp_path) as here:
        server, workspace = here.transport.server, here.transport.cycle.workspace
        assert server.registry.trial() is not None
        models.pin(workspace)
        assert server.registry.trial() is None
        server.refresh()
        stored = server.registry.model_ids()
        for _ in range(2):
            here.play(40)
            here.transport.settle()
        assert server.registry.model_ids() == stored  # nor is a version stored for a trial that is none
        assert {event.slice for event in decisions(here)[-80:]} == {SLICE_POLICY}
        models.unpin(workspace)
        here.play(40)
        here.transport.settle()
        assert server.registry.trial() is not None

        def pins(*arguments: Any, **named: Any) -> Any:  # while a run prepares the next version
            models.pin(workspace)
            return publish_learning(*arguments, **named)

        server.registry.clear_trial()
        monkeypatch.setattr(trials, "publish_learning", pins)
        here.play(40)
        here.transport.settle()
        assert workspace.pinned is not None and server.registry.trial() is None


def test_a_trial_that_was_left_beside_a_pinned_champion_ends_when_a_learner_starts(tmp_path: Path) -> None:
    with undecided(tmp_path) as here:
        registry, cycle = here.transport.server.registry, here.transport.cycle
        trial = registry.trial()
        assert trial is not None
        cycle.recover()
        assert registry.trial() == trial
        models.pin(cycle.workspace)
        registry.set_trial(trial)
        cycle.recover()
        assert registry.trial() is None


@pytest.mark.parametrize("serving", [{"trial_share": 0.0}, {"mode": "frozen"}])
def test_no_challenger_is_on_trial_where_the_settings_say_so(tmp_path: Path, serving: dict[str, Any]) -> None:
    with undecided(tmp_path, **serving) as here:
        assert here.transport.server.registry.trial() is None
        here.play(20)
        assert {event.trial_model_id for event in decisions(here)} == {None}
