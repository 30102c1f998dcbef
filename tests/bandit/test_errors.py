"""Errors say the same wherever they are told, in the process that raised them or in its parent."""

import pickle

import pytest

from bandit.errors import InvalidInput, InvalidScores, Problem


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("reward", "must be a finite number"),
        InvalidScores("pmf", "does not sum to 1", "1 ± 1e-06"),
        InvalidInput.of([Problem("a", "is missing"), Problem("b", "is too long", "256")]),
    ],
)
def test_what_a_child_process_refuses_reaches_its_parent_unchanged(error: InvalidInput) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.problems) == (type(error), str(error), error.problems)
