"""The segment format: no changed, missing or added byte goes unnoticed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.errors import CorruptLog, InvalidSettings
from bandit.eventlog import read_events, verify_segment
from bandit.eventlog.recovery import recover_segment
from bandit.eventlog.segment import (
    check_writer_id,
    commit_line,
    header_line,
    is_segment_name,
    parse_segment_name,
    segments_with_suffix,
    whole_commits,
)
from bandit.events import RewardEvent, encode_event
from tests.bandit.eventlog_support import (
    START,
    HandClock,
    flipped_in_place,
    flips,
    logged_ids,
    new_paths,
    write_segment,
)

COMMITS = [["a"], ["b", "c"], ["d"], ["e", "f", "g"]]
IDS = ["a", "b", "c", "d", "e", "f", "g"]


def _start_of_last_two_commits(data: bytes) -> int:
    return whole_commits(data)[-2].start


def test_a_sealed_segment_verifies_and_gives_back_its_events_in_order(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=True, clock=HandClock())
    info = verify_segment(segment)
    assert (info.writer_id, info.sequence, info.events, info.bytes) == ("w0", 1, 7, segment.stat().st_size)
    assert logged_ids([segment]) == IDS


def test_a_flipped_byte_at_every_position_of_a_sealed_segments_last_two_commits_is_detected(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=True, clock=HandClock())
    data = segment.read_bytes()
    for position in flipped_in_place(segment, range(_start_of_last_two_commits(data), len(data))):
        with pytest.raises(CorruptLog):
            verify_segment(segment)
            pytest.fail(f"the change at {position} went unnoticed")


def test_a_cut_at_every_position_of_a_sealed_segment_is_detected(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=True, clock=HandClock())
    for length in reversed(range(segment.stat().st_size)):
        os.truncate(segment, length)
        with pytest.raises(CorruptLog):
            verify_segment(segment)
            pytest.fail(f"the cut to {length} bytes went unnoticed")


def test_bytes_after_the_seal_are_detected(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=True, clock=HandClock())
    data = segment.read_bytes()
    for extra in (b"\n", b"x", data):
        segment.write_bytes(data + extra)
        with pytest.raises(CorruptLog):
            verify_segment(segment)


def test_a_flipped_byte_in_the_header_is_detected(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=True, clock=HandClock())
    data = segment.read_bytes()
    for _ in flipped_in_place(segment, range(data.index(b"\n") + 1)):
        with pytest.raises(CorruptLog):
            verify_segment(segment)


def test_a_segment_under_another_segments_name_is_refused(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=True, clock=HandClock())
    other = segment.with_name("w0-00000002.jsonl")
    shutil.copy(segment, other)
    with pytest.raises(CorruptLog, match="another segment"):
        verify_segment(other)


def test_a_name_with_a_line_feed_at_its_end_is_none_of_a_writer_or_a_segment(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings):
        check_writer_id("w0\n")
    strange = tmp_path / "w0-00000001\n.jsonl"
    strange.touch()
    assert not is_segment_name(strange.name) and segments_with_suffix(tmp_path, ".jsonl") == []
    with pytest.raises(CorruptLog, match="its name is not"):
        parse_segment_name(strange)


def _line_ends_and_some(data: bytes) -> list[int]:
    """Positions around every line's end, and one in 60 of the others."""
    ends = [position for position, byte in enumerate(data) if byte == 10]
    around = {end + step for end in ends for step in (-1, 0, 1)}
    return sorted(position for position in around | set(range(0, len(data), 60)) if position < len(data))


def test_in_an_open_segment_cut_at_every_position_exactly_the_whole_commits_are_found(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=False, clock=HandClock())
    data = segment.read_bytes()
    groups = whole_commits(data)
    assert [group.events for group in groups] == [len(ids) for ids in COMMITS]
    for length in range(len(data) + 1):
        assert whole_commits(data[:length]) == [group for group in groups if group.end <= length]


def test_in_an_open_segment_a_flipped_byte_hides_only_the_commit_it_is_in(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=False, clock=HandClock())
    data = segment.read_bytes()
    groups = whole_commits(data)
    for position, damaged in flips(data, range(len(data))):
        assert whole_commits(damaged) == [group for group in groups if not group.start <= position < group.end]


def test_a_torn_open_segment_is_sealed_with_its_whole_commits(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=False, clock=HandClock())
    data = segment.read_bytes()
    ends = [group.end for group in whole_commits(data)]
    for length in _line_ends_and_some(data):
        kept = sum(end <= length for end in ends)
        if not kept:
            continue
        segment.write_bytes(data[:length])
        recovered = recover_segment(segment, now=START)
        assert recovered.segment is not None
        assert logged_ids([recovered.segment]) == [event_id for ids in COMMITS[:kept] for event_id in ids]
        assert recovered.cut_bytes == length - ends[kept - 1]
        assert not segment.exists()
        recovered.segment.unlink()


def test_a_damaged_open_segment_loses_only_the_commit_that_was_hit_and_invents_nothing(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=False, clock=HandClock())
    data = segment.read_bytes()
    groups = whole_commits(data)
    for position in _line_ends_and_some(data):
        damaged = bytearray(data)
        damaged[position] ^= 1
        segment.write_bytes(damaged)
        recovered = recover_segment(segment, now=START)
        expected = [
            event_id
            for group, ids in zip(groups, COMMITS, strict=True)
            if not group.start <= position < group.end
            for event_id in ids
        ]
        assert recovered.segment is not None
        assert logged_ids([recovered.segment]) == expected
        (kept_aside,) = recovered.quarantined
        assert kept_aside.read_bytes() in bytes(damaged)
        recovered.segment.unlink()


def test_an_open_segment_without_a_whole_commit_disappears_and_its_bytes_are_kept_aside(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), [["a"]], seal=False, clock=HandClock())
    data = segment.read_bytes()[:-1]
    segment.write_bytes(data)
    recovered = recover_segment(segment, now=START)
    assert (recovered.segment, recovered.events) == (None, 0)
    assert [path.read_bytes() for path in recovered.quarantined] == [data]
    assert not segment.exists()


def test_recovery_can_be_repeated_after_a_crash_between_any_two_of_its_steps(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=False, clock=HandClock())
    data = segment.read_bytes()
    first = recover_segment(segment, now=START)
    assert first.segment is not None
    sealed = first.segment.read_bytes()
    segment.write_bytes(data)  # as if the process had died before it removed the open file
    second = recover_segment(segment, now=START)
    assert second.segment == first.segment
    assert first.segment.read_bytes() == sealed
    assert not segment.exists()


def test_a_segment_sealed_but_not_yet_renamed_keeps_every_event(tmp_path: Path) -> None:
    segment = write_segment(new_paths(tmp_path), COMMITS, seal=True, clock=HandClock())
    sealed = segment.read_bytes()
    segment.rename(segment.with_suffix(".open"))
    recovered = recover_segment(segment.with_suffix(".open"), now=START)
    assert recovered.segment == segment
    assert (recovered.cut_bytes, recovered.quarantined) == (0, ())
    assert segment.read_bytes() == sealed


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_texts, min_size=1, max_size=4), min_size=1, max_size=5))
def test_whatever_text_events_hold_every_commit_is_found_again(groups: list[list[str]]) -> None:
    data = b""
    pending = header_line("w0", 1, START)
    for ids in groups:
        pending += b"".join(
            encode_event(RewardEvent(event_id=text, received_at=START, reward=0.5)) + b"\n" for text in ids
        )
        data += pending + commit_line(pending, len(ids))
        pending = b""
    found = whole_commits(data)
    assert [group.events for group in found] == [len(ids) for ids in groups]
    assert (found[0].start, found[-1].end) == (0, len(data))


def test_an_event_that_looks_like_a_commit_line_is_only_text(tmp_path: Path) -> None:
    forged = 'x\n{"type":"commit","events":1,"bytes":0,"crc32":0}\n'
    segment = write_segment(new_paths(tmp_path), [[forged], ["b"]], seal=True, clock=HandClock())
    assert [event.event_id for event in read_events(segment)] == [forged, "b"]
