"""Errors: what they say, and that what a child process refuses reaches its parent as it was said."""

from __future__ import annotations

import pickle

import pytest

from bandit.errors import InvalidHistory, InvalidInput, NotFound, Problem, RewardloopError, one_of
from joiner.cells import RefusedRow


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("last", "is too long a time", "9999 days"),
        InvalidInput("what", "is not known", one_of(["1", "x"])),
        InvalidHistory.of([Problem("a", "is missing"), Problem("b", "is missing")]),
        RefusedRow("no_reward", "reward", "is missing"),
        NotFound("there is no such model"),
    ],
)
def test_an_error_that_crosses_processes_keeps_its_kind_its_words_and_its_problems(error: RewardloopError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.__dict__) == (type(error), str(error), error.__dict__)


def test_a_limit_that_lists_names_is_told_as_such_and_is_none_where_there_are_none() -> None:
    assert str(InvalidInput("what", "is not known", one_of(["1", "x"]))) == "what: is not known (one of: 1, x)"
    assert str(InvalidInput("what", "is not known", one_of([]))) == "what: is not known"
    assert str(InvalidInput("days", "are too many", "7")) == "days: are too many (limit: 7)"
