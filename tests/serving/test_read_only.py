"""A data directory that cannot be written, mounted so for real, can be looked at and not changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bandit.eventlog.open_segment import OpenSegment
from serving.cli.common import now
from serving.learner.address import lock_path
from tests.serving.learner_support import paths_of, played

pytestmark = pytest.mark.slow

SCRIPT = """
import contextlib, io, json, subprocess, sys
from serving.cli import run

folder = sys.argv[1]
for options in (["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
    subprocess.run(["mount", *options], check=True)
answers = []
for command in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*command, "--data-dir", folder])
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""
"""Run where mounts are private, so that nothing is left of them."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return played(tmp_path_factory.mktemp("read-only") / "data", 3)


def mounted_read_only(data_dir: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command; skips the test where nothing may be mounted."""
    alone = ["unshare", "--mount"]
    try:
        subprocess.run([*alone, "mount", "--bind", str(data_dir), str(data_dir)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user cannot mount")
    script = [sys.executable, "-c", SCRIPT, str(data_dir), json.dumps(commands)]
    done = subprocess.run([*alone, *script], check=True, capture_output=True, text=True)
    answers: list[tuple[int, str, str]] = json.loads(done.stdout)
    return answers


def everything(data_dir: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}


def test_whoever_looks_at_a_read_only_directory_is_answered(data_dir: Path, tmp_path: Path) -> None:
    before = everything(data_dir)
    out = tmp_path / "rows.ndjson"
    answers = mounted_read_only(
        data_dir,
        ["doctor", "--deep", "--json"],
        ["status", "--json"],
        ["models", "list", "--json"],
        ["events", "show", "event-7", "--json"],
        ["sql", "SELECT count(*) AS n FROM interactions WHERE origin = 'live'", "--json"],
        ["join", "--json"],
        ["export", "--out", str(out), "--json"],
    )
    assert [(code, err) for code, _, err in answers] == [(0, "")] * len(answers)
    told: list[Any] = [json.loads(stdout) for _, stdout, _ in answers]
    doctor, status, models, event, sql, join, export = told
    (found,) = doctor["experiments"][1]["findings"]
    assert found["what"].startswith("the disk is read-only") and not found["wrong"]
    assert doctor["experiments"][1]["checked"]["interactions_rebuilt"] == 240
    assert status["champion"] == models["champion"] is not None
    assert event["event_id"] == "event-7" and event["state"] == "rewarded"
    assert sql["rows"] == [{"n": 180}] and join["interactions"] == export["rows"] == 240
    assert len(out.read_text().splitlines()) == 240
    assert everything(data_dir) == before


def test_what_changes_a_read_only_directory_is_refused_in_a_line(data_dir: Path) -> None:
    commands = [["rebuild"], ["doctor", "--repair"], ["models", "unset"], ["models", "train"]]
    refusal = "rewardloop: this data directory is read-only: nothing can be changed in it, only looked at\n"
    for code, out, err in mounted_read_only(data_dir, *commands):
        assert (code, out) == (1, "") and err.endswith(refusal)


def test_a_read_only_directory_is_looked_at_as_a_crash_left_it(data_dir: Path) -> None:
    lock_path(data_dir).parent.mkdir(exist_ok=True)
    lock_path(data_dir).touch()
    (lock_path(data_dir).parent / "learner.json").write_text("{}")
    segment = OpenSegment(paths_of(data_dir).events, "w9", 1, opened_at=now(), durable=False)
    segment.commit(b"", 0)
    segment.abandon()
    (code, out, _), (_, status, _) = mounted_read_only(data_dir, ["doctor"], ["status", "--json"])
    assert code == 0 and "w9-00000001.open was left open" in out
    assert "w9-00000001.open of a dead writer cannot be recovered" in json.loads(status)["unknown"][0]
    segment.path.unlink()
