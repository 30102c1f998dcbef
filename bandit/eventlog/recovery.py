"""Recovery: what a dead writer left open becomes a sealed segment, with every whole commit and nothing else.

The kept bytes are copied into a new file rather than sealed in place, because after a failed sync the kernel
may believe that pages are clean which never reached the disk. What is cut off goes to `events/quarantine/`:
a torn end was never acknowledged, damage before a whole commit may have been.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bandit.errors import Conflict, CorruptLog
from bandit.eventlog.segment import (
    OPEN_SUFFIX,
    SEALED_SUFFIX,
    Group,
    commit_line,
    header_line,
    parse_header,
    parse_segment_name,
    seal_line,
    sealed_length,
    segments_with_suffix,
    verify_segment,
    whole_commits,
)
from bandit.files import fsync_directory, write_atomically

QUARANTINE = "quarantine"
TORN_SUFFIX = ".torn"
DAMAGED_SUFFIX = ".damaged"
SALVAGED_SUFFIX = ".salvaged"
UNREADABLE_SUFFIX = ".unreadable"


@dataclass(frozen=True, slots=True)
class Recovered:
    """One recovered segment: `segment` is None when it held no whole commit; `cut_bytes` went to `quarantined`."""

    source: Path
    segment: Path | None
    events: int
    cut_bytes: int
    quarantined: tuple[Path, ...] = ()


def open_segments(events: Path, writer_id: str | None = None) -> list[Path]:
    """The open segments in a folder, of one writer or of all, sorted."""
    found = segments_with_suffix(events, OPEN_SUFFIX)
    return [path for path in found if writer_id is None or parse_segment_name(path)[0] == writer_id]


def recover_segment(source: Path, *, now: datetime) -> Recovered:
    """Seal the whole commits of an open segment whose writer is dead (the caller holds that writer's lock).

    Every step can be repeated after a crash in the middle. Raises OSError when the disk does not take it.
    """
    target = source.with_suffix(SEALED_SUFFIX)
    for leftover in source.parent.glob(f".{target.name}.*.tmp"):  # of a recovery that was killed while it wrote
        leftover.unlink(missing_ok=True)
    if target.exists():  # an earlier recovery was cut short between its last two steps
        info = verify_segment(target)
        source.unlink()
        fsync_directory(source.parent)
        return Recovered(source, target, info.events, 0)
    data = source.read_bytes()
    length = sealed_length(data)
    if length is not None:  # the writer died between its seal and the rename
        data = data[:length]
    groups = whole_commits(data)
    quarantined = _quarantine_gaps(source, data, groups)
    cut = len(data) - sum(group.end - group.start for group in groups)
    events = sum(group.events for group in groups)
    if events == 0:
        source.unlink()
        fsync_directory(source.parent)
        return Recovered(source, None, 0, cut, quarantined)
    write_atomically(target, _sealed(source, data, groups, now))
    source.unlink()
    fsync_directory(source.parent)
    return Recovered(source, target, events, cut, quarantined)


def _sealed(source: Path, data: bytes, groups: list[Group], now: datetime) -> bytes:
    body = b"".join(data[group.start : group.end] for group in groups)
    if groups[0].start > 0:  # the group with the header is damaged; the file's name knows what it said
        writer_id, sequence = parse_segment_name(source)
        header = header_line(writer_id, sequence, now)
        body = header + commit_line(header, 0) + body
    parse_header(body, source)
    hasher = hashlib.sha256(body)
    return body + seal_line(hasher, sum(group.events for group in groups), len(body))


def _quarantine_gaps(source: Path, data: bytes, groups: list[Group]) -> tuple[Path, ...]:
    kept = []
    position = 0
    for start, end in [(group.start, group.end) for group in groups] + [(len(data), len(data))]:
        if start > position:
            torn = start == len(data) and b'"type":"commit"' not in data[position:start]
            suffix = TORN_SUFFIX if torn else DAMAGED_SUFFIX
            kept.append(_keep(source, data[position:start], f"{position}{suffix}"))
        position = end
    return tuple(kept)


def _keep(source: Path, data: bytes, suffix: str) -> Path:
    folder = source.parent / QUARANTINE
    folder.mkdir(exist_ok=True)
    path = folder / f"{source.name}.{suffix}"
    write_atomically(path, data)
    return path


def salvage_segment(damaged: Path, *, now: datetime) -> Recovered:
    """Put the whole commits of a quarantined segment back into the log, under its old name.

    The damaged file stays beside it as `*.salvaged`. Raises `Conflict` when a segment of that name is there,
    OSError when the disk does not take it.
    """
    events = damaged.parent.parent
    target = events / damaged.name.removesuffix(DAMAGED_SUFFIX)
    if target.exists():
        raise Conflict(f"events/{target.name} is there already; remove {damaged.name} if it is the better one")
    data = damaged.read_bytes()
    groups = whole_commits(data)
    kept = sum(group.events for group in groups)
    if kept:
        write_atomically(target, _sealed(target, data, groups, now))
    salvaged = damaged.with_name(f"{damaged.name}{SALVAGED_SUFFIX}")
    damaged.rename(salvaged)
    fsync_directory(damaged.parent)
    cut = len(data) - sum(group.end - group.start for group in groups)
    return Recovered(damaged, target if kept else None, kept, cut, (salvaged,))


def quarantine_segment(segment: Path) -> Path:
    """Move a sealed segment that does not verify out of the log, so that nothing reads it; returns its new place.

    Raises `CorruptLog` when it is in fact sound.
    """
    try:
        verify_segment(segment)
    except CorruptLog:
        return _move(segment, segment.parent, DAMAGED_SUFFIX)
    raise CorruptLog(f"segment {segment.name} is sound and stays in the log")


def set_unreadable_aside(segment: Path, events: Path) -> Path:
    """Move a sound segment that holds what the joiner cannot read out of the way, to the quarantine of `events`.

    Returns its new place; the file is whole, so moved back under its own name it is read again.
    """
    return _move(segment, events, UNREADABLE_SUFFIX)


def _move(segment: Path, events: Path, suffix: str) -> Path:
    folder = events / QUARANTINE
    folder.mkdir(exist_ok=True)
    target = folder / f"{segment.name}{suffix}"
    segment.rename(target)
    fsync_directory(folder)
    fsync_directory(segment.parent)
    return target
