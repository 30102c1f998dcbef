"""The SQL that turns log records into interactions: each statement is named and states its grain.

Order among records is (stamped_at, writer_id, sequence, position): the time the log stamped, ties broken by
writer and by place in its log. A live record counts for a decision when it was stamped in the half-open window
before `matures_at`; imported history is mature at once and takes the records imported up to that moment.
"""

from __future__ import annotations

from joiner.connection import OWN_COLUMNS

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
_LINES = f"""
SELECT * FROM read_json($1, format = 'newline_delimited', columns = {_COLUMNS_SQL}, filename = true, {OWN_COLUMNS},
                        maximum_object_size = 67108864)
"""
READ_SEGMENTS = f"CREATE OR REPLACE TEMP TABLE incoming AS {_LINES}"

# one row: something of every field of the segments in $1, which are read as `READ_SEGMENTS` does, and kept nowhere
TRY_SEGMENTS = f"SELECT bit_xor(hash(l)) FROM ({_LINES}) l"

# one row per file just read: which segment it is, and the rowid of its first line
PLACE_SEGMENTS = """
CREATE OR REPLACE TEMP TABLE reading AS
SELECT filename, writer_id, sequence, min(i.rowid) AS first_row
FROM (SELECT unnest($files) AS filename, unnest($writers) AS writer_id, unnest($sequences) AS sequence)
JOIN incoming i USING (filename)
GROUP BY ALL
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
       f.writer_id, f.sequence, i.rowid - f.first_row AS position
FROM incoming i JOIN reading f USING (filename)
LEFT JOIN settings s ON s.settings_version = coalesce(i.settings_version, 1)
WHERE i.type = 'decision'
"""

# one row per reward record just read
INSERT_REWARDS = """
INSERT INTO reward_records BY NAME
SELECT i.event_id, i.received_at, coalesce(i.imported_at, i.received_at) AS stamped_at, i.imported_at, i.reward,
       i.reward_id, i.event, i.value, i.action, f.writer_id, f.sequence, i.rowid - f.first_row AS position
FROM incoming i JOIN reading f USING (filename)
WHERE i.type = 'reward'
"""

# one row per activation record just read
INSERT_ACTIVATIONS = """
INSERT INTO activation_records BY NAME
SELECT i.event_id, i.received_at, f.writer_id, f.sequence, i.rowid - f.first_row AS position
FROM incoming i JOIN reading f USING (filename)
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

INGEST = (INSERT_REPEATED, INSERT_DECISIONS, INSERT_REWARDS, INSERT_ACTIVATIONS)
"""What follows the reading of a batch, in this order, in its transaction."""

# one row per ingested segment
INSERT_SEGMENTS = """
INSERT INTO segments
SELECT unnest($names), unnest($writers), unnest($sequences), unnest($events), unnest($bytes), unnest($digests)
"""

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

_MATURED = """
-- one row per decision record whose window closed in ($after, $until], or whose event_id straggled in
matured AS NOT MATERIALIZED (
  SELECT record_id, event_key, event_id, decided_at, stamped_at, matures_at, imported_at, action, settings_version,
         deferred
  FROM decision_records WHERE matures_at > $after AND matures_at <= $until
  UNION ALL
  SELECT record_id, event_key, event_id, decided_at, stamped_at, matures_at, imported_at, action, settings_version,
         deferred
  FROM decision_records SEMI JOIN stragglers USING (event_id) WHERE matures_at <= $after
)"""

# one row: how far back the records of what matures now may reach, and whether any of it may have to be left out
REACH = f"""
WITH {_MATURED}
SELECT min(stamped_at), bool_or(deferred) OR EXISTS (SELECT 1 FROM repeated) FROM matured
"""

_LEFT_OUT = f"""
-- one row per record of an event_id that has several, its first one has nth = 1; they are found by their hashes, which
-- cost a fraction of ids, so a namesake by hash may be among them: it has nth = 1 and nothing to contradict it
several AS MATERIALIZED (
  SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY {ORDER}) AS nth
  FROM decision_records WHERE event_key IN (
    SELECT event_key FROM matured SEMI JOIN (SELECT hash(event_id) AS event_key FROM repeated) USING (event_key))
),
-- one row per event_id whose records, stamped while its window was open, contradict each other
conflicts AS (
  SELECT DISTINCT d.record_id
  FROM several d JOIN several r USING (event_id)
  WHERE d.nth = 1 AND r.nth > 1 AND {_COUNTS_FOR}
    AND (r.action IS DISTINCT FROM d.action OR r.probability IS DISTINCT FROM d.probability
      OR r.pmf IS DISTINCT FROM d.pmf OR r.model_id IS DISTINCT FROM d.model_id OR r.slot IS DISTINCT FROM d.slot
      OR r.body_digest IS DISTINCT FROM d.body_digest OR r.deferred <> d.deferred
      OR (d.body_digest IS NULL AND (r.context IS DISTINCT FROM d.context OR r.actions IS DISTINCT FROM d.actions
        OR r.catalogue_version IS DISTINCT FROM d.catalogue_version OR r.excluded IS DISTINCT FROM d.excluded)))
),
-- one row per record whose decision was deferred and not activated in time
inactive AS (
  SELECT d.record_id FROM (SELECT record_id, event_id, matures_at FROM matured WHERE deferred) d
  WHERE NOT EXISTS (
    SELECT 1 FROM activation_records a WHERE a.event_id = d.event_id AND a.received_at < d.matures_at)
),
-- one row per record that becomes no interaction: it repeats another, or the event_id is set aside
left_out AS MATERIALIZED (
  SELECT record_id FROM several WHERE nth > 1 UNION ALL SELECT * FROM conflicts UNION ALL SELECT * FROM inactive
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
WITH {_MATURED}, {_LEFT_OUT}
SELECT event_id, decided_at, matures_at,
       CASE WHEN record_id IN (SELECT record_id FROM conflicts) THEN 'conflict' ELSE 'not_activated' END
FROM matured SEMI JOIN (SELECT record_id FROM conflicts UNION ALL SELECT record_id FROM inactive) USING (record_id)
ANTI JOIN (SELECT record_id FROM several WHERE nth > 1) USING (record_id)
"""

# one row per reward record stamped in ($swept_until, $until] that has no decision stamped before it in reach
SWEEP = """
INSERT INTO early_rewards
SELECT r.* FROM reward_records r LEFT JOIN (
  SELECT event_id, stamped_at FROM decision_records WHERE stamped_at > $recent AND stamped_at <= $until
) d ON d.event_id = r.event_id AND d.stamped_at <= r.stamped_at
WHERE r.stamped_at > $swept_until AND r.stamped_at <= $until AND d.event_id IS NULL
"""

# one row per event_id that matured in ($after, $until] or straggled in, and is learnt from, in no order; $reach is the
# stamp from which on all reward records are looked at, those before it are in early_rewards as far as they matter
JOIN = f"""
WITH {_MATURED}, {_LEFT_OUT},
-- one row per matured decision record, with the rules of its settings
due AS NOT MATERIALIZED (
  SELECT m.*, s.aggregation, s.default_reward FROM matured m LEFT JOIN settings s USING (settings_version)
),
-- one row per reward record that may belong to them
candidates AS NOT MATERIALIZED (
  SELECT *, hash(event_id) AS event_key FROM reward_records WHERE stamped_at >= $reach AND stamped_at <= $until
  UNION ALL
  SELECT *, hash(event_id) AS event_key FROM early_rewards WHERE stamped_at < $reach
),
-- one row per hash that several of them have (grouping by the ids would take as long as all the rest)
shared AS MATERIALIZED (SELECT event_key FROM candidates GROUP BY event_key HAVING count(*) > 1),
-- one row per reward record under those
repeats AS MATERIALIZED (SELECT * FROM candidates SEMI JOIN shared USING (event_key)),
-- one row per report in time: a repeated reward_id (or, without one, repeated content) is one report, its first
reports AS (
  SELECT r.event_id, r.reward, r.stamped_at, r.writer_id, r.sequence, r.position, d.aggregation
  FROM repeats r
  JOIN (SELECT * FROM due ANTI JOIN left_out USING (record_id)) d USING (event_id)
  WHERE {_COUNTS_FOR} AND (r.action IS NULL OR r.action = d.action)
  QUALIFY row_number() OVER (
    PARTITION BY r.event_id, r.reward_id, CASE WHEN r.reward_id IS NULL THEN (r.reward, r.event, r.value, r.action) END
    ORDER BY r.stamped_at, r.writer_id, r.sequence, r.position) = 1
),
-- one row per event_id of those; sums run in order of value, so that no order of arrival shows
totals AS (
  SELECT event_id, count(*) AS n, min(stamped_at) AS rewarded_at,
         CASE any_value(aggregation)
           WHEN 'first' THEN arg_min(reward, (stamped_at, writer_id, sequence, position))
           WHEN 'last' THEN arg_max(reward, (stamped_at, writer_id, sequence, position))
           WHEN 'sum' THEN sum(reward ORDER BY reward)
           WHEN 'mean' THEN sum(reward ORDER BY reward) / count(*)
           WHEN 'min' THEN min(reward)
           WHEN 'max' THEN max(reward) END AS reward
  FROM reports GROUP BY event_id
),
-- one row per event_id with a reward: the only one, still to be held against the window and the action, or the total
rewards_of AS (
  SELECT event_id, 1 AS n, stamped_at, action, reward FROM candidates ANTI JOIN shared USING (event_key)
  UNION ALL
  SELECT event_id, n, rewarded_at, NULL, reward FROM totals
)
SELECT d.record_id, d.matures_at, coalesce(r.reward, d.default_reward) AS reward, r.event_id IS NOT NULL AS rewarded,
       coalesce(r.n, 0)::INTEGER AS rewards_counted, r.stamped_at AS rewarded_at,
       CASE WHEN d.imported_at IS NULL THEN 'live' ELSE 'import' END AS origin
FROM due d
LEFT JOIN rewards_of r ON r.event_id = d.event_id AND {_COUNTS_FOR} AND (r.action IS NULL OR r.action = d.action)
ANTI JOIN left_out USING (record_id)
"""
INSERT_INTERACTIONS = f"INSERT INTO joined BY NAME {JOIN}"

# the same where nothing has to be left out, which is planned in half the time
INSERT_ALL_INTERACTIONS = INSERT_INTERACTIONS.replace(
    _LEFT_OUT, "left_out AS (SELECT NULL::BIGINT AS record_id WHERE false)"
)

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
