"""Runs of the learner that failed while a world was played, told where results are read: on the page and in a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from serving.cli.common import say

if TYPE_CHECKING:
    from simulator.curves import Failure, Summary


def failure_table(named: Iterable[tuple[str, Summary]]) -> list[dict[str, Any]]:
    """A table for the page, as `write_page` takes it: one row a run and reason; empty when nothing failed.

    `named` gives each played run's name and summary.
    """
    rows = [
        [name, str(len(failed)), _when(failed[0]), reason]
        for name, summary in named
        for reason, failed in _by_reason(summary).items()
    ]
    columns = ["run", "failed", "first after", "reason"]
    return [{"title": "Failed runs of the learner", "columns": columns, "rows": rows}] if rows else []


def tell_failures(named: Iterable[tuple[str, Summary]]) -> bool:
    """Say on stderr, one line a run and reason, which runs of the learner failed; gives whether any did."""
    told = False
    for name, summary in named:
        for reason, failed in _by_reason(summary).items():
            runs = f"{len(failed)} run{'s' * (len(failed) != 1)} of the learner"
            say(f"rewardloop: {name}: {runs} failed, first after {_when(failed[0])}: {' '.join(reason.split())}")
            told = True
    return told


def _by_reason(summary: Summary) -> dict[str, list[Failure]]:
    found: dict[str, list[Failure]] = {}
    for failure in summary.failures:
        found.setdefault(failure.reason, []).append(failure)
    return found


def _when(failure: Failure) -> str:
    return f"batch {failure.batch}" if failure.batch else "the warm start"
