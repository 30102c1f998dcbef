"""A table of scored rows, one row per event, checked cell by cell on its way into flat arrays.

Tables come from people: a null in a list, a text among numbers, a subject left out. None of it may turn into a number
that looks right, so each is refused with the column and the row, counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from numbers import Number
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from bandit.errors import InvalidScores
from evaluation.offers import KnownOffers, Numbers, Offer

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("reward", "propensity", "action", "candidate", "champion", "q")
"""Columns that every table has."""

_LISTS = ("candidate", "champion", "q", "pmf")
_NAMES = ("event_id", "cluster", "segment", "slot")


def columns_of(frame: pd.DataFrame, *, first: int = 0) -> Mapping[str, Any]:
    """The fields of `ScoredRows` from a table; `first` is the number of its first row, for messages.

    Raises `InvalidScores` that names the column and the row. A missing pmf is NaN, a missing segment no name.
    """
    for name in NEEDED:
        if name not in frame.columns:
            raise InvalidScores(name, "column is missing", ", ".join(NEEDED))
    candidate = [_listed(value, "candidate", first + row) for row, value in enumerate(frame["candidate"])]
    lengths = np.fromiter((len(part) for part in candidate), np.int64, len(candidate))
    return {
        "offsets": np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        "candidate": np.concatenate(candidate) if candidate else np.zeros(0),
        **{name: _flat(frame, name, lengths, first) for name in _LISTS[1:]},
        "action": _whole(frame, "action", first),
        "reward": _numbers(frame, "reward", "must be a finite number", first),
        "propensity": _numbers(frame, "propensity", "must be a number", first),
        "decided_at": _times(frame),
        **{name: _texts(frame, name, first) for name in _NAMES},
        **_offers(frame, first),
    }


def refuse(column: str, problem: str, row: int, limit: str | None = None) -> NoReturn:
    """Raise `InvalidScores` that names the row, counted from 0."""
    raise InvalidScores(column, f"{problem} (row {row:,}, counted from 0)", limit)


def _numbers(frame: pd.DataFrame, name: str, problem: str, first: int) -> NDArray[np.float64]:
    from pandas.api.types import is_numeric_dtype

    column = frame[name]
    if is_numeric_dtype(column.dtype):
        return np.asarray(column.to_numpy(np.float64, na_value=np.nan))
    for row, value in enumerate(column):
        if not (value is None or isinstance(value, Number)):
            refuse(name, problem, first + row)
    return np.array(list(column), np.float64)


def _whole(frame: pd.DataFrame, name: str, first: int) -> NDArray[np.int64]:
    numbers = _numbers(frame, name, "must be a whole number", first)
    whole = np.isfinite(numbers) & (numbers == np.floor(numbers))
    if not whole.all():
        refuse(name, "must be a whole number", first + int(np.argmin(whole)))
    return numbers.astype(np.int64)


def _listed(value: Any, name: str, row: int) -> NDArray[np.float64]:
    """One row's list as numbers; an entry that is null becomes NaN, which no column but a wholly missing pmf may be."""
    if isinstance(value, (list, tuple, np.ndarray)):
        part = np.asarray(np.ma.filled(value.astype(np.float64), np.nan) if np.ma.isMaskedArray(value) else value)
        if part.ndim == 1 and (part.dtype.kind in "biuf" or _are_numbers(part)):
            return part.astype(np.float64)
    refuse(name, "must be a list of numbers in every row", row)


def _are_numbers(part: NDArray[Any]) -> bool:
    """Whether a list of mixed things holds numbers and nulls only."""
    return part.dtype.kind == "O" and all(value is None or isinstance(value, Number) for value in part.tolist())


def _flat(frame: pd.DataFrame, name: str, lengths: NDArray[np.int64], first: int) -> NDArray[np.float64] | None:
    """One ragged column laid end to end; None where there is none."""
    if name not in frame.columns:
        return None
    parts: list[NDArray[np.float64]] = []
    for row, (value, k) in enumerate(zip(frame[name], lengths.tolist(), strict=True)):
        missing = name == "pmf" and not isinstance(value, (list, tuple, np.ndarray, str))
        part = np.full(k, np.nan) if missing else _listed(value, name, first + row)
        if len(part) != k:
            refuse(name, "must have as many entries as candidate in every row", first + row, str(k))
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros(0)


def _texts(frame: pd.DataFrame, name: str, first: int) -> list[str] | None:
    if name not in frame.columns:
        return None
    missing = frame[name].isna().to_numpy()
    if name == "cluster" and missing.any():
        refuse(name, "must name a subject in every row", first + int(np.argmax(missing)))
    return ["" if gone else str(value) for value, gone in zip(frame[name], missing.tolist(), strict=True)]


def _offers(frame: pd.DataFrame, first: int) -> dict[str, list[Offer] | Numbers | None]:
    """The ids of the actions of each row, from lists or the JSON of lists; none where they are too many to be kept."""
    if "actions" not in frame.columns:
        return {}
    known, numbers, told = KnownOffers(), np.zeros(len(frame), np.int32), dict[str, int]()
    for row, cell in enumerate(frame["actions"]):
        place = told.get(cell) if isinstance(cell, str) else None
        if place is None:
            places = known.places([_ids(cell, first + row)])
            if places is None:
                return {}
            (place,) = places
            if isinstance(cell, str):
                told[cell] = place
        numbers[row] = place
    return {"offers": known.offers, "offer": numbers}


def _ids(cell: Any, row: int) -> Offer:
    try:
        ids = json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        ids = None
    if not isinstance(ids, (list, tuple, np.ndarray)) or not all(isinstance(name, str) for name in ids):
        refuse("actions", "must be a list of ids in every row", row)
    return tuple(ids)


def _times(frame: pd.DataFrame) -> NDArray[np.datetime64] | None:
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    if "decided_at" not in frame.columns:
        return None
    try:
        if is_numeric_dtype(frame["decided_at"].dtype) and not frame["decided_at"].isna().all():
            raise ValueError("a number is no time")
        times = pd.DatetimeIndex(pd.to_datetime(frame["decided_at"], utc=True)).tz_localize(None)
    except (ValueError, TypeError):
        raise InvalidScores("decided_at", "must be a time in every row") from None
    return np.asarray(times.to_numpy(), "datetime64[us]")
