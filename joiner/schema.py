"""The tables of the warehouse, each with its grain, and the settings they are joined under.

All of it is derived: segments, `experiment.json` and catalogues are the truth, and a rebuild makes the same
rows again. Times are UTC without a zone; context, actions and excluded stay JSON text, because DuckDB's struct
keys are case-insensitive and features are not.
"""

from __future__ import annotations

import contextlib
import hashlib

import duckdb
import msgspec

from bandit.experiment import Experiment
from joiner.views import VIEWS

SCHEMA_VERSION = 7
"""Raise it with every change of a table or of what goes into it: files of another version are made anew."""

TABLES = """
-- one row: version of this schema; the watermark up to which interactions are materialised; the time up to which
-- rewards without a decision before them are in `early_rewards`
CREATE TABLE IF NOT EXISTS state (schema_version INTEGER NOT NULL, joined_until TIMESTAMP, swept_until TIMESTAMP);

-- one row: a digest of the statements that made these tables and the views
CREATE TABLE IF NOT EXISTS prepared (made_of VARCHAR);

-- one row per ingested segment
CREATE TABLE IF NOT EXISTS segments (
  name VARCHAR PRIMARY KEY, writer_id VARCHAR, sequence INTEGER, events BIGINT, bytes BIGINT, sha256 VARCHAR
);

-- one row per settings version
CREATE TABLE IF NOT EXISTS settings (
  settings_version INTEGER, window_us BIGINT, default_reward DOUBLE, aggregation VARCHAR, subject_field VARCHAR
);

-- one row per catalogue version: the whole offer as JSON text, and action by action
CREATE TABLE IF NOT EXISTS catalogues (
  catalogue_version INTEGER, whole VARCHAR, entries STRUCT(id VARCHAR, action VARCHAR)[]
);

-- one row per decision record in the log (an event_id may have several: retries, conflicts); `record_id` counts up
-- in the order of ingest, `event_key` is a hash of event_id that is cheap to look for
CREATE TABLE IF NOT EXISTS decision_records (
  record_id BIGINT, event_key UBIGINT, event_id VARCHAR,
  decided_at TIMESTAMP, stamped_at TIMESTAMP, matures_at TIMESTAMP, imported_at TIMESTAMP,
  model_id VARCHAR, settings_version INTEGER, catalogue_version INTEGER, mode VARCHAR, slice VARCHAR, slot INTEGER,
  trial_model_id VARCHAR, trial_share DOUBLE,
  deferred BOOLEAN, action VARCHAR, index INTEGER, probability DOUBLE, pmf DOUBLE[],
  context VARCHAR, actions VARCHAR, excluded VARCHAR, body_digest VARCHAR,
  writer_id VARCHAR, sequence INTEGER, position BIGINT
);

-- one row per reward record in the log
CREATE TABLE IF NOT EXISTS reward_records (
  event_id VARCHAR, received_at TIMESTAMP, stamped_at TIMESTAMP, imported_at TIMESTAMP, reward DOUBLE,
  reward_id VARCHAR, event VARCHAR, value DOUBLE, action VARCHAR,
  writer_id VARCHAR, sequence INTEGER, position BIGINT
);

-- one row per reward record that came without a known decision before it: early, for a forgotten or an unknown event
CREATE TABLE IF NOT EXISTS early_rewards AS SELECT * FROM reward_records LIMIT 0;

-- one row per activation record in the log
CREATE TABLE IF NOT EXISTS activation_records (
  event_id VARCHAR, received_at TIMESTAMP, writer_id VARCHAR, sequence INTEGER, position BIGINT
);

-- one row per event_id that has more than one decision record
CREATE TABLE IF NOT EXISTS repeated (event_id VARCHAR);

-- one row per event_id to be joined anew: a record of it came in behind the watermark
CREATE TABLE IF NOT EXISTS stragglers (event_id VARCHAR);

-- one row per event_id that became an interaction, appended tick by tick, so that matures_at grows; what was
-- decided stays in `decision_records`
CREATE TABLE IF NOT EXISTS joined (
  record_id BIGINT, matures_at TIMESTAMP, reward DOUBLE, rewarded BOOLEAN, rewards_counted INTEGER,
  rewarded_at TIMESTAMP, origin VARCHAR
);

-- one row per matured event_id that is no interaction, with the reason: conflict, not_activated
CREATE TABLE IF NOT EXISTS set_aside (event_id VARCHAR, decided_at TIMESTAMP, matures_at TIMESTAMP, reason VARCHAR);
"""


MADE_OF = hashlib.sha256("\n".join((TABLES, *VIEWS.values())).encode()).hexdigest()
"""Of what tables and views are made: a file that says the same has them, and opens in a third of the time."""


def prepare(connection: duckdb.DuckDBPyConnection) -> bool:
    """Make tables and views where they are missing; false when the file was made by another schema version."""
    with contextlib.suppress(duckdb.CatalogException):  # a table is missing
        made = connection.execute("SELECT schema_version, made_of FROM state, prepared").fetchall()
        if made == [(SCHEMA_VERSION, MADE_OF)]:
            return True
    tables = {row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if tables:
        found = None
        if "state" in tables:
            found = connection.execute("SELECT schema_version FROM state").fetchone()
        if found is None or found[0] != SCHEMA_VERSION:
            return False
    connection.execute(TABLES)
    for view in VIEWS.values():
        connection.execute(view)
    if not tables:
        connection.execute("INSERT INTO state VALUES (?, NULL, NULL)", [SCHEMA_VERSION])
    connection.execute("DELETE FROM prepared")
    connection.execute("INSERT INTO prepared VALUES (?)", [MADE_OF])
    return True


def refresh_settings(connection: duckdb.DuckDBPyConnection, experiment: Experiment) -> None:
    """Copy settings and catalogue versions that the warehouse does not know yet."""
    experiment.refresh()
    known = {row[0] for row in connection.execute("SELECT settings_version FROM settings").fetchall()}
    fresh = [entry for entry in experiment.versions() if entry.version not in known]
    if not fresh:
        return
    catalogues = {row[0] for row in connection.execute("SELECT DISTINCT catalogue_version FROM catalogues").fetchall()}
    for entry in fresh:
        settings = experiment.settings_of(entry.version)
        connection.execute(
            "INSERT INTO settings VALUES (?, ?, ?, ?, ?)",
            [
                entry.version,
                round(settings.rewards.window_s * 1_000_000),
                settings.rewards.default,
                settings.rewards.aggregation,
                settings.serving.subject_field,
            ],
        )
        version = entry.catalogue_version
        if version is None or version in catalogues:
            continue
        catalogues.add(version)
        entries = [
            {"id": action.id, "action": msgspec.json.encode(_action(action.id, dict(action.features))).decode()}
            for action in experiment.catalogue(version) or ()
        ]
        whole = "[" + ",".join(entry["action"] for entry in entries) + "]"
        connection.execute("INSERT INTO catalogues VALUES (?, ?, ?)", [version, whole, entries])


def _action(action_id: str, features: dict[str, object]) -> dict[str, object]:
    return {"id": action_id, "features": features} if features else {"id": action_id}
