"""VW learning from a file that it reads itself: several times faster than row by row, and bit for bit the same.

With predictions asked for, VW writes what it predicted for each example *before* learning it, which is just
what progressive validation needs. Run as a module it does passes in a process of its own, so that two models
can learn from the same rows on two cores while a third process writes the next ones.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from vowpalwabbit import Workspace

from bandit.errors import TrainingFailed

MODEL_OUT = "model-out.vw"
PREDICTIONS = "predictions.txt"
HEADER_BYTES = 512
"""The part of a saved model that is not looked at for bad weights: options and counters."""
_MODEL_IN = "model-in.vw"


class FilePass(msgspec.Struct, frozen=True):
    """One pass: VW's arguments, the model to go on from, the text file, its examples, and the folder to write to."""

    arguments: list[str]
    model: str
    text: str
    examples: int
    folder: str
    predictions: bool


def learn_file(
    arguments: Sequence[str], model: bytes | Path, text: Path, *, examples: int, folder: Path, predictions: bool
) -> FilePass:
    """Prepare a pass that goes on from `model` (or the file that holds it) over `text`."""
    folder.mkdir(exist_ok=True)
    if isinstance(model, bytes):
        (folder / _MODEL_IN).write_bytes(model)
        model = folder / _MODEL_IN
    return FilePass(list(arguments), str(model), str(text), examples, str(folder), predictions)


def run_pass(job: FilePass) -> None:
    """Learn in this process; raises `TrainingFailed` unless VW learnt as many examples as the file holds."""
    folder = Path(job.folder)
    arguments = [*job.arguments, "--initial_regressor", job.model, "--data", job.text]
    arguments += ["--final_regressor", str(folder / MODEL_OUT)]
    if job.predictions:
        arguments += ["--predictions", str(folder / PREDICTIONS)]
    workspace = Workspace(arg_list=arguments)
    learnt = workspace.get_weighted_examples()
    workspace.finish()
    if learnt != job.examples:
        raise TrainingFailed(f"Vowpal Wabbit learnt {learnt:.0f} of {job.examples} examples")


class PassProcess:
    """A process that does passes, one after the other, until it is closed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bandit.vw_file"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).resolve().parent.parent,
        )

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()

    def start(self, job: FilePass) -> None:
        """Hand over a pass; `finish` waits for it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(job) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def finish(self) -> None:
        """Wait for the pass; raises `TrainingFailed` with the last line that the process said when it failed."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != _DONE:
            raise self._failure()

    def _failure(self) -> TrainingFailed:
        _, said = self._process.communicate()
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return TrainingFailed(f"training ended with exit code {self._process.returncode}: {last}")


_DONE = b"done\n"


def check_weights(model: bytes) -> bytes:
    """Give a saved model back; raises `TrainingFailed` when it is empty or a weight is NaN or infinite.

    A saved model ends with its weights, four bytes each, as are their positions between them.
    """
    if not model:
        raise TrainingFailed("Vowpal Wabbit wrote an empty model; is the temporary folder full?")
    start = HEADER_BYTES + (len(model) - HEADER_BYTES) % 4
    if start < len(model) and not np.isfinite(np.frombuffer(model, dtype="<f4", offset=start)).all():
        raise TrainingFailed("the model's weights are no numbers any more; train again without the poisoned rows")
    return model


def learnt_model(job: FilePass) -> bytes:
    """The model that a finished pass wrote; raises `TrainingFailed` when there is none."""
    path = Path(job.folder) / MODEL_OUT
    if not path.exists():
        raise TrainingFailed("Vowpal Wabbit wrote no model; is the temporary folder full?")
    return check_weights(path.read_bytes())


def read_predictions(job: FilePass, lengths: Sequence[int]) -> list[list[float]]:
    """The k numbers of each example, by action; raises `TrainingFailed` where their number is not `lengths`'."""
    # every line is 0:0.25,3:0.5,… with the actions in an order of its own; a blank line ends an example
    text = (Path(job.folder) / PREDICTIONS).read_bytes()
    lines = text.count(b"\n") - text.count(b"\n\n")
    pairs = np.fromstring(text.translate(_AS_SPACES).decode("ascii"), sep=" ").reshape(-1, 2)
    ends = np.cumsum(lengths)
    if lines != len(lengths) or len(pairs) != (ends[-1] if len(ends) else 0):
        raise TrainingFailed(f"Vowpal Wabbit predicted {lines} of {len(lengths)} examples, {len(pairs)} actions")
    place = np.repeat(ends - lengths, lengths) + pairs[:, 0].astype(np.int64)
    numbers = np.full(len(pairs), np.nan)
    numbers[place] = pairs[:, 1]
    if np.isnan(numbers).any():
        raise TrainingFailed("Vowpal Wabbit's predictions don't match the actions")
    flat = numbers.tolist()
    return [flat[end - length : end] for length, end in zip(lengths, ends.tolist(), strict=True)]


_AS_SPACES = bytes.maketrans(b":,\n", b"   ")


if __name__ == "__main__":
    for order in sys.stdin.buffer:
        run_pass(msgspec.json.decode(order, type=FilePass))
        sys.stdout.buffer.write(_DONE)
        sys.stdout.buffer.flush()
