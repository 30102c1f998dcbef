"""Files an evaluation: the certificate, the scored rows it rests on, and the report, under `evaluations/<id>/`.

The folder is written beside its place and renamed into it, before any pointer moves, so a promotion without its
certificate cannot happen. Old evaluations that promoted nothing are removed beyond a declared number.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import CorruptModel, NotFound
from bandit.experiment import ExperimentPaths
from bandit.files import fsync_directory, is_plain_name
from bandit.registry import Champion
from bandit.types import COLD_START_MODEL_ID
from evaluation.certificate import certificate, initial_certificate
from evaluation.report import render_report
from evaluation.sequential import AlphaLedger
from joiner.parquet import write_parquet
from serving.learner.challengers.field import learnt_under
from serving.learner.challengers.plans import model_options
from serving.learner.verdicts.judging import Look
from serving.learner.workspace import Workspace

CERTIFICATE = "certificate.json"
SCORED = "scored.parquet"
REPORT = "report.html"

FEW_ROWS = 20_000
"""Fewer rows are written by the warehouse itself, on all cores; more of them leave the other cores to decisions."""


class _Certified(msgspec.Struct):
    outcome: str


class _Model(msgspec.Struct):
    model_id: str | None


class _Outline(msgspec.Struct):
    """What every certificate holds, and recovery and the sweep go by."""

    verdict: _Certified
    candidate: _Model


_INCOMING = ".incoming-"

KEPT_MAX = 200
"""How many evaluations that promoted nothing are kept."""


def file_evaluation(
    workspace: Workspace, look: Look, *, champion: Champion | None, model_id: str | None, initial: bool = False
) -> str:
    """Write one evaluation, complete or not at all; gives its id. Raises OSError when the disk refuses."""
    paths = workspace.experiment.paths
    digest = look.rows.digest()
    tag = hashlib.sha256(f"{look.state.name} {look.state.sequence} {digest}".encode()).hexdigest()[:8]
    evaluation_id = f"e{look.at:%Y%m%dt%H%M%S}-{tag}"
    about = _about(workspace, look, evaluation_id, champion=champion, model_id=model_id, digest=digest)
    if initial:
        content = initial_certificate(look.rows, about)
    else:
        ledger = AlphaLedger.from_dict(look.state.gate) if look.state.gate else None
        content = certificate(
            look.rows,
            look.verdict,
            look.rules,
            ledger=ledger,
            about=about,
            checks=look.checks,
        )
    remove_unfinished(paths)
    place, incoming = paths.evaluations / evaluation_id, paths.evaluations / f"{_INCOMING}{evaluation_id}"
    incoming.mkdir(parents=True)
    try:
        _write(incoming / CERTIFICATE, msgspec.json.format(msgspec.json.encode(content), indent=1), workspace.durable)
        warehouse = workspace.warehouse
        write_parquet(
            incoming / SCORED,
            look.rows.to_columns(),
            metadata={"evaluation_id": evaluation_id},
            using=(warehouse.cursor(), warehouse.scratch) if len(look.rows) < FEW_ROWS else None,
        )
        _write(incoming / REPORT, render_report(content).encode(), workspace.durable)
        if workspace.durable:
            fsync_directory(incoming)
        shutil.rmtree(place, ignore_errors=True)
        incoming.rename(place)
    except OSError:
        shutil.rmtree(incoming, ignore_errors=True)
        raise
    if workspace.durable:
        fsync_directory(paths.evaluations)
    _sweep(paths)
    return evaluation_id


def remove_unfinished(paths: ExperimentPaths) -> None:
    """Remove what a process left that died while it filed an evaluation; for whoever keeps runs away."""
    for leftover in paths.evaluations.glob(f"{_INCOMING}*"):
        shutil.rmtree(leftover)


def evaluations(paths: ExperimentPaths, newest: int | None = None) -> list[dict[str, Any]]:
    """The sound certificates there are (the `newest` ones), newest first, without their long tables."""
    found: list[dict[str, Any]] = []
    for path in sorted(paths.evaluations.glob(f"e*/{CERTIFICATE}"), reverse=True):
        if len(found) == newest:
            break
        with suppress(FileNotFoundError, CorruptModel):  # swept meanwhile; or damaged, and `doctor` names it
            content = read_certificate(path.parent)
            found.append({"id": path.parent.name, **{key: content[key] for key in _SUMMARY if key in content}})
    return found


def damaged_certificates(paths: ExperimentPaths) -> list[str]:
    """What is the matter with the certificates that cannot be read."""
    found: list[str] = []
    for path in sorted(paths.evaluations.glob(f"e*/{CERTIFICATE}")):
        try:
            read_certificate(path.parent)
        except CorruptModel as error:
            found.append(str(error))
        except FileNotFoundError:
            continue  # swept meanwhile
    return found


def read_certificate(folder: Path) -> dict[str, Any]:
    """The certificate of an evaluation; raises FileNotFoundError, or `CorruptModel` where it cannot be read as one."""
    data = (folder / CERTIFICATE).read_bytes()
    try:
        content: dict[str, Any] = decode(data, dict[str, Any])
        decode(data, _Outline)
    except Undecodable as error:
        raise CorruptModel(f"certificate {folder.name} cannot be read ({error})") from None
    return content


def evaluation_folder(paths: ExperimentPaths, evaluation_id: str) -> Path | None:
    """The folder of one evaluation, None when there is none of that id."""
    if not is_plain_name(evaluation_id):
        return None
    folder = paths.evaluations / evaluation_id
    return folder if (folder / CERTIFICATE).exists() else None


_SUMMARY = ("kind", "created_at", "challenger", "candidate", "champion", "tests", "verdict", "lift")


def _about(
    workspace: Workspace,
    look: Look,
    evaluation_id: str,
    *,
    champion: Champion | None,
    model_id: str | None,
    digest: str,
) -> dict[str, Any]:
    experiment, state = workspace.experiment, look.state
    times = look.rows.decided_at
    version, settings = learnt_under(experiment, state)
    about: dict[str, Any] = {
        "id": evaluation_id,
        "experiment": experiment.name,
        "created_at": look.at,
        "challenger": state.name,
        "tests": "procedure" if state.model_id is None else "artefact",
        "as_of": state.cut,
        "candidate": {**_identity(workspace, model_id or state.model_id), "learnt": state.learnt},
        "champion": _identity(workspace, champion.model_id if champion else COLD_START_MODEL_ID),
        "data": {
            "rows": len(look.rows),
            "rows_digest": digest,
            "first": str(times.min()) + "Z" if times is not None and len(times) else None,
            "last": str(times.max()) + "Z" if times is not None and len(times) else None,
            "cut": state.cut,
        },
        "derivation": {
            "challenger": state.name,
            "model_id": state.model_id,
            "origin": state.origin,
            "scored_after": state.scored_after,
            "cut": state.cut,
        },
        "settings_version": version,
        "segment_field": look.segment_field,
        "options": model_options(settings),
        "seed": settings.learning.seed,
    }
    plain: dict[str, Any] = msgspec.to_builtins(about)
    return plain


def _identity(workspace: Workspace, model_id: str | None) -> dict[str, Any]:
    """A model's id and the digests of its files; None where it has none (unpublished, the cold start, damaged)."""
    try:
        files = dict(workspace.registry.manifest(model_id).files) if model_id else None
    except (NotFound, CorruptModel):  # `doctor` names it; the rows were scored all the same
        files = None
    return {"model_id": model_id, "files": files}


def _write(path: Path, data: bytes, durable: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _sweep(paths: ExperimentPaths) -> None:
    """Remove the oldest evaluations that promoted nothing, beyond `KEPT_MAX`."""
    folders = sorted(path for path in paths.evaluations.iterdir() if path.is_dir() and path.name.startswith("e"))
    if len(folders) <= KEPT_MAX:
        return
    kept = [path for path in folders if not _promoted(path)]
    for path in kept[: max(0, len(kept) - KEPT_MAX)]:
        shutil.rmtree(path, ignore_errors=True)


def _promoted(folder: Path) -> bool:
    """Whether an evaluation promoted a model, or may have: its certificate is damaged."""
    try:
        content = read_certificate(folder)
    except FileNotFoundError:
        return False
    except CorruptModel:
        return True
    return content["verdict"]["outcome"] in ("promote", "initial")
