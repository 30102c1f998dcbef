"""The survey: one look at the whole log that says which segments are there and how far it is complete.

The order of its steps is what makes the watermark safe: `now` was read before any lock was probed, and no
writer that starts afterwards can stamp before it; heartbeats are read before segments are listed, so every
event that a heartbeat vouches for is in the list.
"""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from bandit.errors import Busy, CorruptLog
from bandit.eventlog.heartbeat import (
    HEARTBEAT_SUFFIX,
    Heartbeat,
    lock_path,
    locked_writers,
    raise_clock_floor,
    read_heartbeat,
)
from bandit.eventlog.recovery import (
    DAMAGED_SUFFIX,
    QUARANTINE,
    UNREADABLE_SUFFIX,
    Recovered,
    open_segments,
    quarantine_segment,
    recover_segment,
)
from bandit.eventlog.segment import SEALED_SUFFIX, parse_segment_name, segments_with_suffix
from bandit.experiment import ExperimentPaths
from bandit.files import LEFTOVER_S_MIN, locked

__all__ = ["Survey", "quarantine_segment", "sealed_segments", "set_aside", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """The state of a log.

    `segments`: the sealed ones (but those known already), sorted by name. `watermark`: every event stamped before
    it is in a sealed segment; None when that cannot be known this time, for the reasons in `unknown`. `silent`: the
    living writers that hang, and hold it up. `recovered`: what this survey sealed for dead writers. `quarantined`:
    everything ever cut off or moved out of the log.
    """

    segments: list[Path]
    watermark: datetime | None
    live: list[Heartbeat]
    recovered: list[Recovered] = field(default_factory=list)
    quarantined: list[Path] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)


def sealed_segments(events: Path, *, but: Container[str] = ()) -> list[Path]:
    """The sealed segments in a folder but those in `but`, sorted by name: each writer's in the order of writing."""
    return segments_with_suffix(events, SEALED_SUFFIX, but=but)


def set_aside(paths: ExperimentPaths) -> list[str]:
    """The names of what is in quarantine and may hold acknowledged events: no torn end, and nothing salvaged."""
    quarantine = paths.events / QUARANTINE
    found = sorted(quarantine.iterdir()) if quarantine.is_dir() else []
    return [path.name for path in found if path.suffix in (DAMAGED_SUFFIX, UNREADABLE_SUFFIX)]


def survey(paths: ExperimentPaths, *, now: datetime, recover: bool = True, known: Container[str] = ()) -> Survey:
    """Look at the log; with `recover`, seal what dead writers left open (else their open segments hide the watermark).

    `now` must have been read before the call. Segments whose file names are in `known` are left out of the answer,
    which keeps a look cheap however long the log is. Raises OSError when the folder cannot be read.
    """
    live: list[Heartbeat] = []
    unknown: list[str] = []
    try:
        raise_clock_floor(paths, now)
    except OSError as error:  # a full disk: without the floor a writer that starts now is not bound to `now`
        unknown.append(f"workers/clock cannot be written: {error}")
    writers = locked_writers(paths)
    for writer_id in writers:
        heartbeat = read_heartbeat(paths, writer_id)
        if heartbeat is None:
            unknown.append(f"writer {writer_id} lives but has not reported yet")
        else:
            live.append(heartbeat)
    recovered: list[Recovered] = []
    for segment in open_segments(paths.events):
        writer_id = parse_segment_name(segment)[0]
        if writer_id in writers:
            continue
        if not recover:
            unknown.append(f"segment {segment.name} of a dead writer is not recovered yet")
            continue
        try:
            with locked(lock_path(paths, writer_id), wait=False):
                if segment.exists():
                    recovered.append(recover_segment(segment, now=now))
        except Busy:
            unknown.append(f"writer {writer_id} is just starting")
        except (CorruptLog, OSError) as error:
            unknown.append(f"segment {segment.name} of a dead writer cannot be recovered: {error}")
    if recover:
        _forget_the_dead(paths, writers)
    quarantine = paths.events / QUARANTINE
    return Survey(
        segments=sealed_segments(paths.events, but=known),
        watermark=None if unknown else min([now, *(heartbeat.complete_until for heartbeat in live)]),
        live=live,
        recovered=recovered,
        quarantined=sorted(quarantine.iterdir()) if quarantine.is_dir() else [],
        unknown=unknown,
        silent=[told for heartbeat in live if (told := heartbeat.silence(now)) is not None],
    )


def _forget_the_dead(paths: ExperimentPaths, living: list[str]) -> None:
    """Remove lock and heartbeat of dead writers whose names are never used again, once nothing of theirs is open.

    With them go the half-written heartbeats of processes that were killed.
    """
    for path in paths.workers.glob(".*.tmp") if paths.workers.is_dir() else []:
        try:
            if time.time() - path.stat().st_mtime > LEFTOVER_S_MIN:
                path.unlink()
        except FileNotFoundError:
            continue  # its writer has just finished it
    for path in paths.workers.glob(f"*{HEARTBEAT_SUFFIX}") if paths.workers.is_dir() else []:
        writer_id = path.name.removesuffix(HEARTBEAT_SUFFIX)
        heartbeat = None if writer_id in living else read_heartbeat(paths, writer_id)
        if heartbeat is None or heartbeat.reused or open_segments(paths.events, writer_id):
            continue
        try:
            with locked(lock_path(paths, writer_id), wait=False):
                path.unlink(missing_ok=True)
                lock_path(paths, writer_id).unlink(missing_ok=True)
        except Busy:
            continue  # somebody looks at it just now; the next survey forgets it
