"""Keeps the processes of a service running: decision workers on one listening socket, and the learner.

The supervisor opens each socket once and hands it to the learner or to every worker, so a crashed one is replaced
without a moment in which nobody listens. It has ports and locks before anything is changed on disk: a service that is
refused leaves a running one as it is. It does no work itself and imports nothing heavy. SIGTERM or SIGINT drains all
children; they seal what they have, and the supervisor leaves with 0 once they are gone (after `DRAIN_S` it ends them).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import msgspec

from bandit.errors import Busy, InvalidInput, RewardloopError
from bandit.files import FileLock, write_atomically
from serving.api.shares import ConnectionShares
from serving.learner.address import (
    COMMAND_S,
    ServiceAddress,
    mark_service,
    running_learner,
    running_service,
    service_path,
    take_lock,
)

log = logging.getLogger("rewardloop.supervisor")

DRAIN_S = 8.0
"""How long children may take to drain before they are ended."""

RESTART_S = 0.1
"""Pause before a crashed child is started again; doubles while it keeps crashing, up to `RESTART_S_MAX`."""

RESTART_S_MAX = 0.8
STABLE_S = 10.0
READY_S = 60.0
MISUSE = 2
PR_SET_PDEATHSIG = 1
BACKLOG = 2048
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Linear algebra gains nothing from more threads here, and they would take the cores that decide."""


class ServiceFailed(RewardloopError):
    """The service did not become ready."""


@dataclass(slots=True)
class _Child:
    name: str
    command: list[str]
    descriptors: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restart_at: float = 0.0
    crashes: int = 0
    once_ready: bool = False
    worker: int | None = None


@dataclass(slots=True)
class Supervisor:
    """Runs `workers` decision workers (0: none) and, with `learner`, the learner on one data directory.

    Ports may be 0 for a free one. `prepare` is called once the service owns its ports and the directory, before any
    part of it starts. `on_ready` is called once, when every part answers; `restarts` counts crashes.
    """

    data_dir: Path
    workers: int = 1
    learner: bool = True
    host: str = "127.0.0.1"
    port: int = 8000
    admin_host: str = "127.0.0.1"
    admin_port: int = 8001
    worker_options: Sequence[str] = ()
    prepare: Callable[[], object] | None = None
    on_ready: Callable[[ServiceAddress], None] | None = None
    restarts: int = 0
    _children: list[_Child] = field(default_factory=list)
    _signal: int | None = None
    _socket: socket.socket | None = None
    _admin_socket: socket.socket | None = None
    _shares: ConnectionShares | None = None
    _mark: FileLock | None = None

    def run(self) -> int:
        """Run until a signal asks to stop; returns 0, or 2 where a child refused to start (and said why on stderr).

        Raises `InvalidInput` for a taken port, `Busy` for a directory that another learner owns, `ServiceFailed`, and
        what `prepare` raises.
        """
        announced = False
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            try:
                self._open()
            except Busy:
                if self._stopping:  # before the directory was free
                    return 0
                raise
            for child in self._children:
                self._start(child)
            deadline = time.monotonic() + READY_S
            while not self._stopping:
                if not self._watch():
                    return MISUSE
                if not announced:
                    announced = self._announce()
                    if not announced and time.monotonic() > deadline:
                        raise ServiceFailed(f"the service did not become ready within {READY_S:g} s")
                time.sleep(0.05)
        finally:
            if self._signal is not None:
                log.info("stopping (%s)", signal.Signals(self._signal).name)
            for opened in (self._socket, self._admin_socket):
                if opened is not None:
                    opened.close()  # a new client is refused once the children have closed theirs, and need not wait
            self._drain()
            address = running_service(self.data_dir)
            if address is not None and address.pid == os.getpid():  # not that of another service on this directory
                service_path(self.data_dir).unlink(missing_ok=True)
            if self._mark is not None:
                self._mark.release()
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)
        log.info("stopped; everything acknowledged is on disk")
        return 0

    # -- starting ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Take the ports, then the directory, and let `prepare` change what it wants once both are ours."""
        if self.workers:
            self._socket = _listen(self.host, self.port)
            self.port = self._socket.getsockname()[1]
        if self.learner:
            place = "service.admin_host" if self.workers else "--host"
            self._admin_socket = _listen(self.admin_host, self.admin_port, place, "--admin-port")
            self.admin_port = self._admin_socket.getsockname()[1]
        service_path(self.data_dir).parent.mkdir(parents=True, exist_ok=True)
        lock = None
        if self.learner:
            self._mark = mark_service(self.data_dir, patience_with_starting_s=COMMAND_S, given_up=self._given_up)
            lock = take_lock(self.data_dir, patience_with_commands_s=COMMAND_S, given_up=self._given_up)
        try:
            if self.prepare is not None:
                self.prepare()
        finally:
            if lock is not None:
                lock.release()  # for our own learner: who else wants it sees the mark
        self._children = self._commands()

    def _commands(self) -> list[_Child]:
        module, place = [sys.executable, "-m"], ["--data-dir", str(self.data_dir)]
        children = []
        if self._admin_socket is not None:
            descriptor = self._admin_socket.fileno()
            command = [*module, "serving.learner", *place, "--fd", str(descriptor), "--host", self.admin_host]
            children.append(_Child("learner", command, (descriptor,)))
        if self._socket is not None:
            descriptors, shared = [self._socket.fileno()], ["--fd", str(self._socket.fileno())]
            try:
                self._shares = ConnectionShares.among(self.workers)
                descriptors.append(self._shares.descriptor)
                shared += ["--shares", str(self._shares.descriptor)]
            except OSError as error:
                log.warning("workers cannot tell each other how many connections they have (%s)", error)
            for number in range(self.workers):
                command = [*module, "serving.api.run", *place, "--worker", str(number), *shared]
                command += ["--host", self.host, "--port", str(self.port), *self.worker_options]
                children.append(_Child(f"worker {number}", command, tuple(descriptors), worker=number))
        return children

    def _start(self, child: _Child) -> None:
        child.process = subprocess.Popen(
            child.command,
            pass_fds=child.descriptors,
            stdin=subprocess.DEVNULL,
            env=ONE_THREAD | os.environ,
            start_new_session=True,  # Ctrl-C comes to the supervisor alone, which drains in order
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - the supervisor has no threads
        )
        child.started = time.monotonic()
        child.restart_at = 0.0

    def _announce(self) -> bool:
        """Whether all parts answer by now; then says so, once."""
        address = ServiceAddress(
            pid=os.getpid(),
            url=_url(self.host, self.port) if self.workers else None,
            admin_url=self._admin_url() if self.learner else None,
        )
        if self.learner and address.admin_url is None:
            return False
        for url in (address.url, address.admin_url):
            if url is not None and not _answers(url + "/livez"):
                return False
        for child in self._children:
            child.once_ready = True
        write_atomically(service_path(self.data_dir), msgspec.json.encode(address))
        if self.on_ready is not None:
            self.on_ready(address)
        return True

    def _admin_url(self) -> str | None:
        address = running_learner(self.data_dir)
        learner = next(child for child in self._children if child.name == "learner")
        if address is None or learner.process is None or address.pid != learner.process.pid:
            return None
        return address.url

    # -- watching ----------------------------------------------------------------------------------------

    def _watch(self) -> bool:
        """Start again what has ended; False when a child refused to start at all."""
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                code = child.process.returncode
                child.process = None
                if child.worker is not None and self._shares is not None:
                    self._shares.absent(child.worker)
                if code == MISUSE and not child.once_ready:
                    return False
                if now - child.started > STABLE_S:
                    child.crashes = 0
                pause = min(RESTART_S * 2**child.crashes, RESTART_S_MAX)
                child.crashes += 1
                child.restart_at = now + pause
                self.restarts += 1
                log.warning("the %s ended (%s); starting it again in %.1f s", child.name, _ending(code), pause)
            if child.process is None and now >= child.restart_at:
                self._start(child)
        return True

    @property
    def _stopping(self) -> bool:
        return self._signal is not None

    def _given_up(self) -> bool:
        return self._stopping

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signal = self._signal or number  # told later: a log may not be written in the middle of anything

    def _drain(self) -> None:
        processes = [child.process for child in self._children if child.process is not None]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + DRAIN_S
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listen(host: str, port: int, place: str = "--host", option: str = "--port") -> socket.socket:
    """A listening socket; raises `InvalidInput`. It listens at once: what is only bound, another could bind too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (socket.gaierror, TypeError, UnicodeError):
        listener.close()
        raise InvalidInput(place, "is not an address of this machine") from None
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidInput(place, f"{host} is not an address of this machine") from None
        raise InvalidInput(option, f"{port} cannot be used on {host} ({error.strerror}); choose another") from None
    except OverflowError:
        listener.close()
        raise InvalidInput(option, "is not a port", "0 to 65535") from None
    return listener


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=1.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _die_with_parent() -> None:
    """Ask the kernel to drain this child when its supervisor is gone, however it went (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
