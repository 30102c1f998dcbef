"""Rows as VW's text: one line each for context and actions, encoded once for all rows of an offer."""

from __future__ import annotations

import pytest

from bandit.encoder import FeatureEncoder
from bandit.example_text import RowTexts
from bandit.settings import Encoding
from bandit.types import Action
from tests.bandit.worlds import ACTIONS

ENCODER = FeatureEncoder(Encoding())


def test_the_label_is_on_the_line_of_the_chosen_action() -> None:
    text = RowTexts(ENCODER).of({"sky": "cold"}, ACTIONS[:3], 1)
    shared, *lines = text.labelled(-0.5, 0.25).split("\n")
    assert shared == ENCODER.context_line({"sky": "cold"})
    assert lines == ["|i id=a0", "0:-0.5:0.25 |i id=a1", "|i id=a2"]
    assert text.chosen_only(-0.5, 0.25) == f"{shared}\n0:-0.5:0.25 |i id=a1"


def test_a_text_that_is_not_whole_has_the_chosen_action_only() -> None:
    texts = RowTexts(ENCODER)
    whole, alone = (texts.of({}, ACTIONS, 2, whole=whole) for whole in (True, False))
    assert alone.lines == ("|i id=a2",)
    assert alone.labelled(1.0, 0.5) == alone.chosen_only(1.0, 0.5) == whole.chosen_only(1.0, 0.5)


def test_rows_of_one_offer_share_its_lines_whichever_action_was_chosen() -> None:
    texts = RowTexts(ENCODER)
    catalogue = tuple(Action(f"a{number}") for number in range(500))
    first, *others = (texts.of({}, catalogue, chosen) for chosen in range(500))
    assert all(other.lines is first.lines for other in others)


def test_an_offer_that_can_change_is_encoded_anew() -> None:
    texts, offered = RowTexts(ENCODER), list(ACTIONS)
    assert texts.of({}, offered, 3).lines[3] == "|i id=a3"
    offered[3] = Action("new")
    assert texts.of({}, offered, 3).lines[3] == "|i id=new"
    assert texts.of({}, offered, 3, whole=False).lines == ("|i id=new",)


@pytest.mark.parametrize("chosen", [-1, 4])
def test_an_action_that_was_not_offered_is_refused(chosen: int) -> None:
    with pytest.raises(ValueError, match="was offered"):
        RowTexts(ENCODER).of({}, ACTIONS, chosen)
