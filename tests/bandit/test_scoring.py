"""Scored rows say which of them hang together, those of a subject and of one answer, and which actions they offered."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from bandit import scoring
from bandit.policies import UniformPolicy
from bandit.scoring import Scoring, answer_of, clusters, offers_of
from bandit.types import Action, Interaction
from tests.bandit.worlds import rows_of, settings


def clustered(rows: list[Interaction], *, answers_count: bool = True) -> list[str] | None:
    scoring = Scoring(None, None, settings(), answers_count=answers_count)
    even = np.concatenate([np.full(len(row.actions), 1 / len(row.actions)) for row in rows])
    scoring.add(rows, even, np.zeros(len(even)))
    return scoring.scores().cluster


def test_the_slots_of_one_answer_are_one_cluster() -> None:
    plain = rows_of(UniformPolicy(), 5, seed=1)
    names = [("page:1", 1), ("page:2", 2), ("alone", None), ("other:1", 1), ("page:3", 3)]
    rows = [replace(row, event_id=name, slot=slot) for row, (name, slot) in zip(plain, names, strict=True)]
    assert clustered(rows) == ["page", "page", "alone", "other", "page"]


def test_a_subject_counts_before_its_answer() -> None:
    plain = rows_of(UniformPolicy(), 4, seed=1)
    given = [("a:1", 1, "ann"), ("a:2", 2, "ann"), ("b:1", 1, None), ("b:2", 2, None)]
    rows = [
        replace(row, event_id=name, slot=slot, subject=subject)
        for row, (name, slot, subject) in zip(plain, given, strict=True)
    ]
    assert clustered(rows) == ["ann", "ann", "b", "b"]


def test_by_older_rules_a_subject_counts_though_it_is_named_like_an_answer_and_no_answer_does() -> None:
    plain = rows_of(UniformPolicy(), 4, seed=1)
    given = [("a:1", 1, "a"), ("a:2", 2, "a"), ("b:1", 1, None), ("b:2", 2, None)]
    rows = [
        replace(row, event_id=name, slot=slot, subject=subject)
        for row, (name, slot, subject) in zip(plain, given, strict=True)
    ]
    assert clustered(rows, answers_count=False) == ["a", "a", "b:1", "b:2"]
    assert clustered(rows[2:], answers_count=False) is None


def test_the_id_of_a_single_decision_is_never_taken_apart() -> None:
    plain = rows_of(UniformPolicy(), 3, seed=1)
    rows = [replace(row, event_id=f"cart:{place}") for place, row in enumerate(plain, 1)]
    assert clustered(rows) is None
    assert clustered([*rows[:2], replace(rows[2], subject="ann")]) == ["cart:1", "cart:2", "ann"]
    assert answer_of("cart:12", 2) is None and answer_of("a:1:2", 2) == "a:1"
    assert clusters(["row 1", "row 2"], [None, None], [1, 2]) is None


def test_equal_offers_are_kept_once_whether_they_are_one_tuple_or_not() -> None:
    plain = rows_of(UniformPolicy(), 6, seed=1)
    catalogue = (Action("a"), Action("b"))
    own = [(Action("b"), Action("a")), (Action("a"), Action("b", {"price": 1}))]
    given = [catalogue, own[0], catalogue, own[1], catalogue, (Action("a"), Action("b"))]
    rows = [replace(row, actions=actions, index=0) for row, actions in zip(plain, given, strict=True)]
    offers, offer = offers_of(rows)
    assert offers == [("a", "b"), ("b", "a")]
    assert offer is not None and offer.tolist() == [0, 1, 0, 0, 0, 0]


def test_offers_that_are_too_many_or_too_long_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = rows_of(UniformPolicy(), 3, seed=1)
    rows = [replace(row, actions=(Action(f"{place}"),), index=0) for place, row in enumerate(plain)]
    monkeypatch.setattr(scoring, "OFFERS_MAX", 3)
    assert offers_of(rows)[0] == [("0",), ("1",), ("2",)]
    monkeypatch.setattr(scoring, "OFFERS_MAX", 2)
    assert offers_of(rows) == (None, None)
    monkeypatch.setattr(scoring, "OFFERS_MAX", 3)
    monkeypatch.setattr(scoring, "OFFER_BYTES_MAX", 3 * scoring.ID_BYTES)
    assert offers_of(rows) == (None, None)
