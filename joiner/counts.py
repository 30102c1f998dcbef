"""How many of everything, with one defined outcome for every record in the log.

Each reward record is exactly one of: `counted` (it made the interaction's reward or went into its aggregate),
`waiting` (its decision's window is open), `late`, `duplicates` (a retry), `conflicts` (a known reward_id with other
content), `action_mismatch`, `unknown` (no decision with that event_id), `aside` (its decision is in conflict or was
never activated).
"""

from __future__ import annotations

import duckdb

from joiner.statements import ORDER, REWARD_OUTCOMES

# one row: over all reward records
_OUTCOMES = f"""
WITH outcomes AS ({REWARD_OUTCOMES})
SELECT count(*) FILTER (imported_at IS NULL) AS reward_records,
       count(*) FILTER (imported_at IS NULL AND outcome <> 'duplicate') AS rewards,
       count(DISTINCT event_id) FILTER (imported_at IS NULL) AS rewarded_events,
       count(*) FILTER (outcome = 'late') AS late,
       count(*) FILTER (outcome = 'duplicate') AS duplicate_rewards,
       count(*) FILTER (outcome = 'conflict') AS conflicting_rewards,
       count(*) FILTER (outcome = 'action_mismatch') AS action_mismatch,
       count(*) FILTER (outcome = 'unknown') AS unknown
FROM outcomes
"""

# one row: over all decisions and interactions; of an event_id with several records the first one tells
_EVENTS = f"""
WITH decisions AS (
  SELECT count(*) FILTER (imported_at IS NULL) AS decision_records,
         count(*) FILTER (imported_at IS NOT NULL) AS imported_records,
         count(*) FILTER (imported_at IS NULL AND matures_at > (SELECT coalesce(joined_until, '-infinity') FROM state))
           AS waiting
  FROM decision_records
),
again AS (
  SELECT count(*) FILTER (imported_at IS NULL AND nth > 1) AS live_repeats,
         count(*) FILTER (imported_at IS NOT NULL AND nth > 1) AS imported_repeats,
         count(*) FILTER (imported_at IS NULL AND matures_at > (SELECT coalesce(joined_until, '-infinity') FROM state)
           AND nth > 1) AS waiting_repeats
  FROM (SELECT imported_at, matures_at, row_number() OVER (PARTITION BY event_id ORDER BY {ORDER}) AS nth
        FROM decision_records WHERE event_id IN (SELECT event_id FROM repeated))
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
SELECT * FROM decisions, again, joined, aside
"""


def count_events(cursor: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Counts of decisions and interactions; cheap.

    `decisions`, `interactions`, `defaulted`, `waiting`: distinct live event_ids; `imported_decisions`, `imported`:
    decisions and interactions of imported history; `repeated_decisions`: records that repeat an event_id;
    `conflicts`: event_ids kept out because their decisions contradict each other; `not_activated`.
    """
    found = _row(cursor, _EVENTS)
    live, imported, waiting = (found.pop(f"{kind}_repeats") for kind in ("live", "imported", "waiting"))
    return {
        "decisions": found["decision_records"] - live,
        "imported_decisions": found.pop("imported_records") - imported,
        **found,
        "waiting": found["waiting"] - waiting,
        "repeated_decisions": live + imported,
    }


def count_outcomes(cursor: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Counts of reward records by what became of them, over the whole log.

    `rewards`: live ones without retries, `rewarded_events` their distinct event_ids; `late`, `unknown`,
    `action_mismatch`, `conflicting_rewards`, `duplicate_rewards`: kept, and never learnt (again).
    """
    return _row(cursor, _OUTCOMES)


def _row(cursor: duckdb.DuckDBPyConnection, query: str) -> dict[str, int]:
    row = cursor.execute(query).fetchone()
    assert row is not None, "aggregates without groups give one row"
    return {column[0]: int(value or 0) for column, value in zip(cursor.description, row, strict=True)}
