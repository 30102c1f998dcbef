"""Reading JSON that somebody may have damaged: one error, whatever is the matter with it.

A flipped byte may leave text that is no JSON or no UTF-8, or that opens more brackets than Python can follow; msgspec
has an error of its own kind for each.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

T = TypeVar("T")


class Undecodable(ValueError):
    """Bytes that are not the JSON they should be; says what is wrong with them."""


def decode(data: bytes, kind: type[T]) -> T:
    """The value of that kind which JSON tells; raises `Undecodable`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable(str(error)) from None
    except RecursionError:
        raise Undecodable("it is nested too deeply") from None
