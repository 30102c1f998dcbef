"""Which addresses only this machine can reach, and by which names a server there is asked for."""

from __future__ import annotations

import ipaddress

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
"""Host headers that a server without keys answers for; another name may be one that a foreign page points here."""


def is_loopback(host: str) -> bool:
    """Whether an address (or `localhost`) can be reached from this machine only; other names are never trusted.

    >>> is_loopback("127.0.0.2"), is_loopback("127.example.com"), is_loopback("0.0.0.0")
    (True, False, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
