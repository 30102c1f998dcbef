"""The doctor finds what was broken on purpose, says where, and calls a healthy directory healthy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pytest

import bandit.doctor
import joiner.doctor
from bandit.eventlog import Heartbeat, beat, verify_segment
from bandit.eventlog.open_segment import OpenSegment
from bandit.eventlog.segment import seal_line, whole_commits
from bandit.eventlog.survey import sealed_segments
from bandit.experiment import Experiment
from bandit.files import locked
from bandit.keys import create_key, keys_path
from bandit.registry import ModelRegistry
from joiner.archive import archives, compact, unpack_into_log
from joiner.warehouse import Warehouse
from serving.cli import run
from serving.cli.common import now
from serving.learner.intake import Intake, take_in
from serving.learner.operations.doctor import run as doctor
from serving.learner.operations.erase import run as erase
from serving.learner.workspace import Workspace
from tests.joiner.logs import decision, write
from tests.serving.learner_support import copy_of, paths_of, played


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(tmp_path_factory.mktemp("doctor") / "data", 3)


@pytest.fixture
def data_dir(healthy: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return copy_of(healthy, tmp_path)


def _examine(data_dir: Path, **options: Any) -> dict[str, Any]:
    workspace = Workspace(Experiment.open(data_dir, "test"), now)
    try:
        return doctor(workspace, **options)
    finally:
        workspace.close()


def _wrong(answer: dict[str, Any]) -> Iterator[str]:
    for finding in answer["findings"]:
        if finding["wrong"]:
            assert finding["cure"], "whoever says what is wrong says what to do"
            yield f"{finding['area']}: {finding['what']}"


def _last_live_segment(data_dir: Path) -> Path:
    return [path for path in sealed_segments(paths_of(data_dir).events) if path.name.startswith("simulation")][-1]


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_decisions_of_more_models_than_are_open_at_once_are_made_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {path.name for path in paths_of(data_dir).models.iterdir()}
    assert len(asked) > 2
    monkeypatch.setattr("bandit.doctor.MODELS_OPEN_MAX", 2)
    answer = _examine(data_dir, replays=1000)
    assert (list(_wrong(answer)), answer["checked"]["replays"]) == ([], 180)


def test_a_healthy_directory_is_called_healthy_after_looking_at_all_of_it(data_dir: Path) -> None:
    answer = _examine(data_dir, deep=True, replays=1000)
    assert (list(_wrong(answer)), answer["healthy"]) == ([], True)
    checked = answer["checked"]
    assert checked["interactions"] == checked["interactions_rebuilt"] == 240
    assert checked["replays"] == 180
    assert checked["models"] >= 1
    assert checked["certificates"] == 1


def _flip_a_segment(data_dir: Path) -> None:
    _flip(_last_live_segment(data_dir), 500)


def _lose_a_segment(data_dir: Path) -> None:
    _last_live_segment(data_dir).unlink()


def _damage_the_champion(data_dir: Path) -> None:
    champion = ModelRegistry(paths_of(data_dir)).champion()
    assert champion is not None
    _flip(paths_of(data_dir).models / champion.model_id / "policy.vw", 100)


def _tear_the_pointer(data_dir: Path) -> None:
    path = paths_of(data_dir).champion
    path.write_bytes(path.read_bytes()[:-10])


def _lose_the_pointer(data_dir: Path) -> None:
    paths_of(data_dir).champion.unlink()


def _break_the_history(data_dir: Path) -> None:
    path = paths_of(data_dir).history
    path.write_bytes(b"nonsense\n" + path.read_bytes())


def _replace_the_secret(data_dir: Path) -> None:
    paths_of(data_dir).secret.write_text("00" * 32)


def _forge_a_probability(data_dir: Path) -> None:
    """Somebody who knows the format changes a logged probability and seals the segment again."""
    segment = _last_live_segment(data_dir)
    lines = segment.read_bytes().split(b"\n")
    number = next(index for index, line in enumerate(lines) if line.startswith(b'{"type":"decision"'))
    event = json.loads(lines[number])
    event["probability"] = event["probability"] / 2
    lines[number] = json.dumps(event).encode()
    body = b"\n".join(line for line in lines if line and not line.startswith(b'{"type":"seal"')) + b"\n"
    info = verify_segment(segment)
    segment.write_bytes(body + seal_line(hashlib.sha256(body), info.events, len(body)))


def _change_the_certificate(data_dir: Path) -> None:
    for path in paths_of(data_dir).evaluations.glob("e*/certificate.json"):
        path.write_text(
            path.read_text().replace('"alpha_spent": 0', '"alpha_spent": 1').replace('"seed": 0', '"seed": 1')
        )


def _spoil_a_certificate(data_dir: Path) -> None:
    path = next(paths_of(data_dir).evaluations.glob("e*/certificate.json"))
    path.write_bytes(path.read_bytes().replace(b'"kind"', b'"k\xffnd"', 1))


def _replace_the_database(data_dir: Path) -> None:
    paths_of(data_dir).warehouse.write_bytes(b"x" * 20_000)


def _statement(sql: str) -> Callable[[Path], None]:
    def change(data_dir: Path) -> None:
        with duckdb.connect(str(paths_of(data_dir).warehouse)) as connection:
            connection.execute(sql)

    return change


def _join_without_a_segment(data_dir: Path) -> None:
    paths_of(data_dir).warehouse.unlink()
    with Warehouse(Experiment.open(data_dir, "test")) as warehouse:
        warehouse.ingest(sealed_segments(paths_of(data_dir).events)[:-1])
        warehouse.join(now())


def _leave_damaged_bytes(data_dir: Path) -> None:
    folder = paths_of(data_dir).events / "quarantine"
    folder.mkdir()
    (folder / "w0-00000001.open.100.damaged").write_bytes(b"x")


def _set_the_clock_back(data_dir: Path) -> None:
    (paths_of(data_dir).workers / "clock").write_text("2126-01-01T00:00:00+00:00")


@pytest.mark.parametrize(
    ("breaking", "expected"),
    [
        (_flip_a_segment, "log: segment simulation-"),
        (_lose_a_segment, "database: 1 segment(s) that it was made from are not in the log any more"),
        (_damage_the_champion, "models: the champion m"),
        (_tear_the_pointer, "models: champion.json cannot be read"),
        (_lose_the_pointer, "models: champion.json is lost, and by history m"),
        (_break_the_history, "models: history.jsonl holds a line that is not JSON"),
        (_replace_the_secret, "replay: "),
        (_forge_a_probability, "replay: 1 logged decision(s) of m"),
        (_forge_a_probability, "database: 1 segment(s) were ingested with other content"),
        (_change_the_certificate, "models: certificate e"),
        (_spoil_a_certificate, "models: certificate e"),
        (_replace_the_database, "database: it cannot be read"),
        (
            _statement("DELETE FROM reward_records WHERE event_id = 'event-7'"),
            "database: segment simulation-",
        ),
        (_statement("INSERT INTO joined SELECT * FROM joined LIMIT 3"), "database: 3 event(s) contribute more"),
        (
            _statement("UPDATE decision_records SET probability = 0.9 WHERE event_id = 'event-7'"),
            "database: 1 interaction(s) have",
        ),
        (_join_without_a_segment, "database: it was joined up to "),
        (_leave_damaged_bytes, "log: events/quarantine/w0-00000001.open.100.damaged"),
        (_set_the_clock_back, "log: the log was read by a clock that showed 2126-01-01"),
    ],
)
def test_what_was_broken_is_found_and_named(data_dir: Path, breaking: Callable[[Path], None], expected: str) -> None:
    breaking(data_dir)
    answer = _examine(data_dir)
    assert not answer["healthy"]
    assert any(line.startswith(expected) for line in _wrong(answer)), list(_wrong(answer))


@pytest.mark.parametrize(
    ("ahead_s", "alive", "surveyed", "cure"),
    [
        (
            3600.0,
            True,
            False,
            "restart w9 (process 7): a new process goes by the clock again; what it has stamped waits",
        ),
        (3600.0, True, True, "nothing can be done, and it ends by itself at that time"),
        (3600.0, False, False, "nothing can be done, and it ends by itself at that time"),
        (200.0, True, False, "nothing can be done, and it ends by itself at that time"),
    ],
    ids=["restart", "new writers start no earlier", "dead", "the others have followed"],
)
def test_a_log_that_is_ahead_of_the_clock_is_told_with_its_end_and_what_can_be_done(
    data_dir: Path, ahead_s: float, alive: bool, surveyed: bool, cure: str
) -> None:
    paths = paths_of(data_dir)
    until = now() + timedelta(seconds=ahead_s)
    beat(
        paths,
        Heartbeat(writer_id="w9", kind="worker", pid=7, at=now(), complete_until=now(), stamped_until=until),
    )
    (paths.workers / "clock").write_text((until if surveyed else now()).isoformat())
    with locked(paths.workers / "w9.lock") if alive else contextlib.nullcontext():
        findings = [finding for finding in _examine(data_dir)["findings"] if finding["wrong"]]
    assert len(findings) == 1 + surveyed
    told = findings[-1]
    assert told["what"].startswith(f"the log was written until {until:%Y-%m-%d %H:%M:%S}, ")
    assert told["what"].endswith(" s after now, by w9: windows of what is stamped so do not close before")
    assert told["cure"].startswith(f"if the clock of this machine is behind, set it right; if it is right, {cure}")


def _damage(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "settings: experiment.json is lost"),
        (b"", "settings: experiment.json: cannot be read ("),
        (b"\xff", "settings: experiment.json: cannot be read ("),
    ],
)
def test_without_its_settings_an_experiment_is_looked_at_as_far_as_that_goes_and_so_are_the_others(
    data_dir: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, told: str
) -> None:
    Experiment.create(data_dir, "zz-other", Experiment.open(data_dir, "test").settings, now=now())
    _damage(paths_of(data_dir).settings, content)
    _flip(_last_live_segment(data_dir), 500)
    assert run(["doctor", "--data-dir", str(data_dir), "--json"]) == 1
    answers = {each["experiment"]: each for each in json.loads(capsys.readouterr().out)["experiments"]}
    assert answers["zz-other"]["healthy"]
    settings, segment = _wrong(answers["test"])
    assert settings.startswith(told) and settings.endswith("neither replays nor database were looked at")
    assert segment.startswith("log: segment simulation-")
    assert answers["test"]["checked"]["models"] >= 1 and answers["test"]["checked"]["history"] >= 4


def test_settings_that_one_version_breaks_keep_nothing_else_from_being_looked_at(data_dir: Path) -> None:
    settings = paths_of(data_dir).settings
    settings.write_text(settings.read_text().replace('"window_s"', '"window_x"'))
    answer = _examine(data_dir)
    wrong = list(_wrong(answer))
    assert wrong[0].startswith("settings: settings version 1: ") and len(wrong) <= 3
    assert answer["checked"]["models"] >= 1 and answer["checked"]["events"] > 0


def test_a_torn_end_of_history_and_a_damaged_trial_are_worth_knowing(data_dir: Path) -> None:
    with paths_of(data_dir).history.open("ab") as file:
        file.write(b'{"kind": "ru')
    paths_of(data_dir).trial.write_bytes(b"{")
    answer = _examine(data_dir, replays=0)
    told = [(each["what"], each["cure"]) for each in answer["findings"] if each["area"] == "models"]
    assert answer["healthy"] and told[0] == (
        "trial.json cannot be read (Input data was truncated): no challenger has its share in the decisions",
        "the next run starts a trial anew",
    )
    assert told[1][0] == "history.jsonl ends with 12 bytes of a line that was not finished"


@pytest.mark.parametrize("held", ["", "abc", None])
def test_a_damaged_secret_is_told_and_everything_else_is_looked_at(data_dir: Path, held: str | None) -> None:
    path = paths_of(data_dir).secret
    path.unlink() if held is None else path.write_text(held)
    _tear_the_pointer(data_dir)
    answer = _examine(data_dir)
    secret, pointer = list(_wrong(answer))[:2]
    assert secret.startswith("settings: the file `secret` ") and secret.endswith("no worker that starts can decide")
    assert pointer.startswith("models: champion.json cannot be read")
    assert answer["checked"]["interactions"] == 240 and "replays" not in answer["checked"]


@pytest.mark.parametrize(
    ("free", "files", "told"),
    [
        (0, 10, "WRONG the disk has 0.0 MiB left"),
        (1023, 10, "WRONG the disk has 4.0 MiB left"),
        (2**20, 0, "WRONG the disk has 4096.0 MiB left and no room for a new file"),
        (2**18, 10, "note the disk has 1.0 GiB left"),
        (2**23, 10, None),
    ],
)
def test_a_disk_that_takes_no_more_commits_is_wrong_and_one_that_fills_up_worth_knowing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, free: int, files: int, told: str | None
) -> None:
    asked = os.statvfs_result((4096, 4096, 2**24, free, free, 1000, files, files, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: asked)
    answer = _examine(data_dir, replays=0)
    found = [finding for finding in answer["findings"] if "the disk" in finding["what"]]
    assert [f"{'WRONG' if each['wrong'] else 'note'} {each['what']}" for each in found] == ([told] if told else [])
    assert answer["healthy"] == (told is None or told.startswith("note"))


def test_a_segment_whose_writer_holds_no_lock_is_not_said_to_be_of_a_dead_one(data_dir: Path) -> None:
    segment = OpenSegment(paths_of(data_dir).events, "w9", 1, opened_at=now(), durable=False)
    segment.commit(b"", 0)
    segment.abandon()  # as a writer does whose disk is full
    told = [finding for finding in _examine(data_dir, replays=0)["findings"] if "w9" in finding["what"]]
    assert [(each["what"], each["cure"]) for each in told] == [
        (
            "events/w9-00000001.open was left open by its writer, which has died or can write no more",
            "the learner recovers it",
        )
    ]


def test_a_segment_that_the_database_cannot_read_is_named_before_and_after_it_is_set_aside(data_dir: Path) -> None:
    experiment = Experiment.open(data_dir, "test")
    write(experiment, [decision("slot", 0, slot=2**31)], "w8")
    write(experiment, [decision("fine", 0)], "w9")
    answer = _examine(data_dir)
    assert not answer["healthy"]
    [before] = _wrong(answer)
    assert before.startswith("log: segment w8-00000001 holds what cannot be read (") and "2147483648" in before
    workspace = Workspace(experiment, now)
    try:
        intake = take_in(workspace, take_in(workspace, Intake()))
        found = workspace.warehouse.cursor().execute("SELECT event_id FROM decision_records WHERE event_id = 'fine'")
        assert found.fetchall() == [("fine",)]
    finally:
        workspace.close()
    assert intake.segments_quarantined == 1 and list(intake.unreadable) == ["w8-00000001"]
    answer = _examine(data_dir, replays=0, repair=True)
    assert not answer["healthy"]
    [after] = _wrong(answer)
    assert after.startswith("log: events/quarantine/w8-00000001.jsonl.unreadable holds what cannot be read (")


def test_a_changed_interaction_is_found_by_making_all_of_them_again(data_dir: Path) -> None:
    _statement("UPDATE joined SET reward = reward + 1 WHERE record_id = (SELECT min(record_id) FROM joined)")(data_dir)
    assert _examine(data_dir)["healthy"]
    assert list(_wrong(_examine(data_dir, deep=True))) == [
        "database: its interactions are not those that the log gives"
    ]


def test_what_a_running_service_seals_and_joins_meanwhile_is_nothing_wrong(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.open(data_dir, "test")
    workspace = Workspace(experiment, now)

    def looked_at_replays(*_: object, **__: object) -> None:
        write(experiment, [decision("later", 0, imported_at=now())], "w9")  # as the learner polls on
        intake = take_in(workspace, Intake())
        assert intake.watermark is not None and "w9-00000001" in workspace.warehouse.segment_names()

    monkeypatch.setattr("serving.learner.operations.doctor.check_replays", looked_at_replays)
    try:
        answer = doctor(workspace, deep=True)
    finally:
        workspace.close()
    assert list(_wrong(answer)) == []
    assert answer["checked"]["interactions_rebuilt"] == 241


def _compact(workspace: Workspace) -> None:
    until = workspace.warehouse.joined_until()
    assert until is not None
    compact(workspace.warehouse, older_than=until + timedelta(days=1), now=until + timedelta(days=1))


def _unpack(workspace: Workspace) -> None:
    for archive in archives(workspace.experiment.paths):
        unpack_into_log(workspace.experiment.paths, archive)


def _erase(workspace: Workspace) -> None:
    assert erase(workspace, event_ids=["event-7"], confirmed=True)["records"] == 2


LOOKED_AT: dict[Callable[[Workspace], None], tuple[ModuleType, str]] = {
    _compact: (bandit.doctor, "sealed_segments"),
    _unpack: (joiner.doctor, "archives"),
    _erase: (joiner.doctor, "unreadable_segments"),
}


def _examine_while(
    move: Callable[[Workspace], None], workspace: Workspace, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> dict[str, Any]:
    """Have the log moved about once, right after the doctor has looked at what is moved."""
    module, name = LOOKED_AT[move]
    look, moved = getattr(module, name), []

    def looked(*arguments: object) -> object:
        found = look(*arguments)
        if not moved:
            moved.append(name)
            move(workspace)
        return found

    monkeypatch.setattr(module, name, looked)
    answer = doctor(workspace, **options)
    assert moved
    return answer


@pytest.mark.parametrize(("move", "rows"), [(_compact, 240), (_unpack, 240), (_erase, 239)])
def test_what_retention_or_an_erasure_moves_meanwhile_is_nothing_wrong(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, move: Callable[[Workspace], None], rows: int
) -> None:
    workspace = Workspace(Experiment.open(data_dir, "test"), now)
    try:
        if move is _unpack:
            _compact(workspace)
        answer = _examine_while(move, workspace, monkeypatch, deep=True)
    finally:
        workspace.close()
    assert list(_wrong(answer)) == []
    assert answer["checked"]["interactions_rebuilt"] == rows


def test_a_segment_that_is_lost_is_told_although_others_are_archived_meanwhile(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lose_a_segment(data_dir)
    workspace = Workspace(Experiment.open(data_dir, "test"), now)
    try:
        (told,) = _wrong(_examine_while(_compact, workspace, monkeypatch))
    finally:
        workspace.close()
    assert told.startswith("database: 1 segment(s) that it was made from are not in the log any more")


def test_segments_that_are_sealed_and_opened_between_two_looks_are_no_strays_and_leave_no_gap(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = paths_of(data_dir).events
    first = OpenSegment(events, "w9", 1, opened_at=now(), durable=False)
    first.commit(b"", 0)
    verified: list[Path] = []

    def verify(path: Path) -> object:
        if not verified:  # the folder was listed, and its writer goes on
            first.seal()
            OpenSegment(events, "w9", 2, opened_at=now(), durable=False).commit(b"", 0)
        verified.append(path)
        return verify_segment(path)

    monkeypatch.setattr("bandit.doctor.verify_segment", verify)
    (events / "notes.txt").write_text("a file of somebody else")
    told = [each["what"] for each in _examine(data_dir, replays=0)["findings"] if each["area"] == "log"]
    assert told == ["events/notes.txt is no segment"]


def test_whoever_needs_a_damaged_database_makes_it_anew_and_history_says_so(data_dir: Path) -> None:
    before = Workspace(Experiment.open(data_dir, "test"), now)
    rows = before.warehouse.counts()["decision_records"]
    before.close()
    _replace_the_database(data_dir)
    assert not _examine(data_dir)["healthy"], "the doctor itself changes nothing"
    healed = Workspace(Experiment.open(data_dir, "test"), now)
    assert healed.warehouse.counts()["decision_records"] == rows
    healed.close()
    assert len(ModelRegistry(paths_of(data_dir)).history.entries("rebuild")) == 1
    assert _examine(data_dir)["healthy"]


def test_repair_saves_all_commits_of_a_damaged_segment_but_the_damaged_one(data_dir: Path) -> None:
    segment = _last_live_segment(data_dir)
    groups = whole_commits(segment.read_bytes())
    hit = groups[len(groups) // 2]
    before = verify_segment(segment).events
    _flip(segment, hit.start + 10)
    answer = _examine(data_dir, repair=True)
    assert verify_segment(segment).events == before - hit.events
    assert any("are back in the log" in finding["what"] for finding in answer["findings"])
    assert ModelRegistry(paths_of(data_dir)).history.entries("salvage")[0]["events"] == before - hit.events
    assert list(_wrong(answer)) == [f"database: 1 segment(s) were ingested with other content, first {segment.stem}"]


def test_the_command_answers_with_its_exit_code_and_one_json_object(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_key(data_dir, name="shop", scopes=["read"], now=now())
    assert run(["doctor", "--data-dir", str(data_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True
    keys_path(data_dir).write_text("{")
    _damage_the_champion(data_dir)
    assert run(["doctor", "--data-dir", str(data_dir), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [experiment["healthy"] for experiment in answer["experiments"]] == [False, False]
    assert run(["doctor", "--data-dir", str(data_dir)]) == 1
    printed = capsys.readouterr()
    assert "WRONG models: the champion" in printed.out
    assert "rewardloop models rollback" in printed.out
