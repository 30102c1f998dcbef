"""The bounds that keep a worker small: memory of retries, queue for the disk."""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bandit.errors import Busy, Conflict, DurabilityLost, InvalidRequest
from bandit.settings import Limits
from serving.api.identity import uuid7
from serving.api.known_actions import KnownActions
from serving.api.memory import IDS_MAX, RetryMemory
from serving.api.problems import problem_of
from serving.api.sparing_log import KINDS_MAX, SparingFilter
from tests.serving.api.support import SEVEN, T0, make_experiment, run, served

ROOT = Path(__file__).parents[3]


def test_the_oldest_answers_are_forgotten_when_there_are_too_many() -> None:
    memory = RetryMemory()
    for number in range(IDS_MAX + 10):
        memory.remember(f"e{number}", "digest", b"answer")
    assert len(memory) == IDS_MAX
    assert memory.recall("e9", "digest") is None and memory.recall("e10", "digest") == b"answer"
    with pytest.raises(Conflict):
        memory.recall("e10", "another")


def test_the_oldest_answers_are_forgotten_when_they_take_too_much_room() -> None:
    memory = RetryMemory(bytes_max=100_000)
    for number in range(50):
        memory.remember(f"e{number}", "digest", b"x" * 10_000)
    assert len(memory) == 9 and memory.bytes_held <= 100_000
    for number in range(50):
        memory.forget(f"e{number}")
    assert memory.bytes_held == 0


def test_the_slots_of_an_answer_go_with_it() -> None:
    memory = RetryMemory(ids_max=1)
    memory.remember("s", "digest", b"answer", slots=2)
    with pytest.raises(Conflict, match="a slot of another request"):
        memory.recall("s:2", "another")
    assert memory.recall("s:3", "another") is None
    assert memory.recall("s:2", "another", slots=2) is None  # its decisions are s:2:1 and s:2:2
    memory.remember("s:1", "another", b"answer")
    assert memory.recall("s:2", "another") is None
    with pytest.raises(Conflict, match=r"as another request was \(s:1\)"):
        memory.recall("s", "digest", slots=2)
    memory.forget("s:1")
    assert memory.bytes_held == 0 and memory.recall("s", "digest", slots=2) is None


def test_an_action_seen_before_is_the_same_object_and_the_number_kept_is_bounded() -> None:
    known = KnownActions(Limits(), entries_max=3)
    first = known.find(msgspec.Raw(b'{"id":"a","features":{"x":1}}'))
    assert known.find(msgspec.Raw(b'{"id":"a","features":{"x":1}}')) is first
    for number in range(10):
        assert known.find(msgspec.Raw(b'{"id":"%d"}' % number)).id == str(number)
        assert len(known) <= 3
    with pytest.raises(InvalidRequest):
        known.find(msgspec.Raw(b'{"id":"\\u0000"}'))
    large = KnownActions(Limits(), bytes_max=100)
    for number in range(10):
        large.find(msgspec.Raw(b'{"id":"%d","features":{"some text":"x"}}' % number))
        assert len(large) <= 2


def test_a_full_queue_and_a_lost_disk_are_temporary_refusals() -> None:
    assert (problem_of(Busy("x")).status, problem_of(DurabilityLost("x")).status) == (503, 503)


def test_made_ids_are_uuids_of_version_seven_in_order_of_time() -> None:
    import uuid
    from datetime import timedelta

    ids = [uuid7(T0 + timedelta(milliseconds=number)) for number in range(100)]
    parsed = [uuid.UUID(text) for text in ids]
    assert ids == sorted(ids) and {entry.version for entry in parsed} == {7}
    assert {entry.variant for entry in parsed} == {uuid.RFC_4122}
    assert len({uuid7(T0) for _ in range(1000)}) == 1000


def test_the_same_message_is_told_once_and_then_sparingly() -> None:
    now = [0.0]
    sparing = SparingFilter(again_s=10, clock=lambda: now[0])
    told = []
    for second in range(25):
        now[0] = float(second)
        for text in ("model %s failed", "pointer %s cannot be read"):
            record = logging.LogRecord("rewardloop.api", logging.ERROR, "", 0, text, ("m1",), None)
            if sparing.filter(record):
                told.append(record.getMessage())
    assert told[:2] == ["model m1 failed", "pointer m1 cannot be read"] and len(told) == 6
    assert told[2] == "model m1 failed (and 9 times more since it was last told)"
    for number in range(KINDS_MAX + 10):
        sparing.filter(logging.LogRecord("rewardloop.api", logging.ERROR, "", 0, f"kind {number}", (), None))
    assert len(sparing._told) <= KINDS_MAX


def test_a_worker_does_not_grow_while_it_answers_good_and_bad_requests(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    # in a process of its own: what other tests have left in this one's memory moves when it will
    code = (
        f"from tests.serving.api import test_api_bounds as bounds; print(bounds.sizes_of_a_worker({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    sizes = json.loads(done.stdout)
    assert sizes[-1] - sizes[1] < 1024, sizes


def sizes_of_a_worker(data_dir: str) -> list[int]:
    """Its memory in KiB after each 500 of 3,000 requests."""

    async def scenario() -> list[int]:
        sizes = []
        async with served(Path(data_dir), durable=False) as (client, _):
            url = "/v1/experiments/default/recommend"
            for number in range(3000):
                body = b'{"context":{"x":1,"y":"text"}}' if number % 100 else b'{"context":{"x":NaN}}'
                response = await client.post(url, content=body, headers={"content-type": "application/json"})
                assert response.status_code in (200, 422)
                if number % 500 == 499:
                    sizes.append(resident_kib())
        return sizes

    return list(run(scenario()))


def resident_kib() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])
