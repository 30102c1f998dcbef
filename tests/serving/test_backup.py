"""A backup taken while everything runs comes back whole, and a damaged one does not come back at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandit import backup
from bandit.backup import restore_backup, write_backup
from bandit.errors import Busy, CorruptLog, InvalidInput, NotFound
from bandit.eventlog import read_events, survey
from bandit.eventlog.survey import sealed_segments
from bandit.experiment import Experiment
from bandit.files import locked
from bandit.keys import KeyRing, create_key
from bandit.settings import ExperimentSettings
from joiner.archive import archives, compact, drop, unpack_into_log
from joiner.rebuild import rebuild
from joiner.warehouse import Warehouse
from serving.cli import run
from serving.cli.common import now
from serving.learner.operations.doctor import run as doctor
from serving.learner.workspace import Workspace
from tests.serving.learner_support import copy_of, paths_of, played


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(tmp_path_factory.mktemp("backup") / "data", 2)


def _files(data_dir: Path) -> dict[str, str]:
    """Path → digest of all that a backup keeps."""
    return {
        path.relative_to(data_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data_dir.rglob("*")
        if path.is_file() and "warehouse" not in path.name and path.suffix != ".tmp" and path.parent.name != "scratch"
        and not (path.parent.name == "workers" and path.suffix == ".json")
        and not path.name.startswith(".lock") and "run" not in path.parts and path.name != ".keys.lock"
    }  # fmt: skip


def test_a_restored_directory_has_the_same_files_and_gives_the_same_interactions(
    data_dir: Path, tmp_path: Path
) -> None:
    (paths_of(data_dir).root / "archive").mkdir(exist_ok=True)
    (paths_of(data_dir).root / "archive" / "part.parquet").write_bytes(b"whatever else belongs to an experiment")
    written = write_backup(data_dir, tmp_path / "b.tar.gz", now=now())
    restored = restore_backup(written.path, tmp_path / "back")
    assert _files(tmp_path / "back") == _files(data_dir)
    assert (restored.files, restored.bytes) == (written.files, written.bytes)
    with Warehouse(Experiment.open(data_dir, "test")) as original:
        digest, until = original.digest(), original.joined_until()
    assert rebuild(Experiment.open(tmp_path / "back", "test"), watermark=until).digest == digest
    workspace = Workspace(Experiment.open(tmp_path / "back", "test"), now)
    answer = doctor(workspace, deep=True)
    workspace.close()
    assert answer["findings"] == []


def test_a_backup_taken_while_a_writer_writes_holds_everything_acknowledged_before(
    data_dir: Path, tmp_path: Path
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.bandit.writer_process", str(paths_of(data_dir).root), "w7", "e", "16", "0"],
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    acknowledged: list[str] = []
    try:
        for number in range(3):
            acknowledged += [writer.stdout.readline().decode().strip() for _ in range(400)]
            backup = write_backup(data_dir, tmp_path / f"{number}.tar", now=now())
            restore_backup(backup.path, tmp_path / str(number))
            found = survey(paths_of(tmp_path / str(number)), now=now())
            assert found.watermark is not None
            ids = [event.event_id for segment in found.segments for event in read_events(segment)]
            assert set(acknowledged) <= set(ids)
            assert [path.suffix for path in found.quarantined if path.suffix != ".torn"] == []
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    survey(paths_of(data_dir), now=now())


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory all of whose log is in an archive."""
    folder = played(tmp_path_factory.mktemp("archived") / "data", 2)
    with Warehouse(Experiment.open(folder, "test")) as warehouse:
        until = warehouse.joined_until()
        assert until is not None
        assert compact(warehouse, older_than=until + timedelta(days=1), now=until + timedelta(days=1)).segments
    assert not sealed_segments(paths_of(folder).events)
    return folder


@pytest.mark.parametrize("moves", range(1, 6))
def test_a_backup_holds_every_segment_once_more_where_archives_are_unpacked_and_made_meanwhile(
    archived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    data_dir = copy_of(archived, tmp_path)
    paths, listed, left = paths_of(data_dir), backup._files, moves

    def meanwhile(folder: Path, *arguments: Any, **named: Any) -> Iterator[Path]:
        nonlocal left
        if folder == (paths.archive if (moves - left) % 2 == 0 else paths.events) and left:
            left -= 1
            if list(archives(paths)):
                unpack_into_log(paths, archives(paths)[0])
            else:
                with Warehouse(Experiment.open(data_dir, "test")) as warehouse:
                    until = warehouse.joined_until()
                    assert until is not None
                    compact(warehouse, older_than=until + timedelta(days=1), now=until + timedelta(days=2))
        yield from listed(folder, *arguments, **named)

    names = archives(paths)[0].names
    monkeypatch.setattr(backup, "_files", meanwhile)
    write_backup(data_dir, tmp_path / "b.tar", now=now())
    assert left == 0
    restore_backup(tmp_path / "b.tar", tmp_path / "back")
    back = paths_of(tmp_path / "back")
    held = {segment.stem for segment in sealed_segments(back.events)}
    assert held.union(*(archive.names for archive in archives(back))) == names


def test_a_backup_holds_nothing_of_an_archive_that_is_made_or_was_half_removed(archived: Path, tmp_path: Path) -> None:
    data_dir = copy_of(archived, tmp_path)
    paths = paths_of(data_dir)
    (archive,) = archives(paths)
    for name in (".incoming-w0-00000001", ".outgoing-a20260101t000004-35ccbe0d", ".dropped-a20260101t000004-35ccbe0d"):
        shutil.copytree(archive.folder, paths.archive / name)
    half = paths.archive / "a20260101t000004-35ccbe0d"
    shutil.copytree(archive.folder, half, ignore=shutil.ignore_patterns("manifest.json"))
    write_backup(data_dir, tmp_path / "b.tar", now=now())
    with tarfile.open(tmp_path / "b.tar") as backed_up:
        held = {Path(name).parent.name for name in backed_up.getnames() if "/archive/" in name}
    assert held == {archive.folder.name}


def test_an_archive_that_is_dropped_while_it_is_copied_is_not_half_restored(
    archived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = copy_of(archived, tmp_path)
    paths, copied = paths_of(data_dir), backup._add

    def dropped_meanwhile(archive: tarfile.TarFile, path: Path, name: str) -> tuple[str, int]:
        done = copied(archive, path, name)
        if path.name == "log.parquet":
            far = now() + timedelta(days=10_000)
            drop(paths, older_than=far, now=far)
        return done

    monkeypatch.setattr(backup, "_add", dropped_meanwhile)
    write_backup(data_dir, tmp_path / "b.tar", now=now())
    restore_backup(tmp_path / "b.tar", tmp_path / "back")
    assert list(paths_of(tmp_path / "back").archive.iterdir()) == []


def test_a_backup_that_lacks_a_segment_is_not_finished(
    archived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = copy_of(archived, tmp_path)
    paths = paths_of(data_dir)
    (segment, *_) = unpack_into_log(paths, archives(paths)[0])
    copied = backup._add

    def gone(archive: tarfile.TarFile, path: Path, name: str) -> tuple[str, int]:
        if path == segment:
            segment.unlink(missing_ok=True)
        return copied(archive, path, name)

    monkeypatch.setattr(backup, "_add", gone)
    with pytest.raises(Busy, match="was moved about while it was copied"):
        write_backup(data_dir, tmp_path / "b.tar", now=now())
    assert not (tmp_path / "b.tar").exists()


def test_a_backup_without_a_segment_that_it_names_is_refused(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = backup.Contents
    monkeypatch.setattr(
        backup, "Contents", lambda **fields: contents(**fields | {"segments": {"test": ["w9-00000007"]}})
    )
    write_backup(data_dir, tmp_path / "b.tar", now=now())
    monkeypatch.undo()
    with pytest.raises(CorruptLog, match=r"lacks 1 segment\(s\) of the log, first test/w9-00000007"):
        restore_backup(tmp_path / "b.tar", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_keys_and_secret_come_back_private(data_dir: Path, tmp_path: Path) -> None:
    _, secret = create_key(data_dir, name="shop", scopes=["read"], now=now())
    restore_backup(write_backup(data_dir, tmp_path / "b.tar", now=now()).path, tmp_path / "back")
    assert KeyRing(tmp_path / "back").find(secret) is not None
    assert Experiment.open(tmp_path / "back", "test").secret == Experiment.open(data_dir, "test").secret
    private = (tmp_path / "b.tar", tmp_path / "back" / "keys.json", paths_of(tmp_path / "back").secret)
    assert [path.stat().st_mode & 0o777 for path in private] == [0o600] * 3


def test_a_changed_byte_in_a_backup_never_changes_what_is_restored(data_dir: Path, tmp_path: Path) -> None:
    backup = write_backup(data_dir, tmp_path / "b.tar", now=now()).path
    data = backup.read_bytes()
    expected = _files(data_dir)
    refused = 0
    positions = range(0, len(data), max(1, len(data) // 12))
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 1
        backup.write_bytes(damaged)
        target = tmp_path / f"back{position}"
        try:
            restore_backup(backup, target)
            assert _files(target) == expected
        except CorruptLog:
            refused += 1
            assert not target.exists()
    assert refused > len(positions) / 2


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz"])
def test_a_backup_that_is_cut_short_is_refused_and_leaves_nothing_behind(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    backup = write_backup(data_dir, tmp_path / name, now=now()).path
    data = backup.read_bytes()
    for share in (0.0, 0.001, 0.3, 0.7, 0.95):
        backup.write_bytes(data[: int(share * len(data))])
        with pytest.raises(CorruptLog):
            restore_backup(backup, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def _crafted(out: Path, files: dict[str, bytes], experiments: list[str]) -> Path:
    """A backup of these files that names these experiments."""
    contents = backup.Contents(
        format=1,
        created_at=now(),
        rewardloop="0",
        experiments=experiments,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in [*files.items(), (backup.CONTENTS, msgspec.json.encode(contents))]:
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), {"path": name}
            archive.addfile(info, io.BytesIO(data))
    return out


@pytest.mark.parametrize("named", [["../../victim"], ["{}/victim"], ["a", "../../victim"], ["a/../../../victim"], []])
def test_a_backup_that_names_other_experiments_than_it_holds_touches_nothing_and_is_refused(
    tmp_path: Path, named: list[str]
) -> None:
    photo = tmp_path / "victim" / "archive" / "photos" / "a.jpg"
    photo.parent.mkdir(parents=True)
    photo.touch()
    before = sorted(tmp_path.rglob("*"))
    for files in ({}, {"experiments/a/experiment.json": b"{}"}):
        evil = _crafted(tmp_path / "evil.tar", files, [name.format(tmp_path) for name in named])
        with pytest.raises(CorruptLog, match="the experiments that it names are not those that it holds"):
            restore_backup(evil, tmp_path / "data")
        evil.unlink()
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "names",
    [
        ["experiments/a/x", "experiments/a/x/y"],
        ["experiments/a/x/y", "experiments/a/x"],
        ["experiments/a/events"],
        ["experiments/a/archive/b/manifest.json/c", "experiments/a/archive/b/log.parquet"],
        ["experiments/a/b\0c"],
        ["experiments/a/../b/c"],
        ["experiments/My Shop/experiment.json"],
        ["experiments/./.."],
        ["experiments/a"],
        ["keys.json/a"],
        ["run/learner.json"],
    ],
)
def test_files_that_no_backup_holds_are_refused_and_leave_nothing_behind(tmp_path: Path, names: list[str]) -> None:
    strange = _crafted(tmp_path / "b.tar", dict.fromkeys(["experiments/a/experiment.json", *names], b"{}"), ["a"])
    with pytest.raises(CorruptLog, match="is not a backup"):
        restore_backup(strange, tmp_path / "data")
    assert list(tmp_path.iterdir()) == [strange]


def test_a_copy_that_an_earlier_release_saved_beside_the_experiments_comes_back(tmp_path: Path) -> None:
    files = {f"experiments/{name}/experiment.json": b"{}" for name in ("shop", "shop.bak")}
    older = _crafted(tmp_path / "b.tar", files, ["shop", "shop.bak"])
    assert restore_backup(older, tmp_path / "data").experiments == ["shop", "shop.bak"]
    assert all((tmp_path / "data" / name).read_bytes() == b"{}" for name in files)


def test_a_restore_that_finds_experiments_begun_meanwhile_leaves_them_and_takes_its_keys_back(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "keys.json").write_text("{}")
    try:
        write_backup(data_dir, tmp_path / "b.tar", now=now())
    finally:
        (data_dir / "keys.json").unlink()
    bring = backup._bring

    def begun_meanwhile(*arguments: Any) -> Any:
        brought = bring(*arguments)
        (tmp_path / "data" / "experiments" / "other").mkdir(parents=True)
        return brought

    monkeypatch.setattr(backup, "_bring", begun_meanwhile)
    with pytest.raises(Busy, match="restore again"):
        restore_backup(tmp_path / "b.tar", tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["experiments"]


def test_a_member_that_would_be_larger_on_disk_than_in_the_backup_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("experiments/a/secret")
        info.size, info.pax_headers = 1, {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**20)}
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(CorruptLog, match="more than plain files"):
        restore_backup(tmp_path / "b.tar", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_folder_that_can_be_no_experiment_keeps_no_backup_from_being_restored(data_dir: Path, tmp_path: Path) -> None:
    source = copy_of(data_dir, tmp_path)
    shutil.copytree(paths_of(source).root, source / "experiments" / "test.bak")
    assert write_backup(source, tmp_path / "b.tar", now=now()).experiments == ["test"]
    assert restore_backup(tmp_path / "b.tar", tmp_path / "back").experiments == ["test"]


def test_members_outside_the_directory_or_that_are_no_files_are_refused(tmp_path: Path) -> None:
    for number, (name, kind) in enumerate(
        [("../evil", tarfile.REGTYPE), ("/evil", tarfile.REGTYPE), ("other/evil", tarfile.REGTYPE),
         ("experiments/../../evil", tarfile.REGTYPE), ("experiments/link", tarfile.SYMTYPE)]
    ):  # fmt: skip
        backup = tmp_path / f"{number}.tar"
        with tarfile.open(backup, "w") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = 1 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"x"))
        with pytest.raises(CorruptLog):
            restore_backup(backup, tmp_path / "back" / "data")
        assert list(tmp_path.glob("**/evil")) == []


def test_nothing_is_overwritten(data_dir: Path, tmp_path: Path) -> None:
    backup = write_backup(data_dir, tmp_path / "b.tar", now=now()).path
    with pytest.raises(InvalidInput):
        write_backup(data_dir, backup, now=now())
    with pytest.raises(InvalidInput):
        restore_backup(backup, data_dir)
    with pytest.raises(NotFound):
        write_backup(tmp_path / "nothing", tmp_path / "c.tar", now=now())
    assert not (tmp_path / "c.tar").exists()
    assert sealed_segments(paths_of(data_dir).events)


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of one experiment and a key."""
    folder = tmp_path_factory.mktemp("small")
    Experiment.create(folder / "data", "test", ExperimentSettings(), now=now())
    create_key(folder / "data", name="shop", scopes=["read"], now=now())
    return write_backup(folder / "data", folder / "b.tar", now=now()).path


@pytest.mark.parametrize("given", ["here", "link", "link to nothing", "."])
def test_any_empty_folder_and_any_name_of_one_will_do(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    here = tmp_path / "here"
    (tmp_path / "link").symlink_to(here)
    (tmp_path / "link to nothing").symlink_to(here)
    if given != "link to nothing":
        here.mkdir()
        monkeypatch.chdir(here if given == "." else tmp_path)
    restored = restore_backup(small, Path(given) if given == "." else tmp_path / given)
    assert restored.experiments == ["test"]
    assert sorted(path.name for path in here.iterdir()) == ["experiments", "keys.json"]
    assert Experiment.names(here) == ["test"] and not KeyRing(here).empty


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_mounted_disk_will_do_with_what_its_file_system_keeps_there(small: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(disk)], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        pytest.skip("this machine lets nobody mount")
    try:
        (disk / "lost+found").mkdir()
        restore_backup(small, disk)
        assert sorted(path.name for path in disk.iterdir()) == ["experiments", "keys.json", "lost+found"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_refused_backup_leaves_an_empty_folder_empty(small: Path, tmp_path: Path) -> None:
    small.write_bytes(small.read_bytes()[: small.stat().st_size // 2])
    (tmp_path / "here").mkdir()
    with pytest.raises(CorruptLog):
        restore_backup(small, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


KILLED = """
import os, pathlib, signal, sys
from bandit.backup import restore_backup
moves, rename = [], pathlib.Path.rename
def move(path, target):
    moves.append(path)
    if len(moves) <= int(sys.argv[3]):
        rename(path, target)
    if len(moves) >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.rename = move
restore_backup(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_restore_that_is_killed_has_brought_nothing_or_all_and_can_be_made_again(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], moved: int, there: bool
) -> None:
    place = tmp_path / "data"
    if there:
        place.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(small), str(place), str(moved)], check=False)
    assert killed.returncode == -signal.SIGKILL
    if moved == 2:
        assert Experiment.names(place) == ["test"] and not KeyRing(place).empty
        assert run(["keys", "create", "ops", "--data-dir", str(place)]) == 0
        with pytest.raises(InvalidInput):
            restore_backup(small, place)
        return
    assert Experiment.names(place) == []
    for command in (["up"], ["serve"], ["learn"], ["keys", "create", "ops"], ["status"]):
        assert run([*command, "--data-dir", str(place)]) == 2
        assert "--data-dir: is only half restored" in capsys.readouterr().err
    restore_backup(small, place)
    assert sorted(path.name for path in place.iterdir()) == ["experiments", "keys.json"]


def test_what_a_killed_restore_brought_is_not_mixed_with_another_backup(
    small: Path, data_dir: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(small), str(tmp_path / "back"), "1"], check=False)
    assert (tmp_path / "back" / "keys.json").exists()
    source = copy_of(data_dir, tmp_path)
    (source / "keys.json").unlink(missing_ok=True)
    restore_backup(write_backup(source, tmp_path / "b.tar", now=now()).path, tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["experiments"]


def test_one_restore_at_a_time_fills_a_folder(small: Path, tmp_path: Path) -> None:
    with (
        locked(tmp_path / "back" / backup.RESTORING / ".lock"),
        pytest.raises(Busy, match="another process is restoring"),
    ):
        restore_backup(small, tmp_path / "back")
    restore_backup(small, tmp_path / "back")


def test_the_commands_answer_with_exit_codes_and_json(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup, back = str(tmp_path / "b.tar.gz"), str(tmp_path / "back")
    assert run(["backup", "--data-dir", str(data_dir), "--out", backup, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["experiments"] == ["test"]
    assert run(["restore", backup, "--data-dir", back, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data_dir"] == back
    assert run(["restore", backup, "--data-dir", back]) == 2
    assert run(["restore", str(tmp_path / "absent"), "--data-dir", str(tmp_path / "x")]) == 2
    Path(backup).write_bytes(b"no backup")
    assert run(["restore", backup, "--data-dir", str(tmp_path / "x")]) == 2
    assert "--data-dir: must be an empty or absent folder" in capsys.readouterr().err
