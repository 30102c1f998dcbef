"""VW's `dsjson`, as Decision Service, RLClientLib and Personalizer write it, as rows of history.

A line holds one decision with its cost: `a` are the actions (the chosen one first), `p` their probabilities in that
order, `c` the features: everything in it is shared but `_multi`, one object per action. A line for several slots has
an entry in `_outcomes` for each, and each becomes a decision of its own, as `slots` of the decision API makes them.
As in VW, names that start with `_` are no features. Nothing here is handed to VW's own JSON reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from bandit.types import SLOT_FEATURE
from joiner.cells import NAME_LENGTH_MAX, PMF_TOLERANCE, RefusedRow, is_number
from joiner.history import Row


def history_rows(line: Row) -> Iterator[Row | RefusedRow]:
    """The rows of history in a dsjson object: one, or one per slot; in place of those refused, the refusal.

    Refused as a whole, each under its own reason: rewards whose decision is not in the line, slots with actions of
    their own and one reward for all (slates), continuous actions, decisions never activated, and logs thinned out by
    `pdrop` (their rows would need weights to be unbiased). A line for several slots is then refused once for each.
    """
    try:
        _refuse_others(line)
        context, actions = _context_and_actions(line)
        if "_outcomes" not in line:
            yield _row(line, context, actions)
            return
        outcomes = _outcomes(line)
    except RefusedRow as refused:
        yield from repeat(refused, _slot_count(line))
        return
    slots = line["c"].get("_slots")
    left = list(range(len(actions)))
    for number, outcome in enumerate(outcomes, start=1):
        slot = slots[number - 1] if isinstance(slots, list) and len(slots) >= number else {}
        try:
            row = _slot_row(outcome, slot if isinstance(slot, dict) else {}, context, actions, left)
        except RefusedRow as refused:
            yield refused
            continue
        # as the decision API does, the slot's number is a feature of the context and a part of the event_id
        row["context"][SLOT_FEATURE] = str(number)
        event_id = line.get("EventId")
        name = f"{event_id}:{number}" if isinstance(event_id, str) else event_id
        yield row | {"event_id": name, "decided_at": line.get("Timestamp"), "slot": number}
    for _ in range(len(outcomes), _slot_count(line)):
        yield RefusedRow("no_reward", "_outcomes", "say nothing of the slot")


def _slot_count(line: Row) -> int:
    """How many slots a line is about, by what it offers or by what came of it; 1 where it names none."""
    context = line.get("c")
    slots = context.get("_slots") if isinstance(context, dict) else None
    return max(1, *(len(entry) if isinstance(entry, list) else 1 for entry in (slots, line.get("_outcomes"))))


def _row(line: Row, context: dict[str, Any], actions: Sequence[dict[str, Any]]) -> Row:
    """The only decision of a line."""
    chosen = _chosen(line, len(actions))
    return {
        "event_id": line.get("EventId"),
        "decided_at": line.get("Timestamp"),
        "context": context,
        "actions": actions,
        "action": actions[chosen]["id"],
        "probability": line.get("_label_probability", line.get("_label_Probability")),
        "pmf": _pmf(line.get("a"), line.get("p"), len(actions)),
        "reward": 0.0 - _cost(line),
    }


def _slot_row(
    outcome: dict[str, Any],
    slot: dict[str, Any],
    context: dict[str, Any],
    actions: Sequence[dict[str, Any]],
    left: list[int],
) -> dict[str, Any]:
    """The decision of one slot, among what earlier slots left (places from 0; it takes its own choice out of them)."""
    order, probabilities = (
        value if isinstance(value, list) else [value] for value in (outcome.get("_a"), outcome.get("_p"))
    )
    included = slot.get("_inc")
    offered = [place for place in left if not isinstance(included, list) or place in included]
    if not order or type(order[0]) is not int or order[0] not in offered:
        raise RefusedRow("invalid_action", "_outcomes._a", "does not begin with an action that was left for the slot")
    left.remove(order[0])
    own = features(slot)
    return {
        "context": {**context, **({"slot": own} if own else {})},
        "actions": [actions[place] for place in offered],
        "action": actions[order[0]]["id"],
        "probability": probabilities[0] if probabilities else None,
        "pmf": _pmf([offered.index(place) for place in order if place in offered], probabilities, len(offered)),
        "reward": 0.0 - _cost(outcome),
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
    """Objects in a list are one namespace to VW, so they become one object, unless two of them share a name."""
    if isinstance(value, dict):
        return features(value)
    if not isinstance(value, list):
        return value
    entries = [_value(entry) for entry in value]
    names = list(chain.from_iterable(entry for entry in entries if isinstance(entry, dict)))
    if entries and all(isinstance(entry, dict) for entry in entries) and len(set(names)) == len(names):
        return {name: below for entry in entries for name, below in entry.items()}
    return entries


def _refuse_others(line: Row) -> None:
    context = line.get("c")
    if "RewardValue" in line or (context is None and "EventId" in line):
        raise RefusedRow("dangling_reward", "line", "is a reward without its decision")
    if "_label_ca" in line:
        raise RefusedRow("continuous_action", "line", "decides a continuous action")
    if isinstance(context, dict) and "_slots" in context and "_outcomes" not in line:
        raise RefusedRow("no_reward", "_outcomes", "are missing: what was decided for the slots is not known")
    if line.get("_skipLearn") is True:
        raise RefusedRow("not_activated", "_skipLearn", "says that the decision was never activated")
    dropped = line.get("pdrop", 0.0)
    if not isinstance(dropped, int | float) or dropped != 0:
        raise RefusedRow(
            "thinned", "pdrop", "says that the log was thinned out, so its rows are not equal", "pdrop = 0"
        )


def _context_and_actions(line: Row) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The shared features, and the actions: their ids are the tags, else the places counted from 1.

    A tag that occurs twice is told apart by its place.
    """
    context = line.get("c")
    if not isinstance(context, dict):
        raise RefusedRow("not_dsjson", "c", "is missing or is not an object")
    multi = context.get("_multi")
    if not isinstance(multi, list) or not multi or not all(isinstance(entry, dict) for entry in multi):
        raise RefusedRow("invalid_actions", "c._multi", "is not a list of at least one action")
    if any("_slot_id" in entry for entry in multi):
        raise RefusedRow("slates", "c._multi", "gives each slot actions of its own and one reward to all of them")
    tags = [entry.get("_tag") for entry in multi]
    times = Counter(tag for tag in tags if isinstance(tag, str))
    actions = []
    for place, (entry, tag) in enumerate(zip(multi, tags, strict=True), start=1):
        if not isinstance(tag, str) or not 0 < len(tag) < NAME_LENGTH_MAX - 10:
            name = str(place)
        else:
            name = tag if times[tag] == 1 else f"{tag}#{place}"
        actions.append({"id": name, "features": features(entry)})
    return features(context), actions


def _outcomes(line: Row) -> list[dict[str, Any]]:
    outcomes = line["_outcomes"]
    if not isinstance(outcomes, list) or not outcomes or not all(isinstance(entry, dict) for entry in outcomes):
        raise RefusedRow("not_dsjson", "_outcomes", "is not a list of at least one object")
    return outcomes


def _cost(label: Mapping[str, Any]) -> float:
    cost = label.get("_label_cost", label.get("_label_Cost"))
    if isinstance(cost, bool) or not isinstance(cost, int | float):
        raise RefusedRow("no_reward", "_label_cost", "is missing or is not a number")
    if not is_number(cost):
        raise RefusedRow("invalid_reward", "_label_cost", "is not a finite number")
    return cost


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
    """The distribution in the order of the actions, whose places are counted from 0 or from 1.

    None where the line does not give a whole one.
    """
    if not isinstance(order, list) or not isinstance(probabilities, list) or len(probabilities) != k:
        return None
    if any(isinstance(a, bool) or not isinstance(a, int) for a in order):
        return None
    first = min(order, default=0)
    if first not in (0, 1) or sorted(order) != list(range(first, first + k)):
        return None
    if any(isinstance(p, bool) or not isinstance(p, int | float) or not 0.0 <= p <= 1.0 for p in probabilities):
        return None
    if abs(sum(probabilities) - 1.0) > PMF_TOLERANCE:
        return None
    pmf = [0.0] * k
    for place, probability in zip(order, probabilities, strict=True):
        pmf[place - first] = float(probability)
    return pmf
