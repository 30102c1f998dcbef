"""Statlog (Shuttle) as a world: the data that the demo and the published comparison run on.

The protocol is the published one: the train split, classes rarer than 0.05% removed (five of seven remain),
all seven actions on offer, rows drawn uniformly with replacement. The file and its origin: simulator/data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulator.tables import LabelledTable

STATLOG_PARQUET = Path(__file__).parent / "data" / "statlog_shuttle.parquet"
FEATURES = tuple(f"x{number}" for number in range(1, 10))
CLASSES = tuple(str(number) for number in range(1, 8))
RARE_SHARE = 0.0005


def statlog(columns: Mapping[str, Sequence[Any]]) -> LabelledTable:
    """The world of the published protocol, from the columns of `STATLOG_PARQUET` (split, x1…x9, class)."""
    train = np.asarray(columns["split"], dtype=object) == "train"
    labels = np.asarray(columns["class"])[train]
    classes, counts = np.unique(labels, return_counts=True)
    common = np.isin(labels, classes[counts >= RARE_SHARE * len(labels)])
    cells = {name: np.asarray(columns[name])[train][common].tolist() for name in FEATURES}
    return LabelledTable(cells, labels[common].tolist(), name="Statlog (Shuttle)", actions=CLASSES)
