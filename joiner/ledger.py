"""The ledger: where one event is on its way from a decision to a model, and why it is not further.

Every record that the log holds of an event_id is shown with what became of it, so that "my reward changed nothing"
has an answer: late, repeated, for another action, for an unknown event, waiting, or learnt.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from bandit.errors import NotFound
from bandit.experiment import ExperimentPaths
from bandit.registry import ModelRegistry
from bandit.settings import Learning
from joiner.connection import connect, from_utc, parquet_rows
from joiner.export import learnt_rows, lets_through
from joiner.statements import ORDER, REWARD_OUTCOMES
from joiner.warehouse import Warehouse

_REASONS = {
    "counted": "counted",
    "waiting": "will be counted when the window closes",
    "late": "came after the window had closed: kept, changes nothing",
    "duplicate": "repeats another report: counted once",
    "conflict": "has the reward_id of another report with other content: the first counts",
    "action_mismatch": "is for another action than the decided one: never learnt",
    "unknown": "no decision with this event_id is known (yet)",
    "aside": "its decision is not learnt from",
}

_PICKS: dict[str, tuple[str, str, str]] = {
    "first": ("the first", "a reward before it counts", ""),
    "last": ("the last", "a reward after it counts", "later"),
    "min": ("the lowest", "{} reward counts", "lower"),
    "max": ("the highest", "{} reward counts", "higher"),
}
"""Per aggregation that picks one reward: what it picks, why another does not count, and what could still replace it."""
_BLENDS = {"sum": "the sum", "mean": "the mean"}

SLOTS_SHOWN = 3
"""How many ids of slots a sentence names."""


def trace(warehouse: Warehouse, registry: ModelRegistry, event_id: str, *, now: datetime) -> dict[str, Any]:
    """Everything about one event_id as a JSON object; raises `NotFound` when the log holds no record of it.

    `state` is one of `rewarded_only` (rewards, no decision yet), `several_slots` (the id of a request for several
    actions, each a decision under an id of its own in `slots`), `waiting`, `not_activated`, `conflict`, `defaulted`,
    `rewarded`; `why` says it in a sentence. A reward's `outcome` is as in the view `rewards`, or `in_time`
    where the aggregation picks one reward and this is another.
    """
    decisions = _rows(warehouse, _DECISIONS, event_id)
    rewards = _rows(warehouse, _REWARDS, event_id)
    activations = _rows(warehouse, _ACTIVATIONS, event_id)
    slots = [] if decisions else [row["event_id"] for row in _rows(warehouse, _SLOTS, event_id)]
    if not decisions and not rewards and not activations and not slots:
        raise NotFound("no event of this id is in the sealed log (a new one is there within a few seconds)")
    for reward in rewards:
        reward["why"] = _REASONS[reward["outcome"]] if not slots else "names no slot: never counts"
    if decisions:
        _tell_the_picked(rewards, decisions[0]["aggregation"])
    joined = _rows(warehouse, _JOINED, event_id)
    aside = _rows(warehouse, _ASIDE, event_id)
    interaction = joined[0] if joined else None
    answer: dict[str, Any] = {
        "event_id": event_id,
        "state": "",
        "why": "",
        "decision": decisions[0] if decisions else None,
        "repeated_decisions": decisions[1:],
        "slots": slots,
        "activations": activations,
        "rewards": rewards,
        "interaction": interaction,
        "learnt_by": _models(registry, decisions[0] | interaction) if interaction else [],
        "evaluated_in": _evaluations(warehouse.experiment.paths, event_id) if interaction else [],
    }
    answer["state"], answer["why"] = _state(answer, aside, warehouse.joined_until(), now)
    return answer


def _tell_the_picked(rewards: list[dict[str, Any]], aggregation: str | None) -> None:
    """Where one reward sets the value: it says so, and the others that came in time become `in_time`."""
    in_time = [reward for reward in rewards if reward["outcome"] in ("counted", "waiting")]
    if aggregation not in _PICKS or not in_time:
        return
    _, reason, better = _PICKS[aggregation]
    if aggregation in ("first", "last"):
        picked = in_time[0 if aggregation == "first" else -1]
    else:
        picked = (min if aggregation == "min" else max)(in_time, key=lambda reward: reward["reward"])
    for reward in in_time:
        if reward is not picked:
            how = "an equal" if reward["reward"] == picked["reward"] else f"a {better}"
            reward["outcome"], reward["why"] = "in_time", f"in time; {reason.format(how)}"
    if picked["outcome"] == "waiting" and better:
        picked["why"] += f", unless a {better} one comes"


def _state(
    answer: dict[str, Any], aside: list[dict[str, Any]], complete_until: datetime | None, now: datetime
) -> tuple[str, str]:
    decision, interaction = answer["decision"], answer["interaction"]
    if slots := answer["slots"]:
        named = ", ".join(slots[:SLOTS_SHOWN]) + (", …" if len(slots) > SLOTS_SHOWN else "")
        lost = " What was reported under this id never counts." if answer["rewards"] or answer["activations"] else ""
        one = f"Each of its {len(slots)} slots is a decision of its own, to be rewarded as such: {named}."
        return "several_slots", one + lost
    if decision is None:
        return "rewarded_only", "Rewards are here, a decision with this event_id is not (yet)."
    if aside and aside[0]["reason"] == "conflict":
        return "conflict", "Decisions with different content share this event_id, so neither is learnt from."
    if aside:
        return "not_activated", "The decision was deferred and not activated before its window closed."
    if interaction is None:
        matures_at = decision["matures_at"]
        when = f"{matures_at:%Y-%m-%d %H:%M:%S} UTC"
        if matures_at > now:
            return "waiting", f"It waits for rewards until {when}; then it becomes an interaction."
        until = f"{complete_until:%Y-%m-%d %H:%M:%S} UTC" if complete_until else "no time yet"
        return "waiting", f"Its window closed at {when}; the log is known to be complete until {until}."
    models = len(answer["learnt_by"])
    learnt = f"learnt by {models} model{'s' if models > 1 else ''}" if models else "no stored model has learnt it yet"
    if not interaction["rewarded"]:
        return "defaulted", f"No reward counted, so it has the default reward {interaction['reward']:g}; {learnt}."
    count = interaction["rewards_counted"]
    of = {name: words[0] for name, words in _PICKS.items()} | _BLENDS
    made = "out of 1 report" if count == 1 else f"{of.get(decision['aggregation'], 'out')} of {count} reports"
    return "rewarded", f"Its reward is {interaction['reward']:g}, {made}; {learnt}."


def _models(registry: ModelRegistry, interaction: dict[str, Any]) -> list[dict[str, Any]]:
    """The models whose rows, matured in (since, cut] and let through, hold this interaction; in order of making."""
    found = []
    for manifest in registry.manifests():
        since, cut = manifest.data.get("since"), manifest.data.get("cut")
        if since is not None and datetime.fromisoformat(since) >= interaction["matures_at"]:
            continue
        learning = msgspec.convert(manifest.options.get("learning", {}), Learning)
        if not lets_through(learnt_rows(learning), interaction):
            continue
        if cut is not None and datetime.fromisoformat(cut) >= interaction["matures_at"]:
            found.append(
                {"model_id": manifest.model_id, "created_at": manifest.created_at.isoformat(), "kind": manifest.kind}
            )
    return sorted(found, key=lambda model: model["created_at"])


def _evaluations(paths: ExperimentPaths, event_id: str) -> list[str]:
    """The evaluations whose scored rows hold this event."""
    files = sorted(paths.evaluations.glob("e*/scored.parquet"))
    found = []
    if files:
        connection = connect(None, [paths.evaluations])
        try:
            for path in files:
                source = parquet_rows(path)
                names = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
                if "event_id" not in names:
                    continue
                query = f"SELECT 1 FROM {source} WHERE event_id = $event_id LIMIT 1"
                if connection.execute(query, {"event_id": event_id}).fetchone():
                    found.append(path.parent.name)
        finally:
            connection.close()
    return found


# one row per decision record of the event, the first one first
_DECISIONS = """
SELECT decided_at, matures_at, model_id, action, index, probability, pmf, context::JSON AS context,
       coalesce(actions, v.whole)::JSON AS actions, excluded::JSON AS excluded, mode, slice, slot, deferred,
       settings_version, aggregation, CASE WHEN imported_at IS NULL THEN 'live' ELSE 'import' END AS origin,
       writer_id || '-' || lpad(sequence::VARCHAR, 8, '0') AS segment
FROM decision_records LEFT JOIN catalogues v USING (catalogue_version)
LEFT JOIN settings s USING (settings_version)
WHERE event_id = $event_id ORDER BY stamped_at, writer_id, sequence, position
"""

# one row per slot of the request with this id, in order
_SLOTS = """
SELECT DISTINCT event_id, slot FROM decision_records
WHERE slot IS NOT NULL AND event_id = $event_id || ':' || slot ORDER BY slot
"""

# one row per reward record of the event, in the order in which "first" and "last" go
_REWARDS = f"""
SELECT received_at, reward, reward_id, event, value, action, outcome FROM ({REWARD_OUTCOMES})
WHERE event_id = $event_id ORDER BY {ORDER}
"""

# one row per activation record of the event
_ACTIVATIONS = "SELECT received_at FROM activation_records WHERE event_id = $event_id ORDER BY received_at"

# one row, or none: the interaction of the event
_JOINED = """
SELECT matures_at, reward, rewarded, rewards_counted, rewarded_at, subject FROM interactions WHERE event_id = $event_id
"""

# one row, or none: why the event is no interaction
_ASIDE = "SELECT reason FROM set_aside WHERE event_id = $event_id"


def _rows(warehouse: Warehouse, query: str, event_id: str) -> list[dict[str, Any]]:
    cursor = warehouse.cursor()
    try:
        cursor.execute(query, {"event_id": event_id})
        names = [column[0] for column in cursor.description]
        kinds = {column[0]: str(column[1]) for column in cursor.description}
        return [
            {name: _plain(value, kinds[name]) for name, value in zip(names, row, strict=True)}
            for row in cursor.fetchall()
        ]
    finally:
        cursor.close()


def _plain(value: Any, kind: str) -> Any:
    if isinstance(value, datetime):
        return from_utc(value)
    return msgspec.json.decode(value) if kind == "JSON" and isinstance(value, str) else value
