"""plan as it is typed: rows, time and cost, from assumptions or from a log, and what the gate does with them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import Result

from serving.cli.plan import _first_promotion, parse_traffic, rows_of_half
from simulator.planning import Assumptions, ImpossiblePlan, exploration_cost, rows_needed, simulate_log
from tests.simulator.command_support import rewardloop, said


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with two looks of the gate at Statlog."""
    data_dir = tmp_path_factory.mktemp("simulated")
    world = ("--env", "statlog", "--interactions", "400", "--batch", "200", "--warm-start", "50", "--jobs", "1")
    said(rewardloop("simulate", *world, "--json", "--data-dir", str(data_dir)))
    return data_dir


def test_a_log_says_what_exploring_costs_too(simulated: Path) -> None:
    answer = said(rewardloop("plan", "--data-dir", str(simulated), "--traffic", "1000/day", "--json"))
    assert 0 < answer["cost_per_day"] < 1000 and answer["cost_per_day_se"] > 0
    assert answer["gain_per_day"] == pytest.approx(0.1 * answer["value"] * 1000)


def test_a_plan_rests_on_the_newest_evaluation_that_had_enough_evidence_and_on_no_other(
    simulated: Path, tmp_path: Path
) -> None:
    data_dir = Path(shutil.copytree(simulated, tmp_path / "data"))
    command = ("plan", "--data-dir", str(data_dir), "--traffic", "1000/day")
    answer = said(rewardloop(*command, "--json"))
    (chosen,) = data_dir.glob(f"experiments/*/evaluations/{answer['evaluation']}")
    thin = chosen.with_name("e99991231t000000-00000000")
    shutil.copytree(chosen, thin)
    certificate = json.loads((thin / "certificate.json").read_text())
    certificate["lift"]["se"] = 1e-4
    rows = next(check for check in certificate["checks"] if check["name"] == "rows")
    rows |= {"status": "insufficient", "text": "7 rows, 200 are needed."}
    (thin / "certificate.json").write_text(json.dumps(certificate))
    assert said(rewardloop(*command, "--json")) == answer
    for other in thin.parent.glob("e*"):
        if other != thin:
            shutil.rmtree(other)
    refused = str(rewardloop(*command).exception)
    assert "no evaluation with enough evidence" in refused and "7 rows, 200 are needed" in refused


def test_a_plan_names_no_fewer_rows_than_the_gate_looks_at(simulated: Path) -> None:
    assert said(rewardloop("plan", "--data-dir", str(simulated), "--lift", "0.3", "--json"))["rows"] == 200


def test_a_lift_for_which_the_greatest_reward_is_too_small_is_refused_with_the_greatest_lift(simulated: Path) -> None:
    command = ("plan", "--data-dir", str(simulated), "--json")
    refused = str(rewardloop(*command, "--lift", "50").exception)
    most = re.search(r"^--lift: .* rewards.max is 1 \(limit: at most (.*)\)$", refused)
    assert most is not None
    answer = said(rewardloop(*command, "--lift", most[1]))
    assert answer["value"] * (1 + float(most[1])) == pytest.approx(1, abs=1e-3)


UNLIKELY = ("plan", "--actions", "100", "--traffic", "1000/day", "--exploration", "0.001")


@pytest.fixture(scope="module")
def unlikely() -> Result:
    """A plan that rests on very little exploration, as it is shown."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("serving.cli.plan.SIMULATED_RUNS", 1)
        return rewardloop(*UNLIKELY)


def test_a_small_share_of_exploration_is_shown_as_it_was_given(unlikely: Result) -> None:
    assert unlikely.stdout.splitlines()[2].startswith("0.1%") and "with 0.1% exploration" in unlikely.stderr


def test_the_cost_of_exploring_is_that_of_the_world_behind_the_log() -> None:
    import numpy as np

    assumed = Assumptions(actions=4, lift=0.5, value=0.3, exploration=0.2)
    log = simulate_log(assumed, 50_000, np.random.default_rng(0))
    cost, error = exploration_cost(log.champion, log.q, log.action, log.reward)
    # where the challenger's favourite is another one, exploring also finds what is better
    found = assumed.differing * (assumed.value / 2 + assumed.advantage) * assumed.exploration / assumed.actions
    assert abs(cost - (assumed.cost - found)) < 3 * error


def test_plan_says_rows_time_and_cost_and_what_the_gate_does_with_them() -> None:
    answer = said(rewardloop("plan", "--actions", "3", "--lift", "1", "--traffic", "1000/hour", "--exploration", "0.2",
                             "--json"))  # fmt: skip
    costs = {row["exploration"]: row for row in answer["explorations"]}
    assert costs[0.01]["rows"] > costs[0.2]["rows"] > 0
    assert costs[0.01]["cost_per_day"] < costs[0.2]["cost_per_day"]
    assert costs[0.05]["days"] == pytest.approx(costs[0.05]["rows"] / 24_000)
    gate = answer["gate"]
    assert gate["promoted"] == gate["runs"]
    assert gate["equal_promoted"] <= 2


def test_a_plan_for_many_actions_looks_at_shorter_logs_and_says_that_they_are_too_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.cli.plan.SIMULATED_RUNS", 1)
    command = ("plan", "--actions", "1000", "--traffic", "1000/day")
    gate = said(rewardloop(*command, "--json"))["gate"]
    assert gate["rows_max"] == 2000 < gate["rows_needed"] and gate["too_short"]
    told = rewardloop(*command).stderr
    assert "within 2,000 rows" in told and f"too short to tell: one look takes {gate['rows_needed']:,} rows" in told


def test_a_simulated_log_has_twice_the_rows_that_one_look_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.cli.plan.SIMULATED_RUNS", 1)
    monkeypatch.setattr("serving.cli.plan.SIMULATED_ROWS_MIN", 0)
    answer = said(rewardloop("plan", "--actions", "3", "--lift", "0.2", "--traffic", "1000/day", "--json"))
    (row,) = (row for row in answer["explorations"] if row["exploration"] == 0.05)
    gate = answer["gate"]
    assert gate["rows_max"] == 2 * row["rows"] == 2 * gate["rows_needed"] and not gate["too_short"]


@pytest.mark.parametrize(
    ("promoted_after", "rows"),
    [([7, None, 5, None], 7), ([7, None, None, None], None), ([9, 5, 7], 7), ([5], 5), ([None], None)],
)
def test_half_of_the_runs_are_promoted_once_half_of_them_are(
    promoted_after: list[int | None], rows: int | None
) -> None:
    assert rows_of_half(promoted_after) == rows


def test_a_simulated_gate_forgets_the_rows_that_it_keeps_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.cli.plan.LOOK_GROWTH", 120)
    equal = Assumptions(actions=2, lift=1e-6, exploration=0.5)
    rows, why = _first_promotion(equal, seed=0, run=0, rows_max=62_000, worth_finding=0.1)
    assert rows is None and "on 2,000 rows" in why and "show a lift of 10%" in why


def test_a_plan_that_only_more_exploration_makes_impossible_is_made_with_a_dash_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.cli.plan.SIMULATED_RUNS", 1)
    command = ("plan", "--actions", "7", "--traffic", "50000/day", "--value", "0.5", "--lift", "0.28")
    shown = rewardloop(*command, "--exploration", "0.01")
    *_, possible, impossible = shown.stdout.splitlines()
    assert possible.split()[0] == "10%" and "–" not in possible
    assert impossible.split() == ["20%", "–", "–", "–", "–"]
    told = said(rewardloop(*command, "--exploration", "0.01", "--json"))["explorations"][-1]
    assert told == {"exploration": 0.2, "rows": None, "days": None, "cost_per_day": None, "gain_per_day": None}
    assert "--lift" in str(rewardloop(*command, "--exploration", "0.2").exception)


@pytest.mark.parametrize("extreme", [("--value", "1e-6", "--lift", "1e-6"), ("--exploration", "1e-6")])
def test_the_least_that_may_be_assumed_can_be_planned_for(
    monkeypatch: pytest.MonkeyPatch, extreme: tuple[str, ...]
) -> None:
    monkeypatch.setattr("serving.cli.plan.SIMULATED_RUNS", 1)
    command = ("plan", "--actions", "1000", "--traffic", "1/week", "--json", *extreme)
    assert all(row["rows"] > 0 for row in said(rewardloop(*command))["explorations"])


def test_a_gate_that_promotes_nothing_says_what_was_missing(unlikely: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.cli.plan.SIMULATED_RUNS", 1)
    unmet = said(rewardloop(*UNLIKELY, "--json"))["gate"]["unmet"]
    assert "promoted 0 of 1" in unlikely.stderr and "Not enough evidence" in unmet
    assert "to show a lift of 10%" in unmet
    assert f"Of those not promoted the first had, in the end: {unmet}" in unlikely.stderr


def test_the_planned_deviation_is_that_of_a_simulated_log() -> None:
    import numpy as np

    from evaluation.scored import ScoredRows

    assumed = Assumptions(actions=4, lift=0.5, value=0.3, exploration=0.2, differing=0.4)
    log = simulate_log(assumed, 200_000, np.random.default_rng(0))
    truth = np.full_like(log.q, 0.0)
    truth[:] = 2 * log.q - assumed.value  # the simulated reward model knows half the truth; the plan assumes all of it
    rows = ScoredRows.from_matrices(
        candidate=log.candidate,
        champion=log.champion,
        q=truth,
        action=log.action,
        reward=log.reward,
        propensity=log.propensity,
    )
    lift = rows.reduce().lift
    error = lift.std() / np.sqrt(len(lift))
    assert abs(lift.mean() - assumed.lift * assumed.served) < 4 * error
    assert lift.std() == pytest.approx(assumed.deviation(), rel=0.03)


def test_rows_needed_follow_the_square_of_deviation_over_effect() -> None:
    assert rows_needed(1.0, 0.1) == pytest.approx(6.1826 * 100, rel=0.01)
    assert rows_needed(2.0, 0.1) == pytest.approx(4 * rows_needed(1.0, 0.1), rel=0.01)
    with pytest.raises(ImpossiblePlan):
        Assumptions(actions=2, lift=10.0, value=0.5)


@pytest.mark.parametrize(
    ("text", "per_day"),
    [
        ("50000/day", 50_000),
        ("20/min", 28_800),
        ("1,000/hour", 24_000),
        ("7/week", 1),
        ("2/s", 172_800),
        ("1.5/day", 1.5),
        ("1,234,567.5/day", 1_234_567.5),
        ("10_000/day", 10_000),
    ],
)
def test_traffic_is_a_number_per_time(text: str, per_day: float) -> None:
    assert parse_traffic(text) == pytest.approx(per_day)
