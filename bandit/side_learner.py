"""The reward model learning in a process of its own, while the policy learns the same rows in this one.

VW holds the interpreter's lock, so two models learn at once only in two processes. What they come to is the same to the
bit; it is only a matter of cores (`training.cores`). The reward model being done first, its process encodes the rows
that follow besides. Run as a module it is the other process.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit.courtesy import courteously
from bandit.encoder import FeatureEncoder
from bandit.errors import TrainingFailed
from bandit.example_text import LabelledRow, RowText
from bandit.reward_model import RewardModel
from bandit.settings import Learning
from bandit.types import Action, Context, Interaction

Told = tuple[NDArray[np.float64], list[str] | None]
"""The predicted costs of rows, one after the other, and the lines of the contexts that follow, if they were asked."""

_Task = tuple[bool, list[str], list[tuple[str, ...]], list[int], list[Sequence[Action]], list[float], list[Context]]
"""Whether to tell; of the rows the parts of their texts, their actions and their costs; the contexts that follow."""


_Given = tuple[bytes, Learning, float | None, bytes]
"""A reward model to go on with, in place of the one before: encoder, settings, learning rate, what VW stored."""


class SideLearner:
    """A copy of a reward model that learns elsewhere until `close`; what it has learnt comes back by `model`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bandit.side_learner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).resolve().parent.parent,
        )

    def take(self, reward_model: RewardModel, learning: Learning) -> None:
        """Learn `reward_model` from now on, a copy of it as it stands; raises `TrainingFailed`."""
        given: _Given = (reward_model.encoder.to_json(), learning, reward_model.rate, reward_model.to_bytes())
        self._send("take", given)

    def start(
        self, examples: Sequence[LabelledRow], following: Sequence[Interaction], *, told: bool
    ) -> Callable[[], Told]:
        """Hand rows over; the answer waits for what they were predicted to cost. Both raise `TrainingFailed`.

        Which takes the other process less time than this one needs for the policy, so it encodes the contexts of the
        rows that follow, too. Rows that are not to be `told` of are only learnt, and nobody waits for them.
        """
        texts, costs, rows = zip(*examples, strict=True)
        task: _Task = (  # column by column, which is sent in a fraction of the time
            told,
            [text.shared for text in texts],
            [text.lines for text in texts],
            [text.chosen for text in texts],
            [row.actions for row in rows],
            list(costs),
            [row.context for row in following] if told else [],
        )
        self._send("learn", task)
        return self._receive if told else lambda: (np.empty(0), None)

    def model(self) -> bytes:
        """The model as it has become; raises `TrainingFailed`."""
        self._send("tell", None)
        model: bytes = self._receive()
        return model

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()

    def _send(self, what: str, given: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump((what, given), self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            raise self._failure() from None

    def _failure(self) -> TrainingFailed:
        _, said = self._process.communicate()
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return TrainingFailed(f"the reward model's process ended with exit code {self._process.returncode}: {last}")


def _serve() -> None:
    """The other process's life: a model, then rows to learn and questions for the model, until the pipe ends."""
    given, told = sys.stdin.buffer, sys.stdout.buffer
    model: RewardModel | None = None
    while True:
        try:
            what, task = pickle.load(given)
        except EOFError:
            return
        if what == "take":
            if model is not None:
                model.close()
            encoder, learning, rate, stored = task
            model = RewardModel(FeatureEncoder.from_json(encoder), learning, rate=rate, model=stored)
            continue
        assert model is not None
        answer: Any
        if what == "tell":
            answer = model.to_bytes()
        else:
            wanted, shared, lines, chosen, offers, costs, following = task
            predicted = model.learn_rows([*map(RowText, shared, lines, chosen)], offers, costs, told=wanted)
            if not wanted:
                continue
            answer = (predicted, [model.encoder.context_line(context) for context in courteously(following)])
        pickle.dump(answer, told, protocol=pickle.HIGHEST_PROTOCOL)
        told.flush()


if __name__ == "__main__":
    _serve()
