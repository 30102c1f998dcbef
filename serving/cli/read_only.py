"""A look at a data directory that nobody can write: a mounted backup, a snapshot, a disk that went read-only.

Whoever looks takes in first what the log holds by now, and that changes the database. On such a directory it does so in
a folder of its own, made of links to everything that is only read and of copies of what changes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bandit.experiment import ExperimentPaths
from bandit.scratch import ROOM_BYTES, scratch_folder

LOOKS = frozenset({"status", "events", "sql", "join", "export"})
LOOKS_AT_MODELS = frozenset({"list", "show", "diff"})
CHANGING = (".duckdb", ".duckdb.wal", ".jsonl")
"""How the names of files end that a look may change: the database, and the history, which tells of its repair."""


def is_read_only(folder: Path) -> bool:
    """Whether `folder` is on a disk, or mounted so, that nothing in it can be written."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except FileNotFoundError:
        return False


def only_looks(operation: str, arguments: Mapping[str, Any]) -> bool:
    """Whether an operation changes nothing but the database, which is a view."""
    if operation == "models":
        return arguments.get("action") in LOOKS_AT_MODELS
    return operation in LOOKS or (operation == "doctor" and not arguments.get("repair"))


@contextmanager
def in_a_folder_of_its_own(data_dir: Path, name: str) -> Iterator[Path]:
    """A data directory with the experiment `name` of `data_dir` to look at, gone when the block is left.

    Raises OSError where there is no room for a copy of its database.
    """
    paths = ExperimentPaths.of(data_dir, name)
    changing = [path for path in paths.root.iterdir() if path.name.endswith(CHANGING)]
    with scratch_folder(ROOM_BYTES + 2 * sum(path.stat().st_size for path in changing)) as folder:
        there = ExperimentPaths.of(folder, name)
        there.workers.mkdir(parents=True)
        for path in changing:
            shutil.copyfile(path, there.root / path.name)
        for path in paths.root.iterdir():
            if path not in changing and path not in (paths.workers, paths.lock, paths.scratch):
                (there.root / path.name).symlink_to(path.resolve())
        for path in paths.workers.iterdir() if paths.workers.is_dir() else []:
            if path.suffix == ".lock":  # who lives is told by these very files
                (there.workers / path.name).symlink_to(path.resolve())
            elif not path.name.startswith("."):
                shutil.copyfile(path, there.workers / path.name)
        if (data_dir / "run").is_dir():
            (folder / "run").symlink_to((data_dir / "run").resolve())
        yield folder
