"""The reward model q̂: the expected reward of every offered action, for doubly-robust evaluation.

A VW regression of the cost on context crossed with action; importance weights are left out, because a
regression conditional on the action needs none and its estimates should not depend on who logged the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from bandit.encoder import FeatureEncoder
from bandit.example_text import RowText
from bandit.settings import Learning
from bandit.types import Action, Context
from bandit.vw_options import reward_arguments
from bandit.vw_workspace import VWWorkspace


class RewardModel:
    """Predicted costs of all k actions in one call; the caller turns them into rewards by its own scale."""

    def __init__(
        self, encoder: FeatureEncoder, learning: Learning, *, rate: float | None = None, model: bytes | None = None
    ) -> None:
        """Start empty, or from a saved model; `rate` is the learning rate where the settings leave it open."""
        self.encoder = encoder
        self.rate = rate
        self._vw = VWWorkspace(encoder, reward_arguments(learning, encoder.interactions, rate), model)

    def costs(self, context: Context, actions: Sequence[Action], line: str | None = None) -> list[float]:
        """k predicted costs in the order of `actions`; `line` as for `VWPolicy.pmf`."""
        return self._vw.predict(context, actions, line)

    def learn_rows(
        self, rows: Sequence[RowText], offers: Iterable[Sequence[Action]], costs: Iterable[float], *, told: bool
    ) -> NDArray[np.float64]:
        """One update for each row's text, offered actions and observed cost.

        Gives the predicted costs as they were before it, row after row, where they are to be `told`; that takes whole
        texts.
        """
        return np.array(self._vw.regress(rows, offers, costs, repeat(1.0, len(rows)), told=told))

    def to_bytes(self) -> bytes:
        """The model's bytes, from which learning continues exactly."""
        return self._vw.to_bytes()

    def close(self) -> None:
        """Free the memory."""
        self._vw.close()
