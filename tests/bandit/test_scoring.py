"""Scored rows say which of them hang together: those of a subject, and those of one answer."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from bandit.policies import UniformPolicy
from bandit.scoring import Scoring, answer_of, clusters
from bandit.types import Interaction
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
