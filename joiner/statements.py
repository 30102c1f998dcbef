"""The SQL that turns log records into interactions: each statement is named and states its grain.

Order among records is (stamped_at, writer_id, sequence, position): the time the log stamped, ties broken by
writer and by place in its log. A live record counts for a decision when it was stamped in the half-open window
before `matures_at`; imported history is mature at once and takes the records imported up to that moment.
"""

from __future__ import annotations

RECORD_COLUMNS: dict[str, str] = {
    "type": "VARCHAR",
    "event_id": "VARCHAR",
    "decided_at": "TIMESTAMP",
    "received_at": "TIMESTAMP",
    "imported_at": "TIMESTAMP",
    "model_id": "VARCHAR",
    "context": "JSON",
    "actions": "JSON",
    "excluded": "JSON",
    "action": "VARCHAR",
    "index": "INTEGER",
    "probability": "DOUBLE",
    "pmf": "DOUBLE[]",
    "catalogue_version": "INTEGER",
    "settings_version": "INTEGER",
    "mode": "VARCHAR",
    "slice": "VARCHAR",
    "deferred": "BOOLEAN",
    "slot": "INTEGER",
    "body_digest": "VARCHAR",
    "reward": "DOUBLE",
    "reward_id": "VARCHAR",
    "event": "VARCHAR",
    "value": "DOUBLE",
}
"""What is read from a line, with types stated: sniffing would turn an id like `2026-01-01` into a date."""

_COLUMNS_SQL = "{" + ", ".join(f"'{name}': '{kind}'" for name, kind in RECORD_COLUMNS.items()) + "}"

# one row per line of the segments in $1 (events, headers, commits, seals); rowid is the order of lines
READ_SEGMENTS = f"""
CREATE OR REPLACE TEMP TABLE incoming AS
SELECT * FROM read_json($1, format = 'newline_delimited', columns = {_COLUMNS_SQL}, filename = true,
                        maximum_object_size = 67108864)
"""

# one row per file just read: which segment it is, and the rowid of its first line
PLACE_SEGMENTS = """
CREATE OR REPLACE TEMP TABLE places AS
SELECT filename, min(rowid) AS first_row FROM incoming GROUP BY filename
"""

# one row per decision record just read
INSERT_DECISIONS = """
INSERT INTO decision_records BY NAME
SELECT i.event_id, i.decided_at, coalesce(i.imported_at, i.decided_at) AS stamped_at,
       coalesce(i.imported_at, i.decided_at + to_microseconds(s.window_us)) AS matures_at,
       i.imported_at, i.model_id, coalesce(i.settings_version, 1) AS settings_version, i.catalogue_version,
       coalesce(i.mode, 'online') AS mode, coalesce(i.slice, 'policy') AS slice, i.slot,
       coalesce(i.deferred, false) AS deferred, i.action, i.index, i.probability, i.pmf,
       i.context, i.actions, i.excluded, i.body_digest,
       f.writer_id, f.sequence, i.rowid - p.first_row AS position
FROM incoming i JOIN places p USING (filename) JOIN reading f USING (filename)
LEFT JOIN settings s ON s.settings_version = coalesce(i.settings_version, 1)
WHERE i.type = 'decision'
"""

# one row per reward record just read
INSERT_REWARDS = """
INSERT INTO reward_records BY NAME
SELECT i.event_id, i.received_at, coalesce(i.imported_at, i.received_at) AS stamped_at, i.imported_at, i.reward,
       i.reward_id, i.event, i.value, i.action, f.writer_id, f.sequence, i.rowid - p.first_row AS position
FROM incoming i JOIN places p USING (filename) JOIN reading f USING (filename)
WHERE i.type = 'reward'
"""

# one row per activation record just read
INSERT_ACTIVATIONS = """
INSERT INTO activation_records BY NAME
SELECT i.event_id, i.received_at, f.writer_id, f.sequence, i.rowid - p.first_row AS position
FROM incoming i JOIN places p USING (filename) JOIN reading f USING (filename)
WHERE i.type = 'activation'
"""

# one row per event_id that has got its second decision record now
INSERT_REPEATED = """
INSERT INTO repeated
SELECT event_id FROM (
  SELECT event_id FROM incoming WHERE type = 'decision' GROUP BY event_id HAVING count(*) > 1
  UNION
  SELECT event_id FROM incoming WHERE type = 'decision' AND event_id IN (SELECT event_id FROM decision_records)
)
WHERE event_id NOT IN (SELECT event_id FROM repeated)
"""

# one row per event_id with a record just read that is stamped behind the watermark
INSERT_STRAGGLERS = """
INSERT INTO stragglers
SELECT DISTINCT event_id FROM incoming
WHERE type IN ('decision', 'reward', 'activation')
  AND coalesce(imported_at, decided_at, received_at) <= (SELECT joined_until FROM state)
"""

INGEST = (
    INSERT_REPEATED,
    INSERT_STRAGGLERS,
    INSERT_DECISIONS,
    INSERT_REWARDS,
    INSERT_ACTIVATIONS,
)
"""What follows the reading of a batch, in this order, in its transaction."""

_COUNTS_FOR = "(r.stamped_at < d.matures_at OR (d.imported_at IS NOT NULL AND r.stamped_at = d.matures_at))"
_ORDER = "stamped_at, writer_id, sequence, position"

# one row per event_id: its first decision record
FIRST_DECISIONS = f"""
SELECT * FROM decision_records WHERE event_id NOT IN (SELECT event_id FROM repeated)
UNION ALL
SELECT * FROM (
  SELECT * FROM decision_records WHERE event_id IN (SELECT event_id FROM repeated)
  QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY {_ORDER}) = 1
)
"""

# one row per event_id that matured in ($after, $until] or straggled in: its first decision record
_FIRSTS = f"""
firsts AS (
  SELECT * FROM decision_records
  WHERE matures_at > $after AND matures_at <= $until
    AND event_id NOT IN (SELECT event_id FROM repeated) AND event_id NOT IN (SELECT event_id FROM stragglers)
  UNION ALL
  SELECT * FROM (
    SELECT * FROM decision_records
    WHERE event_id IN (SELECT event_id FROM repeated UNION ALL SELECT event_id FROM stragglers)
    QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY {_ORDER}) = 1
  )
  WHERE matures_at <= $until AND (matures_at > $after OR event_id IN (SELECT event_id FROM stragglers))
),
-- one row per event_id whose records, stamped while its window was open, contradict each other
conflicts AS (
  SELECT DISTINCT d.event_id
  FROM firsts d JOIN decision_records r USING (event_id)
  WHERE d.event_id IN (SELECT event_id FROM repeated) AND {_COUNTS_FOR}
    AND (r.action IS DISTINCT FROM d.action OR r.probability IS DISTINCT FROM d.probability
      OR r.pmf IS DISTINCT FROM d.pmf OR r.model_id IS DISTINCT FROM d.model_id OR r.slot IS DISTINCT FROM d.slot
      OR r.body_digest IS DISTINCT FROM d.body_digest OR r.deferred <> d.deferred
      OR (d.body_digest IS NULL AND (r.context IS DISTINCT FROM d.context OR r.actions IS DISTINCT FROM d.actions
        OR r.catalogue_version IS DISTINCT FROM d.catalogue_version OR r.excluded IS DISTINCT FROM d.excluded)))
),
-- one row per event_id whose decision was deferred and not activated in time
inactive AS (
  SELECT d.event_id FROM firsts d
  WHERE d.deferred AND NOT EXISTS (
    SELECT 1 FROM activation_records a WHERE a.event_id = d.event_id AND a.received_at < d.matures_at)
)"""

# one row per event_id that matured and cannot be learnt from
INSERT_SET_ASIDE = f"""
INSERT INTO set_aside
WITH {_FIRSTS}
SELECT event_id, decided_at, matures_at,
       CASE WHEN event_id IN (SELECT event_id FROM conflicts) THEN 'conflict' ELSE 'not_activated' END
FROM firsts
WHERE event_id IN (SELECT event_id FROM conflicts) OR event_id IN (SELECT event_id FROM inactive)
ORDER BY matures_at, decided_at, event_id
"""

# one row per event_id that matured in ($after, $until] or straggled in, in the order of maturity
JOIN = f"""
WITH {_FIRSTS},
-- one row per event_id to be learnt from
due AS (
  SELECT * FROM firsts
  WHERE event_id NOT IN (SELECT event_id FROM conflicts) AND event_id NOT IN (SELECT event_id FROM inactive)
),
-- one row per report of a reward: a repeated reward_id (or, without one, repeated content) is one report, its first
reports AS (
  SELECT r.event_id, r.reward, r.stamped_at, r.writer_id, r.sequence, r.position
  FROM reward_records r JOIN due d USING (event_id)
  WHERE {_COUNTS_FOR} AND (r.action IS NULL OR r.action = d.action)
  QUALIFY row_number() OVER (
    PARTITION BY r.event_id, r.reward_id, CASE WHEN r.reward_id IS NULL THEN (r.reward, r.event, r.value, r.action) END
    ORDER BY r.stamped_at, r.writer_id, r.sequence, r.position) = 1
),
-- one row per event_id with at least one report; sums run in order of value, so that no order of arrival shows
totals AS (
  SELECT event_id, count(*) AS n, min(stamped_at) AS rewarded_at,
         arg_min(reward, ({_ORDER})) AS reward_first, arg_max(reward, ({_ORDER})) AS reward_last,
         sum(reward ORDER BY reward) AS reward_sum, min(reward) AS reward_min, max(reward) AS reward_max
  FROM reports GROUP BY event_id
)
SELECT d.event_id, d.decided_at, d.matures_at, d.model_id, d.context, d.actions, d.catalogue_version, d.excluded,
       d.action, d.index, d.probability, d.pmf,
       CASE WHEN t.n IS NULL THEN s.default_reward
            WHEN s.aggregation = 'first' THEN t.reward_first
            WHEN s.aggregation = 'last' THEN t.reward_last
            WHEN s.aggregation = 'sum' THEN t.reward_sum
            WHEN s.aggregation = 'mean' THEN t.reward_sum / t.n
            WHEN s.aggregation = 'min' THEN t.reward_min
            WHEN s.aggregation = 'max' THEN t.reward_max END AS reward,
       t.n IS NOT NULL AS rewarded, coalesce(t.n, 0)::INTEGER AS rewards_counted, t.rewarded_at,
       d.mode, d.slice, d.slot, CASE WHEN d.imported_at IS NULL THEN 'live' ELSE 'import' END AS origin,
       d.settings_version,
       CASE WHEN s.subject_field IS NOT NULL
            THEN json_extract_string(d.context, '$."' || s.subject_field || '"') END AS subject
FROM due d LEFT JOIN totals t USING (event_id) LEFT JOIN settings s USING (settings_version)
ORDER BY d.matures_at, d.decided_at, d.event_id
"""

# one row per event_id, appended
INSERT_INTERACTIONS = f"INSERT INTO joined BY NAME {JOIN}"

# one row per event_id to be joined anew
FORGET_STRAGGLERS = """
DELETE FROM {table} WHERE event_id IN (SELECT event_id FROM stragglers)
"""

# one row per reward record, with what became of it
REWARD_OUTCOMES = f"""
WITH decided AS ({FIRST_DECISIONS}),
-- mismatched records are judged apart, so that they are never the original that a good one repeats; late ones need
-- not be: they come after all that are in time
judged AS (
  SELECT r.*, d.event_id IS NOT NULL AS known, d.matures_at, d.decided_at,
         d.event_id IS NOT NULL AND NOT {_COUNTS_FOR} AS late,
         r.action IS NOT NULL AND r.action <> d.action AS mismatch
  FROM reward_records r LEFT JOIN decided d USING (event_id)
),
ranked AS (
  SELECT *, row_number() OVER same AS nth, first_value((reward, event, value, action)) OVER same AS original
  FROM judged
  WINDOW same AS (
    PARTITION BY event_id, coalesce(mismatch, false), reward_id,
      CASE WHEN reward_id IS NULL THEN (reward, event, value, action) END
    ORDER BY {_ORDER})
)
SELECT event_id, received_at, stamped_at, imported_at, reward, reward_id, event, value, action,
       decided_at, matures_at, writer_id, sequence, position,
       CASE WHEN nth > 1 AND original IS NOT DISTINCT FROM (reward, event, value, action) THEN 'duplicate'
            WHEN NOT known THEN 'unknown'
            WHEN late THEN 'late'
            WHEN mismatch THEN 'action_mismatch'
            WHEN nth > 1 THEN 'conflict'
            WHEN event_id IN (SELECT event_id FROM set_aside) THEN 'aside'
            WHEN matures_at > (SELECT coalesce(joined_until, '-infinity'::TIMESTAMP) FROM state) THEN 'waiting'
            ELSE 'counted' END AS outcome
FROM ranked
"""
