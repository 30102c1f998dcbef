"""A Parquet file of scored rows, read a few thousand at a time: what it takes does not grow with the file.

It gives the same rows and the same digest as the whole file in memory. The digest goes column by column, so the bytes
of each column wait in a scratch file while the chunks pass by.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import numpy as np

from evaluation.scored import BESIDE_THE_DIGEST, YOUNGER_THAN_DIGESTS, ScoredRows, column_bytes
from joiner.parquet import CHUNK_VECTORS, count_rows, read_chunks

BLOCK_BYTES = 1 << 20


class ScoredFile:
    """The rows of `path`; raises `InvalidInput` for what is no Parquet file, `InvalidScores` for a bad column."""

    def __init__(self, path: Path, *, vectors: int = CHUNK_VECTORS) -> None:
        self._path, self._vectors = path, vectors
        self._rows = count_rows(path)

    def __len__(self) -> int:
        return self._rows

    def chunks(self) -> Iterator[ScoredRows]:
        """The rows, a few thousand at a time, each checked."""
        first = 0
        for frame in read_chunks(self._path, vectors=self._vectors):
            yield ScoredRows.from_frame(frame, first=first)
            first += len(frame)

    def digest(self) -> str:
        """What `ScoredRows.digest` gives for all rows."""
        names = [field.name for field in fields(ScoredRows) if field.name not in BESIDE_THE_DIGEST]
        with ExitStack() as stack:
            files = {name: stack.enter_context(tempfile.TemporaryFile()) for name in names}
            values = 0
            for number, chunk in enumerate(self.chunks()):
                for name, file in files.items():
                    column = getattr(chunk, name)
                    if name == "offsets":
                        column = column + values if number == 0 else column[1:] + values
                    if column is None:
                        continue
                    if number and not isinstance(column, np.ndarray):
                        file.write(b"\0")
                    file.write(column_bytes(column))
                values += chunk.values
            sha = hashlib.sha256()
            for name, file in files.items():
                if name in YOUNGER_THAN_DIGESTS and not file.tell():
                    continue
                sha.update(name.encode() + b"\0")
                file.seek(0)
                while block := file.read(BLOCK_BYTES):
                    sha.update(block)
        return sha.hexdigest() if self._rows else ScoredRows.empty().digest()
