"""Who owns a data directory: commands wait for a learner that starts, and a learner for a command that ends."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from bandit.errors import Busy
from bandit.files import FileLock
from serving.cli import access
from serving.learner.address import Address, lock_path, mark_service, take_lock, write_address


def test_a_command_does_not_take_the_warehouse_from_a_learner_that_is_being_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "WAIT_S", 0.3)
    assert access.owner(tmp_path) is None
    mark = mark_service(tmp_path)
    assert mark is not None
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
    assert mark is not None and access.owner(tmp_path) == address
    lock.release()
    mark.release()


def test_a_second_service_is_not_marked(tmp_path: Path) -> None:
    mark = mark_service(tmp_path)
    assert mark is not None and mark_service(tmp_path) is None
    mark.release()


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
