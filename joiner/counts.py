"""How many of everything, with one defined outcome for every record in the log.

Each reward record is exactly one of: `counted` (it made the interaction's reward or went into its aggregate),
`waiting` (its decision's window is open), `late`, `duplicates` (a retry), `conflicts` (a known reward_id with other
content), `action_mismatch`, `unknown` (no decision with that event_id), `aside` (its decision is in conflict or was
never activated).
"""

from __future__ import annotations

import duckdb

from joiner.statements import REWARD_OUTCOMES

_COUNTS = f"""
WITH outcomes AS ({REWARD_OUTCOMES}),
rewards AS (
  SELECT count(*) FILTER (imported_at IS NULL) AS reward_records,
         count(*) FILTER (imported_at IS NULL AND outcome <> 'duplicate') AS rewards,
         count(DISTINCT event_id) FILTER (imported_at IS NULL) AS rewarded_events,
         count(*) FILTER (outcome = 'late') AS late,
         count(*) FILTER (outcome = 'duplicate') AS duplicate_rewards,
         count(*) FILTER (outcome = 'conflict') AS conflicting_rewards,
         count(*) FILTER (outcome = 'action_mismatch') AS action_mismatch,
         count(*) FILTER (outcome = 'unknown') AS unknown
  FROM outcomes
),
decisions AS (
  SELECT count(*) FILTER (imported_at IS NULL) AS decision_records,
         count(DISTINCT event_id) FILTER (imported_at IS NULL) AS decisions,
         count(DISTINCT event_id) FILTER (imported_at IS NOT NULL) AS imported_decisions,
         count(DISTINCT event_id) FILTER (imported_at IS NULL AND (joined_until IS NULL OR matures_at > joined_until)
           AND event_id NOT IN (SELECT event_id FROM repeated)) AS waiting_once
  FROM decision_records, state
),
again AS (
  SELECT count(*) FILTER (nth > 1) AS repeats,
         count(*) FILTER (nth = 1 AND imported_at IS NULL AND (joined_until IS NULL OR matures_at > joined_until))
           AS waiting_again
  FROM (SELECT imported_at, matures_at, row_number() OVER (
          PARTITION BY event_id ORDER BY stamped_at, writer_id, sequence, position) AS nth
        FROM decision_records WHERE event_id IN (SELECT event_id FROM repeated)), state
),
joined AS (
  SELECT count(*) FILTER (origin = 'live') AS interactions, count(*) FILTER (origin = 'import') AS imported,
         count(*) FILTER (NOT rewarded AND origin = 'live') AS defaulted
  FROM joined
),
aside AS (
  SELECT count(*) FILTER (reason = 'conflict') AS conflicts, count(*) FILTER (reason = 'not_activated') AS not_activated
  FROM set_aside
)
SELECT * FROM rewards, decisions, again, joined, aside
"""


def count_everything(cursor: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Counts over the whole warehouse.

    `decisions`, `interactions`, `defaulted`, `waiting`: distinct live event_ids; `imported`: interactions out of
    imported history; `rewards`: live reward records without retries, `rewarded_events` their distinct event_ids;
    `duplicates`: decision and reward records that repeat another; `conflicts`: event_ids kept out because their
    decisions contradict each other, `conflicting_rewards` the rewards that contradict their reward_id.
    """
    row = cursor.execute(_COUNTS).fetchone()
    assert row is not None, "aggregates without groups give one row"
    found = {column[0]: int(value or 0) for column, value in zip(cursor.description, row, strict=True)}
    waiting = found.pop("waiting_once") + found.pop("waiting_again")
    repeats = found.pop("repeats")
    return found | {
        "waiting": waiting,
        "duplicates": repeats + found["duplicate_rewards"],
        "repeated_decisions": repeats,
    }
