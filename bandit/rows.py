"""Training rows from a file: one JSON object per line, as the joiner writes them.

The training process reads files and nothing else, so that it needs no database. Every row is checked once
more, because one infinite reward or zero propensity would spoil a VW model for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bandit.errors import InvalidHistory
from bandit.types import Action, Interaction


class _ActionRow(msgspec.Struct, gc=False):
    id: str
    features: dict[str, Any] = {}


class _Row(msgspec.Struct, gc=False):
    event_id: str
    decided_at: datetime
    model_id: str
    context: dict[str, Any]
    index: int
    propensity: float
    reward: float
    actions: list[_ActionRow] | None = None
    pmf: tuple[float, ...] | None = None
    rewarded: bool = True
    mode: str = "online"
    slice: str = "policy"
    trial_model_id: str | None = None
    trial_share: float | None = None
    origin: str = "live"
    settings_version: int = 1
    slot: int | None = None
    subject: str | None = None
    catalogue_version: int | None = None
    excluded: list[str] | None = None
    matures_at: datetime | None = None


_decoder = msgspec.json.Decoder(_Row)


def read_interactions(path: Path, catalogues: Mapping[int, tuple[Action, ...]]) -> Iterator[Interaction]:
    """The interactions of an NDJSON file, in order; raises `InvalidHistory` that names the line.

    A line has the keys of `Interaction`. Where `actions` is null, the catalogue `catalogue_version` minus
    `excluded` was offered; then equal offers share one tuple of actions.
    """
    offers: dict[tuple[int, tuple[str, ...]], tuple[Action, ...]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                row = _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InvalidHistory(f"line {number}", f"is not a training row: {error}") from None
            yield _interaction(row, number, _offer(row, number, catalogues, offers))


def _offer(
    row: _Row,
    number: int,
    catalogues: Mapping[int, tuple[Action, ...]],
    offers: dict[tuple[int, tuple[str, ...]], tuple[Action, ...]],
) -> tuple[Action, ...]:
    if row.actions is not None:
        return tuple(Action(action.id, action.features) for action in row.actions)
    if row.catalogue_version is None or row.catalogue_version not in catalogues:
        raise InvalidHistory(f"line {number}", "has no actions and refers to no known catalogue")
    key = (row.catalogue_version, tuple(row.excluded or ()))
    offer = offers.get(key)
    if offer is None:
        excluded = set(key[1])
        offer = tuple(action for action in catalogues[key[0]] if action.id not in excluded)
        if len(offers) < 10_000:
            offers[key] = offer
    return offer


def _interaction(row: _Row, number: int, actions: tuple[Action, ...]) -> Interaction:
    problem = None
    if not 0 <= row.index < len(actions):
        problem = "its index is not that of an offered action"
    elif not 0.0 < row.propensity <= 1.0:
        problem = "its propensity is not in (0, 1]"
    elif not math.isfinite(row.reward):
        problem = "its reward is not a finite number"
    elif row.pmf is not None and len(row.pmf) != len(actions):
        problem = "its pmf has another length than its actions"
    if problem is not None:
        raise InvalidHistory(f"line {number}", problem)
    return Interaction(  # in the order of its fields: a million rows are read faster by that than by their names
        row.event_id,
        row.decided_at,
        row.model_id,
        row.context,
        actions,
        row.index,
        row.propensity,
        row.pmf,
        row.reward,
        row.rewarded,
        row.mode,
        row.slice,
        row.origin,
        row.settings_version,
        row.slot,
        row.subject,
        row.trial_model_id,
        row.trial_share,
        row.matures_at,
    )
