"""Who owns a data directory: commands wait for a learner that starts, and a learner for a command that ends."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandit.errors import Busy
from bandit.experiment import Experiment
from bandit.files import FileLock
from bandit.settings import ExperimentSettings, parse_settings
from serving.cli import access, run
from serving.cli.common import now
from serving.learner.address import (
    Address,
    address_path,
    lock_path,
    mark_service,
    running_learner,
    take_lock,
    write_address,
)


def test_a_command_does_not_take_the_warehouse_from_a_learner_that_is_being_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "WAIT_S", 0.3)
    assert access.owner(tmp_path) is None
    mark = mark_service(tmp_path)
    with pytest.raises(Busy, match="is starting"):
        access.owner(tmp_path)
    mark.release()
    assert access.owner(tmp_path) is None


def test_a_command_waits_until_the_starting_learner_tells_its_address(tmp_path: Path) -> None:
    mark, lock = mark_service(tmp_path), FileLock(lock_path(tmp_path))
    address = Address("http://127.0.0.1:1", "token", os.getpid())

    def start() -> None:
        lock.acquire()
        write_address(tmp_path, address)

    threading.Timer(0.3, start).start()
    assert access.owner(tmp_path) == address
    lock.release()
    mark.release()


def test_an_address_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    lock = take_lock(tmp_path)
    write_address(tmp_path, Address("http://127.0.0.1:1", "token", os.getpid()))
    place = address_path(tmp_path)
    place.write_bytes(place.read_bytes().replace(b"token", b"t\xffken"))
    assert running_learner(tmp_path) is None
    lock.release()


def test_a_second_service_is_not_marked(tmp_path: Path) -> None:
    mark = mark_service(tmp_path)
    with pytest.raises(Busy, match="another learner"):
        mark_service(tmp_path, patience_s=0.1, patience_with_starting_s=0.1)
    mark.release()
    mark_service(tmp_path).release()


def test_a_learner_that_starts_waits_for_a_command_but_not_for_another_learner(tmp_path: Path) -> None:
    command = FileLock(lock_path(tmp_path))
    command.acquire()
    threading.Timer(1.5, command.release).start()
    lock = take_lock(tmp_path, patience_with_commands_s=10)
    write_address(tmp_path, Address("http://127.0.0.1:1", "token", os.getpid()))
    started = time.monotonic()
    with pytest.raises(Busy, match="another learner"):
        take_lock(tmp_path, patience_s=0.1, patience_with_commands_s=10)
    assert time.monotonic() - started < 5
    lock.release()


def test_whoever_gives_up_waits_no_longer(tmp_path: Path) -> None:
    command = FileLock(lock_path(tmp_path))
    command.acquire()
    told = threading.Event()
    threading.Timer(0.2, told.set).start()
    started = time.monotonic()
    with pytest.raises(Busy):
        take_lock(tmp_path, patience_s=30, patience_with_commands_s=30, given_up=told.is_set)
    assert time.monotonic() - started < 5
    command.release()


@pytest.mark.parametrize(
    ("command", "place", "told"),
    [
        ("up", "HOST", "--host"),
        ("up", "ADMIN_HOST", "service.admin_host"),
        ("learn", "ADMIN_HOST", "--host"),
        ("serve", "HOST", "--host"),
    ],
)
def test_an_address_that_is_not_this_machine_s_is_told_with_the_option_that_gave_it(
    tmp_path: Path,
    command: str,
    place: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"REWARDLOOP_SERVICE__{place}", "192.0.2.7")  # of no machine (RFC 5737)
    ports = ["--admin-port", "0"] if command == "learn" else ["--port", "0", "--admin-port", "0"]
    assert run([command, *ports, "--insecure", "--data-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"rewardloop: {told}: 192.0.2.7 is not an address of this machine\n"


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Path]:
    """A data directory with an experiment that a service runs on."""
    Experiment.create(tmp_path, "default", ExperimentSettings(), now=now())
    mark, lock = mark_service(tmp_path), take_lock(tmp_path)
    write_address(tmp_path, Address("http://127.0.0.1:1", "token", os.getpid()))
    yield tmp_path
    lock.release()
    mark.release()


def _all_files(data_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (["up", "--port", "0", "--admin-port", "0"], "another learner"),
        (["learn", "--admin-port", "0"], "another learner"),
        (["up", "--port", "TAKEN", "--admin-port", "0"], "--port: "),
        (["up", "--port", "0", "--admin-port", "TAKEN"], "--admin-port: "),
        (["learn", "--admin-port", "TAKEN"], "--admin-port: "),
        (["serve", "--port", "TAKEN"], "--port: "),
    ],
)
def test_a_service_that_is_refused_changes_nothing_on_disk(
    owned: Path, arguments: list[str], refusal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REWARDLOOP_REWARDS__WINDOW_S", "7")
    before = _all_files(owned)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run([port if each == "TAKEN" else each for each in arguments] + ["--data-dir", str(owned)]) == 2
    assert capsys.readouterr().err.startswith(f"rewardloop: {refusal}")
    assert _all_files(owned) == before


def test_settings_change_for_all_experiments_or_for_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_dir, config = tmp_path / "data", tmp_path / "both.toml"
    for name, least in (("a", 0.0), ("b", 5.0)):
        rewards = {"min": least, "max": 10.0, "default": least}
        Experiment.create(data_dir, name, parse_settings({"rewards": rewards}), now=now())
    config.write_text("[experiments.a.rewards]\nwindow_s = 7\n[experiments.b.rewards]\nmax = 3\n")
    before = _all_files(data_dir)
    assert run(["serve", "--port", "0", "--config", str(config), "--data-dir", str(data_dir)]) == 2
    assert "rewards" in capsys.readouterr().err
    assert _all_files(data_dir) == before
