"""Erasure: taking a person's or an event's records out of a log that otherwise never changes.

A sealed segment is rewritten whole under its own name, without those records, and gets new checksums and a new
digest. What stays is a tombstone: a keyed hash of the event_id, which tells whoever holds the experiment's secret
that a given event was erased, and tells nobody anything else.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bandit.eventlog.recovery import QUARANTINE
from bandit.eventlog.segment import commit_line, read_events, seal_line, verify_segment
from bandit.events import DecisionEvent, Event, decode_event
from bandit.experiment import ExperimentPaths
from bandit.files import write_atomically


@dataclass(slots=True)
class Marked:
    """What is to be erased: ids of events, and the contexts of their decisions (as canonical JSON)."""

    event_ids: set[str] = field(default_factory=set)
    contexts: set[bytes] = field(default_factory=set)
    records: int = 0
    segments: set[Path] = field(default_factory=set)


def mark(
    segments: Iterable[Path], *, event_ids: Iterable[str] = (), subject: str | None, fields: Iterable[str]
) -> Marked:
    """Find the records of `event_ids`, and of every decision whose context names `subject` in one of `fields`.

    A decision's rewards and activations go with it, whichever segment they are in. Raises `CorruptLog`.
    """
    marked = Marked(event_ids=set(event_ids))
    names = tuple(fields) if subject is not None else ()
    paths = list(segments)
    for segment in paths:
        for event in read_events(segment):
            if isinstance(event, DecisionEvent) and any(as_text(event.context.get(name)) == subject for name in names):
                marked.event_ids.add(event.event_id)
    for segment in paths:
        for event in read_events(segment):
            if event.event_id in marked.event_ids:
                marked.records += 1
                marked.segments.add(segment)
                if isinstance(event, DecisionEvent):
                    marked.contexts.add(canonical(event.context))
    return marked


def erase_from_segment(segment: Path, erased: Callable[[Event], bool]) -> int:
    """Rewrite a sealed segment without the records for which `erased` holds; gives how many went.

    The order of the others stays. Raises `CorruptLog` when the segment is damaged (it is left as it is), OSError.
    """
    verify_segment(segment)
    body = b""
    group: list[bytes] = []
    kept = total = gone = 0
    for line in segment.read_bytes().splitlines(keepends=True):
        if line.startswith(b'{"type":"segment"'):
            group.append(line)
        elif line.startswith(b'{"type":"commit"'):
            if group:
                data = b"".join(group)
                body += data + commit_line(data, kept)
            total += kept
            group, kept = [], 0
        elif not line.startswith(b'{"type":"seal"'):
            if erased(decode_event(line)):
                gone += 1
            else:
                group.append(line)
                kept += 1
    if gone:
        write_atomically(segment, body + seal_line(hashlib.sha256(body), total, len(body)))
    return gone


def erase_from_quarantine(paths: ExperimentPaths, needles: Iterable[bytes]) -> int:
    """Take the lines that hold any of `needles` out of the files put aside; gives how many went."""
    folder = paths.events / QUARANTINE
    wanted = tuple(needles)
    gone = 0
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not any(needle in line for needle in wanted)]
        if len(kept) < len(lines):
            gone += len(lines) - len(kept)
            write_atomically(path, b"".join(kept))
    return gone


def tombstone(secret: bytes, event_id: str) -> str:
    """What stays of an erased event: 32 hex digits that only the secret's holder can tie to its id."""
    return hmac.digest(secret, b"erased\n" + event_id.encode(), "sha256")[:16].hex()


def as_text(value: Any) -> str | None:
    """A subject as text: a string as it is, a number or boolean as in JSON, anything else is none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return msgspec.json.encode(value).decode()
    return None


def canonical(context: Any) -> bytes:
    """A context as bytes that do not depend on the order of its keys."""
    return msgspec.json.encode(context, order="deterministic")
