"""`rewardloop report`: evaluations after the fact. Verify them, try a placebo, compare promises with what came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bandit.errors import InvalidInput, NotFound
from serving.cli.common import Common, common, figure, print_json, print_table, say
from serving.cli.report_value import apprentice, value

FIGURES = ("lift", "weighed", "lower", "upper")
"""What a verdict says in numbers; the bounds belong to the weighed lift."""


NO_PREDECESSOR = "no champion before"
"""Of a promotion over the cold start: nobody was left to be compared with it since."""


@click.group()
def command() -> None:
    """Verify evaluations, try placebos, and see what champions promised and earned."""


command.add_command(value)
command.add_command(apprentice)


@command.command("verify")
@click.argument("evaluation_id")
@click.option("--from-log", is_flag=True, help="Join, train and score again first; the rows must come out the same.")
@common
def verify(common: Common, *, evaluation_id: str, from_log: bool) -> None:
    """Compute a certificate again from its stored rows; exit 1 on any difference."""
    folder = _folder(common, evaluation_id)
    erased = folder / "erased.json"
    cert: dict[str, Any] = {}
    if erased.exists():
        gone = json.loads(erased.read_bytes())
        differences = [f"unverifiable: erased ({gone['rows']} rows on {gone['at']})"]
    else:
        cert, differences = _verified(folder)
        if from_log and cert:
            from serving.cli.access import operate

            differences += operate(common, "verify", evaluation_id=evaluation_id)["differences"]
    if common.as_json:
        print_json({"id": evaluation_id, "verified": not differences, "differences": differences})
    elif differences:
        for line in differences:
            click.echo(line)
    else:
        click.echo(f"{evaluation_id}: every number holds ({cert['rows']['n']:,} rows, {cert['verdict']['outcome']}).")
    if differences:
        click.get_current_context().exit(1)


@command.command("placebo")
@click.argument("evaluation_id")
@click.option("--runs", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@common
def placebo_command(common: Common, *, evaluation_id: str, runs: int, seed: int) -> None:
    """Redraw actions and shuffle rewards: how often would a challenger without lift be promoted?"""
    from evaluation.placebo import placebo

    folder = _folder(common, evaluation_id)
    rules = _certificate(folder).get("rules")
    found = placebo(_rows(folder), alpha=rules["alpha"] if rules else 0.05, runs=runs, seed=seed)
    if found is None:
        raise InvalidInput("placebo", "needs rows with a logged pmf and two policies that differ")
    if common.as_json:
        print_json(found.to_dict())
    else:
        click.echo(found.text)


@command.command("history")
@click.option("--out", type=click.Path(path_type=Path), help="Write the picture (SVG in an HTML page) here.")
@common
def history(common: Common, *, out: Path | None) -> None:
    """Evaluations over time, oldest first; with --out as a picture."""
    from evaluation.history import render_history

    certificates = _summaries(common)
    if out is not None:
        out.write_text(render_history(certificates, common.experiment_name()), encoding="utf-8")
        say(f"Wrote {out}.")
    if common.as_json:
        print_json({"evaluations": certificates})
    else:
        keys = ("created_at", "id", "outcome", "n", "lift", "weighed", "lower", "upper")
        print_table("Evaluations", list(keys), [[figure(entry[key], "+.4f") for key in keys] for entry in certificates])


@command.command("track-record")
@common
def track_record(common: Common) -> None:
    """What each champion promised when it was promoted, and what it earned over its predecessor since.

    One that took over from the cold start has no predecessor: what it promised is its lift over the cold start.
    """
    from bandit.registry import ModelRegistry

    experiment = common.open_experiment()
    by_id = {entry["id"]: entry for entry in _summaries(common)}
    past = ModelRegistry(experiment.paths).history.entries()
    realised = {
        entry["model_id"]: {**entry, "lift": entry["realised_lift"]}
        for entry in past
        if entry.get("kind") == "confirmed"
    }
    watched = _watched(past)
    undone = {entry["previous"]: entry for entry in past if entry.get("kind") == "rollback" and entry.get("automatic")}
    records = []
    for entry in past:
        if entry.get("kind") != "promotion":
            continue
        model_id = entry["model_id"]
        promised = by_id.get(entry.get("evaluation_id") or "", entry)
        ended = realised.get(model_id) or _rolled_back(undone.get(model_id), by_id)
        seen = ended or watched.get(model_id)
        records.append(
            {
                "model_id": model_id,
                "previous": entry.get("previous"),
                "promoted_at": str(entry.get("at", "")),
                "predicted": {key: promised.get(key) for key in FIGURES},
                "realised": {key: seen.get(key) for key in (*FIGURES, "rows")} if seen else None,
                "outcome": "rolled back"
                if model_id in undone
                else "confirmed"
                if ended
                else "not decided so far"
                if seen
                else "not yet known"
                if entry.get("previous")
                else NO_PREDECESSOR,
            }
        )
    if common.as_json:
        print_json({"champions": records})
        return
    if not records:
        say("No model was promoted by the gate so far. (An initial model, or one set by hand, promised nothing.)")
        return
    lines = [
        [
            r["model_id"],
            *(figure(value, "+.4f") for value in _bounded(r["predicted"])),
            *(figure(value, "+.4f") for value in _bounded(r["realised"] or {})),
            figure((r["realised"] or {}).get("rows")),
            r["outcome"],
        ]
        for r in records
    ]
    names = ["model", "predicted", "lower", "upper", "realised", "lower ", "upper ", "rows", ""]
    print_table("Champions: lift over the one before", names, lines)
    say("A prediction that led to a promotion was selected for being high: expect the realised lift to be lower.")


def _watched(past: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By champion what the newest look of its watch says it earned over the one before, however the watch ended."""
    found = {}
    for run in past:
        for look in run.get("verdicts") or []:
            if look["challenger"] == "former" and look.get("lift") is not None and run.get("champion"):
                found[run["champion"]] = _turned(look, look["rows"])
    return found


def _bounded(figures: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The lift that the bounds belong to (older records have the plain one alone) and the bounds."""
    weighed = figures.get("weighed")
    return figures.get("lift") if weighed is None else weighed, figures.get("lower"), figures.get("upper")


def _turned(former: dict[str, Any], rows: int) -> dict[str, Any]:
    """The former champion's lift over its successor, turned round."""
    low, high, weighed = former["lower"], former["upper"], former.get("weighed")
    return {
        "lift": -former["lift"],
        "weighed": None if weighed is None else -weighed,
        "lower": None if high is None else -high,
        "upper": None if low is None else -low,
        "rows": rows,
    }


def _rolled_back(entry: dict[str, Any] | None, by_id: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """What the champion earned that was rolled back: the former champion's lift over it, turned round."""
    former = by_id.get((entry or {}).get("evaluation_id") or "")
    if former is None or former["lift"] is None:
        return None
    return _turned(former, former["n"])


def _verified(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The certificate (empty where nothing can be built on it) and all that is wrong with the stored files."""
    from evaluation.certificate import seal_holds, verify_certificate
    from evaluation.report import page_differences

    try:
        cert = _certificate(folder)
    except ValueError as error:
        return {}, [f"certificate.json cannot be read: {error}"]
    try:
        differences = verify_certificate(cert, _rows(folder))
    except InvalidInput as error:
        differences = [f"scored.parquet cannot be read: {error}"]
    if not seal_holds(cert):
        return {}, differences
    page = folder / "report.html"
    if not page.is_file():
        return cert, [*differences, "report.html is missing"]
    compared = page_differences(cert, page.read_text("utf-8", "replace"))
    if compared is None:
        say("report.html was made by another edition of these pages and is not compared.")
    return cert, differences + (compared or [])


def _folder(common: Common, evaluation_id: str) -> Path:
    paths = common.open_experiment().paths
    folder = paths.evaluations / evaluation_id
    plain = evaluation_id.replace("-", "").isalnum()
    if not plain or not (folder / "certificate.json").is_file():
        raise NotFound(f"there is no evaluation '{evaluation_id}'" if plain else "there is no such evaluation")
    return folder


def _certificates(common: Common) -> list[Path]:
    return sorted(common.open_experiment().paths.evaluations.glob("e*/certificate.json"))


def _certificate(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "certificate.json").read_bytes())
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def _rows(folder: Path) -> Any:
    from evaluation.scored import ScoredRows
    from joiner.parquet import read_parquet

    return ScoredRows.from_frame(read_parquet(folder / "scored.parquet"))


def _summaries(common: Common) -> list[dict[str, Any]]:
    """All certificates that can be read, each in a line; the others are named."""
    found = []
    for path in _certificates(common):
        try:
            found.append(_summary(path))
        except (ValueError, KeyError, TypeError):
            say(f"certificate {path.parent.name} cannot be read; see `rewardloop doctor`")
    return found


def _summary(path: Path) -> dict[str, Any]:
    """One certificate in a line: its id, time, outcome and lift with the gate's bounds."""
    cert = _certificate(path.parent)
    lift = cert["lift"]
    return {
        "id": path.parent.name,
        "created_at": cert.get("created_at"),
        "kind": cert["kind"],
        "challenger": cert.get("challenger"),
        "outcome": cert["verdict"]["outcome"],
        "reason": cert["verdict"]["reason"],
        "n": cert["rows"]["n"],
        "lift": lift["value"],
        "weighed": lift.get("weighed", {}).get("value"),
        "lower": lift.get("bound_lower", lift["lower"]),
        "upper": lift.get("bound_upper", lift["upper"]),
    }
