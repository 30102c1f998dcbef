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
    """One row as lines: the context's, those before the chosen action's, its own, and those after it."""

    shared: str
    before: str
    chosen: str
    after: str

    def labelled(self, cost: float, propensity: float) -> str:
        """The whole example: the chosen action had this cost, and was chosen with this propensity."""
        return f"{self.shared}{self.before}\n0:{cost!r}:{propensity!r} {self.chosen}{self.after}"

    def chosen_only(self, cost: float, propensity: float) -> str:
        """The context's line and the chosen action's with its label, for who has the other actions at hand."""
        return f"{self.shared}\n0:{cost!r}:{propensity!r} {self.chosen}"


class RowTexts:
    """Writes rows as examples of one encoder."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        self._encoder = encoder
        self._last: Sequence[Action] | None = None
        self._lines: list[str] = []
        self._parts: dict[int, tuple[str, str, str]] = {}

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
            before, after = (
                "".join(f"\n{line}" for line in part) for part in (self._lines[:index], self._lines[index + 1 :])
            )
            parts = self._parts[index] = (before, self._lines[index], after)
        return RowText(self._encoder.context_line(context), *parts)
