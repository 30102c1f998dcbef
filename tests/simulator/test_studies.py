"""The studies that the docs quote: what a shortened run leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import simulation_studies, studies
from benchmarks.simulation_studies import STUDIES, Study, images_of, shared_lines

STUDY = Study("s", "?", lambda _: [], length=1000, seeds="0-1")


@pytest.mark.parametrize(
    ("seeds", "interactions", "whole"),
    [
        ([0, 1], 1000, True),
        ([0, 1, 2], 1000, True),
        ([0], 1000, False),
        ([1, 2], 1000, False),
        ([0, 1], 999, False),
    ],
)
def test_only_a_study_of_full_length_replaces_the_picture_of_the_docs(
    seeds: list[int], interactions: int, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    simulation_studies._aside.cache_clear()
    images = images_of(STUDY, seeds, interactions)
    assert (images == simulation_studies.IMAGES) is whole and (images.parent == tmp_path) is not whole


@pytest.mark.parametrize(("options", "kept"), [([], ["claims.txt"]), (["--quick"], [])])
def test_what_is_played_quickly_replaces_no_result(
    options: list[str], kept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.bench.RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["studies", "claims", *options])
    assert studies.main() == 0 and [path.name for path in tmp_path.iterdir()] == kept


def test_studies_in_one_constant_world_show_its_best_single_action_and_no_other_study_does() -> None:
    lines = {study.name: shared_lines(study.make(1000)) for study in STUDIES}
    assert {name for name, found in lines.items() if found} == {"seeds", "exploration", "delay", "cost"}
    assert lines["exploration"] is not None and 0.78 < lines["exploration"].fixed < 0.79
