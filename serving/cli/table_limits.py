"""A table's cells held against the limits of the decision API before anything is played."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandit.errors import InvalidInput, InvalidRequest

if TYPE_CHECKING:
    from bandit.settings import Limits
    from simulator.tables import LabelledTable

NAME_SHOWN_MAX = 40


def check_table(table: LabelledTable, limits: Limits) -> None:
    """Raise `InvalidInput` for the first cell, column or row that the decision API would refuse as a context."""
    from bandit.features import check_features, check_name

    features = [0] * len(table)
    for position, (name, cells) in enumerate(table.columns(), start=1):
        try:
            check_name(name, "", limits)
        except InvalidRequest as error:
            raise _refused(table, f"the name of column {position:,}", error) from None
        for row, cell in enumerate(cells):
            if cell is None:
                continue
            features[row] += 1
            if type(cell) is float:  # numbers are finite, or they would be missing
                continue
            try:
                check_features({name: cell}, "", limits)
            except InvalidRequest as error:
                raise _refused(table, f"column {_shown(name)}, row {table.place(row):,},", error) from None
    fullest = max(range(len(table)), key=features.__getitem__)
    if features[fullest] > limits.features_max:
        where = f"{table.name}: row {table.place(fullest):,}"
        limit = f"limits.features_max = {limits.features_max}"
        raise InvalidInput("--data", f"{where} has {features[fullest]:,} features, which are too many", limit)


def _refused(table: LabelledTable, where: str, error: InvalidRequest) -> InvalidInput:
    found = error.problems[0]
    return InvalidInput("--data", f"{table.name}: {where} {found.problem}", found.limit)


def _shown(name: str) -> str:
    return name if len(name) <= NAME_SHOWN_MAX else name[: NAME_SHOWN_MAX - 1] + "…"
