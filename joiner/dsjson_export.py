"""Interactions as VW's `dsjson`: with their own features for other tools, or encoded exactly as a model sees them.

Encoded by a model, a line holds the very features, in the order, that the model learnt from, so that VW trained on
the file with the model's arguments comes to the same weights. VW ignores names that start with `_` and splits
`_text` at spaces, which is how features without a value are written.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from bandit.encoder import FeatureEncoder
from bandit.experiment import Experiment
from bandit.rows import read_interactions
from bandit.scoring import RewardScale
from bandit.settings import ExperimentSettings
from bandit.types import Action, Interaction
from bandit.vw_policy import learnt_propensity
from joiner.export import EVERYTHING, learnt_rows, scratch_file
from joiner.warehouse import Warehouse


def export_dsjson(
    warehouse: Warehouse,
    path: Path,
    *,
    encoder: FeatureEncoder | None = None,
    settings: ExperimentSettings | None = None,
    after: datetime | None = None,
    until: datetime | None = None,
    reread_rows: int = 0,
) -> int:
    """Write the interactions matured in (after, until] as dsjson, in the order of maturity; returns how many.

    With `encoder`, features are those the encoder makes, costs are scaled and propensities bounded as in training
    under `settings` (default: those in force). Without it, costs are negated rewards. The first `reread_rows` lines
    are written `learning.passes` times before the others, as training reads them.
    """
    settings = settings or warehouse.experiment.settings
    known_until = warehouse.joined_until()
    until = min(until, known_until) if until is not None and known_until is not None else known_until
    rows = warehouse.scratch / f"{uuid.uuid4().hex}.ndjson"
    selected = EVERYTHING if encoder is None else learnt_rows(settings.learning)
    count = 0
    first: list[str] = []
    try:
        with scratch_file(warehouse.scratch, path) as target, target.open("w", encoding="utf-8") as file:
            if until is not None and warehouse.write_training_rows(rows, after=after, until=until, rows=selected):
                for interaction in read_interactions(rows, _catalogues(warehouse.experiment)):
                    line = plain_line(interaction) if encoder is None else encoded_line(interaction, encoder, settings)
                    file.write(line + "\n")
                    count += 1
                    if count <= reread_rows:
                        first.append(line + "\n")
                        if count == reread_rows:
                            file.writelines(first * (settings.learning.passes - 1))
                            first = []
    finally:
        rows.unlink(missing_ok=True)
    return count


def plain_line(row: Interaction) -> str:
    """One interaction with its own features; what VW would take for labels or comments is left out."""
    context = _features(row.context)
    context["_multi"] = [
        {"_tag": action.id, "i": {"id": action.id}, **_features(action.features, ["i"])} for action in row.actions
    ]
    return _line(row, json.dumps(context, ensure_ascii=False), 0.0 - row.reward, row.propensity)


def encoded_line(row: Interaction, encoder: FeatureEncoder, settings: ExperimentSettings) -> str:
    """One interaction with the features, the cost and the propensity that a model of `encoder` learns from."""
    shared = _namespaces(encoder.context_line(row.context).removeprefix("shared "))
    actions = ",".join(_object(_namespaces(encoder.action_line(action))) for action in row.actions)
    cost = RewardScale.of(settings.rewards).cost(row.reward)
    propensity = learnt_propensity(settings.exploration, settings.learning, row.propensity)
    return _line(row, _object([*shared, f'"_multi":[{actions}]']), cost, propensity)


def _catalogues(experiment: Experiment) -> dict[int, tuple[Action, ...]]:
    versions = {entry.catalogue_version for entry in experiment.versions() if entry.catalogue_version is not None}
    return {version: experiment.catalogue(version) or () for version in versions}


def _line(row: Interaction, context: str, cost: float, propensity: float) -> str:
    """The frame of a line around the text of its features."""
    order = [row.index, *(place for place in range(len(row.actions)) if place != row.index)]
    head: dict[str, Any] = {
        "_label_cost": cost,
        "_label_probability": propensity,
        "_label_Action": row.index + 1,
        "_labelIndex": row.index,
        "Timestamp": f"{row.decided_at:%Y-%m-%dT%H:%M:%S.%f}Z",
        "Version": "1",
        "EventId": row.event_id,
        "a": [place + 1 for place in order],
    }
    tail: dict[str, Any] = {"VWState": {"m": row.model_id}}
    pmf = row.pmf if row.pmf is not None else _filled(row, len(row.actions))
    tail = {"p": [pmf[place] for place in order], **tail}
    return f'{json.dumps(head)[:-1]}, "c": {context}, {json.dumps(tail)[1:]}'


def _filled(row: Interaction, k: int) -> Sequence[float]:
    """A distribution for rows that recorded only the propensity: the rest spread evenly (VW does not learn from it)."""
    rest = (1.0 - row.propensity) / max(k - 1, 1)
    return [row.propensity if place == row.index else rest for place in range(k)]


def _features(features: Mapping[str, Any], taken: Iterable[str] = ()) -> dict[str, Any]:
    """Features in forms that VW's reader understands: sets become objects, nulls go, and names are `_plain_names`."""
    found: dict[str, Any] = {}
    told = {name: value for name, value in features.items() if value is not None}
    names = _plain_names(told, taken)
    for name, value in told.items():
        if isinstance(value, list):
            value = {str(entry): 1 for entry in value}
        found[names[name]] = _features(value) if isinstance(value, Mapping) else value
    return found


def _plain_names(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Each name without the `_` before it, and with so many behind it that it is no other's and not `taken`.

    Names that have none before them choose first, whatever the order of features.
    """
    plain: dict[str, str] = {}
    used = set(taken)
    for name in sorted(names, key=lambda name: (name.startswith("_"), name)):
        free = name.lstrip("_") or "_"
        while free in used:
            free += "_"
        used.add(free)
        plain[name] = free
    return plain


def _namespaces(line: str) -> list[str]:
    """The members of a JSON object for `|c a b:2 |d e`, a line of VW text without label."""
    members = []
    for part in line.split("|")[1:]:
        name, *tokens = part.split()
        members.append(f'"{name}":{_object(_tokens(tokens))}')
    return members


def _tokens(tokens: Iterable[str]) -> list[str]:
    """Tokens in their order: runs of valueless ones as `_text`, the others as numbers."""
    members: list[str] = []
    run: list[str] = []
    for token in tokens:
        name, colon, value = token.rpartition(":")
        if not colon:
            run.append(token)
            continue
        if run:
            members.append(f'"_text":"{" ".join(run)}"')
            run = []
        members.append(f'"{name}":{float(value)!r}')
    if run:
        members.append(f'"_text":"{" ".join(run)}"')
    return members


def _object(members: Iterable[str]) -> str:
    return "{" + ",".join(members) + "}"
