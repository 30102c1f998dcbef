"""Numbers that a table writes in other ways than most: with words for what is missing, or with decimal commas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "?"})
"""What stands for a missing number, in any case."""

CODE = r"^[+-]?0[0-9]"

BOUNDLESS = frozenset({"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})
"""Numbers without a size; a context has no place for them either."""


def as_numbers(cells: pd.Series[str], *, decimal_comma: bool) -> pd.Series[float] | None:
    """The numbers of a column of texts, not-a-number where one is missing; None when some cell is another text.

    With `decimal_comma` all cells may write their fractions so; `1.5` is then no number beside `1,5`.
    """
    values = _values(cells)
    if _others(cells, values).empty and values.notna().any():
        return values
    if not decimal_comma or cells.str.contains(".", regex=False).any():
        return None
    values = _values(cells.str.replace(",", ".", regex=False))
    return values if _others(cells, values).empty and values.notna().any() else None


def taken_as_text(frame: pd.DataFrame) -> dict[str, list[str]]:
    """For each column of texts of which most are numbers, those that are none, each once."""
    import pandas as pd

    found = {}
    for name, cells in frame.items():
        if not pd.api.types.is_string_dtype(cells):
            continue
        values = _values(cells)
        others = _others(cells, values)
        if 0 < len(others) < values.notna().sum():
            found[str(name)] = [str(text) for text in others.unique()]
    return found


def _values(cells: pd.Series[str]) -> pd.Series[float]:
    """The finite numbers among texts; what begins with a needless zero is a code (of a place, an article) and none."""
    import pandas as pd

    texts = cells.str.strip()
    values: pd.Series[float] = pd.to_numeric(texts, errors="coerce").astype(np.float64)
    return values.where(np.isfinite(values) & ~texts.str.contains(CODE, na=False))


def _others(cells: pd.Series[str], values: pd.Series[float]) -> pd.Series[str]:
    """The cells that are neither a number nor a word for a missing one."""
    words = cells.str.strip().str.lower()
    return cells[cells.notna() & values.isna() & ~words.isin(MISSING | BOUNDLESS)]
