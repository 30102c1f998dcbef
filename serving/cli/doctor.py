"""`rewardloop doctor`: is everything that was promised still so, and if not, what is to be done?

Exit code 0 when nothing is wrong, 1 when something is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from bandit.errors import InvalidSettings
from bandit.experiment import Experiment, ExperimentPaths
from bandit.keys import list_keys
from serving.cli.access import operate
from serving.cli.common import Common, common, now, print_json, say
from serving.learner.operations.doctor import without_settings


@click.command()
@click.option(
    "--replays", type=click.IntRange(0), default=500, show_default=True, help="How many decisions to make again."
)
@click.option("--deep", is_flag=True, help="Also join the whole log anew and compare.")
@click.option("--repair", is_flag=True, help="Save the whole commits of damaged segments.")
@common
def command(common: Common, *, replays: int, deep: bool, repair: bool) -> None:
    """Check log, models, settings and database against each other."""
    several = Experiment.names(common.data_dir) if common.experiment is None else []
    lost = Experiment.without_settings(common.data_dir) if common.experiment is None else []
    names = several or ([] if lost else [common.experiment_name()])
    answers = [{"experiment": None, **_check_keys(common)}]
    for name in names:
        try:
            Experiment.open(common.data_dir, name)
        except InvalidSettings as error:
            answers.append(without_settings(ExperimentPaths.of(common.data_dir, name), str(error), now=now()))
            continue
        asked = replace(common, experiment=name)
        answers.append(operate(asked, "doctor", replays=replays, deep=deep, repair=repair))
    for name in lost:
        problem = "experiment.json is lost; restore it from a backup"
        answers.append(without_settings(ExperimentPaths.of(common.data_dir, name), problem, now=now()))
    healthy = all(answer["healthy"] for answer in answers)
    if common.as_json:
        print_json({"healthy": healthy, "experiments": answers})
    else:
        for answer in answers:
            _print(answer)
        say("Everything that was checked is as it should be." if healthy else "Something is wrong: see above.")
    click.get_current_context().exit(0 if healthy else 1)


def _check_keys(common: Common) -> dict[str, Any]:
    findings = []
    try:
        keys = list_keys(common.data_dir)
    except InvalidSettings as error:
        keys = []
        findings.append(
            _finding(
                "keys",
                True,
                str(error),
                "running processes go on with the keys they know; those that start let nobody in",
            )
        )
    path = common.data_dir / "keys.json"
    if path.exists() and path.stat().st_mode & 0o077:
        findings.append(_finding("keys", False, "keys.json can be read by others", f"chmod 600 {path}"))
    wrong = any(finding["wrong"] for finding in findings)
    return {"healthy": not wrong, "findings": findings, "checked": {"keys": len(keys)}}


def _finding(area: str, wrong: bool, what: str, cure: str) -> dict[str, Any]:
    return {"area": area, "wrong": wrong, "what": what, "cure": cure}


def _print(answer: dict[str, Any]) -> None:
    checked = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in answer["checked"].items())
    click.echo(f"{answer['experiment'] or 'service'}: looked at {checked}")
    for finding in answer["findings"]:
        click.echo(f"  {'WRONG' if finding['wrong'] else 'note '} {finding['area']}: {finding['what']}")
        if finding["cure"]:
            click.echo(f"        → {finding['cure']}")
