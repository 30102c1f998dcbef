"""`rewardloop plan`: how long until the gate can see a lift, and what exploring for it costs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from bandit.errors import InvalidInput
from serving.cli.common import Common, Number, common, print_json, print_table, say
from serving.cli.simulate import given

if TYPE_CHECKING:
    from bandit.settings import Rewards
    from simulator.planning import Assumptions

SECONDS = {"s": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400,
           "week": 604800}  # fmt: skip
EXPLORATIONS = (0.01, 0.02, 0.05, 0.1, 0.2)
SIMULATED_RUNS = 12
SIMULATED_ROWS_MIN = 60_000
SIMULATED_SHARE = 2.0
"""How many times the rows that one look needs a simulated log has: looking again and again takes more."""
SIMULATED_CELLS_MAX = 2_000_000
"""Rows × actions of a simulated log: with more of them it is shorter, so that a plan takes half a minute at most."""
LIFT_MIN = SHARE_MIN = 1e-6
ASSUMED = ("value", "exploration", "differing", "seed")
TRAFFIC = re.compile(r"\s*((?:[0-9]{1,3}(?:[,_][0-9]{3})+|[0-9]+)(?:\.[0-9]*)?)\s*/\s*([a-z]+)\s*")
"""A number, perhaps with its thousands in groups, per time: where a comma parts other digits it may mean a fraction."""
FIRST_LOOK_ROWS = 500
LOOK_GROWTH = 1.3


@click.command(name="plan")
@click.option("--actions", type=click.IntRange(2, 1000), help="How many actions are on offer.")
@click.option(
    "--lift",
    type=Number(LIFT_MIN),
    default=0.1,
    show_default=True,
    help="The relative lift worth finding: 0.1 is ten per cent more reward.",
)
@click.option("--traffic", default=None, help="Decisions per time: 50000/day, 20/min.  [default: that of the log]")
@click.option(
    "--value",
    type=Number(SHARE_MIN, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Mean reward of the champion's favourite (rewards 0 or 1).",
)
@click.option(
    "--exploration",
    type=Number(SHARE_MIN, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Share of decisions drawn uniformly.",
)
@click.option(
    "--differing",
    type=Number(SHARE_MIN, 1),
    default=0.3,
    show_default=True,
    help="Share of contexts on which challenger and champion favour different actions.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the simulation.")
@common
def command(
    *,
    actions: int | None,
    lift: float,
    traffic: str | None,
    value: float,
    exploration: float,
    differing: float,
    seed: int,
    common: Common,
) -> None:
    """Estimate how long a lift takes to detect and what exploration costs.

    With --actions: from a simulated log, judged by the real gate as rows come in. Without: from the rows of the
    newest evaluation of the experiment in --data-dir that had enough evidence for the gate.
    """
    from simulator.planning import Assumptions, ImpossiblePlan

    if actions is None:
        for name in ASSUMED:
            if given(name):
                raise InvalidInput(f"--{name}", "is assumed of a simulated log; it belongs to --actions")
        _from_log(common, lift, traffic)
        return
    if traffic is None:
        raise InvalidInput("--traffic", "is required with --actions, for example 50000/day")
    per_day = parse_traffic(traffic)
    try:
        assumed = Assumptions(actions, lift, value, exploration, differing)
    except ImpossiblePlan as error:
        raise InvalidInput("--lift", str(error)) from None
    rows = [_plan(assumed, share, per_day) for share in sorted({*EXPLORATIONS, exploration})]
    found = _simulate(assumed, seed)
    if common.as_json:
        print_json({"explorations": rows, "gate": found | _time(found["rows_median"], per_day)})
        return
    print_table(
        f"A lift of {lift * 100:.3g}% over {value:g}, {actions} actions, {per_day:,.0f} decisions a day",
        ["exploration", "rows needed", "time", "explored away, a day", "gained by the lift, a day"],
        [
            [_percent(row["exploration"]), *(["–"] * 4 if row["rows"] is None else [
                f"{row['rows']:,}", _span(row["days"]), f"{row['cost_per_day']:,.0f}", f"{row['gain_per_day']:,.0f}"])]
            for row in rows
        ],
    )  # fmt: skip
    say("One planned look at α = .05 with power .8 and a perfect reward model.")
    _say_simulation(found, assumed, per_day)


def parse_traffic(text: str) -> float:
    """Decisions a day out of `50000/day`; raises `InvalidInput`."""
    match = TRAFFIC.fullmatch(text.lower())
    number = match.group(1).replace(",", "").replace("_", "") if match else ""
    unit = match.group(2) if match else ""
    try:
        per_day = float(number) * SECONDS["day"] / SECONDS[unit if unit in SECONDS else unit.removesuffix("s")]
    except (KeyError, ValueError):
        per_day = 0.0
    if not 0 < per_day < math.inf:
        raise InvalidInput("--traffic", "is not a number per time, such as 50000/day, 300/hour or 20/min")
    return per_day


def _plan(plan: Assumptions, exploration: float, per_day: float) -> dict[str, Any]:
    """A row of the table: what the plan takes at another exploration; None where that leaves it impossible."""
    from simulator.planning import ImpossiblePlan, rows_needed

    try:
        assumed = replace(plan, exploration=exploration)
    except ImpossiblePlan:
        return {"exploration": exploration} | dict.fromkeys(("rows", "days", "cost_per_day", "gain_per_day"))
    rows = rows_needed(assumed.deviation(), assumed.lift * assumed.served)
    return {
        "exploration": assumed.exploration,
        "rows": rows,
        "days": rows / per_day,
        "cost_per_day": assumed.cost * per_day,
        "gain_per_day": assumed.lift * assumed.served * per_day,
    }


def _simulate(assumed: Assumptions, seed: int) -> dict[str, Any]:
    """Let the gate look at growing simulated logs: how often and how soon it promotes, and the equal twin's fate."""
    from simulator.console import progress_bar
    from simulator.planning import rows_needed

    equal = replace(assumed, lift=0.0)
    needed = rows_needed(assumed.deviation(), assumed.lift * assumed.served)
    wanted = max(SIMULATED_ROWS_MIN, math.ceil(SIMULATED_SHARE * needed))
    rows_max = min(wanted, SIMULATED_CELLS_MAX // assumed.actions)
    first: list[tuple[int | None, str]] = []
    with progress_bar("simulating", 2 * SIMULATED_RUNS) as advance:
        for run in range(2 * SIMULATED_RUNS):
            one = assumed if run < SIMULATED_RUNS else equal
            first.append(_first_promotion(one, seed, run, rows_max, worth_finding=assumed.lift))
            advance(1)
    found, false = first[:SIMULATED_RUNS], first[SIMULATED_RUNS:]
    return {
        "runs": SIMULATED_RUNS,
        "rows_needed": needed,
        "rows_max": rows_max,
        "too_short": rows_max < needed,
        "promoted": sum(rows is not None for rows, _ in found),
        "rows_median": rows_of_half([rows for rows, _ in found]),
        "equal_promoted": sum(rows is not None for rows, _ in false),
        "unmet": next((reason for rows, reason in found if rows is None), None),
    }


def rows_of_half(promoted_after: Sequence[int | None]) -> int | None:
    """Rows after which half of the runs, or just more, were promoted; None where fewer than half were at all."""
    rows = sorted(rows for rows in promoted_after if rows is not None)
    half = (len(promoted_after) + 1) // 2
    return rows[half - 1] if len(rows) >= half else None


def _first_promotion(
    assumed: Assumptions, seed: int, run: int, rows_max: int, *, worth_finding: float
) -> tuple[int | None, str]:
    """Rows after which the real gate, with its default rules, first promotes; None within `rows_max`, and why not.

    Its forecasts are for the lift `worth_finding`; rows that it keeps no longer belong to no further look.
    """
    import numpy as np

    from evaluation.gate import GateRules, judge
    from evaluation.scored import ScoredRows
    from simulator.planning import simulate_log

    log = simulate_log(assumed, rows_max, np.random.default_rng([seed, run]))
    rules, ledger = GateRules(detectable_lift=worth_finding), None
    start, length = 0, FIRST_LOOK_ROWS
    while True:
        stop = min(start + length, rows_max)
        seen = slice(start, stop)
        rows = ScoredRows.from_matrices(
            candidate=log.candidate[seen],
            champion=log.champion[seen],
            q=log.q[seen],
            action=log.action[seen],
            reward=log.reward[seen],
            propensity=log.propensity[seen],
            pmf=log.champion[seen],
        )
        verdict = judge(rows, rules, ledger=ledger)
        if verdict.promote:
            return stop, ""
        if stop == rows_max:
            return None, verdict.reason
        ledger = verdict.ledger
        start, length = (start, int(length * LOOK_GROWTH)) if verdict.keep_rows else (stop, FIRST_LOOK_ROWS)


def _from_log(common: Common, lift: float, traffic: str | None) -> None:
    from datetime import datetime

    from joiner.parquet import read_parquet
    from serving.learner.verdicts.certificates import CERTIFICATE, SCORED
    from simulator.planning import exploration_cost, rows_needed

    experiment = common.open_experiment()
    certificate = _newest(experiment.paths.evaluations, CERTIFICATE)
    found, data = certificate["lift"], certificate["data"]
    if not found.get("se") or not found.get("n"):
        raise InvalidInput("--actions", "is required: the newest evaluation compared equal policies, without variance")
    value = certificate["estimators"]["dr"]["champion"]["value"]
    _check_possible(lift, value, experiment.settings.rewards)
    deviation = found["se"] * found["n"] ** 0.5
    rows = max(rows_needed(deviation, lift * abs(value)), certificate["rules"]["rows_min"])
    if traffic is not None:
        per_day = parse_traffic(traffic)
    else:
        span_s = (datetime.fromisoformat(data["last"]) - datetime.fromisoformat(data["first"])).total_seconds()
        per_day = data["rows"] / max(span_s, 1e-6) * SECONDS["day"]
    scored = read_parquet(experiment.paths.evaluations / certificate["id"] / SCORED)
    chances = scored["pmf" if "pmf" in scored else "champion"].tolist()
    cost, cost_se = exploration_cost(
        chances, scored["q"].tolist(), scored["action"].to_numpy(), scored["reward"].to_numpy()
    )
    plan = {"rows": rows, "days": rows / per_day, "per_day": per_day, "value": value, "deviation": deviation,
            "cost_per_day": cost * per_day, "cost_per_day_se": cost_se * per_day,
            "gain_per_day": lift * abs(value) * per_day, "evaluation": certificate["id"]}  # fmt: skip
    if common.as_json:
        print_json(plan)
        return
    print_table(
        f"A lift of {lift * 100:.3g}% over the champion's {value:.4g}, by the rows of evaluation {certificate['id']}",
        ["rows needed", "time", "decisions a day", "deviation of a row", "explored away, a day",
         "gained by the lift, a day"],
        [[f"{rows:,}", _span(rows / per_day), f"{per_day:,.0f}", f"{deviation:.3g}",
          f"{plan['cost_per_day']:,.0f} ± {plan['cost_per_day_se']:,.0f}", f"{plan['gain_per_day']:,.0f}"]],
    )  # fmt: skip
    say("One planned look at α = .05 with power .8; a challenger that differs more varies more.")
    say("Explored away: what always taking the favourite of each decision would have earned more (± standard error).")


def _check_possible(lift: float, value: float, rewards: Rewards) -> None:
    """Raise `InvalidInput` for a lift that not even the greatest reward each time would make; sums have no greatest."""
    room = rewards.max - value
    if rewards.aggregation != "sum" and lift * abs(value) > room:
        most = max(0.0, math.floor(1e4 * room / abs(value)) / 1e4)
        problem = f"cannot be had: the champion earns {value:.4g}, and rewards.max is {rewards.max:g}"
        raise InvalidInput("--lift", problem, f"at most {most:.4g}")


def _newest(evaluations: Any, name: str) -> dict[str, Any]:
    """The newest evaluation whose rows tell a variance: one below the gate's floors says nothing of any but them."""
    from bandit.errors import CorruptModel, NotFound
    from serving.learner.verdicts.certificates import read_certificate

    without = ""
    for path in sorted(evaluations.glob(f"e*/{name}"), reverse=True):
        try:
            certificate = read_certificate(path.parent)
        except CorruptModel:
            continue  # `doctor` names it
        judged = certificate["kind"] == "gate" and certificate.get("lift")
        if not judged or "champion" not in certificate["estimators"].get("dr", {}):
            continue
        unmet = [check["text"] for check in certificate["checks"] if _is_unmet(check)]
        if not unmet:
            return certificate
        without = without or f" with enough evidence (of the newest, {certificate['id']}: {unmet[0]})"
    raise NotFound(f"no evaluation{without} to take the variance from; give --actions and --traffic instead")


def _is_unmet(check: dict[str, Any]) -> bool:
    return bool(check["kind"] == "floor" and check["status"] != "pass")


def _say_simulation(found: dict[str, Any], assumed: Assumptions, per_day: float) -> None:
    runs, rows = found["runs"], found["rows_median"]
    when = f", half of all after {rows:,} rows ({_span(rows / per_day)}) or sooner" if rows else ""
    say(
        f"Simulated with {_percent(assumed.exploration)} exploration and a gate that looks again and again: within "
        f"{found['rows_max']:,} rows it promoted {found['promoted']} of {runs} such challengers{when}; "
        f"of equal ones {found['equal_promoted']}."
    )
    if found["too_short"]:
        say(
            f"That is too short to tell: one look takes {found['rows_needed']:,} rows, and with {assumed.actions:,} "
            f"actions more than {found['rows_max']:,} would take too long to simulate. Go by the table."
        )
    if found["unmet"] is not None:
        say(f"Of those not promoted the first had, in the end: {found['unmet']}")


def _percent(share: float) -> str:
    return f"{share * 100:.3g}%"


def _time(rows: int | None, per_day: float) -> dict[str, float | None]:
    return {"days_median": None if rows is None else rows / per_day}


def _span(days: float) -> str:
    if days < 1 / 24:
        return f"{days * 1440:.0f} min"
    if days < 2:
        return f"{days * 24:.1f} h"
    return f"{days:,.0f} days" if days < 10_000 else "never"
