"""Names become safe for VW, and different names stay different."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from bandit.names import ENCODED_LENGTH_MAX, encode_name

any_text = st.text(st.characters(), max_size=40)


@given(any_text)
def test_an_encoded_name_holds_nothing_that_vw_gives_a_meaning_to(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.%~-]*", encode_name(name))


@given(any_text, any_text)
def test_different_names_have_different_encodings(one: str, other: str) -> None:
    assert (encode_name(one) == encode_name(other)) == (one == other)


def test_long_names_are_cut_but_stay_different() -> None:
    one, other = "é" * 250 + "a", "é" * 250 + "b"
    assert len(encode_name(one)) <= ENCODED_LENGTH_MAX
    assert encode_name(one) != encode_name(other)


def test_injections_are_only_names() -> None:
    assert encode_name("a\n0:-1:1 |x") == "a%0A0%3A-1%3A1%20%7Cx"
    assert encode_name("\ud800") == "%ED%A0%80"
