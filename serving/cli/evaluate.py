"""`rewardloop evaluate`: judge scored rows, or ask what other policies would have earned on the log.

With `--scored` nothing but a Parquet file is needed: anyone can check the arithmetic. Exit 0 when the candidate may be
promoted (or, with several policies, when an answer was given), 1 when the answer is no.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bandit.errors import InvalidInput
from serving.cli.common import Common, Number, common, figure, print_json, print_table, say


@click.command()
@click.option(
    "--scored",
    type=click.Path(path_type=Path),
    help="Parquet: reward, propensity, action, candidate, champion, q; optionally pmf, cluster, segment, decided_at.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help="uniform, champion, model:ID, greedy:ID, action:ID, table:FILE or train:ALGORITHM,NAME=VALUE,… (settings of "
    "`exploration` and `learning`); may be given repeatedly.",
)
@click.option("--last", help="Only decisions of this long ago or later, such as 72h or 14d.")
@click.option("--since", help="Only decisions from this time on (RFC 3339; UTC where no zone is given).")
@click.option("--until", help="Only decisions before this time.")
@click.option("--logged-mode", help="Only decisions made in this mode (online, apprentice, …).")
@click.option("--slice", help="Only decisions of this slice (policy, trial, control).")
@click.option("--model", help="Only decisions of this model.")
@click.option("--origin", type=click.Choice(["live", "import"]), help="Only live decisions, or only imported ones.")
@click.option(
    "--clip",
    type=Number(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Largest weight of clipped IPS.",
)
@click.option("--switch", type=Number(0), default=10.0, show_default=True, help="Switch-DR: largest weight used.")
@click.option("--shrinkage", type=Number(0), default=100.0, show_default=True, help="DRos: λ (0 is DM, inf is DR).")
@click.option("--alpha", type=Number(0, 0.5, min_open=True, max_open=True), default=0.05, show_default=True)
@click.option(
    "--margin",
    type=Number(0),
    default=0.0,
    show_default=True,
    help="Superiority: lift to exceed; noninferiority: relative loss to tolerate.",
)
@click.option("--mode", type=click.Choice(["superiority", "noninferiority"]), default="superiority", show_default=True)
@click.option(
    "--challengers",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="How many are tried at once; each gets its share of α.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
@common
def command(
    common: Common,
    *,
    scored: Path | None,
    policies: tuple[str, ...],
    clip: float,
    switch: float,
    shrinkage: float,
    **rules: Any,
) -> None:
    """Say what a policy is worth, before anybody meets it."""
    if (scored is None) == (not policies):
        raise InvalidInput("evaluate", "needs either --scored FILE or --policy NAME (which may be repeated)")
    restricted = {
        name: rules.pop(name) for name in ("last", "since", "until", "logged_mode", "slice", "model", "origin")
    }
    if scored is None:
        _what_if(common, policies, restricted)
        return
    for name, value in restricted.items():
        if value is not None:
            raise InvalidInput(f"--{name.replace('_', '-')}", "goes with --policy; scored rows are taken as they are")
    from evaluation.answer import answer
    from evaluation.estimators import Hyper
    from evaluation.gate import GateRules
    from serving.cli.scored_file import ScoredFile

    if not scored.is_file():
        raise InvalidInput("--scored", "is not a file")
    seed, challengers = int(rules.pop("seed")), int(rules.pop("challengers"))
    rows = ScoredFile(scored)
    hyper = Hyper(clip=clip, switch=switch, shrinkage=shrinkage)
    found = answer(rows, GateRules.of(rules), hyper=hyper, seed=seed, challengers=challengers)
    if common.as_json:
        print_json(found)
    else:
        _print(found)
    if found["verdict"] != "promote":
        click.get_current_context().exit(1)


def _print(found: dict[str, Any]) -> None:
    say(f"{found['verdict']}: {found['reason']}")
    paired = found["paired"]
    if paired["lift"] is not None:
        say(
            f"Paired DR lift {paired['lift']:+.5f} (SE {paired['se']:.5f}), 95% interval {paired['lower']:+.5f} to "
            f"{paired['upper']:+.5f}, on {found['n']:,} rows."
        )
    lines = [
        [
            name,
            *(
                figure(found["estimators"][name][role][key])
                for role in ("candidate", "champion")
                for key in ("value", "se")
            ),
        ]
        for name in found["estimators"]
    ]
    print_table("Value per decision", ["estimator", "candidate", "se", "champion", "se "], lines)
    if found["segments"]:
        parts = [
            [part["segment"] or "(none)", *(figure(part[key]) for key in ("n", "lift", "se"))]
            for part in found["segments"]
        ]
        print_table("Lift by segment", ["segment", "rows", "lift", "se"], parts)
    marks = {"pass": "ok", "fail": "NO", "insufficient": "open"}
    checks = [[marks[check["status"]], check["name"], check["text"]] for check in found["checks"]]
    print_table("Checks", ["", "check", "finding"], checks)


def _what_if(common: Common, policies: tuple[str, ...], restricted: dict[str, str | None]) -> None:
    from serving.cli.access import operate

    wanted = [f"table:{Path(p[6:]).resolve()}" if p.startswith("table:") else p for p in policies]
    rows = restricted | {"mode": restricted["logged_mode"], "model_id": restricted["model"]}
    del rows["logged_mode"], rows["model"]
    found = operate(common, "evaluate", policies=wanted, **rows)
    if common.as_json:
        print_json(found)
    else:
        lines = [
            [entry["policy"], *(figure(entry[key]) for key in ("n", "value", "se", "lower", "upper")), entry["answer"]]
            for entry in found["policies"]
        ]
        print_table(found["title"], ["policy", "rows", "value", "se", "lower", "upper", ""], lines)
        say(found["note"])
    if not any(entry["answered"] for entry in found["policies"]):
        click.get_current_context().exit(1)
