"""Small files are whole or absent, and locks die with their holder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bandit.errors import Busy
from bandit.files import (
    LEFTOVER_S_MIN,
    FileLock,
    SyncedInPieces,
    is_abandoned,
    is_locked,
    link,
    locked,
    write_atomically,
)


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pointer.json"
    write_atomically(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["pointer.json"]


@pytest.mark.parametrize("knows_links", [True, False])
def test_a_link_holds_what_a_file_held_before_it_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows_links: bool
) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not knows_links:
        monkeypatch.setattr(os, "link", refuse)
    write_atomically(tmp_path / "file", b"old")
    link(tmp_path / "file", tmp_path / "place")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "place").read_bytes() == b"old"
    with pytest.raises(FileNotFoundError):
        link(tmp_path / "never there", tmp_path / "other")


def test_a_half_written_file_is_abandoned_once_its_process_or_thread_has_ended(tmp_path: Path) -> None:
    program = (
        "import os, sys, signal; from pathlib import Path; from bandit import files\n"
        "files.os.replace = lambda *paths: (print('there', flush=True), signal.pause())\n"
        "files.write_atomically(Path(sys.argv[1]), b'half')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "pointer.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "there\n"
        (temporary,) = tmp_path.iterdir()
        assert not is_abandoned(temporary)
        os.utime(temporary, (0, time.time() - 2 * LEFTOVER_S_MIN))
        assert is_abandoned(temporary), "the number may be another process's by then"
        os.utime(temporary)
        writer.kill()
        writer.wait()
    assert is_abandoned(temporary)
    for thread, ended in ((threading.get_ident(), False), (1, True)):
        assert is_abandoned(tmp_path / f".pointer.json.{os.getpid()}-{thread}.tmp") == ended
    assert not is_abandoned(tmp_path / "pointer.json")


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    first.acquire()
    with pytest.raises(Busy):
        second.acquire()
    first.release()
    second.acquire()
    assert second.held
    second.release()


def test_a_killed_holder_frees_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import sys, time; from pathlib import Path; from bandit.files import FileLock\n"
        "lock = FileLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not is_locked(path)
    with locked(path, wait=False):
        assert is_locked(path)


def test_a_missing_lock_file_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "nothing")


def test_threads_may_replace_the_same_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    failures: list[OSError] = []

    def replace(content: bytes) -> None:
        for _ in range(200):
            try:
                write_atomically(path, content, sync=False)
            except OSError as error:
                failures.append(error)

    threads = [threading.Thread(target=replace, args=(bytes([number]) * 1000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(path.read_bytes())) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_lock_on_a_file_that_was_removed_meanwhile_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    waiting = threading.Thread(target=second.acquire, kwargs={"wait": True})
    waiting.start()
    time.sleep(0.05)
    path.unlink()
    first.release()
    waiting.join(5)
    assert second.held
    assert is_locked(path)
    second.release()
    assert not is_locked(path)


def test_a_large_file_is_synced_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    with SyncedInPieces(tmp_path / "large", piece_bytes=100) as file:
        for size in (60, 60, 10, 250, 99):
            assert file.write(b"x" * size) == size
    assert synced == [120, 380]
    assert (tmp_path / "large").read_bytes() == b"x" * 479
