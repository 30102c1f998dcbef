"""An apprentice learns by watching: it is told about, and never promoted on what it saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.apprentice import watched
from evaluation.scored import ScoredRows
from serving.learner.operations import run_operation
from tests.serving.learner_support import world


def test_an_apprentice_reports_agreement_and_a_guess_and_is_never_promoted(tmp_path: Path) -> None:
    with world(tmp_path, serving={"mode": "apprentice"}) as loop:
        nothing = run_operation(loop.transport.cycle.workspace, "apprentice", {})
        assert nothing["n"] == 0 and "no watched decision" in nothing["sentence"]
        earned = []
        for _ in range(4):
            earned.append(loop.play(150))
            loop.transport.settle()
        workspace = loop.transport.cycle.workspace
        report = run_operation(workspace, "apprentice", {})
        assert workspace.registry.champion() is None
    assert report["n"] == 600 and 0.0 < report["agreement"] <= 1.0
    assert report["earned"] == pytest.approx(np.mean(earned))
    assert "guess" in report["sentence"]


def test_only_rows_without_exploration_count_as_watched() -> None:
    rows = ScoredRows(
        offsets=np.array([0, 2, 4, 6, 7]),  # the last one offers a single action: nothing was watched there
        candidate=np.array([0.8, 0.2, 0.4, 0.6, 0.5, 0.5, 1.0]),
        champion=np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0]),
        q=np.array([1.0, 0.0, 0.5, 0.25, 1.0, 1.0, 1.0]),
        action=np.array([0, 0, 1, 0]),
        reward=np.array([1.0, 0.0, 1.0, 1.0]),
        propensity=np.array([1.0, 1.0, 0.5, 1.0]),
    )
    report = watched(rows)
    assert report is not None and (report.n, report.favourite, report.earned) == (2, 0.5, 0.5)
    assert report.agreement == pytest.approx(0.6) and report.guess == pytest.approx((0.8 + 0.35) / 2)
