"""What the tests of the event log share: a directory to log into, a clock that obeys, events, damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bandit.eventlog import EventLogWriter, read_events
from bandit.events import DecisionEvent, RewardEvent
from bandit.experiment import ExperimentPaths

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


def new_paths(root: Path) -> ExperimentPaths:
    paths = ExperimentPaths(root)
    paths.events.mkdir(parents=True)
    paths.workers.mkdir()
    return paths


class HandClock:
    """A clock that shows what the test sets."""

    def __init__(self, start: datetime = START) -> None:
        self.now = start

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def reward(writer: EventLogWriter, event_id: str, value: float = 1.0) -> RewardEvent:
    return RewardEvent(event_id=event_id, received_at=writer.stamp(), reward=value)


def decision(event_id: str, decided_at: datetime) -> DecisionEvent:
    return DecisionEvent(
        event_id=event_id,
        decided_at=decided_at,
        model_id="m1",
        context={"hour": 7, "text": 'a "quoted" | bar: é\n'},
        action="a",
        index=0,
        probability=0.25,
        pmf=[0.25, 0.75],
        catalogue_version=1,
    )


def logged_ids(segments: Iterable[Path]) -> list[str]:
    return [event.event_id for segment in segments for event in read_events(segment)]


CHANGES = (lambda byte: byte ^ 1, lambda byte: byte ^ 0x80, lambda byte: 10 if byte != 10 else 32)


def flips(data: bytes, positions: range) -> Iterator[tuple[int, bytes]]:
    """`data` with one byte changed, at each position in three ways: lowest bit, highest bit, a line's end."""
    for position in positions:
        for change in CHANGES:
            damaged = bytearray(data)
            damaged[position] = change(damaged[position])
            yield position, bytes(damaged)


def flipped_in_place(path: Path, positions: range) -> Iterator[int]:
    """Change one byte of a file, as `flips` does, for the length of each step; it is whole again at the end.

    Rewriting the file whole each time would make some file systems flush it each time.
    """
    with path.open("r+b", buffering=0) as file:
        for position in positions:
            file.seek(position)
            original = file.read(1)
            for change in CHANGES:
                file.seek(position)
                file.write(bytes([change(original[0])]))
                yield position
            file.seek(position)
            file.write(original)


def write_segment(
    paths: ExperimentPaths, commits: list[list[str]], *, seal: bool, clock: Callable[[], datetime]
) -> Path:
    """A segment with one commit for each list of event ids, written by the real writer; open or sealed."""
    writer = EventLogWriter(paths, "w0", clock=clock, seal_interval_s=1000.0)
    for ids in commits:
        writer.append([reward(writer, event_id) for event_id in ids])
    (written,) = paths.events.glob("*.open")
    content = written.read_bytes()
    writer.close()
    if seal:
        return written.with_suffix(".jsonl")
    written.with_suffix(".jsonl").unlink()
    written.write_bytes(content)
    return written
