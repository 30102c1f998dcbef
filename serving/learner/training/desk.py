"""What a training process remembers between jobs: learnings, stored models, and the rows that it read last.

Challengers of one experiment are advanced over the same new rows, beside the same champion, run after run. Nothing
here changes an answer; whatever is not remembered is read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bandit.experiment import ExperimentPaths
from bandit.frozen import Frozen
from bandit.registry import ModelRegistry
from bandit.rows import read_interactions
from bandit.training import Learning
from bandit.types import Action, Interaction

LEARNINGS_MAX = 8
"""How many learnings are kept in memory (each some tens of megabytes); any other is loaded from its files."""

MODELS_MAX = 4
"""How many stored models are kept in memory."""

ROW_FILES_MAX = 3
ROW_FILE_BYTES_MAX = 2 * 1024**2
"""How many row files, up to which size, are kept as the rows that they hold."""


@dataclass(slots=True)
class Desk:
    """The memory of one training process; a model or learning that leaves it is closed."""

    learnings: dict[tuple[Path, str], tuple[str, Learning]] = field(default_factory=dict)
    models: dict[tuple[Path, str], Frozen] = field(default_factory=dict)
    row_files: dict[tuple[Path, bytes], list[Interaction]] = field(default_factory=dict)

    def take(self, root: Path, name: str, digest: str) -> Learning | None:
        """The learning of that challenger, if it is in the state of that digest; it leaves the desk either way."""
        known, learning = self.learnings.pop((root, name), ("", None))
        if learning is not None and known != digest:
            learning.close()
            return None
        return learning

    def keep(self, root: Path, name: str, digest: str, learning: Learning) -> None:
        """Remember a learning for the next job; the one used longest ago makes room."""
        self.take(root, name, "")
        self.learnings[root, name] = (digest, learning)
        while len(self.learnings) > LEARNINGS_MAX:
            _, oldest = self.learnings.pop(next(iter(self.learnings)))
            oldest.close()

    def model(self, root: Path, model_id: str) -> Frozen:
        """A stored model, its digests and canaries checked when it was loaded; raises `CorruptModel`, `NotFound`."""
        known = self.models.pop((root, model_id), None)
        return self._hold(root, model_id, known or self._load(root, model_id))

    def verify(self, root: Path, model_id: str) -> None:
        """Load a model from disk, whatever is remembered of it, and check it; raises `CorruptModel`, `NotFound`."""
        if known := self.models.pop((root, model_id), None):
            known.close()
        self._hold(root, model_id, self._load(root, model_id))

    def rows(self, root: Path, path: Path, catalogues: Mapping[int, tuple[Action, ...]]) -> Iterator[Interaction]:
        """The rows of a file, in order; a small file that has been read before gives the same rows again."""
        if path.stat().st_size > ROW_FILE_BYTES_MAX:
            yield from read_interactions(path, catalogues)
            return
        key = (root, hashlib.blake2b(path.read_bytes()).digest())
        rows = self.row_files.pop(key, None)
        if rows is None:
            rows = list(read_interactions(path, catalogues))
        self.row_files[key] = rows
        while len(self.row_files) > ROW_FILES_MAX:
            del self.row_files[next(iter(self.row_files))]
        yield from rows

    def close(self) -> None:
        """Free the memory of all that is remembered."""
        for _, learning in self.learnings.values():
            learning.close()
        for model in self.models.values():
            model.close()
        self.learnings, self.models, self.row_files = {}, {}, {}

    def _load(self, root: Path, model_id: str) -> Frozen:
        return Frozen.load(ModelRegistry(ExperimentPaths(root)).load(model_id))

    def _hold(self, root: Path, model_id: str, model: Frozen) -> Frozen:
        self.models[root, model_id] = model
        while len(self.models) > MODELS_MAX:
            self.models.pop(next(iter(self.models))).close()
        return model
