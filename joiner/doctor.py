"""What can be wrong with the warehouse, found by comparing it with the log it was made from.

The log is the truth, so the cure is nearly always `rewardloop rebuild`. The one exception matters most: a segment
that the warehouse was made from and that the log no longer holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import duckdb

from bandit.doctor import Findings
from bandit.errors import CorruptLog
from bandit.eventlog import SegmentInfo, read_events
from bandit.eventlog.recovery import QUARANTINE, UNREADABLE_SUFFIX
from bandit.eventlog.segment import SEALED_SUFFIX, segment_name, verify_segment
from bandit.eventlog.survey import sealed_segments
from bandit.events import stamped_at
from bandit.experiment import ExperimentPaths
from joiner.archive import archives, dropped, ingest_archives, verify_archive, without_manifest
from joiner.connection import remove_database
from joiner.reading import unreadable_segments
from joiner.warehouse import Warehouse

DATABASE_ERRORS = (duckdb.Error, RuntimeError)
"""What opening or reading a damaged DuckDB or Parquet file raises."""

REBUILD = "`rewardloop rebuild` makes it anew from the log"

RECORDS_PER_SEGMENT = """
-- one row per segment: the events its name stands for, and the records that are there
SELECT s.name, s.events, count(r.sequence)
FROM segments s LEFT JOIN (
  SELECT writer_id, sequence FROM decision_records
  UNION ALL SELECT writer_id, sequence FROM reward_records
  UNION ALL SELECT writer_id, sequence FROM activation_records
) r ON r.writer_id = s.writer_id AND r.sequence = s.sequence
GROUP BY s.name, s.events HAVING s.events <> count(r.sequence)
"""

DOUBLED = """
-- one row: event_ids that contribute more than one row, among interactions and those set aside
SELECT count(*) FROM (
  SELECT event_id FROM (SELECT event_id FROM interactions UNION ALL SELECT event_id FROM set_aside)
  GROUP BY event_id HAVING count(*) > 1
)
"""

PROPENSITIES = """
-- one row: live interactions whose probability is not that of the logged action, or whose pmf is no pmf
SELECT count(*) FILTER (probability IS DISTINCT FROM pmf[index + 1]), count(*) FILTER (abs(list_sum(pmf) - 1) > 1e-9)
FROM interactions WHERE pmf IS NOT NULL
"""


def check_archives(paths: ExperimentPaths, findings: Findings) -> list[SegmentInfo]:
    """Verify every archive; gives the segments that the sound ones hold."""
    held: list[SegmentInfo] = []
    cure = "restore its folder from a backup; until then a rebuild would lose its events"
    try:
        there = archives(paths)
    except CorruptLog as error:
        findings.wrong("log", str(error), cure)
        return held
    for folder in without_manifest(paths):
        findings.wrong("log", f"archive {folder.name} has no manifest, so nothing reads its events", cure)
    for archive in there:
        findings.count("archives")
        try:
            verify_archive(archive)
        except (CorruptLog, OSError) as error:
            findings.wrong("log", str(error), cure)
            continue
        held += archive.manifest.segments
    return held


def check_database(warehouse: Warehouse, sound: Sequence[SegmentInfo], findings: Findings) -> None:
    """Compare the warehouse with the log's verified and archived segments (`sound`), and its rows with each other."""
    cursor = warehouse.cursor()
    until = warehouse.joined_until()  # before the segments are looked up, as it goes on afterwards
    known = {
        name: (events, size, sha256)
        for name, events, size, sha256 in cursor.execute("SELECT name, events, bytes, sha256 FROM segments").fetchall()
    }
    on_disk = {segment_name(info.writer_id, info.sequence): (info.events, info.bytes, info.sha256) for info in sound}
    findings.count("database_segments", len(known))
    paths = warehouse.experiment.paths
    missing = set(known) - on_disk.keys() - {path.stem for path in sealed_segments(paths.events)}
    if owed := missing & {name for archive in dropped(paths) for name in archive.names}:
        findings.wrong(
            "database",
            f"{len(owed)} segment(s) that retention dropped are still in it: making it anew was cut short",
            f"the learner does so within the hour, where there is room; {REBUILD}",
        )
    if lost := sorted(missing - owed):
        findings.wrong(
            "database",
            f"{len(lost)} segment(s) that it was made from are not in the log any more, first {lost[0]}",
            "restore them from a backup before anything else: a rebuild would lose their events",
        )
    changed = sorted(name for name in known.keys() & on_disk.keys() if known[name] != on_disk[name])
    if changed:
        findings.wrong(
            "database", f"{len(changed)} segment(s) were ingested with other content, first {changed[0]}", REBUILD
        )
    waiting = sorted(on_disk.keys() - known.keys())
    if waiting:
        _check_waiting(paths, waiting, findings)
        findings.note(
            "database", f"{len(waiting)} sealed segment(s) are not ingested yet", "the learner does so when it runs"
        )
        if missed := _missed(paths, waiting, until):
            findings.wrong(
                "database",
                f"it was joined up to {until:%Y-%m-%d %H:%M:%S} UTC without {len(missed)} segment(s) from before then, "
                f"first {missed[0]}",
                f"the learner takes them in when it runs; if that does not mend it, {REBUILD}",
            )
    for name, events, records in cursor.execute(RECORDS_PER_SEGMENT).fetchall():
        findings.wrong("database", f"segment {name} holds {events} events, the database {records}", REBUILD)
    doubled = _number(cursor.execute(DOUBLED).fetchone())
    if doubled:
        findings.wrong("database", f"{doubled} event(s) contribute more than one row", REBUILD)
    row = cursor.execute(PROPENSITIES).fetchone() or (0, 0)
    if row[0] or row[1]:
        findings.wrong(
            "database",
            f"{row[0]} interaction(s) have a probability that is not their pmf's, {row[1]} a pmf that sums not to 1",
            REBUILD,
        )
    findings.count("interactions", _number(cursor.execute("SELECT count(*) FROM joined").fetchone()))


def check_set_aside(paths: ExperimentPaths, findings: Findings) -> None:
    """Name the segments in quarantine that are whole, and what in each cannot be read."""
    aside = sorted((paths.events / QUARANTINE).glob(f"*{UNREADABLE_SUFFIX}"))
    reasons = unreadable_segments(aside)
    for path in aside:
        name, why = path.name.removesuffix(UNREADABLE_SUFFIX), reasons.get(path)
        what = f"holds what cannot be read ({why})" if why else "was set aside, and can be read by this release"
        findings.wrong(
            "log",
            f"events/{QUARANTINE}/{path.name} {what}: its events are in no interaction",
            f"import them again without it, or keep the file for a release that reads it; moved back to events/{name} "
            "it is tried again when the learner starts",
        )


def _check_waiting(paths: ExperimentPaths, names: Sequence[str], findings: Findings) -> None:
    segments = [paths.events / f"{name}{SEALED_SUFFIX}" for name in names]
    for segment, why in unreadable_segments([segment for segment in segments if segment.exists()]).items():
        findings.wrong(
            "log",
            f"segment {segment.stem} holds what cannot be read ({why})",
            f"the learner moves it to events/{QUARANTINE} when it runs and goes on without it",
        )


def _missed(paths: ExperimentPaths, names: Sequence[str], until: datetime | None) -> list[str]:
    """Which of these sealed segments hold what was stamped before `until`."""
    if until is None:
        return []
    found = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # it waits in an archive, or has just been moved there
            first = next(read_events(paths.events / f"{name}{SEALED_SUFFIX}"), None)
            if first is not None and stamped_at(first) < until:
                found.append(name)
    return found


def check_rebuild(warehouse: Warehouse, sound: Sequence[SegmentInfo], findings: Findings) -> None:
    """Make a second warehouse from the log, joined as far, and compare the interactions of both.

    It is made of the segments that the first one knows: those that were found `sound`, and those that a running service
    has sealed since. The second file is removed again. Raises OSError when there is no room for it.
    """
    until = warehouse.joined_until()
    if until is None:
        findings.note("database", "nothing is joined yet, so there is nothing to compare")
        return
    experiment = warehouse.experiment
    verified = {segment_name(info.writer_id, info.sequence) for info in sound}
    known = warehouse.segment_names()
    segments = [segment for segment in sealed_segments(experiment.paths.events) if segment.stem in known]
    path = warehouse.path.with_name("warehouse.doctor.duckdb")
    remove_database(path)
    try:
        with Warehouse(experiment, path=path) as second:
            ingest_archives(second)
            second.ingest([segment for segment in segments if segment.stem in verified or _is_sound(segment)])
            second.join(until)
            findings.count("interactions_rebuilt", second.counts()["interactions"] + second.counts()["imported"])
            if second.digest() != warehouse.digest():
                findings.wrong("database", "its interactions are not those that the log gives", REBUILD)
    finally:
        remove_database(path)


def _is_sound(segment: Path) -> bool:
    try:
        verify_segment(segment)
    except (CorruptLog, OSError):  # `check_log` has said so
        return False
    return True


def _number(row: tuple[int, ...] | None) -> int:
    return int(row[0]) if row else 0
