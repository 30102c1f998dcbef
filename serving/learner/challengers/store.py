"""The challengers of an experiment on disk: what each has learnt, how it scored, how far its gate has come.

A challenger lives in `challengers/<name>/`: `state.json` points at a folder of learning files and a list of score
chunks; both are written first, the pointer last, so a crash leaves the old state or the new one and nothing between.
A state names the champion it grows from; when another champion stands the state is void and the cycle starts anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import CorruptModel
from bandit.experiment import ExperimentPaths
from bandit.files import fsync_directory, is_plain_name, write_atomically
from bandit.training import Scores
from evaluation.offers import KnownOffers
from serving.learner.scores import read_scores, write_scores

STANDING = "standing"
"""The champion's plain continuation, which every experiment has."""

FORMER = "former"
"""The champion before, on watch with an α of its own."""

KIND_LEARNING = "learning"
KIND_FROZEN = "frozen"
KIND_TRIAL = "trial"
KIND_GUARD = "guard"


RETIRED = "retired.json"


class _Retired(msgspec.Struct, frozen=True):
    """What challengers that left had spent in this tenure, `by` name; `released` of it belongs to epochs that are over.

    Older versions did not say who spent a part of `spent`.
    """

    champion: str | None
    spent: float
    by: dict[str, float] = {}
    released: dict[str, float] = {}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a learner started, so that all it did can be done again from the log.

    From the model `base` (None: from nothing) it learnt the rows matured in (`learn_after`, `learn_until`] unscored,
    and has scored and learnt everything matured after `score_after`. `rate` is the learning rate that it was handed.
    `rules_version` is that of the rules it started by, 0 where that was not yet stated: it may since have gone on by
    newer ones.
    """

    base: str | None = None
    learn_after: datetime | None = None
    learn_until: datetime | None = None
    score_after: datetime | None = None
    rate: float | None = None
    rules_version: int = 0


class ChallengerState(msgspec.Struct, kw_only=True):
    """What is known about one challenger.

    `champion` is the model it is compared with and (when it learns) grew from, None before the first model.
    `digest` is that of its learning files ("" where an older version wrote them).
    `cut` is the maturity time up to which rows were taken; `learnt` counts them. `model_id` names a frozen,
    offered model; `candidate` the model as which a learner's files were stored, step by step. `gate` is the state
    that the gate carries from look to look within this champion's tenure, `judged` the scored rows at the last look.
    `origin` is where it started, `scored_after` where the scores of this epoch begin.
    A member of the declared field has learnt nothing older than `since`, was born with `born_with` rows, and starts
    anew when what it is `made_of` changes; it never learns again what is older than `not_before`, the last fall.
    """

    name: str
    kind: str
    champion: str | None
    settings_version: int
    born: datetime
    cut: datetime | None = None
    learnt: int = 0
    scored: int = 0
    model_id: str | None = None
    candidate: str | None = None
    judged: int = 0
    gate: dict[str, Any] = {}
    canaries: list[dict[str, Any]] = []
    origin: Origin | None = None
    scored_after: datetime | None = None
    since: datetime | None = None
    not_before: datetime | None = None
    made_of: str = ""
    born_with: int = 0
    folder: str | None = None
    digest: str = ""
    chunks: list[str] = []
    sequence: int = 0


class ChallengerStore:
    """Reads and writes challengers; one process at a time (the learner) does so."""

    def __init__(self, paths: ExperimentPaths, *, durable: bool = True) -> None:
        self.root = paths.challengers
        self.durable = durable
        self._scores: dict[str, tuple[list[str], list[Scores]]] = {}
        self._offers: dict[str, KnownOffers] = {}

    def names(self) -> list[str]:
        """The challengers there are, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(path.parent.name for path in self.root.glob("*/state.json"))

    def load(self, name: str) -> ChallengerState | None:
        """The state of a challenger, None when there is none or its file cannot be read (it is then rebuilt)."""
        if not is_plain_name(name):
            return None
        try:
            return decode((self.root / name / "state.json").read_bytes(), ChallengerState)
        except (FileNotFoundError, Undecodable):
            return None

    def files(self, state: ChallengerState) -> dict[str, bytes]:
        """The learning files of a challenger; raises FileNotFoundError when they are gone, `CorruptModel`."""
        folder = self.folder(state)
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        if state.digest and _digest(files) != state.digest:
            raise CorruptModel(f"challenger {state.name}: its learning files do not match their digest")
        return files

    def damage(self, state: ChallengerState) -> str | None:
        """What of a challenger's files and scores is gone or cannot be read, None where all is well."""
        if state.scored and not state.chunks:
            return f"challenger {state.name}: its scores were erased"
        try:
            self.scores(state)
            if state.folder is not None:
                self.files(state)
        except (FileNotFoundError, CorruptModel) as error:
            return str(error)
        return None

    def folder(self, state: ChallengerState) -> Path:
        """Where the learning files of a challenger are."""
        if state.folder is None:
            raise FileNotFoundError(f"challenger {state.name} has no learning files")
        return self.root / state.name / state.folder

    def scores(self, state: ChallengerState) -> list[Scores]:
        """The score chunks of this tenure, oldest first (remembered between cycles).

        Raises FileNotFoundError or `CorruptModel`.
        """
        names, chunks = self._scores.get(state.name, ([], []))
        known = dict(zip(names, chunks, strict=True))
        chunks = [
            known[name] if name in known else self._shared(state.name, read_scores(self.root / state.name / name))
            for name in state.chunks
        ]
        self._scores[state.name] = (list(state.chunks), chunks)
        return chunks

    def save(
        self,
        state: ChallengerState,
        *,
        files: Mapping[str, bytes] | None = None,
        scores: Scores | None = None,
        gate: dict[str, Any] | None = None,
        fresh_epoch: bool = False,
        carried: dict[str, Any] | None = None,
    ) -> ChallengerState:
        """Write payloads, then the pointer; returns the state as written.

        `files` replaces the learning files, `scores` is appended to the chunks (which are emptied first, and the
        gate's state with them, when `fresh_epoch`; it then begins with what is `carried`, so that no crash gives α
        back), `gate` replaces the gate's state after a look.
        """
        home = self.root / state.name
        home.mkdir(parents=True, exist_ok=True)
        state = msgspec.structs.replace(state, sequence=state.sequence + 1)
        if fresh_epoch:
            state.chunks, state.scored, state.judged, state.gate = [], 0, 0, carried or {}
            self._offers.pop(state.name, None)
        if files is not None:
            state.folder, state.digest = f"files-{state.sequence:08d}", _digest(files)
            _write_folder(home / state.folder, files, durable=self.durable)
        if scores is not None and len(scores.event_id):
            name = f"scores-{state.sequence:08d}.npz"
            write_scores(home / name, scores, durable=self.durable)
            remembered_names, remembered = self._scores.get(state.name, ([], []))
            self._scores[state.name] = ([*remembered_names, name], [*remembered, self._shared(state.name, scores)])
            state.chunks = [*state.chunks, name]
            state.scored += len(scores.event_id)
        if gate is not None:
            state.gate, state.judged = gate, state.scored
        write_atomically(home / "state.json", msgspec.json.encode(state), sync=self.durable)
        self._sweep(state)
        return state

    def drop(self, name: str) -> None:
        """Forget a challenger."""
        (self.root / name / "state.json").unlink(missing_ok=True)
        shutil.rmtree(self.root / name, ignore_errors=True)
        self._forget(name)

    def erase(self, name: str) -> None:
        """Remove what a challenger has learnt and scored, which names events; what α it spent stays spent."""
        self._forget(name)
        state = self.load(name)
        if state is None:
            self.drop(name)
            return
        self.save(msgspec.structs.replace(state, folder=None, digest="", chunks=[], canaries=[]))

    def retire(self, champion: str | None, name: str, spent: float) -> None:
        """Remember the α that a challenger had spent in this champion's tenure when it left the field for good."""
        before = self._retired(champion)
        by = before.by | {name: before.by.get(name, 0.0) + spent}
        self._write_retired(msgspec.structs.replace(before, spent=before.spent + spent, by=by))

    def release(self, champion: str | None) -> None:
        """What challengers that left have spent belongs to an epoch that is over: the rows to come have a fresh α."""
        before = self._retired(champion)
        if before.spent > 0.0:
            self._write_retired(msgspec.structs.replace(before, released=_by_name(before)))

    def retired(self, champion: str | None) -> dict[str, float]:
        """The α that challengers which left the field spent in this champion's tenure and epoch, by name.

        What an older version did not name is under "".
        """
        retired = self._retired(champion)
        left = {name: spent - retired.released.get(name, 0.0) for name, spent in _by_name(retired).items()}
        return {name: spent for name, spent in left.items() if spent > 0.0}

    def left(self, champion: str | None) -> dict[str, float]:
        """The same for the whole tenure."""
        return self._retired(champion).by

    def retired_damage(self) -> str | None:
        """What is the matter with the file of those that left, None where nothing is."""
        try:
            self._retired(None)
        except CorruptModel as error:
            return str(error)
        return None

    def retire_anew(self, champion: str | None, by: Mapping[str, float]) -> None:
        """Remember this of those that left in this champion's tenure, in place of what cannot be read any more."""
        self._write_retired(_Retired(champion, sum(by.values()), dict(by)))

    def _retired(self, champion: str | None) -> _Retired:
        """Raises `CorruptModel` where the file cannot be read: what is not known must not count as nothing."""
        nobody = _Retired(champion, 0.0)
        try:
            retired = decode((self.root / RETIRED).read_bytes(), _Retired)
        except FileNotFoundError:
            return nobody
        except Undecodable as error:
            raise CorruptModel(f"{RETIRED} cannot be read ({error})") from None
        return retired if retired.champion == champion else nobody

    def _write_retired(self, retired: _Retired) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        write_atomically(self.root / RETIRED, msgspec.json.encode(retired), sync=self.durable)

    def _shared(self, name: str, scores: Scores) -> Scores:
        """Scores that have their offers in common with earlier chunks; none once the challenger's are too many."""
        if scores.offers is None:
            return scores
        known = self._offers.setdefault(name, KnownOffers())
        places = known.places(scores.offers)
        if places is None:
            return scores._replace(offers=None, offer=None)
        return scores._replace(offers=[known.offers[place] for place in places])

    def _forget(self, name: str) -> None:
        self._scores.pop(name, None)
        self._offers.pop(name, None)

    def _sweep(self, state: ChallengerState) -> None:
        keep = {"state.json", state.folder, *state.chunks}
        for path in (self.root / state.name).iterdir():
            if path.name in keep:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _by_name(retired: _Retired) -> dict[str, float]:
    unnamed = retired.spent - sum(retired.by.values())
    return retired.by | ({"": unnamed} if unnamed > 1e-12 else {})


def _digest(files: Mapping[str, bytes]) -> str:
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    return hashlib.sha256(msgspec.json.encode(digests)).hexdigest()


def _write_folder(folder: Path, files: Mapping[str, bytes], *, durable: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    if durable:
        fsync_directory(folder)
        fsync_directory(folder.parent)
