"""VW's `dsjson`, as Decision Service, RLClientLib and Personalizer write it: its lines in, ours out.

A line holds one decision with its cost: `a` are the actions (counted from 1, the chosen one first), `p` their
probabilities in that order, `c` the features: everything in it is shared but `_multi`, one object per action.
As in VW, names that start with `_` are no features. Nothing here is handed to VW's own JSON reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from joiner.history import NAME_LENGTH_MAX, PMF_TOLERANCE, RefusedRow, Row


def history_row(line: Row) -> Row:
    """A dsjson object as a row of history; raises `RefusedRow` for what is no single decision with its cost.

    Refused, each under its own reason: rewards whose decision is not in the line, decisions for several slots or
    for a continuous action, decisions never activated, and logs thinned out by `pdrop` (their rows would need
    weights to be unbiased).
    """
    _refuse_others(line)
    context = line.get("c")
    if not isinstance(context, dict):
        raise RefusedRow("not_dsjson", "c", "is missing or is not an object")
    multi = context.get("_multi")
    if not isinstance(multi, list) or not multi or not all(isinstance(entry, dict) for entry in multi):
        raise RefusedRow("invalid_actions", "c._multi", "is not a list of at least one action")
    actions = _actions(multi)
    chosen = _chosen(line, len(actions))
    cost = line.get("_label_cost", line.get("_label_Cost"))
    if isinstance(cost, bool) or not isinstance(cost, int | float):
        raise RefusedRow("no_reward", "_label_cost", "is missing or is not a number")
    return {
        "event_id": line.get("EventId"),
        "decided_at": line.get("Timestamp"),
        "context": features({name: value for name, value in context.items() if name != "_multi"}),
        "actions": actions,
        "action": actions[chosen]["id"],
        "probability": line.get("_label_probability", line.get("_label_Probability")),
        "pmf": _pmf(line.get("a"), line.get("p"), len(actions)),
        "reward": 0.0 - cost,
    }


def features(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Features without what VW ignores (names that start with `_`); `_text` becomes the list of its words."""
    found: dict[str, Any] = {}
    for name, value in raw.items():
        if name == "_text" and isinstance(value, str):
            found["text"] = value.split()
        elif not name.startswith("_"):
            found[name] = _value(value)
    return found


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return features(value)
    return [_value(entry) for entry in value] if isinstance(value, list) else value


def _refuse_others(line: Row) -> None:
    if "RewardValue" in line or ("c" not in line and "EventId" in line):
        raise RefusedRow("dangling_reward", "line", "is a reward without its decision")
    if "_outcomes" in line or (isinstance(line.get("c"), dict) and "_slots" in line["c"]):
        raise RefusedRow("several_slots", "line", "decides several slots at once")
    if "_label_ca" in line:
        raise RefusedRow("continuous_action", "line", "decides a continuous action")
    if line.get("_skipLearn") is True:
        raise RefusedRow("not_activated", "_skipLearn", "says that the decision was never activated")
    dropped = line.get("pdrop", 0.0)
    if not isinstance(dropped, int | float) or dropped != 0:
        raise RefusedRow(
            "thinned", "pdrop", "says that the log was thinned out, so its rows are not equal", "pdrop = 0"
        )


def _actions(multi: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ids are the tags, else the places counted from 1; a tag that occurs twice is told apart by its place."""
    tags = [entry.get("_tag") for entry in multi]
    times = Counter(tag for tag in tags if isinstance(tag, str))
    actions = []
    for place, (entry, tag) in enumerate(zip(multi, tags, strict=True), start=1):
        if not isinstance(tag, str) or not 0 < len(tag) < NAME_LENGTH_MAX - 10:
            name = str(place)
        else:
            name = tag if times[tag] == 1 else f"{tag}#{place}"
        actions.append({"id": name, "features": features(entry)})
    return actions


def _chosen(line: Row, k: int) -> int:
    index = line.get("_labelIndex")
    if index is None:
        action = line.get("_label_Action")
        if action is None and isinstance(line.get("a"), list) and line["a"]:
            action = line["a"][0]
        index = action - 1 if isinstance(action, int) else None
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < k:
        raise RefusedRow("invalid_action", "_label_Action", "is missing or is not one of the actions")
    return index


def _pmf(order: Any, probabilities: Any, k: int) -> list[float] | None:
    """The distribution in the order of the actions; None where the line does not give a whole one."""
    if not isinstance(order, list) or not isinstance(probabilities, list) or len(probabilities) != k:
        return None
    if any(isinstance(a, bool) or not isinstance(a, int) for a in order) or sorted(order) != list(range(1, k + 1)):
        return None
    if any(isinstance(p, bool) or not isinstance(p, int | float) or not 0.0 <= p <= 1.0 for p in probabilities):
        return None
    if abs(sum(probabilities) - 1.0) > PMF_TOLERANCE:
        return None
    pmf = [0.0] * k
    for action, probability in zip(order, probabilities, strict=True):
        pmf[action - 1] = float(probability)
    return pmf
