"""Logs for these tests: records with chosen stamps, written as real sealed segments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from bandit.eventlog.segment import commit_line, header_line, seal_line, segment_name
from bandit.eventlog.survey import sealed_segments
from bandit.events import ActionRecord, ActivationEvent, DecisionEvent, Event, RewardEvent, encode_event
from bandit.experiment import Experiment
from bandit.settings import parse_settings

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WINDOW_S = 60.0
FAR = START + timedelta(days=365)


def at(seconds: float) -> datetime:
    """The instant `seconds` after the start of the test."""
    return START + timedelta(seconds=seconds)


def experiment(folder: Path, **rewards: object) -> Experiment:
    """A fresh experiment with a window of 60 s, silence worth 0 and `first`, or what `rewards` says."""
    settings = parse_settings({"rewards": {"window_s": WINDOW_S, **rewards}})
    return Experiment.create(folder, "test", settings, now=START - timedelta(days=1))


def decision(event_id: str, seconds: float, action: str = "a", **fields: object) -> DecisionEvent:
    """A decision between a and b at `seconds`."""
    index = ["a", "b"].index(action)
    whole: dict[str, object] = {
        "event_id": event_id,
        "decided_at": at(seconds),
        "model_id": "m1",
        "context": {"x": 1.5, "Ab": "ü|:", "ab": [1, 2]},
        "action": action,
        "index": index,
        "probability": [0.25, 0.75][index],
        "pmf": [0.25, 0.75],
        "actions": [ActionRecord("a"), ActionRecord("b", {"f": True})],
    }
    return DecisionEvent(**(whole | fields))  # type: ignore[arg-type]


def reward(event_id: str, seconds: float, number: float, **fields: object) -> RewardEvent:
    """A reward received at `seconds`."""
    whole: dict[str, object] = {"event_id": event_id, "received_at": at(seconds), "reward": number}
    return RewardEvent(**(whole | fields))  # type: ignore[arg-type]


def activation(event_id: str, seconds: float) -> ActivationEvent:
    """An activation received at `seconds`."""
    return ActivationEvent(event_id=event_id, received_at=at(seconds))


def write(target: Experiment, events: Sequence[Event], writer_id: str = "w0") -> list[Path]:
    """Write `events`, in any order of stamps, as one sealed segment of `writer_id`; returns all sealed segments."""
    folder = target.paths.events
    if events:
        sequence = len(list(folder.glob(f"{writer_id}-*.jsonl"))) + 1
        group = b"".join(encode_event(event) + b"\n" for event in events)
        data = header_line(writer_id, sequence, START) + group + commit_line(group, len(events))
        data += seal_line(sha256(data), len(events), len(data))
        (folder / f"{segment_name(writer_id, sequence)}.jsonl").write_bytes(data)
    return sealed_segments(folder)
