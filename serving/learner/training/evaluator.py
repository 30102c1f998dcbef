"""Where what-if evaluations run: one at a time, each in a process of its own that ends with it.

People ask for them as often as they like, beside a learner with work of its own. So one is bounded as training is
(`training.*`), gives way to decisions, and ends with the learner, or when nobody waits for its answer any more; who
asks meanwhile is told to come again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from bandit.errors import BeyondLimits, Busy, Refused, TrainingFailed
from bandit.settings import Training
from serving.learner.training.trainer import ChildTrainer

ASKER: ContextVar[object] = ContextVar("asker", default=None)
"""Who asks in this context, where that may go away before the answer."""


class Evaluator:
    """Runs the job `score_policies` in turns; may be closed from another thread."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._child = ChildTrainer(work="the evaluation")
        self._closed = False
        self._asker: object = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep other evaluations away for the length of a block, at whose end its process goes; raises `Busy`."""
        if self._closed:
            raise self._stopping()
        if not self._turn.acquire(blocking=False):
            raise Busy("another evaluation of policies is under way, and they take turns; ask again when it has ended")
        try:
            self._asker = ASKER.get()
            yield
        finally:
            self._asker = None
            self._child.rest()
            self._turn.release()

    def score(self, asked: Any, *, limits: Training) -> Any:
        """Score what is asked; raises what scoring raises, `Refused` beyond the limits, `Busy` when it is stopped."""
        try:
            return self._child.run("score_policies", asked, limits=limits)
        except BeyondLimits as error:
            raise Refused(f"{error}; ask for fewer policies or a shorter window, or raise the limit") from None
        except TrainingFailed:
            if self._closed:
                raise self._stopping() from None
            raise

    def give_up(self, asker: object) -> None:
        """End what is being worked on for one who went away; what others asked goes on."""
        if self._asker is asker:
            self._child.interrupt()

    @property
    def busy(self) -> bool:
        """Whether an evaluation is being worked on."""
        return self._child.busy

    def close(self) -> None:
        """End the evaluation that is under way, and take no other."""
        self._closed = True
        self._child.close()

    def _stopping(self) -> Busy:
        return Busy("the learner is stopping; ask again when it is back")
