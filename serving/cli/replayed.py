"""A log for `--env replay`, as `rewardloop export` writes it (NDJSON, Parquet), without what the API would refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandit.errors import InvalidInput, InvalidRequest

if TYPE_CHECKING:
    from bandit.settings import Limits
    from bandit.types import Action, Features
    from simulator.replay import LoggedWorld, Refusal

COLUMNS = ("context", "actions", "action", "probability", "reward")


def read_replayed(path: Path, limits: Limits | None) -> LoggedWorld:
    """The log as a world, without the rows that the decision API would refuse; raises `InvalidInput`."""
    from simulator.replay import UnusableLog, logged_world, read_logged_world

    refusal = None if limits is None else _refusal(limits)
    try:
        if path.suffix.lower() == ".parquet":
            return logged_world(_rows(path), name=path.name, refusal=refusal)
        return read_logged_world(path, refusal)
    except UnusableLog as error:
        raise InvalidInput("--data", str(error)) from None


def _refusal(limits: Limits) -> Refusal:
    from serving.api.requests import RecommendRequest, check_recommend

    def refusal(context: Features, actions: tuple[Action, ...]) -> str | None:
        try:
            check_recommend(RecommendRequest(context=dict(context), actions=list(actions)), limits)
        except InvalidRequest as error:
            found = error.problems[0]
            part = "actions" if found.field.startswith("actions") else "a context"
            limit = f" (limit: {found.limit})" if found.limit else ""
            return f"{part} that the decision API would refuse: {found.problem}{limit}"
        return None

    return refusal


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file as its NDJSON would have them; raises `InvalidInput`."""
    from joiner.parquet import read_parquet

    try:
        frame = read_parquet(path)
    except InvalidInput as error:
        raise InvalidInput("--data", error.problems[0].problem, error.problems[0].limit) from None
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InvalidInput("--data", f"{path.name} has no column {missing[0]}", "exported interactions")
    for values in zip(*(frame[name].tolist() for name in COLUMNS), strict=True):
        row = dict(zip(COLUMNS, values, strict=True))
        yield {name: _json(value) if name in ("context", "actions") else _known(value) for name, value in row.items()}


def _json(text: Any) -> Any:
    """What a cell of JSON text holds; one that is none stays, and its row is counted as unusable."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return text


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
