"""Long loops give way: a process of low priority that trains asks often whether somebody waits for the processor."""

from __future__ import annotations

import pytest

from bandit import courtesy, vw_workspace
from bandit.courtesy import EVERY, courteously
from bandit.encoder import FeatureEncoder
from bandit.settings import Encoding, Exploration, Learning
from bandit.types import Action
from bandit.vw_policy import VWPolicy


def test_items_come_as_they_are_and_give_way_every_fifty(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(courtesy, "give_way", lambda: given.append(len(seen)))
    seen: list[int] = []
    for item in courteously(range(2 * EVERY + 1)):
        seen.append(item)
    assert seen == list(range(2 * EVERY + 1))
    assert given == [0, EVERY, 2 * EVERY]


def test_the_processor_is_offered_once_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, offered = [100.0], []
    monkeypatch.setattr(courtesy, "_monotonic", lambda: clock[0])
    monkeypatch.setattr(courtesy, "_yield", lambda: offered.append(round(clock[0], 4)))
    monkeypatch.setattr(courtesy, "_given_at", 0.0)
    for _ in range(50):
        courtesy.give_way()
        clock[0] += 0.0003
    assert offered == [pytest.approx(100.0 + 0.0012 * number) for number in range(13)]


@pytest.mark.parametrize("algorithm", ["squarecb", "bag"])
def test_each_row_that_is_learnt_gives_way(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[None] = []
    monkeypatch.setattr(vw_workspace, "give_way", lambda: times.append(None))
    actions = (Action("a"), Action("b"))
    encoder = FeatureEncoder.fit([{"x": 1.0}], [actions], Encoding())
    policy = VWPolicy(encoder, Exploration(algorithm=algorithm), Learning())  # type: ignore[arg-type]
    for _ in range(3):
        policy.learn({"x": 1.0}, actions, 0, -1.0, 0.5)
    assert len(times) == 3
    policy.close()
