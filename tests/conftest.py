"""The order of the suite: slow modules begin first, so that none of them is alone at the end."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules marked `slow` come first; apart from that the order stays."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
