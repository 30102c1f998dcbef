"""What is happening now, for people who watch: the reward of the newest interactions, and the traffic per minute.

Small reads that a page may repeat every few seconds: each looks at the newest rows only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from joiner.connection import to_utc

# one row per stretch of consecutive live interactions among the newest $rows, oldest first
_REWARD_CURVE = """
WITH newest AS (
  SELECT record_id, reward FROM joined WHERE origin = 'live' ORDER BY matures_at DESC, record_id DESC LIMIT $rows
),
numbered AS (
  SELECT d.decided_at, n.reward, row_number() OVER (ORDER BY d.decided_at, d.record_id) - 1 AS number,
         count(*) OVER () AS total
  FROM newest n JOIN decision_records d USING (record_id)
)
SELECT count(*), avg(reward), min(decided_at), max(decided_at)
FROM numbered GROUP BY number * least($stretches, total) // total ORDER BY min(number)
"""

# one row per minute before $until that saw live traffic: how many minutes ago, decision and reward records
_TRAFFIC = """
WITH recent AS (
  SELECT decided_at AS moment, 1 AS decision, 0 AS reward FROM decision_records
  WHERE imported_at IS NULL AND decided_at > $since AND decided_at <= $until
  UNION ALL
  SELECT received_at, 0, 1 FROM reward_records
  WHERE imported_at IS NULL AND received_at > $since AND received_at <= $until
)
SELECT date_diff('microsecond', moment, $until::TIMESTAMP) // 60000000 AS ago, sum(decision), sum(reward)
FROM recent GROUP BY ago
"""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive live interactions: how many, their mean reward, and when the first and the last were decided."""

    count: int
    mean: float
    start: datetime
    stop: datetime


def reward_curve(cursor: duckdb.DuckDBPyConnection, *, rows: int, stretches: int) -> list[Stretch]:
    """The newest `rows` live interactions in the order of their decisions, cut into at most `stretches` equal parts."""
    found = cursor.execute(_REWARD_CURVE, {"rows": rows, "stretches": stretches}).fetchall()
    return [
        Stretch(int(n), float(mean), start.replace(tzinfo=UTC), stop.replace(tzinfo=UTC))
        for n, mean, start, stop in found
    ]


def traffic(cursor: duckdb.DuckDBPyConnection, *, until: datetime, minutes: int) -> list[tuple[int, int]]:
    """(decisions, rewards) in each of the `minutes` minutes before `until`, oldest first; what is sealed counts."""
    bounds = {"until": to_utc(until), "since": to_utc(until - timedelta(minutes=minutes))}
    seen = {int(ago): (int(decided), int(told)) for ago, decided, told in cursor.execute(_TRAFFIC, bounds).fetchall()}
    return [seen.get(ago, (0, 0)) for ago in reversed(range(minutes))]
