"""Training examples as Vowpal Wabbit's text: the context's line, then one line per action, the label on the chosen one.

A row is encoded once, whoever learns from it: policy and reward model see the same lines and differ in the label
alone. What was said of an offer's actions is kept for the next row with the same offer, as a catalogue gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bandit.encoder import FeatureEncoder
from bandit.types import Action, Context, Interaction


class RowText(msgspec.Struct, frozen=True, gc=False):
    """One row as lines: the context's, and those of the actions, of which the one at `chosen` is to be labelled.

    The lines are shared by the rows of one offer: joined, a large catalogue's would fill the memory. A text that is not
    whole has the line of the chosen action only.
    """

    shared: str
    lines: tuple[str, ...]
    chosen: int

    def labelled(self, cost: float, propensity: float) -> str:
        """The whole text of an example, with its label on the chosen action's line."""
        lines = [self.shared, *self.lines]
        lines[self.chosen + 1] = f"0:{cost!r}:{propensity!r} {self.lines[self.chosen]}"
        return "\n".join(lines)

    def chosen_only(self, cost: float, propensity: float) -> str:
        """The context's line and the chosen action's with its label."""
        return f"{self.shared}\n0:{cost!r}:{propensity!r} {self.lines[self.chosen]}"


LabelledRow = tuple[RowText, float, Interaction]
"""A row's text, its cost, and the row."""


class RowTexts:
    """The texts of rows in one encoding; the actions' lines are kept for the next row with the same offer."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        self._encoder = encoder
        self._last: Sequence[Action] | None = None
        self._all: tuple[str, ...] = ()
        self._alone: dict[int, tuple[str]] = {}

    def of(self, context: Context | str, actions: Sequence[Action], index: int, *, whole: bool = True) -> RowText:
        """The text of one row, whose chosen action is at `index`; an offer that is a tuple is known by identity.

        A context may be given as its line.

        Raises ValueError when no action was offered at `index`.
        """
        if not 0 <= index < len(actions):
            raise ValueError("a training example needs an action that was offered")
        if actions is not self._last:
            self._last = actions if isinstance(actions, tuple) else None  # a list could be changed in place
            self._all = ()
            self._alone = {}
        shared = context if isinstance(context, str) else self._encoder.context_line(context)
        if whole:
            self._all = self._all or tuple(self._encoder.action_line(action) for action in actions)
            return RowText(shared, self._all, index)
        alone = self._alone.get(index)
        if alone is None:
            alone = self._alone[index] = (self._encoder.action_line(actions[index]),)
        return RowText(shared, alone, 0)
