"""A world made of a labelled table: one class an action, reward 1 when the chosen class is the row's.

This is the classical way to test bandits on data whose answers are known. Rows are drawn uniformly with
replacement. Cells may be numbers, booleans or text, and may be missing: a missing cell is left out of the
context. Labels may be any text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import numpy as np
from pandas import isna

from bandit.types import Action
from simulator.environment import ReferenceLines, Round, Source

ACTIONS_MAX = 1000
NO_LABEL = "no label"
NAME_LENGTH_MAX = 256
_TAIL_LENGTH = 12
_WHOLE_MAX = 2**53  # beyond it floats have gaps between whole numbers


class UnusableTable(ValueError):
    """A table that cannot be a world; the message says why."""


class LabelledTable:
    """A classification table as a world; raises `UnusableTable` for a table that cannot be one.

    `columns` maps feature names to n cells each, `labels` are n class labels. `actions` lists the classes on
    offer in order (default: those that occur, sorted, numbers by size). Rows without a label are left out; `source`
    counts them, and keeps `as_text`: of columns of texts that are mostly numbers, the texts that are none.
    """

    reward_range = (0.0, 1.0)

    def __init__(
        self,
        columns: Mapping[str, Sequence[Any]],
        labels: Sequence[Any],
        *,
        name: str = "table",
        actions: Sequence[Any] | None = None,
        as_text: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.name = name
        self._names = [_printable(str(column)) for column in columns]
        self._cells = [[_plain(cell) for cell in cells] for cells in columns.values()]
        kept = [row for row, label in enumerate(labels) if not _missing(label)]
        empty = len(labels) - len(kept)
        self.source = Source(len(kept), {NO_LABEL: empty} if empty else {}, as_text or {})
        if not len(labels):
            raise UnusableTable("the table has no rows")
        if not kept:
            raise UnusableTable("the label column has no value in any row")
        self._places = [row + 1 for row in kept]
        if len(kept) < len(labels):
            self._cells = [[cells[row] for row in kept] for cells in self._cells]
        texts = [_text(labels[row]) for row in kept]
        offered = [_text(label) for label in actions] if actions is not None else sorted(set(texts), key=_by_size)
        if not 2 <= len(offered) <= ACTIONS_MAX:
            values = f"{len(offered):,} different value{'s' * (len(offered) != 1)}"
            left_out = f" ({empty:,} of {len(labels):,} rows have none and are left out)" if empty else ""
            raise UnusableTable(f"the label column has {values}{left_out}; 2 to {ACTIONS_MAX:,} can be actions")
        positions = {label: index for index, label in enumerate(offered)}
        unknown = set(texts) - positions.keys()
        if unknown:
            raise UnusableTable("the label column has values that are not among the actions")
        self.catalogue = tuple(Action(ident) for ident in _identifiers(offered))
        self._classes = [positions[text] for text in texts]
        self._one_hot = np.eye(len(offered))
        self._one_hot.setflags(write=False)

    def __len__(self) -> int:
        return len(self._classes)

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A row drawn uniformly, with replacement."""
        return self._round(int(rng.integers(len(self._classes))))

    def rounds(self) -> Iterator[Round]:
        """Every row once."""
        return (self._round(row) for row in range(len(self._classes)))

    def columns(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Each feature's name with its n cells, as contexts hold them (None: missing)."""
        return zip(self._names, self._cells, strict=True)

    def place(self, row: int) -> int:
        """Where the row at position `row` of the cells (from 0) stood in the table that was given (from 1)."""
        return self._places[row]

    def references(self) -> ReferenceLines:
        """The reference lines, exactly: 1/k, 1, and the share of the commonest class."""
        shares = np.bincount(self._classes, minlength=len(self.catalogue)) / len(self._classes)
        best = int(shares.argmax())
        return ReferenceLines(1 / len(self.catalogue), 1.0, float(shares[best]), self.catalogue[best].id)

    def _round(self, row: int) -> Round:
        cells = zip(self._names, self._cells, strict=True)
        context = {name: cell for name, column in cells if (cell := column[row]) is not None}
        truth = self._one_hot[self._classes[row]]
        return Round(context, self.catalogue, truth, truth)


def _plain(cell: Any) -> float | int | bool | str | None:
    """A cell as JSON has it; None when it is missing. Whole numbers stay whole."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    if _missing(cell):
        return None
    if isinstance(cell, bool | int | str):
        return cell
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    return str(cell)


def _missing(cell: Any) -> bool:
    if isinstance(cell, str | int):
        return False
    return cell is None or isna(cell) is True


def _text(label: Any) -> str:
    """A label's name: equal numbers have one name, different labels different ones."""
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, float) and label.is_integer() and abs(label) < _WHOLE_MAX:
        label = int(label)
    if isinstance(label, Decimal) and label.is_finite():
        whole, point, fraction = f"{label:f}".partition(".")
        return whole + (point + fraction).rstrip("0").rstrip(".")
    return str(label)


def _by_size(label: str) -> tuple[int, float, str]:
    try:
        size = float(label)
    except ValueError:
        size = math.nan
    return (1, 0.0, label) if math.isnan(size) else (0, size, label)  # not-a-number has no place among numbers


def _printable(name: str) -> str:
    """`name` with characters that the API refuses in names percent-encoded; an empty one gets a name."""
    if not name:
        return "(empty)"
    return "".join(char if char.isprintable() else quote(char, errors="surrogatepass") for char in name)


def _identifiers(labels: Sequence[str]) -> list[str]:
    """One distinct, acceptable action id for each distinct label."""
    taken: set[str] = set()
    result = []
    for label in labels:
        ident = _printable(label)
        if len(ident) > NAME_LENGTH_MAX:
            ident = ident[: NAME_LENGTH_MAX - _TAIL_LENGTH] + "…"
        number, candidate = 1, ident
        while candidate in taken:
            number += 1
            candidate = f"{ident} ({number})"
        taken.add(candidate)
        result.append(candidate)
    return result
