"""The segment format: how events become bytes whose every change can be noticed.

A segment is a file of JSON lines: a header, then groups of events that each end in a `commit` line, at last
one `seal` line. The checksum of a commit covers its group and its own line up to the checksum's digits; the
digest of the seal covers every byte before the digest's own digits. So no byte is left unprotected, and a
reader needs the file alone.

    {"type":"segment","format":1,"writer_id":"w0","sequence":7,"opened_at":"…"}
    {"type":"decision",…}
    {"type":"commit","events":1,"bytes":512,"crc32":123456789}
    {"type":"seal","events":1,"bytes":575,"sha256":"…"}
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zlib import crc32

import msgspec

from bandit.decoding import decode
from bandit.errors import CorruptLog, InvalidSettings
from bandit.events import FORMAT_VERSION, Event, decode_event

OPEN_SUFFIX = ".open"
SEALED_SUFFIX = ".jsonl"
WRITER_ID = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,62}$")

_CHUNK_BYTES = 1 << 20
_TAIL_BYTES_MAX = 256
_HEADER_BYTES_MAX = 1024
_DIGEST_AND_END_BYTES = 64 + len(b'"}\n')

_COMMIT = re.compile(rb'^\{"type":"commit","events":(\d{1,12}),"bytes":(\d{1,15}),"crc32":(\d{1,10})\}\n', re.MULTILINE)
_SEAL = re.compile(
    rb'(?:\A|\n)(\{"type":"seal","events":(\d{1,12}),"bytes":(\d{1,15}),"sha256":"([0-9a-f]{64})"\}\n)\Z'
)
_NAME = re.compile(r"^(?P<writer>[a-z0-9][a-z0-9_.-]{0,62})-(?P<sequence>\d{8,})$")
_NOT_EVENTS = (b'{"type":"segment"', b'{"type":"commit"', b'{"type":"seal"')


class SegmentHeader(msgspec.Struct, frozen=True, tag_field="type", tag="segment", kw_only=True):
    """First line of a segment: who wrote it, and the how manyeth of that writer it is."""

    format: int
    writer_id: str
    sequence: int
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What a verified segment holds; `bytes` is the size of the file, `sha256` the digest in its seal."""

    writer_id: str
    sequence: int
    events: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Group:
    """One whole commit: the half-open byte range of its lines with its commit line, and its number of events."""

    start: int
    end: int
    events: int


def check_writer_id(writer_id: str) -> str:
    """Give `writer_id` back when it may name a writer; raises `InvalidSettings` otherwise."""
    if not WRITER_ID.fullmatch(writer_id):
        raise InvalidSettings("writer_id", "is not a valid name", WRITER_ID.pattern)
    return writer_id


def segment_name(writer_id: str, sequence: int) -> str:
    """The file name of a segment without its suffix."""
    return f"{writer_id}-{sequence:08d}"


def parse_segment_name(path: Path) -> tuple[str, int]:
    """Writer and sequence in a segment's file name; raises `CorruptLog` when it is not one."""
    found = _NAME.fullmatch(path.name.removesuffix(SEALED_SUFFIX).removesuffix(OPEN_SUFFIX))
    if not found:
        raise CorruptLog(f"segment {path.name}: its name is not <writer>-<sequence>")
    return found["writer"], int(found["sequence"])


def is_segment_name(name: str) -> bool:
    """Whether a file of the log's folder is a segment, sealed or open, by its name."""
    return any(
        name.endswith(suffix) and _NAME.fullmatch(name.removesuffix(suffix)) for suffix in (SEALED_SUFFIX, OPEN_SUFFIX)
    )


def segments_with_suffix(events: Path, suffix: str, *, but: Container[str] = ()) -> list[Path]:
    """The segments in a folder that end in `suffix`, sorted by name, without the file names in `but`.

    Files that are no segments are left to `doctor`.
    """
    if not events.is_dir():
        return []
    with os.scandir(events) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(suffix) and entry.name not in but)
    return [events / name for name in names if _NAME.fullmatch(name.removesuffix(suffix))]


# -- writing ---------------------------------------------------------------------------------------------


def header_line(writer_id: str, sequence: int, opened_at: datetime) -> bytes:
    """The first line of a segment."""
    header = SegmentHeader(format=FORMAT_VERSION, writer_id=writer_id, sequence=sequence, opened_at=opened_at)
    return msgspec.json.encode(header) + b"\n"


def commit_line(group: bytes, events: int) -> bytes:
    """The line that ends a group of whole lines and vouches for them."""
    covered = b'{"type":"commit","events":%d,"bytes":%d,"crc32":' % (events, len(group))
    return covered + b"%d}\n" % crc32(covered, crc32(group))


def seal_line(hasher: hashlib._Hash, events: int, size: int) -> bytes:
    """The last line of a segment of `size` bytes so far, whose bytes `hasher` (SHA-256) has been fed."""
    covered = b'{"type":"seal","events":%d,"bytes":%d,"sha256":"' % (events, size)
    whole = hasher.copy()
    whole.update(covered)
    return covered + whole.hexdigest().encode() + b'"}\n'


# -- reading ---------------------------------------------------------------------------------------------


def verify_segment(path: Path) -> SegmentInfo:
    """Check a sealed segment whole, in constant memory.

    Raises `CorruptLog` when any byte differs from what was sealed, the seal is missing, or the file's name is
    not the one in its header; OSError when it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES_MAX))
        seal = _SEAL.search(file.read())
        if seal is None:
            raise CorruptLog(f"segment {path.name}: it does not end in a seal")
        start = size - len(seal[1])
        if int(seal[3]) != start:
            raise CorruptLog(f"segment {path.name}: its length is not the one that was sealed")
        file.seek(0)
        hasher = hashlib.sha256()
        left = size - _DIGEST_AND_END_BYTES
        head = file.read(min(left, _HEADER_BYTES_MAX))
        hasher.update(head)
        left -= len(head)
        while left > 0:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise CorruptLog(f"segment {path.name}: it got shorter while it was read")
            hasher.update(chunk)
            left -= len(chunk)
    if hasher.hexdigest().encode() != seal[4]:
        raise CorruptLog(f"segment {path.name}: its content does not match the digest it was sealed with")
    header = parse_header(head, path)
    return SegmentInfo(header.writer_id, header.sequence, int(seal[2]), size, seal[4].decode())


def parse_header(head: bytes, path: Path) -> SegmentHeader:
    """The header in the first bytes of a segment; raises `CorruptLog` when it is none or is another file's."""
    try:
        header = decode(head[: head.index(b"\n")], SegmentHeader)
    except ValueError:  # no line, or no JSON
        raise CorruptLog(f"segment {path.name}: its first line is not a segment header") from None
    if header.format > FORMAT_VERSION:
        raise CorruptLog(
            f"segment {path.name}: written in format {header.format}, this version reads up to {FORMAT_VERSION}; "
            "update rewardloop"
        )
    if (header.writer_id, header.sequence) != parse_segment_name(path):
        raise CorruptLog(f"segment {path.name}: its header names another segment")
    return header


def read_events(path: Path) -> Iterator[Event]:
    """The events of a sealed segment in the order of writing, after verifying it; raises `CorruptLog`."""
    verify_segment(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.startswith(_NOT_EVENTS):
                try:
                    event = decode_event(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise CorruptLog(
                        f"segment {path.name}: line {number} is no event that is known here ({error})"
                    ) from None
                yield event


def whole_commits(data: bytes) -> list[Group]:
    """The commits in `data` (a segment, perhaps torn or damaged) whose checksums hold, in order.

    A commit finds the start of its group by its own length, so damage in one group does not hide the next.
    """
    groups: list[Group] = []
    end = 0
    for found in _COMMIT.finditer(data):
        events, length, checksum = (int(number) for number in found.groups())
        start = found.start() - length
        if start < end:
            continue
        group = memoryview(data)[start : found.start()]
        covered = b'{"type":"commit","events":%d,"bytes":%d,"crc32":' % (events, length)
        if crc32(covered, crc32(group)) != checksum or covered + b"%d}\n" % checksum != found[0]:
            continue
        end = found.end()
        groups.append(Group(start, end, events))
    return groups


def sealed_length(data: bytes) -> int | None:
    """The length of `data` without its seal line when that is there and right, else None."""
    seal = _SEAL.search(data[-_TAIL_BYTES_MAX:])
    if seal is None:
        return None
    digest = hashlib.sha256(memoryview(data)[: len(data) - _DIGEST_AND_END_BYTES]).hexdigest().encode()
    return len(data) - len(seal[1]) if digest == seal[4] and int(seal[3]) == len(data) - len(seal[1]) else None
