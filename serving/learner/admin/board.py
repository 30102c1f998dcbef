"""What the console shows of one experiment, put into the words and pictures of its page; reads, changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from bandit.experiment import Experiment
from bandit.keys import KeyRing
from joiner.pulse import reward_curve, traffic
from serving.learner import reports
from serving.learner.address import running_service
from serving.learner.admin import first_question
from serving.learner.admin.metrics import COUNTED
from serving.learner.admin.pictures import bars, interval, lift_scale, reward_picture
from serving.learner.cycle import Cycle
from serving.learner.status import experiment_status
from serving.learner.told import STEERED, in_words

CURVE_ROWS, CURVE_STRETCHES = 6000, 120
TRAFFIC_MINUTES = 30
VERDICTS_SHOWN = 12
CHANGES_SHOWN = 12
CHANGES_SOUGHT = 2000
"""Among so many of the newest entries of history changes are looked for, at each look at the page."""

TROUBLE = frozenset({"late", "unknown", "conflicts", "action_mismatch"})
"""Counts that stay at 0 in a healthy loop."""


def board(cycle: Cycle) -> dict[str, Any]:
    """`state` (as `status` says it), curve, traffic, verdicts with their pictures, changes, and the loop's health.

    Before the first decision `ask` has the commands to ask for one, afterwards None.
    """
    workspace, state = cycle.workspace, experiment_status(cycle)
    cursor = workspace.warehouse.cursor()
    until = state["watermark"] or state["at"]
    per_minute = traffic(cursor, until=until, minutes=TRAFFIC_MINUTES)
    decisions, rewards = [pair[0] for pair in per_minute], [pair[1] for pair in per_minute]
    return {
        "state": state,
        "mood": _mood(state),
        "age": age(state["at"], state["champion_since"]),
        "curve": reward_picture(
            reward_curve(cursor, rows=CURVE_ROWS, stretches=CURVE_STRETCHES), _promotions(cycle, state)
        ),
        "traffic": {
            "decisions": (decisions[-1], bars(decisions, "decisions in each of the last 30 minutes")),
            "rewards": (rewards[-1], bars(rewards, "rewards in each of the last 30 minutes")),
        },
        "verdicts": _verdicts(workspace.registry.history.newest(reports.RUN), state["at"]),
        "changes": _changes(workspace.registry.history.newest(), state["at"]),
        "health": _health(state),
        "ask": None if state["counts"].get("decisions", 0) else _ask(cycle.workspace.experiment),
    }


def age(now: datetime, since: datetime | None) -> str | None:
    """How long ago, in the largest unit that says enough; None for never."""
    if since is None:
        return None
    seconds = max(0.0, (now - since).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _ask(experiment: Experiment) -> dict[str, str]:
    """How to ask this very experiment, in curl and Python, where the decision API listens."""
    data_dir = experiment.paths.data_dir
    service = running_service(data_dir)
    url, key_needed = service.url if service else None, not KeyRing(data_dir).empty
    return {
        "curl": first_question.curl(experiment, url, key_needed=key_needed),
        "python": first_question.python(experiment, url, key_needed=key_needed),
    }


def _mood(state: Mapping[str, Any]) -> str:
    if state["running"]:
        return f"run under way: {state['running']}"
    if state["paused"]:
        return "schedule paused"
    if state["pinned"]:
        return "champion pinned"
    return "learning" if state["mode"] == "online" else str(state["mode"]).replace("_", " ")


def _promotions(cycle: Cycle, state: Mapping[str, Any]) -> dict[str, datetime]:
    """When each champion took over, oldest first, by its generation; empty where the champions are not known."""
    if state["champion_problem"]:
        return {}
    earlier = {f"{champion.generation}": champion.since for champion in reversed(cycle.workspace.registry.champions())}
    return earlier | ({f"{state['generation']}": state["champion_since"]} if state["champion"] else {})


def _verdicts(runs: Iterator[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """The first of `runs` that had news, with the lift that its bounds belong to and a picture, if it has any."""
    told = ({**run, "lift": reports.bounded(run)} for run in runs if run["outcome"] != "nothing")
    shown = list(islice(told, VERDICTS_SHOWN))
    measured = [run for run in shown if None not in (run.get("lift"), run.get("lower"), run.get("upper"))]
    scale = lift_scale(measured)
    return [
        {
            **run,
            "ago": age(now, datetime.fromisoformat(run["at"])),
            "picture": interval(run, scale) if run in measured else None,
        }
        for run in shown
    ]


def _changes(entries: Iterator[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """What was changed at last among the first of `entries`, in words, with the key that was shown for it."""
    found = (entry for entry in islice(entries, CHANGES_SOUGHT) if entry.get("kind") in STEERED)
    return [
        {
            "at": entry["at"],
            "ago": age(now, datetime.fromisoformat(entry["at"])),
            "what": entry["kind"].replace("_", " "),
            "key": entry.get("key"),
            "said": in_words(entry),
        }
        for entry in islice(found, CHANGES_SHOWN)
    ]


def _health(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The counts that tell whether what is asked comes back: name, meaning, number, and whether it should be 0."""
    counts = {name: (text, state["counts"].get(name, 0)) for name, text in COUNTED.items() if name != "waiting"}
    counts["quarantined"] = ("parts of the log set aside as damaged or unreadable", state["segments_set_aside"])
    return [
        {"name": name, "text": text, "number": found, "bad": bool(found) and name in TROUBLE | {"quarantined"}}
        for name, (text, found) in counts.items()
    ]
