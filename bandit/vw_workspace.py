"""One Vowpal Wabbit workspace: models in and out as bytes, action lines parsed once and used again.

VW crashes or answers nonsense on what it does not expect (a parsed example that leaks, a workspace used after
its end, an empty request), so this wrapper is the only place that touches it, and it counts what goes in and
what comes out. Text that arrives here has been written by `bandit.encoder`: one line per example, always.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from vowpalwabbit import Workspace
from vowpalwabbit.pyvw import pylibvw

from bandit.courtesy import give_way
from bandit.encoder import FeatureEncoder
from bandit.errors import CorruptModel, InvalidRequest, TrainingFailed
from bandit.example_text import RowText
from bandit.scratch import scratch_folder
from bandit.types import Action, Context
from bandit.vw_options import WEIGHT_UNIT, one_action_arguments

# The undecorated methods of the native class: several times faster than the Python wrappers around them.
_parse = pylibvw.vw._parse
_predict = pylibvw.vw.predict_multi
_learn = pylibvw.vw.learn_multi
_finish = pylibvw.vw._finish_example_multi_ex

_json = msgspec.json.Encoder().encode

PARSED_MAX = 5_000
"""Most action lines kept parsed, some 30 KB each; beyond it the memory is emptied and filled again."""

_POOL = ("--example_queue_limit", "1")
"""VW keeps 256 examples of 30 KB ready for its parser and takes them in turn, which costs 8 MB a workspace, half of its
start and the processor's cache; of one to begin with it makes more as they are needed. Saved models don't tell."""

ROOM_BYTES = 256 * 1024**2
"""A model on its way in or out takes less than this."""

HEADER_BYTES = 320
"""A saved model begins with its options and so many bytes of counters at most, which are no weights."""

_TIME, _LOSSES = struct.Struct("<d"), struct.Struct("<ddf")
_LABELS, _COUNTERS = struct.Struct("<ff"), struct.Struct("<dddQQ")
"""Among them, in this order: how many examples VW has ever been shown; losses in all and since last shown, when to show
them next; least and greatest label; weights of examples with labels, of labels, of examples without; how many examples,
and how many features."""


class VWWorkspace:
    """Predicts and learns multi-line examples of one encoder; must be closed, and never crosses a process."""

    def __init__(self, encoder: FeatureEncoder, arguments: Sequence[str], model: bytes | None = None) -> None:
        """Start empty, or from `model` (then the same arguments must be given).

        Raises `TrainingFailed` where VW refuses the arguments, `CorruptModel` where it refuses the model.
        """
        self.encoder = encoder
        self.arguments = list(arguments)
        # an explorer learns from the whole offer, a regression of costs from the chosen action alone
        self.regresses = "--cb_adf" in self.arguments
        self._start_arguments = one_action_arguments(arguments) if self.regresses else self.arguments
        self._parsed: dict[tuple[str, bytes], Any] = {}
        self._by_action: dict[int, tuple[Action, Any]] = {}
        self._last_actions: Sequence[Action] | None = None
        self._last_examples: list[Any] = []
        self._last_first: Action | None = None
        self._seen = 0
        self._closed = False
        if model is None:
            self._vw = _start(self._start_arguments)
            return
        with scratch_folder(ROOM_BYTES) as folder:
            path = folder / "model.vw"
            path.write_bytes(model)
            self._vw = _start(self._start_arguments, path)

    def predict(self, context: Context, actions: Sequence[Action], line: str | None = None) -> list[float]:
        """VW's k numbers in the order of `actions`: probabilities of a policy, costs of a regression.

        `line` is the context's line, where the caller has it at hand.
        `actions` is recognised by identity, so a catalogue handed in as the same tuple costs nothing more.
        """
        vw = self._vw
        examples = self._examples(actions)
        shared = _parse(vw, line or self.encoder.context_line(context))
        _predict(vw, shared + examples)
        numbers = shared[0].get_action_scores()
        _finish(vw, shared)
        self._seen += 1
        return _complete(numbers, len(examples))

    def learn(self, row: RowText, actions: Sequence[Action], cost: float, propensity: float) -> list[float]:
        """One update of an explorer from a whole text; gives what `predict` would have answered before it.

        `cost` must be finite and `propensity` in (0, 1]. Raises ValueError where `regress` is the way to learn.
        """
        if self.regresses:
            raise ValueError("a regression learns from the chosen action alone")
        own = self._parse_row(row.labelled(cost, propensity), len(actions) + 1)
        _learn(self._vw, own)
        self._seen += 1
        numbers = own[0].get_action_scores()
        _finish(self._vw, own)
        give_way()
        return _complete(numbers, len(actions))

    def regress(
        self,
        rows: Iterable[RowText],
        offers: Iterable[Sequence[Action]],
        costs: Iterable[float],
        weights: Iterable[float],
        *,
        told: bool,
    ) -> array[float]:
        """One update of a regression a row, from its chosen action alone, which counts its weight (finite, positive).

        The weights are those that VW comes to from whole texts, up to rounding. Gives what `predict` would have
        answered before each, row after row, where it is to be `told`, which takes whole texts, and else nothing.
        """
        vw, numbers = self._vw, array("d")
        for row, actions, cost, weight in zip(rows, offers, costs, weights, strict=True):
            probability = 1.0 / (weight * WEIGHT_UNIT)
            if told and actions is not self._last_actions and not self._come_again(actions):
                own = self._parse_row(row.labelled(cost, probability), len(actions) + 1)
                _predict(vw, own)
                said = _complete(own[0].get_action_scores(), len(actions))
                _learn(vw, [own[0], own[row.chosen + 1]])
            else:
                others = list(self._examples(actions)) if told else []
                own = self._parse_row(row.chosen_only(cost, probability), 2)
                if told:
                    del others[row.chosen]
                said = []
                if others:
                    _predict(vw, [own[0], *others])
                    said = own[0].get_action_scores()
                _learn(vw, own)
                if told:  # VW foretells what it learns, to the same number
                    said[row.chosen : row.chosen] = own[0].get_action_scores()
                    _complete(said, len(actions))
            numbers.extend(said)
            self._seen += 1
            _finish(vw, own)
            give_way()
        return numbers

    def foretell(self, rows: Iterable[RowText], costs: Iterable[float]) -> array[float]:
        """`regress` with weights of 1; gives the predicted cost of each row's chosen action, from before it."""
        vw, numbers = self._vw, array("d")
        for row, cost in zip(rows, costs, strict=True):
            own = self._parse_row(row.chosen_only(cost, 1.0 / WEIGHT_UNIT), 2)
            _learn(vw, own)
            numbers.extend(_complete(own[0].get_action_scores(), 1))
            self._seen += 1
            _finish(vw, own)
            give_way()
        return numbers

    def _come_again(self, actions: Sequence[Action]) -> bool:
        """Whether actions are those of the row before, or known, as a catalogue's are: then parsing them once pays."""
        first = actions[0]
        known = self._by_action.get(id(first))
        before, self._last_first = self._last_first, first
        return first is before or (known is not None and known[0] is first)

    def _parse_row(self, text: str, lines: int) -> list[Any]:
        if self._closed:
            raise RuntimeError("this model has been closed")
        examples: list[Any] = _parse(self._vw, text)
        if len(examples) != lines:
            raise InvalidRequest("actions", "context and actions did not encode to one line each")
        return examples

    def to_bytes(self) -> bytes:
        """The model, from which learning continues exactly; the same steps give the same bytes, interrupted or not.

        Raises `TrainingFailed` when a weight is no number, or VW has counted other examples than it was given.
        """
        counted = self._vw.get_weighted_examples()
        if counted != self._seen:
            raise TrainingFailed(f"Vowpal Wabbit counted {counted:.0f} of {self._seen} examples")
        with scratch_folder(ROOM_BYTES) as folder:
            path = folder / "model.vw"
            self._vw.save(path)
            model = path.read_bytes()
            check_weights(model, header_bytes(self._start_arguments))
            if self.regresses:
                return uncounted(model, header_bytes(self._start_arguments), self._vw.get_sum_loss(), self._seen)
            # an explorer of several models may go on otherwise than it was stored: it goes on from what is stored
            again = _start(self._start_arguments, path)
            again.save(path)
            self._forget()
            self._vw.finish()
            self._vw, self._seen = again, 0
            return path.read_bytes()

    def close(self) -> None:
        """Free VW's memory; the workspace refuses everything afterwards."""
        if not self._closed:
            self._closed = True
            self._forget()
            self._vw.finish()

    def _examples(self, actions: Sequence[Action]) -> list[Any]:
        """The parsed example of each action; those of the last request, and of known actions, are used again."""
        if actions is self._last_actions:
            return self._last_examples
        if self._closed:
            raise RuntimeError("this model has been closed")
        if not actions:
            raise InvalidRequest("actions", "must not be empty")
        if len({action.id for action in actions}) != len(actions):
            raise InvalidRequest("actions", "two actions share an id")
        if len(self._parsed) + len(actions) > PARSED_MAX:
            self._forget()
        examples = []
        for action in actions:
            known = self._by_action.get(id(action))
            if known is not None and known[0] is action:
                examples.append(known[1])
                continue
            key = (action.id, self._features_key(action))
            example = self._parsed.get(key)
            if example is None:
                parsed = _parse(self._vw, self.encoder.action_line(action))
                if len(parsed) != 1:
                    raise InvalidRequest("actions", "an action did not encode to one line")
                example = self._parsed[key] = parsed[0]
            if len(self._by_action) < PARSED_MAX:
                self._by_action[id(action)] = (action, example)
            examples.append(example)
        if isinstance(actions, tuple):  # a list could be changed in place
            self._last_actions, self._last_examples = actions, examples
        return examples

    def _features_key(self, action: Action) -> bytes:
        try:
            return _json(action.features)  # cheaper than the line itself
        except (UnicodeEncodeError, TypeError):  # no JSON, but the encoder copes with it
            return self.encoder.action_line(action).encode()

    def _forget(self) -> None:
        if self._parsed:
            # VW reads the first example's prediction when it takes examples back, and crashes if there is none
            request = _parse(self._vw, "shared |c") + list(self._parsed.values())
            _predict(self._vw, request)
            _finish(self._vw, request)
            self._seen += 1
        self._parsed.clear()
        self._by_action.clear()
        self._last_actions, self._last_examples = None, []


def _complete(numbers: list[float], k: int) -> list[float]:
    if len(numbers) != k:
        raise CorruptModel("Vowpal Wabbit gave another number of results than there are actions")
    return numbers


def _unseeded(arguments: Sequence[str]) -> list[str]:
    """The arguments for going on from a saved model, which brings the state of its random numbers along."""
    position = arguments.index("--random_seed")
    return [*arguments[:position], *arguments[position + 2 :]]


def _start(arguments: Sequence[str], model: Path | None = None) -> Any:
    saved = [] if model is None else [*_unseeded(arguments), "--initial_regressor", str(model)]
    try:
        return Workspace(arg_list=[*(saved or arguments), *_POOL])
    except Exception as error:  # VW raises RuntimeError and others of its own
        if "Failed to allocate" in str(error):
            raise MemoryError("Vowpal Wabbit's weights do not fit into memory; lower learning.bits") from error
        reason = type(error).__name__
        if model is None:
            raise TrainingFailed(f"Vowpal Wabbit refuses the settings of exploration or learning ({reason})") from error
        raise CorruptModel(f"the model cannot be loaded by Vowpal Wabbit ({reason})") from error


def header_bytes(arguments: Sequence[str]) -> int:
    """How much of a model saved under `arguments` may be something else than weights."""
    return HEADER_BYTES + len(" ".join(arguments))


def uncounted(model: bytes, header: int, loss: float, examples: int) -> bytes:
    """A saved regression without what VW counted: learning takes no notice of it, and questions count as rows do.

    Raises `TrainingFailed` where the header does not hold what VW says it counted.
    """
    losses = _LOSSES.pack(loss, loss, 1.0)
    start = model.find(losses, 0, header)
    counters = start + _LOSSES.size + _LABELS.size
    if _TIME.size <= start <= len(model) - _LOSSES.size - _LABELS.size - _COUNTERS.size:
        labelled, _, unlabelled, count, _ = _COUNTERS.unpack_from(model, counters)
        if count == labelled + unlabelled == examples:
            fresh = bytearray(model)
            _TIME.pack_into(fresh, start - _TIME.size, 0.0)
            _LOSSES.pack_into(fresh, start, 0.0, 0.0, 1.0)
            _COUNTERS.pack_into(fresh, counters, 0.0, 0.0, 0.0, 0, 0)
            return bytes(fresh)
    raise TrainingFailed("Vowpal Wabbit saved its counters otherwise than it is known to")


def check_weights(model: bytes, header: int) -> None:
    """Raise `TrainingFailed` when a saved model is empty or a weight after its header is NaN or infinite.

    A saved model ends with its weights, four bytes each, as are their positions between them.
    """
    if not model:
        raise TrainingFailed("Vowpal Wabbit wrote an empty model; is the temporary folder full?")
    start = header + (len(model) - header) % 4
    if start < len(model) and not np.isfinite(np.frombuffer(model, dtype="<f4", offset=start)).all():
        raise TrainingFailed("the model's weights are no numbers any more; train again without the poisoned rows")
