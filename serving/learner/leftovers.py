"""What processes that were killed left on disk: rows and files on their way to where they belong.

Nothing of it is wanted again, and it holds what people may have erased. So it goes when a learner opens an experiment,
and with an erasure; an export that is under way at that moment fails.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from bandit.eventlog.heartbeat import lock_path
from bandit.eventlog.recovery import QUARANTINE
from bandit.eventlog.segment import OPEN_SUFFIX, SEALED_SUFFIX
from bandit.experiment import ExperimentPaths
from bandit.files import is_abandoned, is_locked
from bandit.registry import ModelRegistry
from bandit.scratch import PREFIX, remove_abandoned
from joiner.archive import remove_half_archives
from serving.learner.verdicts.certificates import SCORED, remove_unfinished

_SEGMENT = re.compile(rf"\.(?P<writer>.+)-\d{{8,}}({re.escape(SEALED_SUFFIX)}|{re.escape(OPEN_SUFFIX)})")
"""How the name of a half-written file begins that is to become a segment, or what was cut off from one."""


def remove_leftovers(paths: ExperimentPaths) -> None:
    """Remove them all; for the owner of the experiment while its warehouse is closed and no run is under way."""
    remove_abandoned(paths.challengers)
    remove_abandoned(paths.scratch)
    older = [*paths.root.glob(".evaluate-*"), *paths.challengers.glob(".export-*")]  # as versions before this had them
    in_scratch = [path for path in paths.scratch.glob("*") if not path.name.startswith(PREFIX)]
    databases = paths.root.glob("warehouse.*.duckdb*")  # that were to take the place of the present one, or to judge it
    for leftover in [*older, *in_scratch, *databases, *paths.evaluations.glob(f"*/.{SCORED}.tmp")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    remove_half_archives(paths)
    remove_unfinished(paths)
    ModelRegistry(paths).remove_unfinished()
    _remove_temporaries(paths)


def _remove_temporaries(paths: ExperimentPaths) -> None:
    """Remove the half-written files of the dead; a worker that starts may just be sealing what it left open itself."""
    for folder in (paths.events, paths.events / QUARANTINE):
        for temporary in sorted(folder.glob(".*.tmp")):  # listed before the lock is looked at
            if is_abandoned(temporary) or not _writer_lives(paths, temporary):
                temporary.unlink(missing_ok=True)
    for folder in (paths.models, paths.evaluations, paths.challengers):
        for temporary in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
            if is_abandoned(temporary):
                temporary.unlink(missing_ok=True)


def _writer_lives(paths: ExperimentPaths, temporary: Path) -> bool:
    """Whether somebody holds the lock of the writer whose segment a half-written file is to become."""
    segment = _SEGMENT.match(temporary.name)
    return segment is not None and is_locked(lock_path(paths, segment["writer"]))
