"""Beside the gate's bounds stands the lift that they belong to, wherever both are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bandit.experiment import ExperimentPaths
from evaluation.history import render_history
from evaluation.report import render_report
from serving.cli.status import _verdict
from serving.learner.admin.board import board
from serving.learner.admin.metrics import learner_metrics
from serving.learner.reports import bounded
from simulator.console import verdict_text
from simulator.transport import Settled
from tests.evaluation.test_commands import rewardloop
from tests.serving.learner_support import paths_of, world

APART = {"outcome": "promote", "reason": "", "lift": 0.00167, "weighed": 0.0045, "lower": 0.0041, "upper": 0.0048}
OLDER = {name: value for name, value in APART.items() if name != "weighed"}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str, list[dict[str, Any]]]:
    """A directory whose last run judged by stretches of different weight; that run, its metrics, and the console's."""
    data_dir = tmp_path_factory.mktemp("played")
    with world(data_dir, gate={"rows_min": 10_000}) as here:  # a trial grows from run to run: nothing is promoted
        here.transport.warm_start(here.history(30))
        for _ in range(2):
            here.play(300)
            here.transport.settle()
        cycle = here.transport.cycle
        assert cycle.last_run is not None
        run = msgspec.to_builtins(cycle.last_run)
        assert abs(run["lift"] - run["weighed"]) > 1e-4, "stretches of the log tell more and less"
        return data_dir, run, learner_metrics({"test": cycle}), board(cycle)["verdicts"]


def certificate_of(paths: ExperimentPaths, run: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((paths.evaluations / run["evaluation_id"] / "certificate.json").read_bytes())
    return found


def test_a_runs_bounds_hold_its_weighed_lift_as_its_certificate_says(played: Any) -> None:
    data_dir, run, _, _ = played
    assert run["lower"] <= run["weighed"] <= run["upper"]
    told = certificate_of(paths_of(data_dir), run)["lift"]
    assert [told["value"], told["weighed"]["value"]] == pytest.approx([run["lift"], run["weighed"]])
    page = render_report(certificate_of(paths_of(data_dir), run))
    assert f"around {run['weighed']:+.4f} weighed".replace("-", "−") in page


def test_metrics_and_console_tell_the_weighed_lift_beside_its_bounds(played: Any) -> None:
    _, run, metrics, verdicts = played
    for name in ("lift", "weighed", "lower", "upper"):
        told = re.search(rf'^rewardloop_learner_{name}\{{experiment="test"\}} (\S+)$', metrics, re.MULTILINE)
        assert told is not None and float(told[1]) == pytest.approx(run[name])
    assert verdicts[0]["lift"] == run["weighed"]


def test_report_history_has_both_lifts_and_draws_the_weighed_one(played: Any) -> None:
    data_dir, run, _, _ = played
    found = json.loads(rewardloop("report", "history", "--data-dir", str(data_dir), "--json")[1])["evaluations"]
    (entry,) = [entry for entry in found if entry["id"] == run["evaluation_id"]]
    assert entry["weighed"] == pytest.approx(run["weighed"]) and entry["lift"] == pytest.approx(run["lift"])
    assert f"lift {run['weighed']:+.4f}" in render_history(found, "test")
    table = rewardloop("report", "history", "--data-dir", str(data_dir))[1]
    assert "weighed" in table and f"{run['weighed']:+.4f}" in table


def test_status_names_the_weighed_lift_where_it_is_another_and_the_demo_shows_it_alone() -> None:
    assert _verdict(APART) == "promote, lift +0.0017, weighed +0.0045 [+0.0041, +0.0048]"
    assert _verdict(APART | {"weighed": 0.00169}) == "promote, lift +0.0017 [+0.0041, +0.0048]"
    assert "lift +0.0045 [+0.0041, +0.0048]" in verdict_text(Settled.of(APART, "m")).plain


def test_lines_of_older_versions_are_shown_as_before() -> None:
    assert _verdict(OLDER) == "promote, lift +0.0017 [+0.0041, +0.0048]"
    assert "lift +0.0017 [+0.0041, +0.0048]" in verdict_text(Settled.of(OLDER, "m")).plain
    assert bounded(OLDER) == 0.00167
    entry = OLDER | {"id": "e", "n": 9}
    assert "lift +0.0017" in render_history([entry], "test")
