"""Scratch folders: in memory where there is room, gone when left, and gone some day when their owner was killed."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bandit.scratch import PREFIX, folder_in, remove_abandoned, scratch_folder


def test_a_folder_is_gone_with_what_is_in_it_when_it_is_left(tmp_path: Path) -> None:
    with scratch_folder(10**18, otherwise=tmp_path) as folder:
        (folder / "rows.ndjson").write_text("{}")
        assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_process_clears_at_the_same_time_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_empty(*place: Any, **named: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "its lock is there again", *place)

    with monkeypatch.context() as patched, scratch_folder(10**18, otherwise=tmp_path) as folder:
        patched.setattr(os, "rmdir", not_empty)
    os.utime(folder, (0, 0))
    with scratch_folder(10**18, otherwise=tmp_path) as other:
        assert list(tmp_path.iterdir()) == [other]


def test_the_folder_of_a_killed_owner_goes_when_the_next_is_made_and_a_living_ones_stays(tmp_path: Path) -> None:
    abandoned = _abandoned_in(tmp_path)
    with folder_in(tmp_path) as living, folder_in(tmp_path) as other:
        assert sorted(tmp_path.iterdir()) == sorted([living, other])
    assert not abandoned.exists()


def test_the_folder_of_a_killed_owner_goes_when_looked_for_and_one_that_is_just_made_stays(
    tmp_path: Path,
) -> None:
    abandoned = _abandoned_in(tmp_path)
    unlocked = tmp_path / f"{PREFIX}just-made"
    unlocked.mkdir()
    remove_abandoned(tmp_path)
    assert not abandoned.exists() and unlocked.exists()


def _abandoned_in(parent: Path) -> Path:
    code = (
        "import sys, os, signal; from pathlib import Path; from bandit.scratch import scratch_folder\n"
        f"with scratch_folder(10**18, otherwise=Path({str(parent)!r})) as folder:\n"
        "    (folder / 'text').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (abandoned,) = parent.glob(f"{PREFIX}*")
    return abandoned
