"""The model registry: models are complete or absent, and of two swaps that race exactly one wins."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from bandit.errors import Conflict, CorruptModel, NotFound
from bandit.experiment import ExperimentPaths
from bandit.registry import Manifest, ModelRegistry
from tests.bandit.eventlog_support import START, flipped_in_place

FILES = {"policy.vw": bytes(range(256)) * 20, "encoder.json": b"{}", "reward_model.vw": b"\x00\x01"}


def _publish(
    registry: ModelRegistry, files: dict[str, bytes] = FILES, *, now: datetime = START, parent: str | None = None
) -> Manifest:
    return registry.publish(
        files,
        now=now,
        parent=parent,
        kind="challenger",
        options={"algorithm": "squarecb", "bits": 20, "learning_rate": 0.5},
        settings_version=3,
        data={"rows": 500, "cut": START},
        canaries=[{"context": {"é|:": 1.5}, "pmf": [0.1, 0.9]}],
        note="in a test",
    )


def test_a_published_model_loads_with_the_same_bytes_and_manifest(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    manifest = _publish(registry, parent="m0")
    stored = registry.load(manifest.model_id)
    assert stored.files == FILES
    assert stored.manifest == registry.manifest(manifest.model_id)
    assert (stored.manifest.parent, stored.manifest.kind, stored.manifest.settings_version) == ("m0", "challenger", 3)
    assert stored.manifest.canaries == manifest.canaries
    assert manifest.model_id.startswith("m20260301t120000-")


def test_models_are_listed_oldest_first(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    assert registry.manifests() == []
    late = _publish(registry, {"policy.vw": b"late"}, now=START + timedelta(seconds=1))
    early = _publish(registry, {"policy.vw": b"early"})
    assert [manifest.model_id for manifest in registry.manifests()] == [early.model_id, late.model_id]


def test_the_same_content_in_the_same_second_is_one_model(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    assert _publish(registry) == _publish(registry)
    assert len(registry.model_ids()) == 1


def test_a_flipped_byte_in_any_file_of_a_model_is_detected(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    model_id = _publish(registry).model_id
    for name, content in FILES.items():
        path = registry.paths.models / model_id / name
        for position in range(0, len(content), 499):
            damaged = bytearray(content)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(CorruptModel):
                registry.load(model_id)
        path.write_bytes(content[:-1])
        with pytest.raises(CorruptModel):
            registry.load(model_id)
        path.write_bytes(content)
    registry.load(model_id)
    (registry.paths.models / model_id / "policy.vw").unlink()
    with pytest.raises(CorruptModel, match="missing"):
        registry.load(model_id)


def test_no_flipped_byte_in_a_manifest_changes_what_it_says(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    manifest = _publish(registry)
    path = registry.paths.models / manifest.model_id / "manifest.json"
    original = path.read_bytes()
    for _ in flipped_in_place(path, range(len(original))):
        try:
            found = registry.manifest(manifest.model_id)
        except CorruptModel:
            continue
        assert found == registry.load(manifest.model_id).manifest == manifest  # only white space differs


def test_what_does_not_exist_is_not_found(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    for model_id in ("m1", "../m1", "", ".incoming-m1"):
        with pytest.raises(NotFound):
            registry.load(model_id)


def test_files_with_names_that_are_not_plain_are_refused(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    for name in ("../policy.vw", "a/b", "manifest.json", "", "Policy", "policy.vw\n"):
        with pytest.raises(ValueError, match="plain"):
            _publish(registry, {name: b"x"})
    with pytest.raises(ValueError, match="at least one"):
        _publish(registry, {})


def test_the_pointer_moves_by_compare_and_swap_and_remembers_earlier_champions(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    ids = [_publish(registry, {"policy.vw": bytes([number])}).model_id for number in range(3)]
    assert registry.champion() is None
    registry.swap(ids[0], expected=None, now=START, reason="initial")
    registry.swap(ids[1], expected=ids[0], now=START, reason="promoted")
    for expected in (None, ids[0], ids[2]):
        with pytest.raises(Conflict):
            registry.swap(ids[2], expected=expected, now=START, reason="late")
    last = registry.swap(ids[0], expected=ids[1], now=START + timedelta(hours=1), reason="rolled back")
    assert registry.champion() == last
    assert (last.generation, last.reason) == (3, "rolled back")
    assert [champion.model_id for champion in registry.champions()] == [ids[1], ids[0]]


def test_only_so_many_earlier_champions_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandit.registry.CHAMPIONS_KEPT_MAX", 3)
    registry = ModelRegistry(ExperimentPaths(tmp_path), durable=False)
    ids = [_publish(registry, {"policy.vw": bytes([number])}).model_id for number in range(6)]
    for expected, model_id in zip([None, *ids], ids, strict=False):
        registry.swap(model_id, expected=expected, now=START, reason="next")
    assert [champion.model_id for champion in registry.champions()] == [ids[4], ids[3], ids[2]]


def test_the_pointer_never_moves_to_a_model_that_is_absent_or_damaged(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    model_id = _publish(registry).model_id
    (registry.paths.models / model_id / "policy.vw").write_bytes(b"damaged")
    with pytest.raises(CorruptModel):
        registry.swap(model_id, expected=None, now=START, reason="")
    with pytest.raises(NotFound):
        registry.swap("m2", expected=None, now=START, reason="")
    assert registry.champion() is None


def test_an_unreadable_pointer_is_an_error_and_not_a_cold_start(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    for content in (b"", b"{", b"[]", b"\xff"):
        registry.paths.champion.write_bytes(content)
        with pytest.raises(CorruptModel):
            registry.champion()


def test_of_many_swaps_that_race_exactly_one_wins(tmp_path: Path) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    first = _publish(registry, {"policy.vw": b"first"}).model_id
    registry.swap(first, expected=None, now=START, reason="initial")
    rivals = [_publish(registry, {"policy.vw": b"rival %d" % number}).model_id for number in range(8)]
    start = threading.Barrier(len(rivals))
    won: list[str] = []
    lost: list[str] = []

    def race(model_id: str) -> None:
        start.wait()
        try:
            ModelRegistry(ExperimentPaths(tmp_path)).swap(model_id, expected=first, now=START, reason="race")
            won.append(model_id)
        except Conflict:
            lost.append(model_id)

    threads = [threading.Thread(target=race, args=(model_id,)) for model_id in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    champion = registry.champion()
    assert champion is not None
    assert (won, len(lost), champion.generation) == ([champion.model_id], 7, 2)


PUBLISH_FOREVER = textwrap.dedent(
    """
    import os, sys
    from datetime import datetime, timedelta, UTC
    from pathlib import Path
    from bandit.experiment import ExperimentPaths
    from bandit.registry import ModelRegistry

    registry = ModelRegistry(ExperimentPaths(Path(sys.argv[1])))
    champion = registry.champion()
    current = champion.model_id if champion else None
    while True:
        manifest = registry.publish(
            {"policy.vw": os.urandom(100_000), "encoder.json": b"{}"}, now=datetime.now(UTC), parent=current,
            kind="challenger", options={}, settings_version=1, data={}, canaries=[])
        current = registry.swap(manifest.model_id, expected=current, now=datetime.now(UTC), reason="next").model_id
        registry.history.record("promotion", now=datetime.now(UTC), model_id=current)
        print(current, flush=True)
    """
)


def test_a_publisher_killed_at_any_moment_leaves_whole_models_a_sound_pointer_and_a_readable_history(
    tmp_path: Path,
) -> None:
    registry = ModelRegistry(ExperimentPaths(tmp_path))
    rng = random.Random(3)
    for _ in range(5):
        publisher = subprocess.Popen([sys.executable, "-c", PUBLISH_FOREVER, str(tmp_path)], stdout=subprocess.PIPE)
        assert publisher.stdout is not None
        told = [publisher.stdout.readline().decode().strip() for _ in range(3)]
        time.sleep(rng.random() * 0.02)
        os.kill(publisher.pid, signal.SIGKILL)
        publisher.wait()
        publisher.stdout.close()
        for model_id in registry.model_ids():
            registry.load(model_id)
        champion = registry.champion()
        assert champion is not None
        assert champion.model_id in registry.model_ids()
        recorded = [entry["model_id"] for entry in registry.history.entries("promotion")]
        assert set(told) <= set(recorded)
    _publish(registry)
    assert list(registry.paths.models.glob(".incoming-*")) == []
