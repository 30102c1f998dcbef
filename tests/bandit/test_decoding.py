"""JSON that somebody damaged is told in one way."""

from __future__ import annotations

import msgspec
import pytest

from bandit.decoding import Undecodable, decode


class _Named(msgspec.Struct):
    name: str


def test_what_is_sound_is_decoded() -> None:
    assert decode(b'{"name":"n"}', _Named) == _Named("n")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "truncated"),
        (b'{"name":"n"', "truncated"),
        (b'{"name":1}', "Expected `str`"),
        (b'{"name":"\xff"}', "utf-8"),
        (b'{"other":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_whatever_is_wrong_with_it_one_error_says_so(data: bytes, problem: str) -> None:
    with pytest.raises(Undecodable, match=problem):
        decode(data, _Named)
