"""Scored rows as they come, chunk by chunk: joined into one, written to a file of arrays, and read back."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from bandit.errors import CorruptModel
from bandit.files import SyncedInPieces
from bandit.scoring import Scores, clusters
from evaluation.offers import joined_offers
from evaluation.scored import joined_subjects


def concatenate(chunks: Sequence[Scores]) -> Scores | None:
    """One `Scores` out of consecutive chunks, None when there is no row."""
    chunks = [chunk for chunk in chunks if len(chunk.event_id)]
    if not chunks:
        return None
    if len(chunks) == 1:
        return chunks[0]
    starts = np.cumsum([0, *(int(chunk.offsets[-1]) for chunk in chunks)])
    offsets = [chunk.offsets[1:] + start for chunk, start in zip(chunks, starts, strict=False)]
    slots = any(chunk.slot for chunk in chunks)
    offers, offer = joined_offers([(chunk.offers, chunk.offer) for chunk in chunks])
    return Scores(
        event_id=[event_id for chunk in chunks for event_id in chunk.event_id],
        decided_at=np.concatenate([chunk.decided_at for chunk in chunks]),
        offsets=np.concatenate([np.zeros(1, dtype=np.int64), *offsets]),
        candidate=np.concatenate([chunk.candidate for chunk in chunks]),
        champion=np.concatenate([chunk.champion for chunk in chunks]),
        q=np.concatenate([chunk.q for chunk in chunks]),
        pmf=np.concatenate([chunk.pmf for chunk in chunks]),
        action=np.concatenate([chunk.action for chunk in chunks]),
        reward=np.concatenate([chunk.reward for chunk in chunks]),
        propensity=np.concatenate([chunk.propensity for chunk in chunks]),
        cluster=joined_subjects([chunk.cluster for chunk in chunks], [chunk.event_id for chunk in chunks]),
        segment=_joined([chunk.segment for chunk in chunks]),
        slot=_joined([chunk.slot or [""] * len(chunk.event_id) for chunk in chunks]) if slots else None,
        offers=offers,
        offer=offer,
    )


def _joined(columns: Sequence[list[str] | None]) -> list[str] | None:
    """One column out of those of consecutive chunks; None where one of them lacks it."""
    return None if any(c is None for c in columns) else [name for c in columns if c is not None for name in c]


_ARRAYS = ("decided_at", "offsets", "candidate", "champion", "q", "pmf", "action", "reward", "propensity")


def write_scores(path: Path, scores: Scores, *, durable: bool) -> None:
    """Write a chunk as a file that appears whole; raises OSError."""
    columns = ("event_id", "cluster", "segment", "slot", "offers")
    names = {column: getattr(scores, column) for column in columns}
    arrays = {name: getattr(scores, name) for name in _ARRAYS}
    if scores.offer is not None:
        arrays["offer"] = scores.offer
    temporary = path.with_name(f".{path.name}")
    with SyncedInPieces(temporary) if durable else temporary.open("wb") as file:
        np.savez(file, names=np.frombuffer(msgspec.json.encode(names), dtype=np.uint8), **arrays)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(temporary, path)


class _Names(msgspec.Struct):
    event_id: list[str]
    cluster: list[str] | None
    segment: list[str] | None = None
    slot: list[str] | None = None
    offers: list[tuple[str, ...]] | None = None


_UNREADABLE = (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, msgspec.MsgspecError)


def read_scores(path: Path) -> Scores:
    """What `write_scores` wrote; raises `CorruptModel` where it cannot be read, FileNotFoundError where it is gone."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            names = msgspec.json.decode(stored["names"].tobytes(), type=_Names)
            arrays = {name: stored[name] for name in (*_ARRAYS, *(["offer"] if names.offers is not None else []))}
    except _UNREADABLE as error:
        raise CorruptModel(f"the scores in {path.parent.name}/{path.name} cannot be read ({error})") from None
    return Scores(**msgspec.structs.asdict(names) | {"cluster": _clusters(names)}, **arrays)


def _clusters(names: _Names) -> list[str] | None:
    """The clusters of stored scores; up to rule version 4, slots of one answer were stored as rows of their own."""
    if names.slot is None:
        return names.cluster
    known = names.cluster or names.event_id
    subjects = [None if name == own else name for name, own in zip(known, names.event_id, strict=True)]
    return clusters(names.event_id, subjects, names.slot) or names.cluster
