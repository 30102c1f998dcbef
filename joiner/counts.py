"""How many of everything, with one defined outcome for every record in the log.

Each reward record is exactly one of: `counted` (it made the interaction's reward or went into its aggregate),
`waiting` (its decision's window is open), `late`, `duplicates` (a retry), `conflicts` (a known reward_id with other
content), `action_mismatch`, `unknown` (no decision with that event_id), `aside` (its decision is in conflict or was
never activated).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from joiner.statements import ORDER, REWARD_OUTCOMES

DELAY_BOUNDS_S = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0, 604800.0)
"""Upper bounds of the histogram of delays (the last bucket has none)."""
DELAY_QUANTILES = (0.5, 0.9, 0.99)

# one row per live reward record that is no retry and has its decision, in time or late: how long it took from there
_DELAYS = """
SELECT epoch(received_at - decided_at) AS delay_s FROM outcomes
WHERE imported_at IS NULL AND outcome IN ('counted', 'waiting', 'late')
"""

# one row: over all reward records
OUTCOMES = f"""
WITH outcomes AS ({REWARD_OUTCOMES}),
records AS (
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
delays AS (
  SELECT count(*) AS delays, sum(delay_s) AS delay_sum_s,
         quantile_cont(delay_s, {list(DELAY_QUANTILES)}) AS delay_quantiles_s,
         [{", ".join(f"count(*) FILTER (delay_s <= {bound})" for bound in DELAY_BOUNDS_S)}] AS delays_within
  FROM ({_DELAYS})
)
SELECT * FROM records, delays
"""

# one row per bucket of the delays, empty ones too: its upper bound (none for the last), and how many rewards are in it
DELAY_HISTOGRAM = f"""
WITH found AS ({OUTCOMES})
SELECT unnest({list(DELAY_BOUNDS_S)} || [NULL]) AS up_to_s,
       unnest(list_transform(list_zip(delays_within || [delays], [0] || delays_within), lambda pair: pair[1] - pair[2]))
         AS rewards
FROM found
"""

# one row: over all decisions and interactions; of an event_id with several records the first one tells
EVENTS = f"""
WITH records AS (
  SELECT count(*) FILTER (imported_at IS NULL) AS live, count(*) FILTER (imported_at IS NOT NULL) AS imported,
         count(*) FILTER (imported_at IS NULL AND matures_at > (SELECT coalesce(joined_until, '-infinity') FROM state))
           AS waiting
  FROM decision_records
),
again AS (
  SELECT count(*) FILTER (imported_at IS NULL AND nth > 1) AS live,
         count(*) FILTER (imported_at IS NOT NULL AND nth > 1) AS imported,
         count(*) FILTER (imported_at IS NULL AND matures_at > (SELECT coalesce(joined_until, '-infinity') FROM state)
           AND nth > 1) AS waiting
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
SELECT r.live AS decision_records, r.live - a.live AS decisions, r.imported - a.imported AS imported_decisions,
       r.waiting - a.waiting AS waiting, a.live + a.imported AS repeated_decisions, j.interactions, j.imported,
       j.defaulted, s.conflicts, s.not_activated
FROM records r, again a, joined j, aside s
"""

_QUANTILES = ", ".join(f"o.delay_quantiles_s[{n}] AS delay_p{100 * q:g}_s" for n, q in enumerate(DELAY_QUANTILES, 1))

# one row: the counts under the names of the metrics, the share of interactions that got a reward, and the delays
HEALTH = f"""
SELECT e.decisions, o.rewards, e.interactions, e.imported, e.waiting, e.defaulted,
       (e.interactions - e.defaulted) / nullif(e.interactions, 0) AS join_rate, o.late, o.unknown,
       e.repeated_decisions + o.duplicate_rewards AS duplicates, e.conflicts, o.conflicting_rewards, o.action_mismatch,
       e.not_activated, {_QUANTILES}, (SELECT joined_until FROM state) AS joined_until
FROM ({EVENTS}) e, ({OUTCOMES}) o
"""


@dataclass(frozen=True, slots=True)
class Delays:
    """How long rewards took from their decision on, in seconds: live ones in time or late, retries left out.

    `within[i]` of the `count` came within `DELAY_BOUNDS_S[i]`; `quantiles` are those of `DELAY_QUANTILES`, None
    where there was no reward.
    """

    count: int
    sum_s: float
    quantiles: tuple[float, ...] | None
    within: tuple[int, ...]


def count_events(cursor: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Counts of decisions and interactions; cheap.

    `decisions`, `interactions`, `defaulted`, `waiting`: distinct live event_ids; `imported_decisions`, `imported`:
    decisions and interactions of imported history; `repeated_decisions`: records that repeat an event_id;
    `conflicts`: event_ids kept out because their decisions contradict each other; `not_activated`.
    """
    return _row(cursor, EVENTS)


def count_outcomes(cursor: duckdb.DuckDBPyConnection) -> tuple[dict[str, int], Delays]:
    """Counts of reward records by what became of them, and how long they took, over the whole log.

    `rewards`: live ones without retries, `rewarded_events` their distinct event_ids; `late`, `unknown`,
    `action_mismatch`, `conflicting_rewards`, `duplicate_rewards`: kept, and never learnt (again).
    """
    found = _row(cursor, OUTCOMES)
    total, quantiles = found.pop("delay_sum_s"), found.pop("delay_quantiles_s")
    within = tuple(found.pop("delays_within"))
    return found, Delays(found.pop("delays"), total or 0.0, tuple(quantiles) if quantiles else None, within)


def _row(cursor: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any]:
    row = cursor.execute(query).fetchone()
    assert row is not None, "aggregates without groups give one row"
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}
