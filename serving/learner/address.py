"""Where a running learner is found, and how a second one is kept out.

`<data>/run/learner.lock` is flock'ed for the learner's lifetime, so a held lock means a living learner;
`<data>/run/learner.json` says where its admin API listens and holds the token that local commands show it. The
supervisor of a learner holds `<data>/run/service.lock`: while that learner starts, or starts again, commands wait.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import Busy
from bandit.files import FileLock, is_locked, write_atomically

PATIENCE_S = 1.0
COMMAND_S = 10.0
"""How long a learner that starts waits for a command to be done with the warehouse."""


class Address(msgspec.Struct, frozen=True):
    """How to reach the running learner: base URL of its admin API, token of local commands, process id."""

    url: str
    token: str
    pid: int


class ServiceAddress(msgspec.Struct, frozen=True):
    """Where a running service is: `<data>/run/service.json`. A part that does not run is None."""

    pid: int
    url: str | None = None
    admin_url: str | None = None


def lock_path(data_dir: Path) -> Path:
    """The lock file of a data directory's learner."""
    return data_dir / "run" / "learner.lock"


def mark_service(
    data_dir: Path,
    *,
    patience_s: float = PATIENCE_S,
    patience_with_starting_s: float = PATIENCE_S,
    given_up: Callable[[], bool] = lambda: False,
) -> FileLock:
    """Say that a learner runs or is being started here, until the mark is released; raises `Busy` where it is said.

    Waits `patience_s`, because whoever only asks holds the mark for a moment, and `patience_with_starting_s` while no
    learner runs: its service is starting, or nearly gone. No longer once it is `given_up`.
    """
    mark = FileLock(_mark_path(data_dir))
    _acquire(mark, data_dir, patience_s, patience_with_starting_s, given_up)
    return mark


def learner_is_meant_to_run(data_dir: Path) -> bool:
    """Whether somebody keeps a learner running on `data_dir`, which may be starting just now."""
    return is_locked(_mark_path(data_dir))


def address_path(data_dir: Path) -> Path:
    """The file in which a running learner says where it is."""
    return data_dir / "run" / "learner.json"


def service_path(data_dir: Path) -> Path:
    """The file in which a running service says where its parts are."""
    return data_dir / "run" / "service.json"


def take_lock(
    data_dir: Path,
    *,
    patience_s: float = PATIENCE_S,
    patience_with_commands_s: float = PATIENCE_S,
    given_up: Callable[[], bool] = lambda: False,
) -> FileLock:
    """Become the one owner of the warehouse; raises `Busy` when a learner or a command is it already.

    Waits `patience_s`, because whoever only asks whether the lock is held holds it for a moment, and
    `patience_with_commands_s` for an owner that is no learner, and no longer once it is `given_up`.
    """
    lock = FileLock(lock_path(data_dir))
    _acquire(lock, data_dir, patience_s, patience_with_commands_s, given_up)
    try:
        address_path(data_dir).unlink(missing_ok=True)  # of a learner that was killed
    except OSError as error:
        if error.errno != errno.EROFS:  # where nothing can be removed no learner will ask for its own
            lock.release()
            raise
    return lock


def _acquire(
    lock: FileLock,
    data_dir: Path,
    patience_s: float,
    patience_without_learner_s: float,
    given_up: Callable[[], bool],
) -> None:
    started = time.monotonic()
    while not lock.held:
        try:
            lock.acquire()
        except Busy:
            patience = patience_s if running_learner(data_dir) is not None else patience_without_learner_s
            if time.monotonic() > started + patience or given_up():
                raise Busy(
                    "another learner (or a command that needs the warehouse) runs on this data directory; "
                    "stop it first, or wait until it has finished"
                ) from None
            time.sleep(0.05)


def _mark_path(data_dir: Path) -> Path:
    return data_dir / "run" / "service.lock"


def write_address(data_dir: Path, address: Address) -> None:
    """Publish the address (readable by its owner alone)."""
    write_atomically(address_path(data_dir), msgspec.json.encode(address), mode=0o600)


def running_learner(data_dir: Path) -> Address | None:
    """The address of the learner that runs on `data_dir`, None where none does (or it is still starting)."""
    if not is_locked(lock_path(data_dir)):
        return None
    try:
        return decode(address_path(data_dir).read_bytes(), Address)
    except (FileNotFoundError, Undecodable):
        return None


def running_service(data_dir: Path) -> ServiceAddress | None:
    """The address of the service on `data_dir`, None where none runs."""
    try:
        address = decode(service_path(data_dir).read_bytes(), ServiceAddress)
        os.kill(address.pid, 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError, Undecodable):
        return None
    return address
