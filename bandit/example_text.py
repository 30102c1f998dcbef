"""Training examples as Vowpal Wabbit's text: the context's line, then one line per action, the label on the chosen one.

A row is encoded once, whoever learns from it: policy and reward model see the same lines and differ in the label
alone. What was said of an offer's actions is kept for the next row with the same offer, as a catalogue gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bandit.encoder import FeatureEncoder
from bandit.types import Action, Context


class RowText(NamedTuple):
    """One row as lines: the context's, those before the chosen action's, its own, and those after it.

    A text that is not whole lacks the lines before and after.
    """

    shared: str
    before: str
    chosen: str
    after: str

    def labelled(self, cost: float, propensity: float) -> str:
        """The whole example: the chosen action had this cost, and was chosen with this propensity."""
        return f"{self.shared}{self.before}\n0:{cost!r}:{propensity!r} {self.chosen}{self.after}"

    def chosen_only(self, cost: float, propensity: float) -> str:
        """The context's line and the chosen action's with its label."""
        return f"{self.shared}\n0:{cost!r}:{propensity!r} {self.chosen}"


class RowTexts:
    """Writes rows as examples of one encoder."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        self._encoder = encoder
        self._last: Sequence[Action] | None = None
        self._lines: list[str] = []
        self._parts: dict[tuple[int, bool], tuple[str, str, str]] = {}

    def of(self, context: Context, actions: Sequence[Action], index: int, *, whole: bool = True) -> RowText:
        """The text of one row, whose chosen action is at `index`; an offer that is a tuple is known by identity.

        Raises ValueError when no action was offered at `index`.
        """
        if not 0 <= index < len(actions):
            raise ValueError("a training example needs an action that was offered")
        if actions is not self._last:
            self._last = actions if isinstance(actions, tuple) else None  # a list could be changed in place
            self._lines = []
            self._parts = {}
        parts = self._parts.get((index, whole))
        if parts is None:
            parts = self._parts[index, whole] = self._parts_of(actions, index, whole)
        return RowText(self._encoder.context_line(context), *parts)

    def _parts_of(self, actions: Sequence[Action], index: int, whole: bool) -> tuple[str, str, str]:
        if not whole:
            return "", self._encoder.action_line(actions[index]), ""
        lines = self._lines = self._lines or [self._encoder.action_line(action) for action in actions]
        before, after = ("".join(f"\n{line}" for line in part) for part in (lines[:index], lines[index + 1 :]))
        return before, lines[index], after
