"""Retention: old segments become Parquet files, which from then on are log; older ones still can be dropped.

An archive keeps every line of its segments, seals included, so each segment can be written out again byte for byte
and verified against the digest it was sealed with. Whatever a later version of this program makes of the log, it can
make of an archive. `line` is the JSON of one record: `SELECT line->>'event_id' FROM 'archive/*/log.parquet'`.

An archive comes and goes in one step, by a new name of its folder. Of one that was dropped the manifest stays until the
database is without it, too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import CorruptLog
from bandit.eventlog import SegmentInfo, verify_segment
from bandit.eventlog.segment import SEALED_SUFFIX, segment_name
from bandit.eventlog.survey import sealed_segments
from bandit.experiment import ExperimentPaths
from bandit.files import fsync_directory, write_atomically
from joiner.connection import as_pattern, connect, from_utc, parquet_rows, quote, shortages, to_utc
from joiner.warehouse import Warehouse, in_batches

FORMAT = 1
MANIFEST = "manifest.json"
PARQUET = "log.parquet"
ARCHIVE_BYTES_MAX = 128 * 1024 * 1024
"""Bytes of segments that go into one archive, at most (one segment always fits)."""

KEPT_MIN = timedelta(days=1)
"""An archive is not dropped before it is so old, whatever the age of its records: it may have been made, and its
records seem old, because of a clock that was wrong."""

_INCOMING = ".incoming-"
_OUTGOING = ".outgoing-"
_DROPPED = ".dropped-"

# one row per ingested segment of which no record is younger than $until; `last` is the age of its youngest. A record is
# as old as the last window of its event_id, so that rewards and activations leave no earlier than their decision and
# late ones no later; without a decision it is as old as its stamp. Ids are found by their hashes: a namesake can only
# keep a record for longer
OLD_SEGMENTS = """
WITH due AS (
  SELECT event_key, max(greatest(stamped_at, matures_at)) AS last FROM decision_records GROUP BY event_key
),
records AS (
  SELECT writer_id, sequence, event_key, stamped_at FROM decision_records
  UNION ALL SELECT writer_id, sequence, hash(event_id), stamped_at FROM reward_records
  UNION ALL SELECT writer_id, sequence, hash(event_id), received_at FROM activation_records
),
aged AS (
  SELECT r.writer_id, r.sequence, max(coalesce(d.last, r.stamped_at)) AS last
  FROM records r LEFT JOIN due d USING (event_key) GROUP BY ALL
)
SELECT s.name, r.last
FROM segments s LEFT JOIN aged r ON r.writer_id = s.writer_id AND r.sequence = s.sequence
WHERE coalesce(r.last <= $until, true)
ORDER BY last, s.name
"""

# one row per line of the segments, in order
LINES = """
SELECT parse_filename(filename, true) AS segment, position, line
FROM (SELECT filename, unnest(lines) AS line, generate_subscripts(lines, 1) AS position
      FROM (SELECT filename, string_split(content, chr(10)) AS lines FROM read_text([{paths}])))
WHERE line <> '' ORDER BY segment, position
"""


class ArchiveManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive holds: its segments, the newest age among their records, and the digest of its Parquet file."""

    format: int
    created_at: datetime
    last: datetime
    sha256: str
    segments: list[SegmentInfo]


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive on disk."""

    folder: Path
    manifest: ArchiveManifest

    @property
    def names(self) -> set[str]:
        """The names (without suffix) of its segments."""
        return {segment_name(info.writer_id, info.sequence) for info in self.manifest.segments}

    @property
    def events(self) -> int:
        """How many events its segments hold."""
        return sum(info.events for info in self.manifest.segments)


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one compaction did; bytes before and after."""

    segments: int = 0
    archives: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


def archives(paths: ExperimentPaths) -> list[Archive]:
    """The archives of an experiment, oldest first; raises `CorruptLog` when a manifest cannot be read."""
    return _archives(paths, "[!.]*")


def dropped(paths: ExperimentPaths) -> list[Archive]:
    """The archives that were dropped and may be in the database yet; raises `CorruptLog`."""
    return _archives(paths, f"{_DROPPED}*")


def _archives(paths: ExperimentPaths, names: str) -> list[Archive]:
    found = []
    for manifest in sorted(paths.archive.glob(f"{names}/{MANIFEST}")):
        try:
            found.append(Archive(manifest.parent, decode(manifest.read_bytes(), ArchiveManifest)))
        except Undecodable:
            raise CorruptLog(f"archive {manifest.parent.name}: its manifest cannot be read") from None
    return found


def compact(warehouse: Warehouse, *, older_than: datetime, now: datetime) -> Compacted:
    """Move ingested segments, all of whose windows closed before `older_than`, into archives.

    An archive is complete (written, synced, read back, renamed) before a segment goes. Raises `CorruptLog` for a
    damaged segment, OSError when the disk does not take it.
    """
    paths = warehouse.experiment.paths
    remove_half_archives(paths)
    for archive in archives(paths):  # an earlier compaction was cut short before it removed its segments
        _remove_segments(paths, archive)
    until = warehouse.joined_until()
    if until is None:
        return Compacted()
    rows = warehouse.cursor().execute(OLD_SEGMENTS, {"until": to_utc(min(older_than, until))}).fetchall()
    on_disk = {segment.stem: segment for segment in sealed_segments(paths.events)}
    old = [(on_disk[name], from_utc(last) or older_than) for name, last in rows if name in on_disk]
    done = Compacted()
    for batch in in_batches(old, lambda segment: segment[0].stat().st_size, ARCHIVE_BYTES_MAX):
        archive = _write(paths, batch, now=now)
        _remove_segments(paths, archive)
        done = Compacted(
            done.segments + len(batch),
            done.archives + 1,
            done.bytes_before + sum(info.bytes for info in archive.manifest.segments),
            done.bytes_after + (archive.folder / PARQUET).stat().st_size,
        )
    return done


def ingest_archives(warehouse: Warehouse) -> int:
    """Take in what archives hold and the warehouse does not know; gives how many segments that were."""
    known = warehouse.segment_names()
    taken = 0
    for archive in archives(warehouse.experiment.paths):
        if archive.names <= known:
            continue
        folder = warehouse.scratch / archive.folder.name
        try:
            taken += warehouse.ingest(unpack(archive, folder)).segments
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return taken


def unpack(archive: Archive, folder: Path) -> list[Path]:
    """Write the segments of an archive into `folder`, each verified; raises `CorruptLog`, OSError."""
    verify_archive(archive)
    folder.mkdir(parents=True, exist_ok=True)
    parquet = archive.folder / PARQUET
    connection = connect(None, [archive.folder])
    written = []
    try:
        for info in archive.manifest.segments:
            name = segment_name(info.writer_id, info.sequence)
            lines = connection.execute(
                f"SELECT line FROM {parquet_rows(parquet)} WHERE segment = ? ORDER BY position",
                [name],
            ).fetchall()
            segment = folder / f"{name}{SEALED_SUFFIX}"
            write_atomically(segment, "".join(f"{line}\n" for (line,) in lines).encode())
            if verify_segment(segment) != info:
                raise CorruptLog(f"archive {archive.folder.name}: segment {name} is not the one that was archived")
            written.append(segment)
    finally:
        connection.close()
    return written


def unpack_into_log(paths: ExperimentPaths, archive: Archive) -> list[Path]:
    """Turn an archive back into segments of the log, and remove it; raises `CorruptLog`, OSError."""
    written = unpack(archive, paths.events)
    shutil.rmtree(_taken_out(paths, archive, _OUTGOING))
    return written


def holds_any(archive: Archive, texts: Sequence[str]) -> bool:
    """Whether any line of an archive contains one of `texts` (as it stands in JSON)."""
    connection = connect(None, [archive.folder])
    try:
        row = connection.execute(
            f"SELECT count(*) FROM {parquet_rows(archive.folder / PARQUET)} "
            "SEMI JOIN (SELECT unnest(?::VARCHAR[]) AS text) ON contains(line, text)",
            [list(texts)],
        ).fetchone()
    finally:
        connection.close()
    return bool(row and row[0])


def droppable(paths: ExperimentPaths, *, older_than: datetime, now: datetime) -> list[Archive]:
    """The archives all of which is older than `older_than`, but those made in the `KEPT_MIN` before `now`."""
    return [
        archive
        for archive in archives(paths)
        if archive.manifest.last < older_than and not now - KEPT_MIN < archive.manifest.created_at <= now
    ]


def drop(paths: ExperimentPaths, *, older_than: datetime, now: datetime) -> list[Archive]:
    """Remove the archives that are `droppable`; the warehouse must be made anew when any went.

    Until it is, and `forget_dropped` is called, `dropped` names them.
    """
    gone = droppable(paths, older_than=older_than, now=now)
    for archive in gone:
        (_taken_out(paths, archive, _DROPPED) / PARQUET).unlink()
    return gone


def forget_dropped(paths: ExperimentPaths, gone: Sequence[Archive]) -> None:
    """The database was made anew without these, which `dropped` gave."""
    for archive in gone:
        shutil.rmtree(archive.folder)


def remove_half_archives(paths: ExperimentPaths) -> None:
    """Remove what a process that was killed left of archives on their way; for whoever keeps all others from them.

    One without a manifest goes where the log has all that it holds, as when an earlier release was killed while it
    removed it; else it may hold the only copy, and stays.
    """
    for folder in paths.archive.glob(".*"):
        if folder.name.startswith((_INCOMING, _OUTGOING)):
            shutil.rmtree(folder)
        elif folder.name.startswith(_DROPPED):
            (folder / PARQUET).unlink(missing_ok=True)
    for folder in without_manifest(paths):
        if _is_in_the_log(paths, folder / PARQUET):
            shutil.rmtree(folder)


def without_manifest(paths: ExperimentPaths) -> list[Path]:
    """The folders of archives whose manifest is gone, so that nothing reads them."""
    folders = (path for path in sorted(paths.archive.glob("a*")) if path.is_dir())
    return [folder for folder in folders if not (folder / MANIFEST).exists()]


def _is_in_the_log(paths: ExperimentPaths, parquet: Path) -> bool:
    """Whether the log, or another archive, has every segment that a file holds; not where it is unreadable."""
    if not parquet.exists():
        return True
    names = {segment.stem for segment in sealed_segments(paths.events)}
    connection = connect(None, [parquet.parent])
    try:
        names = names.union(*(archive.names for archive in archives(paths)))
        found = connection.execute(f"SELECT DISTINCT segment FROM {parquet_rows(parquet)}")
        return {name for (name,) in found.fetchall()} <= names
    except (CorruptLog, duckdb.Error):
        return False
    finally:
        connection.close()


def verify_archive(archive: Archive) -> None:
    """Check an archive's file against its digest; raises `CorruptLog`, OSError."""
    with (archive.folder / PARQUET).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != archive.manifest.sha256:
            raise CorruptLog(f"archive {archive.folder.name} does not match its digest")


def _write(paths: ExperimentPaths, batch: Sequence[tuple[Path, datetime]], *, now: datetime) -> Archive:
    infos = [verify_segment(segment) for segment, _ in batch]
    paths.archive.mkdir(exist_ok=True)
    incoming = paths.archive / f"{_INCOMING}{batch[0][0].stem}"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    parquet = incoming / PARQUET
    connection = connect(None, [paths.events, incoming])
    try:
        lines = LINES.format(paths=", ".join(quote(as_pattern(segment)) for segment, _ in batch))
        target = quote(str(parquet.resolve()))
        with shortages(parquet):
            connection.execute(f"COPY ({lines}) TO {target} (FORMAT parquet, COMPRESSION zstd)")
    finally:
        connection.close()
    with parquet.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = ArchiveManifest(
        format=FORMAT, created_at=now, last=max(last for _, last in batch), sha256=digest, segments=infos
    )
    check = unpack(Archive(incoming, manifest), incoming / "check")  # nothing is removed that cannot come back
    assert len(check) == len(batch)
    shutil.rmtree(incoming / "check")
    write_atomically(incoming / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    folder = paths.archive / f"a{manifest.last:%Y%m%dt%H%M%S}-{digest[:8]}"
    incoming.rename(folder)
    fsync_directory(paths.archive)
    return Archive(folder, manifest)


def _taken_out(paths: ExperimentPaths, archive: Archive, prefix: str) -> Path:
    """Let a folder be an archive no more, in one step; gives its new place."""
    aside = archive.folder.with_name(prefix + archive.folder.name)
    shutil.rmtree(aside, ignore_errors=True)
    archive.folder.rename(aside)
    fsync_directory(paths.archive)
    return aside


def _remove_segments(paths: ExperimentPaths, archive: Archive) -> None:
    removed = False
    for info in archive.manifest.segments:
        segment = paths.events / f"{segment_name(info.writer_id, info.sequence)}{SEALED_SUFFIX}"
        if segment.exists() and verify_segment(segment) == info:
            segment.unlink()
            removed = True
    if removed:
        fsync_directory(paths.events)
