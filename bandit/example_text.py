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
    """One row's lines around the place of its label, without a newline at the end."""

    before: str
    after: str

    def labelled(self, cost: float, propensity: float) -> str:
        """The example: the chosen action had this cost, and was chosen with this propensity."""
        return f"{self.before}0:{cost!r}:{propensity!r} {self.after}"


class RowTexts:
    """Writes rows as examples of one encoder."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        self._encoder = encoder
        self._last: Sequence[Action] | None = None
        self._lines: list[str] = []
        self._parts: dict[int, tuple[str, str]] = {}

    def of(self, context: Context, actions: Sequence[Action], index: int) -> RowText:
        """The text of one row, whose chosen action is at `index`; an offer that is a tuple is known by identity.

        Raises ValueError when no action was offered at `index`.
        """
        if not 0 <= index < len(actions):
            raise ValueError("a training example needs an action that was offered")
        if actions is not self._last:
            self._last = actions if isinstance(actions, tuple) else None  # a list could be changed in place
            self._lines = [self._encoder.action_line(action) for action in actions]
            self._parts = {}
        parts = self._parts.get(index)
        if parts is None:
            lines = self._lines
            before = "".join(f"\n{line}" for line in lines[:index]) + "\n"
            parts = self._parts[index] = (before, "\n".join(lines[index:]))
        return RowText(self._encoder.context_line(context) + parts[0], parts[1])
