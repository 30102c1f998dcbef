"""What processes that were killed left on disk: rows on their way to training, to an evaluation or to a file.

Nothing of it is wanted again, and it holds what people may have erased. So it goes when a learner opens an experiment,
and with an erasure; an export that is under way at that moment fails.
"""

from __future__ import annotations

import shutil

from bandit.experiment import ExperimentPaths
from bandit.scratch import remove_abandoned


def remove_leftovers(paths: ExperimentPaths) -> None:
    """Remove them all; for the owner of the experiment while its warehouse is closed, as `scratch/` is DuckDB's."""
    remove_abandoned(paths.challengers)
    older = [*paths.root.glob(".evaluate-*"), *paths.challengers.glob(".export-*")]  # as versions before this had them
    for leftover in [*older, *paths.root.glob("scratch/*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
