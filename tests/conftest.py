"""The order of the suite: slow modules begin first, so that none of them is alone at the end. And its garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules marked `slow` come first; apart from that the order stays."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is collected stays to the end; looking through it for garbage again and again takes long."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end it is garbage like any other, so that extension modules find nothing left over."""
    gc.unfreeze()
