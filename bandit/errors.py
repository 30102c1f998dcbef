"""Every error this product raises on purpose, in one tree.

    RewardloopError
    ├── InvalidInput            a client or a file sent something that cannot be accepted (HTTP 4xx, exit 2)
    │   ├── InvalidSettings     a setting is unknown, has the wrong type or is out of its limit
    │   ├── InvalidRequest      a recommend or rewards request is malformed
    │   ├── InvalidHistory      an imported row cannot be learnt from
    │   └── InvalidScores       scored rows break an invariant of offline evaluation
    ├── NotFound                an experiment, model, evaluation or event does not exist (404)
    ├── Conflict                what is asked collides with what is there (409)
    ├── Refused                 asked properly, but the answer is no (promotion without a verdict, …)
    │   └── NotYet              … not now: what it needs, such as a matured interaction, is still to come (409)
    ├── DurabilityLost          a write or sync failed; nothing may be acknowledged any more (503)
    ├── CorruptLog              a sealed segment does not match its checksums
    ├── CorruptModel            a model's files do not match its manifest, or its canaries
    ├── CorruptSecret           the key of an experiment's draws is missing or not whole; nothing is drawn (503)
    ├── TrainingFailed          the training process ended without a usable model
    │   ├── TrainingStopped     the learner stops, and its training process with it
    │   └── BeyondLimits        it would have taken more time or memory than the settings allow
    ├── MemoryFull              what is asked takes more memory than the database may have
    └── Busy                    another process holds the lock (a second learner, a migration)

A message gives the field, what is wrong with its value, the limit and the next step; it never echoes
the value itself, because values come from outside and end in logs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class OneOf(str):
    """A limit that is a list of names, of which the value has to be one."""

    __slots__ = ()


def one_of(names: Iterable[str]) -> OneOf | None:
    """The names as a limit; None where there is none."""
    return OneOf(", ".join(names)) or None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one field: where, what, and which limit it breaks (if any)."""

    field: str
    problem: str
    limit: str | None = None

    def __str__(self) -> str:
        word = "one of" if isinstance(self.limit, OneOf) else "limit"
        tail = f" ({word}: {self.limit})" if self.limit is not None else ""
        return f"{self.field}: {self.problem}{tail}"


class RewardloopError(Exception):
    """Root of every deliberate error."""


class InvalidInput(RewardloopError):
    """Input that cannot be accepted; carries one `Problem` per field."""

    def __init__(self, field: str, problem: str, limit: str | None = None) -> None:
        self.problems: tuple[Problem, ...] = (Problem(field, problem, limit),)
        super().__init__(str(self.problems[0]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it cross from a child process to its parent whole, whatever a subclass takes to be made."""
        return _remade, (type(self), self.args, self.__dict__)

    @classmethod
    def of(cls, problems: list[Problem]) -> InvalidInput:
        """Build one error out of several problems; raises ValueError when there are none."""
        if not problems:
            raise ValueError("an InvalidInput needs at least one problem")
        error = cls(problems[0].field, problems[0].problem, problems[0].limit)
        error.problems = tuple(problems)
        error.args = ("; ".join(str(problem) for problem in problems),)
        return error


class InvalidSettings(InvalidInput):
    """A setting is unknown, has the wrong type or is out of its limit."""


class InvalidRequest(InvalidInput):
    """A request to the decision API is malformed."""


class InvalidHistory(InvalidInput):
    """An imported row cannot be accepted."""


class InvalidScores(InvalidInput):
    """Scored rows break an invariant of offline evaluation."""


class NotFound(RewardloopError):
    """What was named does not exist."""


class Conflict(RewardloopError):
    """What is asked collides with what is already there."""


class Refused(RewardloopError):
    """A well-formed wish that the product's rules deny; the message says which rule and the way on."""


class NotYet(Refused):
    """A wish that comes too early: no rule forbids it, but what it needs, such as a matured interaction, is to come."""


class DurabilityLost(RewardloopError):
    """A write or sync of the event log failed; the writer accepts nothing more until restarted."""


class CorruptLog(RewardloopError):
    """A sealed segment does not match its checksums."""


class CorruptModel(RewardloopError):
    """A stored model does not match its manifest or its canaries, or is of a form that is not read."""

    @classmethod
    def of_another_release(cls, file: str, version: int, read: int) -> CorruptModel:
        """The refusal of a model whose `file` has another version than the one that is `read`."""
        return cls(
            f"{file} has version {version}, and this release reads {read}; "
            "after `rewardloop models unset` the next run learns the whole log anew"
        )


class CorruptSecret(RewardloopError):
    """The key of an experiment's draws is missing, or not what was made: without it draws could be steered."""


class TrainingFailed(RewardloopError):
    """The training process ended without a usable model."""


class TrainingStopped(TrainingFailed):
    """The learner stops, and its training process with it: nothing is wrong, and the next run learns the same rows."""


class BeyondLimits(TrainingFailed):
    """A job of the training process was ended at a limit of `training.*`; the message says which."""


class MemoryFull(RewardloopError):
    """The database needs more memory for what is asked than it may have; the message names the setting."""


class Busy(RewardloopError):
    """Another process holds the lock that this operation needs."""


def _remade(kind: type[InvalidInput], arguments: tuple[Any, ...], state: dict[str, Any]) -> InvalidInput:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(state)
    return error
