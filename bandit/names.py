"""Names from outside, made safe for Vowpal Wabbit's text format.

In that format a space ends a name, `:` starts a value, `|` a namespace, and a newline a further example, so
a feature called "a\\n0:-1:1 |x" could add a label or an action. Every name is therefore percent-encoded by an
allow-list; different names stay different, and nothing that reaches VW can be anything but a name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

_SAFE = re.compile(r"[A-Za-z0-9_.\-]+")
_SAFE_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")

ENCODED_LENGTH_MAX = 200
"""Longer encodings are cut and continued by a digest, so that a line of VW text stays bounded."""


@lru_cache(maxsize=65536)
def encode_name(name: str) -> str:
    """Percent-encode everything but letters, digits, `_`, `.` and `-`; injective (up to a 128-bit digest).

    >>> encode_name("price: high|low")
    'price%3A%20high%7Clow'
    """
    if len(name) <= ENCODED_LENGTH_MAX and _SAFE.fullmatch(name):
        return name
    raw = name.encode("utf-8", "surrogatepass")
    encoded = "".join(chr(byte) if byte in _SAFE_BYTES else f"%{byte:02X}" for byte in raw)
    if len(encoded) <= ENCODED_LENGTH_MAX:
        return encoded
    # "%~" can't come from encoding, so a cut name never equals a whole one
    return f"{encoded[: ENCODED_LENGTH_MAX - 34]}%~{blake2b(raw, digest_size=16).hexdigest()}"
