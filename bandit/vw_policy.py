"""The policy that explores and learns: Vowpal Wabbit's pmf, normalised, with the declared probability floor.

What `pmf` returns is exactly what gets drawn from and logged. A policy that was saved and loaded gives the
same numbers, bit for bit; `explore_first` and `uniform` are decided here, because VW counts its predictions
for the former and so would give another answer each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bandit.encoder import FeatureEncoder
from bandit.errors import CorruptModel
from bandit.sampling import normalise
from bandit.settings import Exploration, Learning
from bandit.types import Action, Context
from bandit.vw_options import policy_arguments
from bandit.vw_workspace import VWWorkspace


class VWPolicy:
    """A pmf over the offered actions from squarecb, egreedy, bag, cover, softmax, explore_first or uniform.

    `rows_learnt` counts what this model has learnt from; `explore_first` is uniform until it reaches its number.
    """

    def __init__(
        self,
        encoder: FeatureEncoder,
        exploration: Exploration,
        learning: Learning,
        *,
        model: bytes | None = None,
        rows_learnt: int = 0,
    ) -> None:
        """Start empty, or from the bytes of a saved model; raises `CorruptModel` when VW refuses them."""
        self.encoder = encoder
        self.exploration = exploration
        self.learning = learning
        self.rows_learnt = rows_learnt
        self._vw = VWWorkspace(encoder, policy_arguments(exploration, learning, encoder.interactions), model)
        self._propensity_min = max(learning.propensity_min, 1.0 / learning.importance_max)

    def pmf(self, context: Context, actions: Sequence[Action]) -> list[float]:
        """k probabilities in the order of `actions`, summing to 1 and none below the floor.

        Raises `CorruptModel` when the model's weights are no numbers any more, `InvalidRequest` when there are
        no actions or two of one id.
        """
        return self.explore(self._vw.predict(context, actions))

    def explore(self, numbers: Sequence[float]) -> list[float]:
        """Turn VW's k probabilities into the served pmf: uniform phases, normalisation, floor."""
        k = len(numbers)
        algorithm = self.exploration.algorithm
        if algorithm == "uniform" or (
            algorithm == "explore_first" and self.rows_learnt < self.exploration.explore_first
        ):
            return [1.0 / k] * k
        total = sum(numbers)
        if not (0.0 < total < math.inf and min(numbers) >= 0.0):
            raise CorruptModel("the model's probabilities are not numbers; roll back to an earlier one")
        pmf = [number / total for number in numbers]
        return with_floor(pmf, self.exploration.probability_floor)

    def learn(self, context: Context, actions: Sequence[Action], index: int, cost: float, propensity: float) -> None:
        """One update; `cost` must be finite, `propensity` is bounded below by the declared minimum."""
        if not (math.isfinite(cost) and 0.0 < propensity <= 1.0 and 0 <= index < len(actions)):
            raise ValueError("a training example needs a finite cost, a propensity in (0, 1] and an offered action")
        self._vw.learn(context, actions, index, cost, max(propensity, self._propensity_min))
        self.rows_learnt += 1

    def to_bytes(self) -> bytes:
        """The model's bytes, from which learning continues exactly."""
        return self._vw.to_bytes()

    def close(self) -> None:
        """Free the memory; the policy refuses everything afterwards."""
        self._vw.close()


def with_floor(pmf: list[float], floor: float) -> list[float]:
    """Mix with uniform so that no probability is below `floor` (below 1/k, where k actions leave less room).

    >>> with_floor([1.0, 0.0], 0.1)
    [0.9, 0.1]
    """
    if floor <= 0.0:
        return pmf
    k = len(pmf)
    if floor * k >= 1.0:
        return [1.0 / k] * k
    return normalise([floor + (1.0 - floor * k) * probability for probability in pmf])
