"""The event log: every decision and reward, on disk before it is acknowledged.

Each process appends to segments of its own, in group commits that carry checksums; a finished segment is
sealed with a digest and never changes again. Writers prove that they live by a file lock and say by
heartbeats how far their log is complete; whatever a dead writer left open is recovered by the survey.
"""

from bandit.eventlog.heartbeat import AHEAD_S_MAX, Heartbeat, beat, live_heartbeats
from bandit.eventlog.open_segment import try_disk
from bandit.eventlog.recovery import Recovered
from bandit.eventlog.segment import SegmentInfo, read_events, verify_segment
from bandit.eventlog.survey import Survey, quarantine_segment, set_aside, survey
from bandit.eventlog.writer import EventLogWriter, WriterCounters

__all__ = [
    "AHEAD_S_MAX",
    "EventLogWriter",
    "Heartbeat",
    "Recovered",
    "SegmentInfo",
    "Survey",
    "WriterCounters",
    "beat",
    "live_heartbeats",
    "quarantine_segment",
    "read_events",
    "set_aside",
    "survey",
    "try_disk",
    "verify_segment",
]
