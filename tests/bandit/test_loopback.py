"""Only addresses that nobody else can reach are open without a key."""

from __future__ import annotations

import pytest

from bandit.loopback import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_an_address_of_this_machine_alone_is_known_as_one(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "127.example.com", "localhost.example.com", ""])
def test_whatever_others_might_reach_is_not_trusted(host: str) -> None:
    assert not is_loopback(host)
