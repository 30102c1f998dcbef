"""Score any policies on a file of interactions, in a process of its own: Vowpal Wabbit holds the interpreter's lock.

One progressive pass over the log gives the reward model's prediction for every row before it was learnt; each asked
policy then says what it would have done. A stored model is asked only about rows that it had not learnt from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.errors import CorruptModel, InvalidInput, InvalidSettings, NotFound, TrainingFailed
from bandit.experiment import Experiment, ExperimentPaths
from bandit.policies import FixedActionPolicy, UniformPolicy, load_policy
from bandit.registry import ModelRegistry
from bandit.rows import read_interactions
from bandit.scoring import Scores
from bandit.settings import ExperimentSettings, Exploration, Learning, merge_settings
from bandit.training import Learning as Learner
from bandit.types import Action, Interaction, Policy

CHUNK_ROWS = 10_000
POLICIES_MAX = 50

Tables = Mapping[str, Mapping[str, Sequence[float]]]
"""Per table of probabilities: event_id → one probability per offered action."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked: the experiment's folder, the rows' file, policies by name, tables of probabilities."""

    root: Path
    name: str
    rows: Path
    policies: tuple[str, ...]
    tables: Tables = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answered:
    """Per policy its pmf on the rows (ragged) and which rows it may be judged on; and the common scores."""

    scores: Scores
    pmfs: dict[str, NDArray[np.float64]]
    allowed: dict[str, NDArray[np.bool_]]


def score_policies(asked: Asked) -> Answered:
    """Score all asked policies.

    Before anything is learnt, raises `InvalidInput` for a policy that means nothing, `NotFound` for a model or an
    action that is not there, and `CorruptModel`.
    """
    experiment = Experiment(asked.name, ExperimentPaths(asked.root))
    stored = {name: _stored(experiment, name) for name in asked.policies if name.partition(":")[0] in _STORED}
    rows = list(read_interactions(asked.rows, _catalogues(experiment)))
    if not rows:
        raise InvalidInput("evaluate", "no interaction has matured in this window")
    offered = {name: _offered(name[7:], rows) for name in asked.policies if name.startswith("action:")}
    settings = experiment.settings
    scores, _ = _progressive(settings, rows)
    pmfs: dict[str, NDArray[np.float64]] = {}
    allowed: dict[str, NDArray[np.bool_]] = {}
    for name in asked.policies:
        kind, _, argument = name.partition(":")
        everything = np.ones(len(rows), bool)
        if kind == "train":
            try:
                trained, counts = _progressive(training_settings(settings, argument), rows)
            except TrainingFailed as error:
                raise InvalidInput("policy train", f"cannot be learnt with these options: {error}") from None
            pmfs[name], allowed[name] = trained.candidate, everything & counts
        elif kind == "table":
            pmfs[name], allowed[name] = _from_table(asked.tables[argument], rows)
        else:
            with _policy(experiment, argument, stored.get(name)) as policy:
                pmfs[name] = np.concatenate([_pmf(policy, row, greedy=kind == "greedy") for row in rows])
            since = stored.get(name)
            allowed[name] = offered.get(name, everything) if since is None else _matured_after(since[1], rows)
    return Answered(scores, pmfs, allowed)


def check_names(policies: Sequence[str]) -> None:
    """Raise `InvalidInput` for a name that is no kind of policy, before any work is done."""
    if not policies or len(policies) > POLICIES_MAX:
        raise InvalidInput("policy", "must be given once or several times", f"1 to {POLICIES_MAX}")
    for name in policies:
        kind, _, argument = name.partition(":")
        if kind in ("uniform", "champion") and not argument:
            continue
        if kind in ("model", "greedy", "action", "table") and argument:
            continue
        if kind == "train" and argument:
            training_settings(ExperimentSettings(), argument)
            continue
        raise InvalidInput(
            "policy",
            "is not a policy",
            "uniform, champion, model:ID, greedy:ID, action:ID, table:FILE or train:ALGORITHM,NAME=VALUE,…",
        )


def training_settings(settings: ExperimentSettings, options: str) -> ExperimentSettings:
    """`settings` with options such as `egreedy,epsilon=0.1,learning_rate=0.2` laid over.

    An algorithm's name may come first; the others are settings of `exploration` and `learning`, which are all that VW
    is ever told. Raises `InvalidInput` that names the option, its problem and its limit.
    """
    changes: dict[str, dict[str, Any]] = {"exploration": {}, "learning": {}}
    for position, part in enumerate(options.split(",")):
        name, given, text = part.strip().partition("=")
        if not given and not position:
            name, text = "algorithm", name
        section = _SECTION_OF.get(name.strip())
        if section is None:
            raise InvalidInput("policy train", "holds what is no option", f"NAME=VALUE of {', '.join(_SECTION_OF)}")
        changes[section][name.strip()] = _plain(text.strip())
    try:
        return merge_settings(settings, changes)
    except InvalidSettings as error:
        wrong = error.problems[0]
        raise InvalidInput(f"policy train: {wrong.field}", wrong.problem, wrong.limit) from None


_SECTION_OF = {
    field: section
    for section, kind in (("exploration", Exploration), ("learning", Learning))
    for field in kind.__struct_fields__
    if not field.startswith("only_")  # which rows are evaluated on is said once, for all policies
}
"""Every option that a policy on trial may be trained with, and the section of the settings it stands in."""


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def _plain(text: str) -> Any:
    """A number or a truth value where the text is one in JSON (`.1`, `5.` and `+1` are numbers, too), else the text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return float(text) if _NUMBER.fullmatch(text) else text


def _progressive(settings: ExperimentSettings, rows: Sequence[Interaction]) -> tuple[Scores, NDArray[np.bool_]]:
    """Scores of a learner that starts from nothing, each row before it is learnt; and the rows with any past."""
    learning = Learner.fresh(settings, [])
    try:
        past: list[Interaction] = []
        scores = learning.step(rows, champion=UniformPolicy(), champion_id=None, history=lambda: past)
    except CorruptModel:  # no stored one has part in this
        raise TrainingFailed("what is learnt grows beyond all numbers; see learning.learning_rate and l2") from None
    finally:
        learning.close()
    return scores, np.arange(len(rows)) > 0


_STORED = ("champion", "model", "greedy")
"""Policies that are stored models."""


def _stored(experiment: Experiment, name: str) -> tuple[str, datetime]:
    """The id of the model that a policy is, and the time until which what matured was learnt by it."""
    registry = ModelRegistry(experiment.paths)
    kind, _, model_id = name.partition(":")
    if "champion" in (kind, model_id):
        champion = registry.champion()
        if champion is None:
            raise InvalidInput("policy", "there is no champion yet; name another policy")
        model_id = champion.model_id
    cut = registry.load(model_id).manifest.data.get("cut")
    if cut is None:
        raise InvalidInput("policy", f"model {model_id} does not say until when it learnt; it cannot be judged")
    return model_id, msgspec.convert(cut, datetime, strict=False)


@contextmanager
def _policy(experiment: Experiment, argument: str, stored: tuple[str, datetime] | None) -> Iterator[Policy]:
    """A stored model for the length of a block, always the same action, or (without any) all alike."""
    if stored is None:
        yield FixedActionPolicy(argument) if argument else UniformPolicy()
        return
    with closing(load_policy(ModelRegistry(experiment.paths).load(stored[0]))) as policy:
        yield policy


def _matured_after(cut: datetime, rows: Sequence[Interaction]) -> NDArray[np.bool_]:
    """The rows that a model with this cut had not learnt: rows are cut by their time of maturity when they are learnt.

    The time of the decision would not do: an import may tell of any time.
    """
    return np.array([row.matures_at is not None and row.matures_at > cut for row in rows])


def _offered(action_id: str, rows: Sequence[Interaction]) -> NDArray[np.bool_]:
    """The rows that offer an action: about "always it" no other can speak. Raises `NotFound` where there is none."""
    offered = np.array([any(action.id == action_id for action in row.actions) for row in rows])
    if not offered.any():
        raise NotFound(f"there is no action '{action_id}' in these {len(rows):,} decisions")
    return offered


def _pmf(policy: Policy, row: Interaction, *, greedy: bool) -> NDArray[np.float64]:
    pmf = np.asarray(policy.pmf(row.context, row.actions), np.float64)
    if not greedy:
        return pmf
    chosen = np.zeros(len(pmf))
    chosen[int(np.argmax(pmf))] = 1.0
    return chosen


def _from_table(
    table: Mapping[str, Sequence[float]], rows: Sequence[Interaction]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The pmf of each row (uniform where the table has none), and the rows that the table knows."""
    parts, allowed = [], np.zeros(len(rows), bool)
    for position, row in enumerate(rows):
        k = len(row.actions)
        given = table.get(row.event_id)
        if given is None:
            parts.append(np.full(k, 1.0 / k))
            continue
        pmf = np.asarray(given, np.float64)
        if pmf.shape != (k,) or not (pmf >= 0).all() or abs(pmf.sum() - 1) > 1e-6:
            raise InvalidInput(
                "policy table",
                f"the pmf of decision {position:,} (counted from 0) must hold one probability for each offered action",
                f"{k} that sum to 1 ± 1e-06",
            )
        parts.append(pmf)
        allowed[position] = True
    return np.concatenate(parts), allowed


def _catalogues(experiment: Experiment) -> dict[int, tuple[Action, ...]]:
    found: dict[int, tuple[Action, ...]] = {}
    for path in experiment.paths.catalogues.glob("*.json"):
        actions = experiment.catalogue(int(path.stem))
        if actions is not None:
            found[int(path.stem)] = actions
    return found


def as_table(events: Sequence[Any], probabilities: Sequence[Any]) -> dict[str, list[float]]:
    """A table of probabilities from the columns of a file; raises `InvalidInput` that names the row.

    An event may be told of twice only with the same probabilities.
    """
    table: dict[str, list[float]] = {}
    for row, (event, pmf) in enumerate(zip(events, probabilities, strict=True)):
        try:
            told = [float(p) for p in pmf]
        except (TypeError, ValueError):
            problem = f"pmf must be a list of numbers (row {row:,}, counted from 0)"
            raise InvalidInput("policy table", problem) from None
        if table.setdefault(str(event), told) != told:
            problem = f"event_id {str(event)!r} has another pmf already (row {row:,}, counted from 0)"
            raise InvalidInput("policy table", problem)
    return table
