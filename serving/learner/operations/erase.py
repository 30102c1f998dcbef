"""Erasure: a subject's or an event's data leaves log, evaluations, canaries, challengers and the database.

Everything stamped before the command is sealed first, so nothing hides in a segment that is still open. What stays
is a tombstone in history. Stored models are not changed: what they learnt cannot be taken out of their weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import Busy, CorruptModel, InvalidInput
from bandit.eventlog import survey
from bandit.eventlog.erasure import (
    Marked,
    as_text,
    canonical,
    erase_from_quarantine,
    erase_from_segment,
    mark,
    tombstone,
)
from bandit.eventlog.survey import sealed_segments
from bandit.events import DecisionEvent
from bandit.files import link, write_atomically
from bandit.scoring import Scores, segments_of
from bandit.scratch import folder_in
from evaluation.diagnostics import OTHER_SEGMENTS
from joiner.archive import PARQUET, Archive, archives, holds_any, unpack, unpack_into_log
from joiner.connection import remove_database
from joiner.parquet import read_parquet, write_parquet
from serving.learner.challengers.store import ChallengerStore
from serving.learner.leftovers import remove_leftovers
from serving.learner.verdicts.certificates import CERTIFICATE, REPORT, SCORED
from serving.learner.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

ERASED = "erased.json"
EVENT_IDS_MAX = 100_000
SEALED_WITHIN_S = 60.0
RUN_ENDS_WITHIN_S = 300.0


def run(
    workspace: Workspace, *, subject: str | None = None, event_ids: Sequence[str] = (), confirmed: bool = False
) -> dict[str, Any]:
    """Erase a subject (a value of the declared subject field) or events; without `confirmed` only count.

    Gives how many records, events and segments are concerned, and what else was touched. Raises `InvalidInput`,
    or `Busy` when a run does not end or a writer does not seal in time; erasing again goes on where it stopped.
    """
    fields = _subject_fields(workspace)
    _check(subject, event_ids, fields)
    _wait_until_sealed(workspace)
    paths = workspace.experiment.paths
    if not confirmed:
        with folder_in(paths.scratch) as folder:
            segments = _log_as_it_is(workspace, folder)
            return _answer(mark(segments, event_ids=event_ids, subject=subject, fields=fields))
    if not workspace.run_lock.acquire(timeout=RUN_ENDS_WITHIN_S):
        raise Busy("a run is under way; erase again when it has ended")
    try:
        with workspace.lock:
            missing = not paths.warehouse.exists()  # an erasure was cut short after it had removed the database
            until = workspace.warehouse.joined_until()
            workspace.release_warehouse()  # before anything is touched: somebody may read it for longer than we wait
            _unpack_concerned(workspace, subject, event_ids, fields)
            marked = mark(sealed_segments(paths.events), event_ids=event_ids, subject=subject, fields=fields)
            answer = _answer(marked) | _erase(workspace, marked, subject, fields)
            if marked.records or missing:
                workspace.rebuild(watermark=until)
            return answer
    finally:
        workspace.run_lock.release()


def _log_as_it_is(workspace: Workspace, folder: Path) -> list[Path]:
    """The segments of the log as it is now, those in archives too, in a folder where nobody moves or rewrites them."""
    paths = workspace.experiment.paths
    held = []
    with workspace.lock:  # for a moment: whoever changes the log replaces files and leaves their content alone
        for segment in sealed_segments(paths.events):
            link(segment, folder / segment.name)
        for archive in archives(paths):
            there = folder / archive.folder.name
            there.mkdir()
            link(archive.folder / PARQUET, there / PARQUET)
            held.append(Archive(there, archive.manifest))
    for archive in held:
        unpack(archive, folder)  # a compaction that was killed may have left some of its segments in the log
    return sealed_segments(folder)


def _erase(workspace: Workspace, marked: Marked, subject: str | None, fields: Sequence[str]) -> dict[str, Any]:
    """Erase what is marked; the database, which is closed, is removed where it holds any of it."""
    experiment = workspace.experiment
    paths, moment = experiment.paths, workspace.clock()
    # the tombstones first: if anything below is interrupted, history says what has to be finished
    workspace.registry.history.record(
        "erasure",
        now=moment,
        by="subject" if subject is not None else "event",
        records=marked.records,
        segments=len(marked.segments),
        tombstones=sorted(tombstone(experiment.secret, event_id) for event_id in marked.event_ids),
    )
    remove_leftovers(paths)
    lines = erase_from_quarantine(paths, _needles(marked, subject, fields))
    evaluations = sum(
        _erase_from_evaluation(folder, marked.event_ids, subject, moment.isoformat(), fields)
        for folder in sorted(paths.evaluations.glob("e*"))
    )

    def concerned(canary: Mapping[str, Any]) -> bool:
        context = canary["context"]
        names = subject is not None and any(as_text(context.get(name)) == subject for name in fields)
        return names or canonical(context) in marked.contexts

    def scored(part: Scores) -> bool:
        return not marked.event_ids.isdisjoint(part.event_id) or (subject is not None and _names(part, subject, fields))

    canaries = workspace.registry.erase_canaries(concerned)
    if marked.records:
        remove_database(paths.warehouse)  # if this is cut short, the next poll or start makes it from what is left
    store = ChallengerStore(paths, durable=workspace.durable)
    for entry in paths.challengers.iterdir():  # they grow again from the champion
        # beside them lie the note of a run that was killed, which names nobody, and folders in use for a moment
        challenger = entry.is_dir() and not entry.name.startswith(".")
        if challenger and (marked.records or _has_scored(store, entry.name, concerned, scored)):
            store.erase(entry.name)
    if marked.records:
        # a decision tells whose the records of its event are, so decisions go last: erasing again finds the rest
        for segment in sorted(marked.segments):
            erase_from_segment(segment, lambda e: e.event_id in marked.event_ids and not isinstance(e, DecisionEvent))
        for segment in sorted(marked.segments):
            erase_from_segment(segment, lambda e: e.event_id in marked.event_ids)
    return {"erased": True, "evaluations": evaluations, "canaries": canaries, "quarantined_lines": lines}


def _unpack_concerned(
    workspace: Workspace, subject: str | None, event_ids: Sequence[str], fields: Sequence[str]
) -> None:
    """Turn archives that hold any of it back into segments; the next compaction archives them anew."""
    paths = workspace.experiment.paths
    if subject is not None:
        said = [msgspec.json.encode(name).decode() + ":" for name in fields]
        value = (msgspec.json.encode(subject).decode(), subject)  # a text, or a number or boolean as in JSON
        texts = [name + text for name in said for text in value]
        for archive in archives(paths):
            if holds_any(archive, texts):
                unpack_into_log(paths, archive)
        event_ids = sorted(mark(sealed_segments(paths.events), subject=subject, fields=fields).event_ids)
    ids = [f'"event_id":{msgspec.json.encode(event_id).decode()}' for event_id in event_ids]
    for archive in archives(paths):
        if ids and holds_any(archive, ids):
            unpack_into_log(paths, archive)


def _has_scored(
    store: ChallengerStore,
    name: str,
    concerned: Callable[[Mapping[str, Any]], bool],
    scored: Callable[[Scores], bool],
) -> bool:
    """Whether a challenger's canaries or scores hold any of it, as they may after the log has dropped the events."""
    state = store.load(name)
    if state is None:
        return True
    try:
        scores = store.scores(state)
    except (FileNotFoundError, CorruptModel):
        return True
    return any(map(concerned, state.canaries)) or any(map(scored, scores))


def _names(part: Scores, subject: str, fields: Sequence[str]) -> bool:
    """Whether scored rows name a subject: as whom they speak of, or as the segment that they belong to."""
    segments = (segments_of(part.segment, len(part.event_id), name) or () for name in fields)
    return subject in (part.cluster or ()) or any(subject in values for values in segments)


class _Diagnostics(msgspec.Struct):
    segments: list[dict[str, Any]] = []


class _Certificate(msgspec.Struct):
    """What of a certificate may name people: the lifts by segment, and the field that names those."""

    segment_field: str | None = None
    diagnostics: _Diagnostics = msgspec.field(default_factory=_Diagnostics)


def _erase_from_evaluation(
    folder: Path, event_ids: set[str], subject: str | None, moment: str, fields: Sequence[str] = ()
) -> int:
    scored = folder / SCORED
    if not scored.exists():
        return 0
    frame, certificate = read_parquet(scored), _certificate(folder)
    concerned = frame["event_id"].isin(event_ids)
    if subject is not None and "cluster" in frame:  # also of events that the log has dropped by now
        concerned |= frame["cluster"] == subject
    if subject is not None and certificate.segment_field in fields and "segment" in frame:
        concerned |= frame["segment"] == subject
    earlier, rows = folder / ERASED, int(concerned.sum())
    if not rows:
        if earlier.exists():  # an earlier version left the names of segments
            _forget_segments(folder, certificate, frame)
        return 0
    before = int(msgspec.json.decode(earlier.read_bytes())["rows"]) if earlier.exists() else 0
    write_atomically(earlier, msgspec.json.encode({"at": moment, "rows": before + rows}))
    _forget_segments(folder, certificate, frame[~concerned])
    report = folder / REPORT
    if report.exists() and any(event_id in report.read_text() for event_id in frame["event_id"][concerned]):
        report.unlink()
    replacement = folder / f".{SCORED}.tmp"  # last: where this is cut short, erasing again finds the rows once more
    write_parquet(replacement, frame[~concerned], metadata={"evaluation_id": folder.name})
    replacement.rename(scored)
    return 1


def _certificate(folder: Path) -> _Certificate:
    """The certificate of an evaluation; one that is lost or damaged, as `doctor` says, names nobody."""
    try:
        return decode((folder / CERTIFICATE).read_bytes(), _Certificate)
    except (FileNotFoundError, Undecodable):
        return _Certificate()


def _forget_segments(folder: Path, certificate: _Certificate, left: pd.DataFrame) -> None:
    """Take the segments of which no row is `left` out of a certificate, as they may name people; its page goes then."""
    names = {OTHER_SEGMENTS, *(left["segment"].astype(str) if "segment" in left else ())}
    kept = [each for each in certificate.diagnostics.segments if each.get("segment") in names]
    if len(kept) < len(certificate.diagnostics.segments):
        (folder / REPORT).unlink(missing_ok=True)
        content = msgspec.json.decode((folder / CERTIFICATE).read_bytes())
        content["diagnostics"]["segments"] = kept
        write_atomically(folder / CERTIFICATE, msgspec.json.format(msgspec.json.encode(content), indent=1))


def _wait_until_sealed(workspace: Workspace) -> None:
    """Wait until everything stamped before now is in sealed segments; raises `Busy`."""
    started = workspace.clock()
    deadline = time.monotonic() + SEALED_WITHIN_S
    while True:
        found = survey(workspace.experiment.paths, now=workspace.clock())
        if found.watermark is not None and found.watermark >= started:
            return
        if time.monotonic() > deadline:
            reason = "; ".join([*found.unknown, *found.silent]) or "a writer has not sealed its segment"
            raise Busy(f"the log is not complete up to now ({reason}); erase again in a moment")
        time.sleep(0.1)


def _subject_fields(workspace: Workspace) -> list[str]:
    """Every field that was ever declared as the subject, so that older decisions are found too."""
    experiment = workspace.experiment
    experiment.refresh()
    declared = (experiment.settings_of(version.version).serving.subject_field for version in experiment.versions())
    return sorted({name for name in declared if name is not None})


def _check(subject: str | None, event_ids: Sequence[str], fields: Sequence[str]) -> None:
    if (subject is None) == (not event_ids):
        raise InvalidInput("subject", "must be given, or else event ids, and not both")
    if subject is not None and not fields:
        raise InvalidInput("subject", "cannot be looked for: no setting serving.subject_field was ever declared")
    if len(event_ids) > EVENT_IDS_MAX or not all(isinstance(event_id, str) for event_id in event_ids):
        raise InvalidInput("event_ids", "must be a list of texts", f"{EVENT_IDS_MAX} ids")


def _needles(marked: Marked, subject: str | None, fields: Sequence[str]) -> list[bytes]:
    needles = [b'"event_id":' + msgspec.json.encode(event_id) for event_id in marked.event_ids]
    if subject is not None:
        # a text, or a number or boolean as in JSON, where something else follows
        values = (msgspec.json.encode(subject), subject.encode() + b",", subject.encode() + b"}")
        needles += [msgspec.json.encode(name) + b":" + value for name in fields for value in values]
    return needles


def _answer(marked: Marked) -> dict[str, Any]:
    return {
        "events": len(marked.event_ids),
        "records": marked.records,
        "segments": len(marked.segments),
        "erased": False,
    }
