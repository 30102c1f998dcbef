"""Heartbeats: what a writer says about itself each second, and whether it lives at all.

A heartbeat is believed only while its writer holds `workers/<writer_id>.lock`: the kernel gives that lock back
when the process ends, however it ends, so no timeout has to guess. `workers/clock` holds an instant that no
writer yet to come may stamp before: a clock that was set back cannot put events behind the watermark. Heartbeats
tell how far each writer has stamped: whoever beats goes on from the latest, so that all writers share one time.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from bandit.experiment import ExperimentPaths
from bandit.files import is_locked, write_atomically

LOCK_SUFFIX = ".lock"
HEARTBEAT_SUFFIX = ".json"

Instant = Annotated[datetime, msgspec.Meta(tz=True)]


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """One writer's state: every event it stamped before `complete_until` is in a sealed segment.

    `stamped_until` is its newest stamp: later than `at` where its clock was set back.
    `reused` tells whether another process may take the same name later; else nothing is kept of it once it is dead.
    """

    writer_id: str
    kind: str
    pid: int
    at: Instant
    complete_until: Instant
    settings_version: int = 0
    model_id: str | None = None
    canary_digest: str | None = None
    counters: dict[str, float] = {}
    reused: bool = True
    stamped_until: Instant | None = None


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
        return msgspec.json.decode(heartbeat_path(paths, writer_id).read_bytes(), type=Heartbeat)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
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


def latest_stamp(paths: ExperimentPaths) -> datetime | None:
    """How far the writers of an experiment have stamped, by their last heartbeats; None where there are none."""
    if not paths.workers.is_dir():
        return None
    names = [entry.name for entry in os.scandir(paths.workers) if entry.name.endswith(HEARTBEAT_SUFFIX)]
    heartbeats = (read_heartbeat(paths, name.removesuffix(HEARTBEAT_SUFFIX)) for name in names)
    instants = [(beat.complete_until, beat.stamped_until) for beat in heartbeats if beat is not None]
    return max((instant for pair in instants for instant in pair if instant is not None), default=None)


def read_clock_floor(paths: ExperimentPaths) -> datetime | None:
    """The instant that no new writer may stamp before; None before the first survey."""
    try:
        surveyed = datetime.fromisoformat((paths.workers / "clock").read_text().strip())
    except (FileNotFoundError, ValueError):
        return latest_stamp(paths)
    return max(surveyed, latest_stamp(paths) or surveyed)


def raise_clock_floor(paths: ExperimentPaths, now: datetime) -> None:
    """Let no writer that starts from here on stamp before `now`."""
    floor = paths.workers / "clock"
    try:
        if datetime.fromisoformat(floor.read_text().strip()) >= now:
            return
    except (FileNotFoundError, ValueError):
        pass
    write_atomically(floor, now.isoformat().encode(), sync=False)
