"""The doctor: log, models, settings, replays, certificate and database, checked one after the other.

It reads; only with `repair` it changes something: damaged segments go to quarantine, and the whole commits of
quarantined ones go back into the log.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bandit.doctor import Findings, check_log, check_models, check_replays, check_settings, salvageable
from bandit.errors import Conflict, CorruptLog, CorruptModel, InvalidInput, RewardloopError
from bandit.eventlog import quarantine_segment, verify_segment
from bandit.eventlog.recovery import salvage_segment
from bandit.eventlog.segment import SegmentInfo, segment_name
from bandit.eventlog.survey import sealed_segments
from bandit.eventlog.writer import COMMIT_BYTES_MAX
from bandit.experiment import ExperimentPaths
from bandit.registry import ModelRegistry
from evaluation.certificate import made_by_other_rules, verify_certificate
from evaluation.scored import ScoredRows
from joiner.archive import MANIFEST
from joiner.doctor import DATABASE_ERRORS, REBUILD, check_archives, check_database, check_rebuild, check_set_aside
from joiner.parquet import read_parquet
from serving.learner.address import learner_is_meant_to_run
from serving.learner.clock_watch import CLOCK, STEADY_S, waits_until
from serving.learner.operations.erase import ERASED
from serving.learner.verdicts.certificates import SCORED, damaged_certificates, evaluations, read_certificate
from serving.learner.workspace import Workspace

REPLAYS_MAX = 1_000_000
FREE_FRACTION_MIN = 0.05
LEAPS_TOLD = timedelta(days=7)


def run(workspace: Workspace, *, replays: int = 500, deep: bool = False, repair: bool = False) -> dict[str, Any]:
    """Check one experiment; gives `healthy`, `findings` (area, wrong, what, cure) and how much was `checked`."""
    if not isinstance(replays, int) or not 0 <= replays <= REPLAYS_MAX:
        raise InvalidInput("replays", "is out of range", f"0 to {REPLAYS_MAX}")
    repaired = Findings()
    if repair:
        with workspace.lock:
            _repair(workspace, repaired)
    before = _files_of_log(workspace.experiment.paths)
    findings = _examine(workspace, replays=replays, deep=deep)
    if not findings.healthy and _moved_since(before, workspace.experiment.paths):
        with workspace.lock:  # retention and erasures hold it: what they moved on the way may have seemed lost
            findings = _examine(workspace, replays=replays, deep=deep)
    findings.found[:0] = repaired.found
    return _answer(workspace.experiment.name, findings)


def _examine(workspace: Workspace, *, replays: int, deep: bool) -> Findings:
    """Everything that can be checked, one after the other."""
    experiment = workspace.experiment
    findings = Findings()
    with _or_told("settings", findings):
        experiment.refresh()
    check_settings(experiment, findings)
    sound = _check_files(experiment.paths, findings, now=workspace.clock())
    with _or_told("replay", findings):
        check_replays(experiment, workspace.registry, findings, limit=replays)
    _check_certificate(workspace, findings)
    with _or_told("log", findings):
        _check_clock(workspace, findings)
    try:
        with _or_told("database", findings):
            warehouse = workspace.warehouse_as_it_is()
            check_database(warehouse, sound, findings)
            if deep:
                with workspace.lock:  # both sides of the comparison must stand still
                    check_rebuild(warehouse, sound, findings)
    except DATABASE_ERRORS as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        findings.wrong("database", f"it cannot be read: {first}", REBUILD)
    return findings


def _files_of_log(paths: ExperimentPaths) -> dict[Path, tuple[int, int]]:
    """The sealed segments and archives that there are, with what differs once one is replaced."""
    found = {}
    for path in (*sealed_segments(paths.events), *paths.archive.glob(f"*/{MANIFEST}")):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found[path] = (stat.st_ino, stat.st_mtime_ns)
    return found


def _moved_since(before: Mapping[Path, tuple[int, int]], paths: ExperimentPaths) -> bool:
    """Whether anything of the log has gone elsewhere, or was replaced; what came since does not count."""
    return not before.items() <= _files_of_log(paths).items()


def without_settings(paths: ExperimentPaths, problem: str, *, now: datetime) -> dict[str, Any]:
    """Check what can be without the settings, which have this `problem` (what is the matter; the way out)."""
    findings = Findings()
    what, _, cure = problem.rpartition("; ")
    findings.wrong("settings", f"{what}: neither replays nor database were looked at", cure)
    _check_files(paths, findings, now=now)
    return _answer(paths.root.name, findings)


def _answer(name: str, findings: Findings) -> dict[str, Any]:
    return {
        "experiment": name,
        "healthy": findings.healthy,
        "findings": [asdict(finding) for finding in findings.found],
        "checked": findings.checked,
    }


@contextlib.contextmanager
def _or_told(area: str, findings: Findings) -> Iterator[None]:
    """Let nothing that is damaged keep the rest from being looked at; what cannot be checked is wrong."""
    try:
        yield
    except (RewardloopError, OSError) as error:
        findings.wrong(area, f"it cannot be checked: {error}", "mend that first; see also what else is wrong here")


def _check_files(paths: ExperimentPaths, findings: Findings, *, now: datetime) -> list[SegmentInfo]:
    """Check log, models and disk; gives the sound segments and those that sound archives hold."""
    archived = check_archives(paths, findings)
    names = {segment_name(info.writer_id, info.sequence) for info in archived}
    sound = archived + check_log(paths, findings, now=now, archived=names)
    check_set_aside(paths, findings)
    check_models(ModelRegistry(paths), findings)
    _check_disk(paths, findings)
    return sound


def _repair(workspace: Workspace, findings: Findings) -> None:
    paths = workspace.experiment.paths
    for segment in sealed_segments(paths.events):
        try:
            verify_segment(segment)
        except CorruptLog:
            quarantine_segment(segment)
    for damaged in salvageable(paths):
        try:
            saved = salvage_segment(damaged, now=workspace.clock())
        except Conflict as error:
            findings.note("log", str(error))
            continue
        workspace.registry.history.record(
            "salvage", now=workspace.clock(), segment=damaged.name, events=saved.events, cut_bytes=saved.cut_bytes
        )
        findings.note(
            "log", f"{saved.events} event(s) of {damaged.name} are back in the log, {saved.cut_bytes} bytes are not"
        )


def _check_disk(paths: ExperimentPaths, findings: Findings) -> None:
    """Whether the disk takes one more commit of the log, and a file for it."""
    disk = os.statvfs(paths.events if paths.events.is_dir() else paths.root)
    if disk.f_flag & os.ST_RDONLY:
        what, cure = "the disk is read-only: nothing can be acknowledged", "see the system's log if it should not be"
        if learner_is_meant_to_run(paths.data_dir):
            findings.wrong("log", what, cure)
        else:
            findings.note("log", what, cure)
        return
    free = disk.f_bavail * disk.f_frsize
    no_file = " and no room for a new file" if disk.f_files and not disk.f_favail else ""  # some count none
    if free < COMMIT_BYTES_MAX or no_file:
        what = f"the disk has {free / 2**20:.1f} MiB left{no_file}"
        findings.wrong("log", what, "make room: nothing is acknowledged once it is full")
    elif free < FREE_FRACTION_MIN * disk.f_blocks * disk.f_frsize:
        findings.note("log", f"the disk has {free / 2**30:.1f} GiB left", "nothing is acknowledged once it is full")


def _check_clock(workspace: Workspace, findings: Findings) -> None:
    """Whether retention waits for the clock to keep pace, and whether that leapt lately."""
    until = waits_until(workspace.experiment, workspace.clock())
    if until is not None:
        hours = f"{STEADY_S / 3600:g} h"
        findings.note(
            "log",
            f"retention waits until {until:%Y-%m-%d %H:%M} UTC: by then the clock will have kept pace for {hours}",
            "let the learner run on; another leap of the clock makes it wait anew",
        )
    with contextlib.suppress(CorruptLog):  # a history that cannot be read is told of with the models
        for entry in workspace.registry.history.newest(CLOCK):
            if workspace.clock() - datetime.fromisoformat(entry["at"]) < LEAPS_TOLD:
                findings.note("log", f"{entry['reason']} (at {entry['at']})", "see what sets the clock of this machine")
            return


def _check_certificate(workspace: Workspace, findings: Findings) -> None:
    """Certificates can be read, and the champion's is there, unchanged, and follows from its scored rows."""
    damaged = damaged_certificates(workspace.experiment.paths)
    for damage in damaged:
        findings.wrong("models", damage, "restore its folder from a backup")
    try:
        champion = workspace.registry.champion()
    except CorruptModel:
        return  # `check_models` has said so
    if champion is None:
        return
    try:
        paths = workspace.experiment.paths
        mine = [
            found["id"]
            for found in evaluations(paths)
            if isinstance(found.get("candidate"), dict) and found["candidate"].get("model_id") == champion.model_id
        ]
        if not mine and damaged:
            return  # it may be one of those
        if not mine:
            findings.note(
                "models",
                f"the champion {champion.model_id} has no certificate",
                "it was promoted by hand or restored alone",
            )
            return
        folder = paths.evaluations / mine[0]
        if (folder / ERASED).exists():
            findings.note("models", f"certificate {mine[0]} is unverifiable: rows that it rested on were erased")
            return
        certificate = read_certificate(folder)
        rows = ScoredRows.from_frame(read_parquet(folder / SCORED))
        findings.count("certificates")
        found = verify_certificate(certificate, rows)
        if other := made_by_other_rules(certificate):
            found.remove(other)
            findings.note("models", f"certificate {mine[0]}: {other}")
        for difference in found:
            findings.wrong("models", f"certificate {mine[0]}: {difference}", "restore its folder from a backup")
    except (OSError, KeyError, ValueError, RewardloopError, *DATABASE_ERRORS) as error:
        findings.wrong("models", f"the champion's certificate cannot be read: {error}", "restore it from a backup")
