"""Erasure: nothing of the erased stays but a tombstone, everything else stays as it was, and the log is sound."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bandit.errors import Busy, InvalidInput
from bandit.eventlog import read_events, survey, verify_segment
from bandit.eventlog.erasure import erase_from_segment, tombstone
from bandit.eventlog.heartbeat import lock_path
from bandit.eventlog.survey import sealed_segments
from bandit.events import DecisionEvent, RewardEvent
from bandit.experiment import Experiment
from bandit.files import locked
from bandit.scratch import PREFIX
from bandit.types import Action
from evaluation.sequential import AlphaLedger
from joiner.archive import PARQUET
from joiner.warehouse import Warehouse
from serving.cli import run
from serving.cli.common import now
from serving.in_process import in_process
from serving.learner import intake as intake_module
from serving.learner import recovery
from serving.learner.challengers.store import STANDING, ChallengerStore
from serving.learner.cycle import Cycle
from serving.learner.hosting import LearnerService
from serving.learner.leftovers import remove_leftovers
from serving.learner.operations import erase as erase_module
from serving.learner.operations.doctor import run as doctor
from serving.learner.operations.erase import run as erase
from serving.learner.reports import RunReport
from serving.learner.training.trainer import InlineTrainer
from serving.learner.verdicts.certificates import CERTIFICATE
from serving.learner.workspace import Workspace
from simulator.transport import Delivery, Question
from tests.serving.learner_support import copy_of, full_disk, paths_of, settings, world

ACTIONS = (Action("left"), Action("right"))
PERSON = "person-3-of-seven"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _of_seven(tmp_path_factory.mktemp("erasure") / "data")


def _of_seven(data_dir: Path, **serving: str) -> Path:
    """Seven people, 280 decisions, a model learnt from them with its certificate, and history of theirs."""
    declared = settings(serving={"subject_field": "user"} | serving)
    with in_process(data_dir, "test", declared, 0) as transport:
        transport.warm_start(
            [
                {"context": _person(n), "actions": [{"id": "left"}, {"id": "right"}], "action": "left",
                 "probability": 0.5, "reward": 1.0}
                for n in range(70)
            ]
        )  # fmt: skip
        for batch in range(2):
            questions = [Question(f"b{batch}-e{n}", _person(n) | {"age": n}, ACTIONS) for n in range(140)]
            transport.play(questions, lambda index, answer: [Delivery(0.1, float(answer.action == "left"))])
            transport.settle()
    return data_dir


@pytest.fixture
def data_dir(original: Path, tmp_path: Path) -> Path:
    return copy_of(original, tmp_path)


def _name(number: int) -> str:
    return f"person-{number % 7}-of-seven"


def _person(number: int) -> dict[str, Any]:
    return {"user": _name(number), "nickname": _name(number)}


def _operate(data_dir: Path, operation: Any, **arguments: Any) -> Any:
    workspace = Workspace(Experiment.open(data_dir, "test"), now)
    try:
        return operation(workspace, **arguments)
    finally:
        workspace.close()


def _interactions(workspace: Workspace) -> pd.DataFrame:
    return workspace.warehouse.interactions()


def _digests(data_dir: Path) -> dict[str, str]:
    return {segment.name: verify_segment(segment).sha256 for segment in sealed_segments(paths_of(data_dir).events)}


def test_nothing_of_an_erased_subject_stays_outside_the_models_and_everything_else_stays(data_dir: Path) -> None:
    before = _operate(data_dir, _interactions)
    answer = _operate(data_dir, erase, subject=PERSON, confirmed=True)
    assert (answer["events"], answer["records"], answer["erased"]) == (50, 100, True)
    assert answer["evaluations"] >= 1
    after = _operate(data_dir, _interactions)
    others = before[before["subject"] != PERSON].reset_index(drop=True)
    assert len(others) == len(before) - 50
    pd.testing.assert_frame_equal(after, others)
    holding = [path for path in data_dir.rglob("*") if path.is_file() and PERSON.encode() in path.read_bytes()]
    assert {path.name for path in holding} <= {"encoder.json"}, "what a model learnt is not taken out of it"
    assert not any(b'b1-e3"' in path.read_bytes() for path in data_dir.rglob("*") if path.is_file())


@pytest.mark.parametrize("field", ["user", "nickname"])
def test_no_certificate_and_no_report_names_an_erased_subject_as_a_segment(tmp_path: Path, field: str) -> None:
    data_dir = _of_seven(tmp_path / "data", segment_field=field)
    others = {_name(n) for n in range(7)} - {PERSON}
    shown = _segments(data_dir)
    assert shown and all(names == {*others, PERSON} for names in shown.values())
    answer = _operate(data_dir, erase, subject=PERSON, confirmed=True)
    assert answer["evaluations"] == len(shown)
    assert all(names == others for names in _segments(data_dir).values())
    holding = [path for path in data_dir.rglob("*") if path.is_file() and PERSON.encode() in path.read_bytes()]
    assert {path.name for path in holding} <= {"encoder.json"}
    assert _operate(data_dir, doctor)["healthy"]


def test_a_subject_that_is_a_segment_of_rows_of_other_subjects_goes_although_the_log_has_dropped_the_events(
    tmp_path: Path,
) -> None:
    data_dir = _of_seven(tmp_path / "data", subject_field="household", segment_field="user")
    experiment, paths = Experiment.open(data_dir, "test"), paths_of(data_dir)
    experiment.change(settings(serving={"subject_field": "user"}), now=now())
    for segment in sealed_segments(paths.events):
        segment.unlink()
    assert _operate(data_dir, erase, subject=PERSON, confirmed=True)["evaluations"] >= 1
    for folder in (paths.evaluations, paths.challengers):
        assert not any(PERSON.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert all(len(names) == 6 for names in _segments(data_dir).values())


def test_the_names_of_segments_that_an_earlier_version_left_go_when_somebody_is_erased(tmp_path: Path) -> None:
    data_dir = _of_seven(tmp_path / "data", segment_field="user")
    kept = {path: path.read_bytes() for path in paths_of(data_dir).evaluations.glob("e*/*.*[nl]")}
    _operate(data_dir, erase, subject=PERSON, confirmed=True)
    for path, content in kept.items():
        path.write_bytes(content)
    _operate(data_dir, erase, subject="nobody", confirmed=True)
    assert not any(PERSON.encode() in path.read_bytes() for path in kept if path.exists())


def test_a_damaged_certificate_keeps_nobody_from_being_erased(data_dir: Path) -> None:
    certificates = list(paths_of(data_dir).evaluations.glob(f"e*/{CERTIFICATE}"))
    for path in certificates:
        path.write_bytes(b'{"diagnostics": null}')
    assert _operate(data_dir, erase, subject=PERSON, confirmed=True)["evaluations"] == len(certificates)


def _segments(data_dir: Path) -> dict[str, set[str]]:
    """The segments that each evaluation's certificate names."""
    paths = paths_of(data_dir).evaluations.glob(f"e*/{CERTIFICATE}")
    read = {path.parent.name: json.loads(path.read_bytes()) for path in paths}
    return {name: {each["segment"] for each in cert["diagnostics"]["segments"]} for name, cert in read.items()}


def leave_rows(data_dir: Path) -> list[Path]:
    """What processes that were killed may have left of a person's rows."""
    paths = paths_of(data_dir)
    (model, *_), (evaluation, *_) = sorted(paths.models.iterdir()), sorted(paths.evaluations.iterdir())
    left = [
        paths.challengers / f"{PREFIX}abcd" / "rows.ndjson",
        paths.scratch / f"{PREFIX}abcd" / "w0-00000001.jsonl",
        paths.root / ".evaluate-abcd" / "rows.ndjson",
        paths.challengers / ".export-abcd",
        paths.scratch / "abcd.tmp",
        paths.archive / ".incoming-w0-00000001" / PARQUET,
        paths.archive / ".incoming-w0-00000001" / "check" / "w0-00000001.jsonl",
        paths.archive / ".outgoing-a20260101t000004-35ccbe0d" / PARQUET,
        paths.root / "warehouse.doctor.duckdb",
        paths.root / "warehouse.doctor.duckdb.wal",
        paths.root / "warehouse.new.duckdb",
        paths.models / ".incoming-m20260101t000004-35ccbe0d" / "manifest.json",
        paths.evaluations / ".incoming-e20260101t000004-35ccbe0d" / "scored.parquet",
        evaluation / ".scored.parquet.tmp",
        _half_written(paths.events / "w0-00000001.jsonl", of=DEAD),
        _half_written(paths.events / "quarantine" / "w0-00000001.open.100.torn", of=DEAD),
        _half_written(model / "manifest.json", of=DEAD),
        _half_written(paths.challengers / "standing" / "state.json", of=DEAD),
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(f'{{"context":{{"user":"{PERSON}"}}}}')
    for folder in left[:2]:
        (folder.parent / ".lock").touch()
    return left


DEAD = 2**22 + 1
"""No process has this number: Linux gives none beyond 2²²."""


def _half_written(path: Path, *, of: int) -> Path:
    return path.with_name(f".{path.name}.{of}-1.tmp")


def test_nothing_is_left_by_an_erasure_that_a_killed_process_had_on_its_way(data_dir: Path) -> None:
    left = leave_rows(data_dir)
    _operate(data_dir, erase, subject=PERSON, confirmed=True)
    assert not any(path.exists() for path in left)


def test_what_a_killed_process_had_on_its_way_goes_when_a_learner_starts(data_dir: Path) -> None:
    left = leave_rows(data_dir)
    service = LearnerService(data_dir)
    try:
        service.discover()
        assert not any(path.exists() for path in left)
    finally:
        service.close()


@pytest.mark.parametrize("becomes", ["w8.shop-00000002.jsonl", "w8.shop-00000002.open.100.torn"])
def test_what_a_living_worker_writes_is_left_to_it_and_what_an_erasure_left_of_its_segments_is_not(
    data_dir: Path, becomes: str
) -> None:
    events = paths_of(data_dir).events
    writes = _half_written(events / becomes, of=os.getppid())
    with locked(lock_path(paths_of(data_dir), "w8.shop")):
        writes.touch()
        (left := _half_written(events / becomes, of=DEAD)).touch()
        remove_leftovers(paths_of(data_dir))
        assert (writes.exists(), left.exists()) == (True, False)
    remove_leftovers(paths_of(data_dir))
    assert not writes.exists()


def test_what_challengers_spent_of_alpha_stays_spent_when_their_scores_are_erased(tmp_path: Path) -> None:
    with world(tmp_path, gate={"margin": 0.5, "rows_min": 50}) as here:
        here.transport.warm_start(here.history(60))
        for _ in range(3):
            here.play(100)
            here.transport.settle()
        workspace, store = here.transport.cycle.workspace, here.transport.cycle.store
        spent = {name: _ledger(store, name).spent for name in store.names()}
        assert spent[STANDING] > 0
        erase(workspace, event_ids=["event-7"], confirmed=True)
        here.transport.cycle.run(force=True)
        state = store.load(STANDING)
        assert state is not None and state.learnt == 359
        for name, before in spent.items():
            assert _ledger(store, name).spent >= before


ROOM_BYTES = 150_000
"""Enough for the segments and models of these tests, and too little for their database."""


def test_an_erasure_that_a_full_disk_cuts_short_is_made_good_by_the_next_poll_that_has_room(data_dir: Path) -> None:
    before = _operate(data_dir, _interactions)
    cycle = Cycle(Workspace(Experiment.open(data_dir, "test"), now), InlineTrainer())
    workspace = cycle.workspace
    cycle.tick()
    with full_disk(ROOM_BYTES):
        with pytest.raises(OSError, match="make room"):
            erase(workspace, subject=PERSON, confirmed=True)
        with pytest.raises(OSError, match="make room"):
            cycle.tick()
    cycle.tick()
    others = before[before["subject"] != PERSON].reset_index(drop=True)
    pd.testing.assert_frame_equal(_interactions(workspace), others)
    assert erase(workspace, subject=PERSON, confirmed=True)["records"] == 0
    cycle.tick()
    assert len(_interactions(workspace)) == len(others)
    assert doctor(workspace, deep=True)["healthy"]
    cycle.close()


def test_erasing_again_makes_the_database_that_a_full_disk_kept_from_being_made(data_dir: Path) -> None:
    with full_disk(ROOM_BYTES), pytest.raises(OSError, match="make room"):
        _operate(data_dir, erase, subject=PERSON, confirmed=True)
    assert _operate(data_dir, erase, subject=PERSON, confirmed=True)["records"] == 0
    with Warehouse(Experiment.open(data_dir, "test")) as warehouse:
        assert warehouse.segment_names() == {segment.stem for segment in sealed_segments(paths_of(data_dir).events)}


def test_challengers_miss_no_row_after_an_erasure_that_a_full_disk_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path) as here:
        here.transport.warm_start(here.history(60))
        here.play(100)
        here.transport.settle()
        cycle = here.transport.cycle
        with full_disk(ROOM_BYTES), pytest.raises(OSError, match="make room"):
            erase(cycle.workspace, event_ids=["event-7"], confirmed=True)
        starting = survey(cycle.workspace.experiment.paths, now=cycle.workspace.clock())
        starting.unknown.append("a writer that is starting has not reported yet")
        monkeypatch.setattr(intake_module, "survey", lambda *a, **k: replace(starting, watermark=None))
        cycle.run(force=True)
        state = cycle.store.load(STANDING)
        assert state is not None and state.learnt == 159


def _ledger(store: ChallengerStore, name: str) -> AlphaLedger:
    state = store.load(name)
    assert state is not None
    return AlphaLedger.from_dict(state.gate) if state.gate else AlphaLedger()


def test_the_log_stays_sound_and_the_doctor_says_which_certificate_cannot_be_verified_any_more(data_dir: Path) -> None:
    _operate(data_dir, erase, subject=PERSON, confirmed=True)
    answer = _operate(data_dir, doctor, deep=True)
    assert answer["healthy"], answer["findings"]
    assert any("unverifiable" in finding["what"] for finding in answer["findings"])


def test_a_tombstone_stays_that_only_the_secret_can_read(data_dir: Path) -> None:
    experiment = Experiment.open(data_dir, "test")
    _operate(data_dir, erase, event_ids=["b0-e5"], confirmed=True)
    lines = paths_of(data_dir).history.read_text()
    (entry,) = [entry for line in lines.splitlines() if (entry := json.loads(line))["kind"] == "erasure"]
    assert entry["tombstones"] == [tombstone(experiment.secret, "b0-e5")]
    assert entry["tombstones"] != [tombstone(b"another secret", "b0-e5")]
    assert "b0-e5" not in lines


def test_an_event_goes_with_its_rewards_and_leaves_its_neighbours(data_dir: Path) -> None:
    answer = _operate(data_dir, erase, event_ids=["b0-e5", "b1-e139", "never-there"], confirmed=True)
    assert answer["records"] == 4
    events = [event for segment in sealed_segments(paths_of(data_dir).events) for event in read_events(segment)]
    decided = {event.event_id for event in events if isinstance(event, DecisionEvent)}
    rewarded = {event.event_id for event in events if isinstance(event, RewardEvent)}
    assert decided & {"b0-e5", "b1-e139"} == rewarded & {"b0-e5", "b1-e139"} == set()
    assert {"b0-e4", "b0-e6", "b1-e138"} <= decided & rewarded


def test_erasing_a_whole_segment_leaves_it_empty_and_sound(data_dir: Path) -> None:
    segment = sealed_segments(paths_of(data_dir).events)[-1]
    ids = sorted({event.event_id for event in read_events(segment)})
    _operate(data_dir, erase, event_ids=ids, confirmed=True)
    assert verify_segment(segment).events == 0
    assert list(read_events(segment)) == []
    assert _operate(data_dir, doctor)["healthy"]


def test_without_confirmation_nothing_changes(data_dir: Path) -> None:
    before = _digests(data_dir)
    answer = _operate(data_dir, erase, subject=PERSON)
    assert (answer["events"], answer["erased"]) == (50, False)
    assert _digests(data_dir) == before


def test_erasing_twice_finds_nothing_the_second_time(data_dir: Path) -> None:
    _operate(data_dir, erase, subject=PERSON, confirmed=True)
    before = _digests(data_dir)
    assert _operate(data_dir, erase, subject=PERSON, confirmed=True)["records"] == 0
    assert _digests(data_dir) == before


def test_an_erasure_that_has_to_wait_for_a_reader_for_too_long_leaves_everything_as_it_was(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.learner.workspace.READERS_S", 0.1)
    workspace = Workspace(Experiment.open(data_dir, "test"), now)
    cursor = workspace.warehouse.cursor()
    before = _digests(data_dir)
    with pytest.raises(Busy, match="is being read"):
        erase(workspace, subject=PERSON, confirmed=True)
    assert _digests(data_dir) == before and workspace.registry.history.entries("erasure") == []
    del cursor
    assert erase(workspace, subject=PERSON, confirmed=True)["records"] > 0
    workspace.close()


def test_erasing_somebody_who_is_not_in_the_log_leaves_the_challengers_and_the_database(data_dir: Path) -> None:
    paths = paths_of(data_dir)
    before = sorted(path.name for path in paths.challengers.iterdir())
    stamp = paths.warehouse.stat().st_ino
    assert before and _operate(data_dir, erase, subject="nobody", confirmed=True)["records"] == 0
    assert (sorted(path.name for path in paths.challengers.iterdir()), paths.warehouse.stat().st_ino) == (before, stamp)


def test_a_run_that_was_killed_does_not_stand_in_the_way_of_an_erasure(data_dir: Path) -> None:
    killed = RunReport(at=now(), trigger="rows", outcome="nothing", reason="")
    _operate(data_dir, lambda workspace: recovery.begin(workspace, killed))
    assert _operate(data_dir, erase, subject=PERSON, confirmed=True)["erased"]
    assert _operate(data_dir, doctor)["healthy"]
    found = _operate(data_dir, recovery.cut_short)
    assert found is not None and found.outcome == "failed"


@pytest.mark.parametrize("rewritten", [0, 1, 2, 4, 5])
def test_an_erasure_cut_short_after_any_segment_is_finished_by_erasing_again(
    data_dir: Path, rewritten: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Path] = []

    def cut_short(segment: Path, erased: Any) -> int:
        if len(done) == rewritten:
            raise KeyboardInterrupt
        done.append(segment)
        return erase_from_segment(segment, erased)

    monkeypatch.setattr(erase_module, "erase_from_segment", cut_short)
    with pytest.raises(KeyboardInterrupt):
        _operate(data_dir, erase, subject=PERSON, confirmed=True)
    monkeypatch.undo()
    _operate(data_dir, erase, subject=PERSON, confirmed=True)
    holding = [path for path in data_dir.rglob("*") if path.is_file() and PERSON.encode() in path.read_bytes()]
    assert {path.name for path in holding} <= {"encoder.json"}
    left = [event.event_id for segment in sealed_segments(paths_of(data_dir).events) for event in read_events(segment)]
    assert not {f"b{batch}-e{n}" for batch in range(2) for n in range(3, 140, 7)} & set(left)


def test_scored_rows_of_a_subject_go_although_the_log_has_dropped_the_events(data_dir: Path) -> None:
    paths = paths_of(data_dir)
    store = ChallengerStore(paths)
    before = {name: _clusters(store, name) for name in store.names()}
    assert any(PERSON in clusters for clusters in before.values())
    for segment in sealed_segments(paths.events):
        segment.unlink()
    assert _operate(data_dir, erase, subject=PERSON, confirmed=True)["evaluations"] >= 1
    for folder in (paths.evaluations, paths.challengers):
        assert not any(PERSON.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    after = ChallengerStore(paths)
    assert {name: _clusters(after, name) for name in before} == {
        name: set() if PERSON in clusters else clusters for name, clusters in before.items()
    }


def _clusters(store: ChallengerStore, name: str) -> set[str]:
    state = store.load(name)
    return set() if state is None else {named for part in store.scores(state) for named in part.cluster or ()}


def test_a_number_that_names_a_subject_is_found_in_bytes_put_aside(data_dir: Path) -> None:
    folder = paths_of(data_dir).events / "quarantine"
    folder.mkdir()
    aside = folder / "w0-00000001.open.10.torn"
    aside.write_bytes(b'{"context":{"user":47}}\n{"context":{"user":4711}}\n')
    assert _operate(data_dir, erase, subject="47", confirmed=True)["quarantined_lines"] == 1
    assert aside.read_bytes() == b'{"context":{"user":4711}}\n'


def test_bytes_put_aside_are_erased_too(data_dir: Path) -> None:
    folder = paths_of(data_dir).events / "quarantine"
    folder.mkdir()
    aside = folder / "w0-00000001.open.10.torn"
    aside.write_bytes(b'{"type":"decision","event_id":"x","context":{"user":"%s"}}\nother line\n{"to' % PERSON.encode())
    assert _operate(data_dir, erase, subject=PERSON, confirmed=True)["quarantined_lines"] == 1
    assert aside.read_bytes() == b'other line\n{"to'


def test_what_to_erase_must_be_said_and_must_be_findable(data_dir: Path) -> None:
    for arguments in ({}, {"subject": "a", "event_ids": ["b"]}, {"event_ids": [1]}):
        with pytest.raises(InvalidInput):
            _operate(data_dir, erase, **arguments)
    experiment = Experiment.open(data_dir, "test")
    settings_file = experiment.paths.settings
    settings_file.write_text(settings_file.read_text().replace('"user"', "null"))
    with pytest.raises(InvalidInput, match="subject_field"):
        _operate(data_dir, erase, subject=PERSON)


def test_the_command_counts_first_and_erases_on_yes(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data-dir", str(data_dir), "--json"]
    assert run(["erase", "--subject", PERSON, *common]) == 0
    assert json.loads(capsys.readouterr().out) == {"events": 50, "records": 100, "segments": 3, "erased": False}
    assert run(["erase", "--subject", PERSON, "--yes", *common]) == 0
    assert json.loads(capsys.readouterr().out)["erased"] is True
    assert run(["erase", *common]) == 2
