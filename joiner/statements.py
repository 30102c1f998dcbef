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
    "trial_model_id": "VARCHAR",
    "trial_share": "DOUBLE",
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

# one row per line of the segments in $1 (events, headers, commits, seals); rowid is the order of lines, but starts
# anywhere (at 2^55 within a transaction)
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
SELECT (SELECT coalesce(max(record_id), -1) FROM decision_records) + 1 + i.rowid - (SELECT min(rowid) FROM incoming)
         AS record_id,
       hash(i.event_id) AS event_key, i.event_id, i.decided_at,
       coalesce(i.imported_at, i.decided_at) AS stamped_at,
       coalesce(i.imported_at, i.decided_at + to_microseconds(s.window_us)) AS matures_at,
       i.imported_at, i.model_id, coalesce(i.settings_version, 1) AS settings_version, i.catalogue_version,
       coalesce(i.mode, 'online') AS mode, coalesce(i.slice, 'policy') AS slice, i.slot,
       i.trial_model_id, i.trial_share, coalesce(i.deferred, false) AS deferred, i.action, i.index,
       i.probability, i.pmf, i.context, i.actions, i.excluded, i.body_digest,
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

# one row per event_id that has got its second decision record now; the hashes are looked for first, because scanning
# them costs a fraction of scanning the ids
INSERT_REPEATED = """
INSERT INTO repeated
WITH fresh AS (SELECT event_id, hash(event_id) AS event_key FROM incoming WHERE type = 'decision'),
suspects AS MATERIALIZED (SELECT DISTINCT d.event_key FROM decision_records d SEMI JOIN fresh USING (event_key))
SELECT event_id FROM (
  SELECT event_id FROM fresh GROUP BY event_id HAVING count(*) > 1
  UNION
  SELECT f.event_id FROM fresh f
  WHERE f.event_key IN (SELECT event_key FROM suspects) AND f.event_id IN (
    SELECT d.event_id FROM decision_records d WHERE d.event_key IN (SELECT event_key FROM suspects))
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

# one row per reward record just read that is stamped behind the sweep for early rewards
INSERT_LATE_ARRIVALS = """
INSERT INTO early_rewards
SELECT r.* FROM reward_records r
WHERE r.event_id IN (SELECT event_id FROM stragglers) AND r.stamped_at <= (SELECT swept_until FROM state)
  AND (r.writer_id, r.sequence) IN (SELECT (writer_id, sequence) FROM reading)
"""

INGEST = (
    INSERT_REPEATED,
    INSERT_STRAGGLERS,
    INSERT_DECISIONS,
    INSERT_REWARDS,
    INSERT_ACTIVATIONS,
    INSERT_LATE_ARRIVALS,
)
"""What follows the reading of a batch, in this order, in its transaction."""

_COUNTS_FOR = "(r.stamped_at < d.matures_at OR (d.imported_at IS NOT NULL AND r.stamped_at = d.matures_at))"
ORDER = "stamped_at, writer_id, sequence, position"

# one row per event_id: its first decision record
FIRST_DECISIONS = f"""
SELECT * FROM decision_records WHERE event_id NOT IN (SELECT event_id FROM repeated)
UNION ALL
SELECT * FROM (
  SELECT * FROM decision_records WHERE event_id IN (SELECT event_id FROM repeated)
  QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY {ORDER}) = 1
)
"""

# one row per event_id that is looked at record by record
_CAREFUL = "SELECT event_id FROM repeated UNION ALL SELECT event_id FROM stragglers"

# one row per event_id that matured in ($after, $until] or straggled in: its first decision record
_FIRSTS = f"""
firsts AS NOT MATERIALIZED (
  SELECT record_id, event_id, decided_at, stamped_at, matures_at, imported_at, action, settings_version, deferred
  FROM decision_records ANTI JOIN ({_CAREFUL}) USING (event_id)
  WHERE matures_at > $after AND matures_at <= $until
  UNION ALL
  SELECT record_id, event_id, decided_at, stamped_at, matures_at, imported_at, action, settings_version, deferred
  FROM (
    SELECT * FROM decision_records WHERE event_id IN ({_CAREFUL})
    QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY {ORDER}) = 1
  )
  WHERE matures_at <= $until AND (matures_at > $after OR event_id IN (SELECT event_id FROM stragglers))
)"""

# one row: how far back the records of what matures now may reach, and whether each event_id has one record that counts
# as it stands (then the plain form of the join gives the same rows in half the time)
REACH = f"""
WITH {_FIRSTS}
SELECT min(stamped_at), NOT coalesce(bool_or(deferred), false) AND NOT EXISTS ({_CAREFUL}) FROM firsts
"""

_ASIDE = f"""
-- one row per record of an event_id that has several
several AS (SELECT * FROM decision_records WHERE event_id IN (SELECT event_id FROM repeated)),
-- one row per event_id whose records, stamped while its window was open, contradict each other
conflicts AS (
  SELECT DISTINCT d.record_id
  FROM firsts f JOIN several d ON d.record_id = f.record_id JOIN several r ON r.event_id = d.event_id
  WHERE {_COUNTS_FOR}
    AND (r.action IS DISTINCT FROM d.action OR r.probability IS DISTINCT FROM d.probability
      OR r.pmf IS DISTINCT FROM d.pmf OR r.model_id IS DISTINCT FROM d.model_id OR r.slot IS DISTINCT FROM d.slot
      OR r.body_digest IS DISTINCT FROM d.body_digest OR r.deferred <> d.deferred
      OR (d.body_digest IS NULL AND (r.context IS DISTINCT FROM d.context OR r.actions IS DISTINCT FROM d.actions
        OR r.catalogue_version IS DISTINCT FROM d.catalogue_version OR r.excluded IS DISTINCT FROM d.excluded)))
),
-- one row per event_id whose decision was deferred and not activated in time
inactive AS (
  SELECT d.record_id FROM (SELECT record_id, event_id, matures_at FROM firsts WHERE deferred) d
  WHERE NOT EXISTS (
    SELECT 1 FROM activation_records a WHERE a.event_id = d.event_id AND a.received_at < d.matures_at)
)"""

# one row: the stored watermark, and whether a decision matures between it and $until or a straggler waits
ANYTHING_TO_JOIN = """
SELECT joined_until, EXISTS (SELECT 1 FROM stragglers) OR EXISTS (
  SELECT 1 FROM decision_records
  WHERE matures_at > (SELECT joined_until FROM state) AND matures_at <= $until)
FROM state
"""

# one row per event_id that matured and cannot be learnt from
INSERT_SET_ASIDE = f"""
INSERT INTO set_aside
WITH {_FIRSTS}, {_ASIDE}
SELECT event_id, decided_at, matures_at,
       CASE WHEN record_id IN (SELECT record_id FROM conflicts) THEN 'conflict' ELSE 'not_activated' END
FROM firsts SEMI JOIN (SELECT record_id FROM conflicts UNION ALL SELECT record_id FROM inactive) USING (record_id)
"""

# one row per reward record stamped in ($swept_until, $until] that has no decision stamped before it in reach
SWEEP = """
INSERT INTO early_rewards
SELECT r.* FROM reward_records r LEFT JOIN (
  SELECT event_id, stamped_at FROM decision_records WHERE stamped_at > $recent AND stamped_at <= $until
) d ON d.event_id = r.event_id AND d.stamped_at <= r.stamped_at
WHERE r.stamped_at > $swept_until AND r.stamped_at <= $until AND d.event_id IS NULL
"""

_DUE = f"""
WITH {_FIRSTS}, {_ASIDE},
-- one row per event_id to be learnt from
due AS NOT MATERIALIZED (
  SELECT f.*, s.aggregation, s.default_reward
  FROM firsts f
  ANTI JOIN (SELECT record_id FROM conflicts UNION ALL SELECT record_id FROM inactive) USING (record_id)
  LEFT JOIN settings s USING (settings_version)
)"""

# the same where no event_id has several decision records and none was deferred
_DUE_PLAINLY = """
WITH due AS NOT MATERIALIZED (
  SELECT d.record_id, d.event_id, d.matures_at, d.imported_at, d.action, s.aggregation, s.default_reward
  FROM decision_records d LEFT JOIN settings s USING (settings_version)
  WHERE d.matures_at > $after AND d.matures_at <= $until
)"""

_REWARDS = f""",
-- one row per reward record that may belong to them
candidates AS NOT MATERIALIZED (
  SELECT * FROM reward_records WHERE stamped_at >= $reach AND stamped_at <= $until
  UNION ALL
  SELECT * FROM early_rewards WHERE stamped_at < $reach
),
-- one row per event_id: the only record of most, of the others just how many there are
counted AS MATERIALIZED (
  SELECT event_id, count(*) AS records, any_value(reward) AS reward, any_value(stamped_at) AS stamped_at,
         any_value(action) AS action
  FROM candidates GROUP BY event_id
),
-- one row per reward record of an event that has several
repeats AS MATERIALIZED (
  SELECT * FROM candidates SEMI JOIN (SELECT event_id FROM counted WHERE records > 1) USING (event_id)
),
-- one row per report in time: a repeated reward_id (or, without one, repeated content) is one report, its first
reports AS (
  SELECT r.event_id, r.reward, r.stamped_at, r.writer_id, r.sequence, r.position
  FROM repeats r JOIN due d USING (event_id)
  WHERE {_COUNTS_FOR} AND (r.action IS NULL OR r.action = d.action)
  QUALIFY row_number() OVER (
    PARTITION BY r.event_id, r.reward_id, CASE WHEN r.reward_id IS NULL THEN (r.reward, r.event, r.value, r.action) END
    ORDER BY r.stamped_at, r.writer_id, r.sequence, r.position) = 1
),
-- one row per event_id of those; sums run in order of value, so that no order of arrival shows
totals AS (
  SELECT r.event_id, count(*) AS n, min(r.stamped_at) AS rewarded_at,
         CASE any_value(d.aggregation)
           WHEN 'first' THEN arg_min(r.reward, (r.stamped_at, r.writer_id, r.sequence, r.position))
           WHEN 'last' THEN arg_max(r.reward, (r.stamped_at, r.writer_id, r.sequence, r.position))
           WHEN 'sum' THEN sum(r.reward ORDER BY r.reward)
           WHEN 'mean' THEN sum(r.reward ORDER BY r.reward) / count(*)
           WHEN 'min' THEN min(r.reward)
           WHEN 'max' THEN max(r.reward) END AS reward
  FROM reports r JOIN due d USING (event_id) GROUP BY r.event_id
),
-- one row per event_id with a reward: the only one, still to be held against the window and the action, or the total
rewards_of AS (
  SELECT event_id, 1 AS n, stamped_at, action, reward FROM counted WHERE records = 1
  UNION ALL
  SELECT event_id, n, rewarded_at, NULL, reward FROM totals
)
SELECT d.record_id, d.matures_at, coalesce(r.reward, d.default_reward) AS reward, r.event_id IS NOT NULL AS rewarded,
       coalesce(r.n, 0)::INTEGER AS rewards_counted, r.stamped_at AS rewarded_at,
       CASE WHEN d.imported_at IS NULL THEN 'live' ELSE 'import' END AS origin
FROM due d
LEFT JOIN rewards_of r ON r.event_id = d.event_id AND {_COUNTS_FOR} AND (r.action IS NULL OR r.action = d.action)
"""

# one row per event_id that matured in ($after, $until] or straggled in, and is learnt from, in no order; $reach is the
# stamp from which on all reward records are looked at, those before it are in early_rewards as far as they matter
JOIN = _DUE + _REWARDS
INSERT_INTERACTIONS = f"INSERT INTO joined BY NAME {JOIN}"
INSERT_INTERACTIONS_PLAINLY = f"INSERT INTO joined BY NAME {_DUE_PLAINLY}{_REWARDS}"

# one row per event_id to be joined anew
FORGET_STRAGGLERS = (
    """
DELETE FROM joined WHERE record_id IN (
  SELECT record_id FROM decision_records WHERE event_id IN (SELECT event_id FROM stragglers))
""",
    "DELETE FROM set_aside WHERE event_id IN (SELECT event_id FROM stragglers)",
)

# one row: how many event_ids wait for their window to close, and when the first of them does; of an event_id with
# several records the first one tells
WAITING = f"""
WITH open AS (
  SELECT event_id, event_key, matures_at, event_id IN (SELECT event_id FROM repeated) AS again
  FROM decision_records WHERE matures_at > (SELECT coalesce(joined_until, $long_ago) FROM state)
),
earlier AS (
  SELECT d.event_id FROM decision_records d
  WHERE d.event_key IN (SELECT event_key FROM open WHERE again)
  GROUP BY d.event_id
  HAVING arg_min(d.matures_at, ({ORDER})) <= (SELECT coalesce(joined_until, $long_ago) FROM state)
)
SELECT count(DISTINCT event_id), min(matures_at) FROM open
WHERE NOT again OR event_id NOT IN (SELECT event_id FROM earlier)
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
    ORDER BY {ORDER})
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
