"""Derive an evaluation again from the log: join, start where its challenger started, learn and score, compare.

Everything that the certificate rests on comes from log, configuration and seed, so the rows scored now must have the
digest that the certificate names. It takes as long as the challenger took to learn.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from bandit.errors import NotFound, RewardloopError
from bandit.scoring import segments_of, segments_of_any
from bandit.settings import settings_to_dict
from bandit.types import COLD_START_MODEL_ID
from evaluation.certificate import ANSWERS_COUNT_SINCE, RATES_PASSED_OVER_SINCE, made_by_other_rules, rules_version
from evaluation.scored import ScoredRows
from serving.learner.catch_up import catch_up
from serving.learner.challengers.field import settings_of_challenger
from serving.learner.challengers.plans import incarnation
from serving.learner.challengers.store import Origin
from serving.learner.training.jobs import UNIFORM, Job, Outcome
from serving.learner.training_step import rows_file
from serving.learner.verdicts.certificates import evaluation_folder, read_certificate
from serving.learner.workspace import Workspace


class _Derivation(msgspec.Struct):
    challenger: str
    model_id: str | None
    origin: Origin | None
    scored_after: datetime | None
    cut: datetime | None


def run(workspace: Workspace, evaluation_id: str) -> dict[str, Any]:
    """The lines in which the derived rows differ from the certified ones, none when they agree.

    Raises `NotFound` when there is no such evaluation or a model that it started from is gone, `CorruptModel` when the
    certificate cannot be read.
    """
    folder = evaluation_folder(workspace.experiment.paths, evaluation_id)
    if folder is None:
        raise NotFound(f"there is no evaluation {evaluation_id}")
    certificate = read_certificate(folder)
    if "derivation" not in certificate:
        return {"differences": ["the certificate does not say how its rows were made, so they cannot be made again"]}
    derivation = msgspec.convert(certificate["derivation"], _Derivation)
    catch_up(workspace)
    try:
        rows = _derive(workspace, certificate, derivation)
    except RewardloopError as error:
        return {"differences": [f"the rows cannot be made again: {error}"]}
    expected = certificate["data"]["rows"]
    differences = []
    if len(rows) != expected:
        differences.append(f"the log gives {len(rows):,} rows, the certificate rests on {expected:,}")
    elif rows.digest() != certificate["data"]["rows_digest"]:
        differences.append(_another_digest(certificate, derivation.origin))
    return {"differences": differences, "rows": len(rows)}


def _derive(workspace: Workspace, certificate: dict[str, Any], derivation: _Derivation) -> ScoredRows:
    experiment, registry = workspace.experiment, workspace.registry
    settings = settings_of_challenger(experiment.settings_of(certificate["settings_version"]), derivation.challenger)
    learning = settings.learning
    champion = UNIFORM if certificate["kind"] == "initial" else certificate["champion"]["model_id"]
    origin = derivation.origin or Origin(score_after=derivation.scored_after)
    assert derivation.cut is not None, "an evaluation rests on rows up to a cut"
    with ExitStack() as stack:
        learn = None
        if origin.learn_until is not None:
            files = rows_file(workspace, "verify-learn", learning, after=origin.learn_after, until=origin.learn_until)
            learn, _ = stack.enter_context(files)
        scored = rows_file(workspace, "verify-score", learning, after=origin.score_after, until=derivation.cut)
        score, _ = stack.enter_context(scored)
        history = None
        if origin.base is not None:
            until = origin.learn_after or origin.score_after
            if until is not None:
                since = registry.manifest(origin.base).data.get("since")
                after = datetime.fromisoformat(since) if since else None
                history, _ = stack.enter_context(
                    rows_file(workspace, "verify-history", learning, after=after, until=until)
                )
        job = Job(
            root=experiment.paths.root,
            name=f"verify {derivation.challenger}",
            settings=settings_to_dict(settings),
            champion=champion or COLD_START_MODEL_ID,
            files=registry.load(origin.base).files if origin.base else None,
            history=history,
            learn=learn,
            score=score,
            challenger=derivation.challenger,
            rate=origin.rate,
            incarnation=incarnation(derivation.origin),
            passes_over=min(rules_version(certificate), origin.rules_version) >= RATES_PASSED_OVER_SINCE,
            answers_count=rules_version(certificate) >= ANSWERS_COUNT_SINCE,
        )
        trainer, limits = stack.enter_context(workspace.training()), experiment.settings.training
        if derivation.model_id is not None and derivation.origin is None:
            outcome: Outcome = trainer.run("score_frozen", job, derivation.model_id, limits=limits)
        else:
            outcome = trainer.run("advance", job, limits=limits)
    if outcome.scores is None:
        return ScoredRows.empty()
    rows = ScoredRows.of(outcome.scores)
    if "segment_field" in certificate:
        rows = replace(rows, segment=segments_of(rows.segment, len(rows), certificate["segment_field"]))
    else:  # of a version that did not tell fields apart
        rows = replace(rows, segment=segments_of_any(rows.segment))
    wanted = int(certificate["data"]["rows"])
    if len(rows) <= wanted:
        return rows
    # what was scored before this epoch was learnt all the same; its scores are not part of the certificate
    kept = rows.where(np.arange(len(rows)) >= len(rows) - wanted)
    return replace(kept, cluster=None) if kept.cluster == kept.event_id else kept


def _another_digest(certificate: dict[str, Any], origin: Origin | None) -> str:
    """What it means that the rows have another digest: nothing, where older rules cannot be followed any more."""
    differing = "the rows scored from the log have another digest than those of the certificate"
    # by which rules such a learner chose its rates before it went on by newer ones is not stated
    goes_on = origin is not None and origin.rules_version < RATES_PASSED_OVER_SINCE <= rules_version(certificate)
    if goes_on or made_by_other_rules(certificate):
        return f"{differing}: an earlier version of the rules had a part in them, so they cannot be derived again here"
    return differing
