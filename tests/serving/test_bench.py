"""`rewardloop bench` measures on the disk that counts, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.cli import run


def test_bench_prints_one_object_and_leaves_the_data_directory_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--seconds", "0.2", "--at-once", "4", "--json", "--data-dir", str(tmp_path)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["decisions_per_s"] > 0 and answer["prediction_us"] > 0
    assert 0 < answer["sync_p50_ms"] <= answer["sync_p99_ms"] and 0 < answer["p50_ms"] <= answer["p99_ms"]
    assert list(tmp_path.iterdir()) == []
