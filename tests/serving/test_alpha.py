"""All challengers of a champion's tenure together spend no more α than there is, whoever comes and goes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandit.errors import CorruptModel
from bandit.experiment import ExperimentPaths
from bandit.registry import Champion
from bandit.settings import ExperimentSettings, parse_settings
from serving.learner.challengers.field import _drop_undeclared
from serving.learner.challengers.offered import OFFERED_MAX, PREFIX, offer, withdraw
from serving.learner.challengers.remembered import spent_by_the_gone
from serving.learner.challengers.store import (
    KIND_FROZEN,
    KIND_GUARD,
    KIND_LEARNING,
    RETIRED,
    STANDING,
    ChallengerState,
    ChallengerStore,
)
from serving.learner.verdicts.judging import alpha_of, rules_for
from tests.serving.learner_support import World, begun, twin_of, world
from tests.serving.test_changed_settings import change

ALPHA = 0.05
FIELD = ExperimentSettings()
ALONE = parse_settings({"challengers": {}})


def challenger(name: str, kind: str = KIND_LEARNING, spent: float = 0.0) -> ChallengerState:
    born = datetime(2026, 1, 1, tzinfo=UTC)
    return ChallengerState(
        name=name, kind=kind, champion="m", settings_version=1, born=born, gate={"spent": spent} if spent else {}
    )


def test_a_challenger_without_rivals_has_all_of_it() -> None:
    standing = challenger(STANDING)
    assert alpha_of(ALPHA, ALONE, standing, [standing], {}) == ALPHA
    shared = alpha_of(ALPHA, FIELD, standing, [standing, challenger("recent")], {})
    assert shared == pytest.approx(ALPHA * 8 / 9)
    assert rules_for(ALONE, standing, [standing], {}).alpha == ALPHA


def test_the_watch_on_the_former_champion_has_its_own() -> None:
    guard = challenger("former", KIND_GUARD)
    assert rules_for(FIELD, guard, [guard], {}).alpha == FIELD.rollback.alpha


def test_what_a_rejected_offer_spent_stays_spent_when_no_offer_is_left(tmp_path: Path) -> None:
    store = ChallengerStore(ExperimentPaths(tmp_path), durable=False)
    assert store.retired("m") == {}
    store.retire("m", "offered-a", 0.003)
    store.retire("m", "offered-b", 0.002)
    assert store.retired("m") == {"offered-a": 0.003, "offered-b": 0.002}
    standing, recent = challenger(STANDING), challenger("recent")
    for state in (standing, recent):
        state.gate = {"spent": alpha_of(ALPHA, FIELD, state, [standing, recent], store.retired("m"))}
    assert standing.gate["spent"] + recent.gate["spent"] + 0.005 <= ALPHA + 1e-12
    store.retire("next", "offered-a", 0.001)
    assert store.retired("m") == {}
    assert store.retired("next") == {"offered-a": 0.001}


def test_a_challenger_that_is_declared_anew_does_not_get_back_what_it_spent(tmp_path: Path) -> None:
    store = ChallengerStore(ExperimentPaths(tmp_path), durable=False)
    store.save(challenger("recent", spent=0.004))
    store.save(challenger(STANDING))
    champion = Champion(model_id="m", since=datetime(2026, 1, 1, tzinfo=UTC), generation=1, reason="")
    _drop_undeclared(store, {"recent"}, champion)
    assert store.names() == ["recent", STANDING] and store.retired("m") == {}
    _drop_undeclared(store, set(), champion)
    assert store.names() == [STANDING] and store.retired("m") == {"recent": 0.004}
    store.save(msgspec.structs.replace(challenger("recent", spent=0.02), champion="the one before"))
    _drop_undeclared(store, set(), champion)
    assert store.names() == [STANDING] and store.retired("m") == {"recent": 0.004}


def test_whoever_comes_and_goes_no_more_than_alpha_is_spent() -> None:
    """Everyone always spends all that it may; forty offers follow each other, each rejected after its look."""
    standing, recent = challenger(STANDING), challenger("recent")
    standing.gate = {"spent": alpha_of(ALPHA, FIELD, standing, [standing, recent], {})}
    gone: dict[str, float] = {}
    waiting: list[ChallengerState] = []
    for number in range(40):
        if len(waiting) == OFFERED_MAX:
            rejected = waiting.pop(0)
            gone[rejected.name] = rejected.gate.get("spent", 0.0)
        waiting.append(challenger(f"offered-{number}", KIND_FROZEN))
        field = [standing, recent, *waiting]
        for state in field:
            spent = state.gate.get("spent", 0.0)
            state.gate = {"spent": max(spent, alpha_of(ALPHA, FIELD, state, field, gone))}
        assert sum(gone.values()) + sum(state.gate["spent"] for state in field) <= ALPHA + 1e-12
    assert sum(gone.values()) > 0.0


def test_declared_ones_never_spend_more_than_their_part_together_whoever_is_declared_when() -> None:
    """Everyone always spends all that it may, while others are declared, leave, and are declared again."""
    part, gone = ALPHA / 9, dict[str, float]()
    field = [challenger(STANDING)]
    for names in (["a"], ["a", "b"], ["b"], [], ["a"], ["a", "b", "c"], ["c"]):
        declared = {name: {"window_interactions": 100, "every_interactions": 100} for name in names}
        settings = parse_settings({"challengers": declared})
        for state in [state for state in field if state.name not in (STANDING, *names)]:
            gone[state.name] = gone.get(state.name, 0.0) + state.gate.get("spent", 0.0)
            field.remove(state)
        field += [challenger(name) for name in names if name not in {state.name for state in field}]
        allowed = {state.name: alpha_of(ALPHA, settings, state, field, gone) for state in field}
        for state in field[1:]:
            state.gate = {"spent": max(state.gate.get("spent", 0.0), allowed[state.name])}
        assert sum(gone.values()) + sum(state.gate["spent"] for state in field[1:]) <= part + 1e-12
        assert allowed[STANDING] >= ALPHA * 8 / 9 - 1e-12
    assert sum(gone.values()) == pytest.approx(part)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("number", range(2, 11))
def test_declared_ones_that_have_spent_all_have_nothing_more(number: int, alpha: float) -> None:
    declared = {f"c{each}": {"window_interactions": 100, "every_interactions": 100} for each in range(number)}
    settings = parse_settings({"challengers": declared})
    field = [challenger(STANDING), *map(challenger, declared)]
    for state in field[1:]:
        state.gate = {"spent": alpha_of(alpha, settings, state, field, {})}
    for state in field[1:]:
        assert alpha_of(alpha, settings, state, field, {}) == pytest.approx(state.gate["spent"])


def test_two_declared_ones_have_an_even_share_each_whichever_spent_first() -> None:
    declared = {name: {"window_interactions": 100, "every_interactions": 100} for name in ("a", "b")}
    settings = parse_settings({"challengers": declared})
    field = [challenger(STANDING), challenger("a", spent=ALPHA / 18), challenger("b")]
    assert [alpha_of(ALPHA, settings, state, field, {}) for state in field[1:]] == pytest.approx([ALPHA / 18] * 2)


def test_an_epoch_that_is_over_gives_back_what_those_that_left_had_spent_in_it(tmp_path: Path) -> None:
    store = ChallengerStore(ExperimentPaths(tmp_path), durable=False)
    store.retire("m", "recent", 0.004)
    store.release("m")
    assert store.retired("m") == {}
    assert store.left("m") == {"recent": 0.004}
    store.retire("m", "recent", 0.001)
    assert store.retired("m") == pytest.approx({"recent": 0.001})
    (tmp_path / "challengers" / "retired.json").write_text('{"champion": "m", "spent": 0.003, "by": {"a": 0.001}}')
    assert store.retired("m") == pytest.approx({"a": 0.001, "": 0.002})


def delete_state(here: World) -> None:
    (here.transport.cycle.store.root / STANDING / "state.json").unlink()


def lose_the_folder(here: World) -> None:
    shutil.rmtree(here.transport.cycle.store.root)


@pytest.mark.parametrize("lose", [delete_state, lose_the_folder])
def test_what_a_challenger_spent_stays_spent_when_its_state_is_gone(
    tmp_path: Path, lose: Callable[[World], None]
) -> None:
    with tenure(tmp_path) as here:
        cycle = here.transport.cycle
        before = cycle.store.load(STANDING)
        assert before is not None and before.gate["spent"] > 0.0
        lose(here)
        here.play(10)
        here.transport.settle()
        after = cycle.store.load(STANDING)
        assert after is not None and after.born > before.born and after.scored_after == before.scored_after
        ((_, _, last, *_),) = after.gate["looks"]
        assert after.gate["spent"] == pytest.approx(before.gate["spent"] + last) and last < before.gate["spent"]
        assert after.gate["taken"] == before.gate["taken"] + 1
        assert ("standing", "its state is gone") in {
            (entry["challenger"], entry["reason"]) for entry in cycle.workspace.registry.history.entries("restart")
        }


def test_a_new_epoch_of_the_standing_challenger_gives_back_what_those_that_left_had_spent(tmp_path: Path) -> None:
    declared = {"recent": {"window_interactions": 100, "every_interactions": 5000}}
    gate = {"margin": 5.0, "rows_min": 50, "horizon_rows": 500}
    with world(tmp_path, challengers=declared, gate=gate) as here:
        cycle, store = here.transport.cycle, here.transport.cycle.store
        here.transport.warm_start(here.history(100))
        champion = cycle.workspace.registry.champion()
        assert champion is not None
        for _ in range(2):
            here.play(100)
            here.transport.settle()
        assert spent(store, "recent") > 0.0
        change(here, challengers={})
        here.play(100)
        here.transport.settle()
        assert list(store.retired(champion.model_id)) == ["recent"]
        while (standing := store.load(STANDING)) is None or standing.gate["epoch"] == 1:
            here.play(100)
            here.transport.settle()
        assert cycle.workspace.registry.champion() == champion
        assert store.retired(champion.model_id) == {}


def test_nobody_is_given_what_an_offered_model_spent_whose_state_is_gone(tmp_path: Path) -> None:
    with tenure(tmp_path) as here:
        cycle = here.transport.cycle
        workspace, store, champion = cycle.workspace, cycle.store, cycle.workspace.registry.champion()
        assert champion is not None
        on_trial = workspace.registry.trial()
        assert on_trial is not None
        one, other = on_trial.model_id, twin_of(workspace, on_trial.model_id, "the same once more")
        for model_id in (one, other):
            offer(workspace, store, model_id)
        for _ in range(4):
            here.play(200)
            here.transport.settle()

        def gone() -> dict[str, float]:
            field = [state for name in store.names() if (state := store.load(name)) is not None]
            return spent_by_the_gone(workspace, store, champion, field)

        assert gone() == {}
        by_one, by_other = (spent(store, PREFIX + model_id) for model_id in (one, other))
        assert by_one > 0.0 and by_other > 0.0
        shutil.rmtree(store.root / (PREFIX + one))
        assert gone() == pytest.approx({PREFIX + one: by_one})
        withdraw(workspace, store, other)
        assert gone() == pytest.approx({PREFIX + one: by_one, PREFIX + other: by_other})


@pytest.mark.parametrize("breaks", [lambda data: data[:-3], lambda data: data.replace(b'"spent"', b'"sp\xffnt"')])
def test_what_those_that_left_had_spent_stays_spent_when_its_file_is_damaged(
    tmp_path: Path, breaks: Callable[[bytes], bytes]
) -> None:
    field = {"recent": {"window_interactions": 50, "every_interactions": 5000}}
    with tenure(tmp_path, challengers=field) as here:
        cycle = here.transport.cycle
        workspace, store, champion = cycle.workspace, cycle.store, cycle.workspace.registry.champion()
        assert champion is not None
        on_trial = workspace.registry.trial()
        assert on_trial is not None
        offer(workspace, store, on_trial.model_id)
        for _ in range(4):
            here.play(200)
            here.transport.settle()
        by_offered, by_recent = spent(store, PREFIX + on_trial.model_id), spent(store, "recent")
        assert by_offered > 0.0 and by_recent > 0.0
        withdraw(workspace, store, on_trial.model_id)
        _drop_undeclared(store, set(), champion)  # and is declared again
        left = store.retired(champion.model_id)
        assert left == pytest.approx({PREFIX + on_trial.model_id: by_offered, "recent": by_recent})
        place = store.root / RETIRED
        place.write_bytes(breaks(place.read_bytes()))
        with pytest.raises(CorruptModel, match=r"retired\.json cannot be read"):
            store.retired(champion.model_id)
        for _ in range(2):
            here.play(200)
            here.transport.settle()
            assert cycle.last_run is not None and cycle.last_run.outcome != "failed"
        assert store.retired(champion.model_id) == pytest.approx(left)
        (told,) = [entry for entry in workspace.registry.history.entries("restart") if entry["challenger"] is None]
        assert told["reason"].startswith("retired.json cannot be read") and "taken from history" in told["reason"]


def spent(store: ChallengerStore, name: str) -> float:
    state = store.load(name)
    return state.gate.get("spent", 0.0) if state is not None else 0.0


@contextmanager
def tenure(data_dir: Path, **sections: Any) -> Iterator[World]:
    """A champion that stays, and challengers that have been judged against it."""
    with begun(data_dir, 60, (150, 150), gate={"margin": 5.0}, **sections) as here:
        yield here
