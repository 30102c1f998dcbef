"""The views that people and exports read: the wire's names, one documented grain each.

`actions` is always the list that was offered, also where the log only refers to a catalogue. `context`, `actions`
and `excluded` are JSON text; times are UTC without a zone. No column depends on when a row was ingested, except
`rewards.outcome`, which tells the state of the join, and `health` and `delays`, which sum it up.
"""

from __future__ import annotations

from joiner.counts import DELAY_HISTOGRAM, HEALTH
from joiner.statements import FIRST_DECISIONS, REWARD_OUTCOMES

_ACTIONS = """
CASE WHEN d.actions IS NOT NULL THEN d.actions
     WHEN d.excluded IS NULL THEN c.whole
     ELSE '[' || array_to_string(list_transform(
       list_filter(c.entries, lambda e: NOT list_contains(from_json(d.excluded, '["VARCHAR"]'), e.id)),
       lambda e: e.action), ',') || ']' END AS actions"""

# the feature of that very name at the top of the context, whatever the name contains: a JSON pointer has but two
# characters of its own. An empty name is none; settings that an earlier release copied here may hold one.
_SUBJECT = """
CASE WHEN s.subject_field <> ''
     THEN json_extract_string(d.context, '/' || replace(replace(s.subject_field, '~', '~0'), '/', '~1'))
     END AS subject"""


def _interactions(actions: str, catalogue: str = "") -> str:
    return f"""
SELECT d.event_id, d.decided_at, j.matures_at, d.model_id, d.context, {actions}, d.pmf, d.action, d.index,
       d.probability, d.mode, d.slice, d.trial_model_id, d.trial_share, d.slot, d.settings_version, d.catalogue_version,
       d.excluded, j.reward, j.rewarded, j.rewards_counted, j.rewarded_at, j.origin,
       {_SUBJECT}
FROM joined j JOIN decision_records d USING (record_id) {catalogue} LEFT JOIN settings s USING (settings_version)
"""


AS_LOGGED = _interactions("d.actions")
"""One row per interaction, like the view of that name, but with `actions` as the log has them (none where it names a
catalogue): quicker to plan and to read.
"""

_ORIGIN = "CASE WHEN d.imported_at IS NULL THEN 'live' ELSE 'import' END AS origin"

VIEWS = {
    # one row per event_id: its first decision record
    "decisions": f"""
CREATE OR REPLACE VIEW decisions AS
SELECT d.event_id, d.decided_at, d.matures_at, d.model_id, d.context, {_ACTIONS}, d.pmf, d.action, d.index,
       d.probability, d.mode, d.slice, d.slot, d.settings_version, d.catalogue_version, d.excluded,
       d.deferred, {_ORIGIN}, d.record_id
FROM ({FIRST_DECISIONS}) d LEFT JOIN catalogues c USING (catalogue_version)
""",
    # one row per reward record, with what became of it
    "rewards": f"""
CREATE OR REPLACE VIEW rewards AS
SELECT d.event_id, d.received_at, d.reward, d.reward_id, d.event, d.value, d.action, d.outcome, d.decided_at,
       d.matures_at, {_ORIGIN}
FROM ({REWARD_OUTCOMES}) d
""",
    # one row per event_id whose window has closed and that is learnt from
    "interactions": f"""
CREATE OR REPLACE VIEW interactions AS {_interactions(_ACTIONS, "LEFT JOIN catalogues c USING (catalogue_version)")}
""",
    # one row: the loop's health
    "health": f"CREATE OR REPLACE VIEW health AS {HEALTH}",
    # one row per bucket of the delays of rewards
    "delays": f"CREATE OR REPLACE VIEW delays AS {DELAY_HISTOGRAM}",
}
"""View name → the statement that makes it."""
