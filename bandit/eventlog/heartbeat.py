"""Heartbeats: what a writer says about itself each second, and whether it lives at all.

A heartbeat is believed only while its writer holds `workers/<writer_id>.lock`: the kernel gives that lock back
when the process ends, however it ends, so no timeout has to guess. `workers/clock` holds an instant that no
writer yet to come may stamp before: a clock that was set back cannot put events behind the watermark. Heartbeats
tell how far each writer has stamped: whoever beats goes on from the latest, so that all writers share one time. One
that is too far ahead is not followed: its clock alone has jumped, and the others would stand still with it.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.experiment import ExperimentPaths
from bandit.files import is_locked, write_atomically

LOCK_SUFFIX = ".lock"
HEARTBEAT_SUFFIX = ".json"
AHEAD_S_MAX = 300.0
"""Two clocks may differ by so much; one that is further ahead is wrong."""

DAMAGED = "damaged"
"""Why a worker does not serve the champion: its files are not what was stored, or mean nothing to this release."""
UNREADABLE = "unreadable"
"""Why a worker does not serve the champion: the machine did not give it the files, which may pass."""
SILENT_S_MAX = 30.0
"""A living writer beats each second; one that has said nothing for so long hangs."""

Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """One writer's state: every event it stamped before `complete_until` is in a sealed segment.

    `stamped_until` is its newest stamp: later than `at` where its clock was set back.
    `generation` is that of the champion it has looked at and tried to load, 0 where there was none, None where its
    release does not say: with that one's generation and another `model_id`, it could not load it, and `unusable` says
    why (`DAMAGED`, `UNREADABLE`). `manifest_digest` is
    that of the manifest whose canaries `canary_digest` answers.
    `reused` tells whether another process may take the same name later; else nothing is kept of it once it is dead.
    """

    writer_id: str
    kind: str
    pid: int
    at: Instant
    complete_until: Instant
    settings_version: int = 0
    model_id: str | None = None
    generation: int | None = None
    unusable: str | None = None
    canary_digest: str | None = None
    manifest_digest: str | None = None
    counters: dict[str, float] = {}
    reused: bool = True
    stamped_until: Instant | None = None

    @property
    def latest(self) -> datetime:
        """The latest instant that its writer may have stamped."""
        return self.complete_until if self.stamped_until is None else max(self.complete_until, self.stamped_until)

    def silence(self, now: datetime) -> str | None:
        """That its writer, which lives, says nothing any more; None where it does."""
        if now - max(self.at, self.complete_until) <= timedelta(seconds=SILENT_S_MAX):
            return None
        return f"writer {self.writer_id} (process {self.pid}) lives but is silent since {self.at:%H:%M:%S}"


def lock_path(paths: ExperimentPaths, writer_id: str) -> Path:
    """The lock that a writer holds as long as it lives."""
    return paths.workers / f"{writer_id}{LOCK_SUFFIX}"


def heartbeat_path(paths: ExperimentPaths, writer_id: str) -> Path:
    """Where a writer's heartbeat is kept."""
    return paths.workers / f"{writer_id}{HEARTBEAT_SUFFIX}"


def beat(paths: ExperimentPaths, heartbeat: Heartbeat) -> None:
    """Replace a writer's heartbeat, atomically and without a sync: it says nothing that a crash could make wrong."""
    write_atomically(heartbeat_path(paths, heartbeat.writer_id), msgspec.json.encode(heartbeat), sync=False)


def read_heartbeat(paths: ExperimentPaths, writer_id: str) -> Heartbeat | None:
    """The last heartbeat of a writer, living or not; None when there is none that can be read."""
    try:
        return decode(heartbeat_path(paths, writer_id).read_bytes(), Heartbeat)
    except (OSError, Undecodable):
        return None


def locked_writers(paths: ExperimentPaths) -> list[str]:
    """The ids of all writers that live now, sorted."""
    if not paths.workers.is_dir():
        return []
    names = sorted(entry.name for entry in os.scandir(paths.workers) if entry.name.endswith(LOCK_SUFFIX))
    return [name.removesuffix(LOCK_SUFFIX) for name in names if is_locked(paths.workers / name)]


def live_heartbeats(paths: ExperimentPaths) -> list[Heartbeat]:
    """The heartbeats of the living writers, sorted by writer."""
    heartbeats = (read_heartbeat(paths, writer_id) for writer_id in locked_writers(paths))
    return [heartbeat for heartbeat in heartbeats if heartbeat is not None]


def last_heartbeats(paths: ExperimentPaths) -> list[Heartbeat]:
    """The last heartbeats of all writers, living or not, sorted by writer."""
    if not paths.workers.is_dir():
        return []
    names = sorted(entry.name for entry in os.scandir(paths.workers) if entry.name.endswith(HEARTBEAT_SUFFIX))
    heartbeats = (read_heartbeat(paths, name.removesuffix(HEARTBEAT_SUFFIX)) for name in names)
    return [heartbeat for heartbeat in heartbeats if heartbeat is not None]


def latest_stamp(paths: ExperimentPaths, own: datetime) -> datetime | None:
    """How far the writers of an experiment have stamped, by their last heartbeats; None where there are none.

    Those more than `AHEAD_S_MAX` ahead of `own`, the time by the caller's own clock, are left out.
    """
    limit = own + timedelta(seconds=AHEAD_S_MAX)
    return max((beat.latest for beat in last_heartbeats(paths) if beat.latest <= limit), default=None)


def read_clock_floor(paths: ExperimentPaths) -> datetime | None:
    """The instant that no new writer may stamp before, whatever its clock says; None before the first survey."""
    try:
        return datetime.fromisoformat((paths.workers / "clock").read_text().strip())
    except (FileNotFoundError, ValueError):
        return None


def raise_clock_floor(paths: ExperimentPaths, now: datetime) -> None:
    """Let no writer that starts from here on stamp before `now`."""
    floor = paths.workers / "clock"
    try:
        if datetime.fromisoformat(floor.read_text().strip()) >= now:
            return
    except (FileNotFoundError, ValueError):
        pass
    write_atomically(floor, now.isoformat().encode(), sync=False)
