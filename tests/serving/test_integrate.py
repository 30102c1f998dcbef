"""The shop of the docs, run as printed: only the address and the length of the window are the test's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandit.events import DecisionEvent, RewardEvent
from serving.over_http import Service
from tests.serving.api.support import logged
from tests.serving.test_tour import Reader, blocks

PAGE = "docs/integrate.md"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "rewardloop-data").mkdir()
    (settings,) = blocks(PAGE, "toml")
    (folder / "shop.toml").write_text(settings)
    with pytest.MonkeyPatch.context() as variables:
        for name, value in {"CONFIG": str(folder / "shop.toml"), "EXPERIMENT": "shop"}.items():
            variables.setenv(f"REWARDLOOP_{name}", value)
        for name, value in {"REWARDS__WINDOW_S": "2", "SERVING__SEAL_INTERVAL_S": "0.2"}.items():
            variables.setenv(f"REWARDLOOP_{name}", value)
        with Service(folder / "rewardloop-data", log=folder / "service.log") as service:
            yield Reader(folder, service)


def test_the_shop_shows_products_with_the_features_of_its_catalogue_and_counts_the_purchase(
    shop: Reader, tmp_path: Path
) -> None:
    (script,) = blocks(PAGE, "python")
    shown = shop.runs(script)
    found = re.fullmatch(r"shown: ([a-z-]+), ([a-z-]+) by rewardloop\n", shown)
    assert found is not None, shown
    shop.types("rewardloop join --experiment shop")  # waits until all of it is sealed
    events = logged(shop.folder / "rewardloop-data", "shop")
    decisions = [event for event in events if isinstance(event, DecisionEvent)]
    assert [event.action for event in decisions] == list(found.groups())
    assert all(action.features for event in decisions for action in event.actions or [])
    rewards = {event.event: event for event in events if isinstance(event, RewardEvent)}
    assert {name: event.reward for name, event in rewards.items()} == {"click": 0.1, "purchase": 0.49}
    assert {event.event_id for event in rewards.values()} == {decisions[1].event_id}
    assert decisions[1].event_id.endswith(":2") and decisions[1].context["user"] == "u-17"
    ledger = shop.types(f"rewardloop events show {decisions[1].event_id} --experiment shop")
    assert "0.49" in ledger


def test_without_the_service_the_shop_shows_what_it_would_show_anyway(shop: Reader) -> None:
    (script,) = blocks(PAGE, "python")
    shown = shop.runs(script.replace("127.0.0.1:8000", "127.0.0.1:9"))
    assert "shown: red-shoes, blue-hat by default\n" in shown
