"""The policy that explores and learns: Vowpal Wabbit's predictions made into the pmf that is served.

What `pmf` returns is exactly what gets drawn from and logged. A policy that was saved and loaded gives the
same numbers, bit for bit. `explore_first` and `uniform` are decided here, because VW counts its predictions
for the former and so would give another answer each time; `squarecb` is worked out here from VW's predicted
costs, because its γ depends on how good the best of them is (see `bandit.exploration`).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit.courtesy import courteously
from bandit.encoder import FeatureEncoder
from bandit.errors import CorruptModel
from bandit.example_text import LabelledRow, RowText, RowTexts
from bandit.exploration import headroom, headroom_rows, scaled, squarecb, squarecb_rows, with_floor
from bandit.settings import Exploration, Learning
from bandit.types import Action, Context, Interaction
from bandit.vw_options import policy_arguments
from bandit.vw_workspace import VWWorkspace

KNOWN_ROWS = 10
"""From so many rows on, an action without features stands on its own estimate."""
REGRESSION_IMPORTANCE_MAX = 10.0
"""Bound on 1/propensity as a weight in squarecb's regression."""
ACTIONS_COUNTED_MAX = 10_000
"""With more actions than this, ids come and go, and counting them says nothing."""
NUMBERS_MAX = 50_000
"""About so many numbers of VW wait to be made into pmfs at once."""
_NO_NUMBERS = "the model's predictions are not numbers; roll back to an earlier one"


def learnt_propensity(exploration: Exploration, learning: Learning, propensity: float) -> float:
    """The propensity that VW is told of a row, in (0, 1]: the logged one, but no less than the bounds allow.

    Squarecb is a regression of each action's cost, which needs no weights of 1/propensity; but they let a world that
    has changed show in the few draws that tell. Bounded as they are, a rare action's draws don't shake its estimate.
    """
    bound = max(learning.propensity_min, 1.0 / learning.importance_max)
    if exploration.algorithm == "squarecb":
        bound = max(bound, 1.0 / REGRESSION_IMPORTANCE_MAX)
    return max(propensity, bound)


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
        rate: float | None = None,
        model: bytes | None = None,
        rows_learnt: int = 0,
        best_cost: float = -1.0,
        action_counts: Mapping[str, int] | None = None,
        updates: int = 0,
        offered: int = 0,
    ) -> None:
        """Start empty, or from the bytes of a saved model; raises `CorruptModel` when VW refuses them.

        `rate` is the learning rate where the settings leave it open,
        `best_cost` is the cost of the best possible reward, `action_counts` how often actions without features
        have been learnt, as far as `KNOWN_ROWS`; `updates` and `offered` say how often rows have been learnt, and how
        many actions they offered.
        """
        self.encoder = encoder
        self.exploration = exploration
        self.learning = learning
        self.rate = rate
        self.rows_learnt = rows_learnt
        self._best_cost = best_cost
        self.action_counts = dict(action_counts or {})
        self.updates, self.offered = updates, offered
        # looked up once, not at every decision
        self._squares = exploration.algorithm == "squarecb"
        self._uniform_below = {"uniform": math.inf, "explore_first": exploration.explore_first}.get(
            exploration.algorithm, 0
        )
        self._floor = exploration.probability_floor
        self._headroom = exploration.headroom
        self._explores_together = self._squares and self._floor <= 0.0
        self._propensity_min = learnt_propensity(exploration, learning, 0.0)
        self._gamma_rows, self._gamma = 0, 0.0
        self._ramps: list[float] | None = None
        self._ramped_actions: Sequence[Action] | None = None
        self._vw = VWWorkspace(encoder, policy_arguments(exploration, learning, encoder.interactions, rate), model)

    def pmf(self, context: Context, actions: Sequence[Action], line: str | None = None) -> list[float]:
        """k probabilities in the order of `actions`, summing to 1 and none below the floor.

        `line` is the context's line in this encoding, where the caller has it at hand.
        Raises `CorruptModel` when the model's weights are no numbers any more, `InvalidRequest` when there are
        no actions or two of one id.
        """
        return self.explore(self._vw.predict(context, actions, line), self.rows_learnt, actions)

    def explore(self, numbers: Sequence[float], rows_learnt: int, actions: Sequence[Action]) -> list[float]:
        """The pmf out of VW's k numbers (costs for squarecb, else probabilities), given after `rows_learnt` rows."""
        if rows_learnt < self._uniform_below:
            return [1.0 / len(numbers)] * len(numbers)
        try:
            pmf = self._squarecb(numbers, rows_learnt, actions) if self._squares else scaled(numbers)
        except ValueError:
            raise CorruptModel(_NO_NUMBERS) from None
        return with_floor(pmf, self._floor) if self._floor > 0.0 else pmf

    def _squarecb(self, costs: Sequence[float], rows_learnt: int, actions: Sequence[Action]) -> list[float]:
        rows = rows_learnt or 1
        if rows != self._gamma_rows:
            exploration = self.exploration
            self._gamma_rows, self._gamma = rows, exploration.gamma_scale * rows**exploration.gamma_exponent
        gamma = self._gamma
        cheapest = min(costs)
        if self._headroom:
            limit = self._best_cost
            if cheapest < limit:
                costs = [max(cost, limit) for cost in costs]
                cheapest = limit
            gamma /= headroom(cheapest, limit, rows)
        ramps = self._ramps_of(actions)
        if ramps is not None:
            costs = [cheapest + ramp * (cost - cheapest) for ramp, cost in zip(ramps, costs, strict=True)]
        return squarecb(costs, gamma, cheapest)

    def _squarecb_rows(
        self, costs: NDArray[np.float64], sizes: NDArray[np.int64], rows_learnt: int
    ) -> NDArray[np.float64]:
        """`explore` for rows of well known actions, to the bit; the first was asked after `rows_learnt` rows."""
        counts = [rows or 1 for rows in range(rows_learnt, rows_learnt + len(sizes))]
        scale, exponent = self.exploration.gamma_scale, self.exploration.gamma_exponent
        gammas = np.array([scale * rows**exponent for rows in counts])  # numpy's powers may differ in the last bit
        if self._headroom:
            costs = np.maximum(costs, self._best_cost)
            cheapest = np.minimum.reduceat(costs, np.cumsum(sizes) - sizes)
            gammas /= headroom_rows(cheapest, self._best_cost, np.array(counts))
        try:
            return squarecb_rows(costs, sizes, gammas)
        except ValueError:
            raise CorruptModel(_NO_NUMBERS) from None

    def _ramps_of(self, actions: Sequence[Action]) -> list[float] | None:
        if actions is not self._ramped_actions:
            self._ramps = self._find_ramps(actions)
            self._ramped_actions = actions if isinstance(actions, tuple) else None
        return self._ramps

    def _find_ramps(self, actions: Sequence[Action]) -> list[float] | None:
        """The share of its gap that counts for each action: little known actions are shown up to a uniform share.

        Actions with features are judged by them from the start, and are left alone.
        """
        counts = self.action_counts
        if len(counts) >= ACTIONS_COUNTED_MAX:
            return None
        every, describes = not self.encoder.encoding.ignore, self.encoder.describes
        ramps = [
            1.0 if action.features and (every or describes(action)) else min(counts.get(action.id, 0) / KNOWN_ROWS, 1.0)
            for action in actions
        ]
        return ramps if min(ramps) < 1.0 else None

    def count_anew(self) -> None:
        """Forget what was counted, not what was learnt: the same rows will be learnt once more."""
        self.rows_learnt, self.action_counts, self._ramped_actions = 0, {}, None

    def count(self, action: Action) -> None:
        """Note that one more row has been learnt, of this action."""
        self.rows_learnt += 1
        known = self.action_counts.get(action.id, 0)
        if known < KNOWN_ROWS and not self.encoder.describes(action) and len(self.action_counts) < ACTIONS_COUNTED_MAX:
            self.action_counts[action.id] = known + 1
            self._ramped_actions = None

    def learn(self, context: Context, actions: Sequence[Action], index: int, cost: float, propensity: float) -> None:
        """One update; `cost` must be finite, `propensity` is bounded below by the declared minimum."""
        self.learn_text(RowTexts(self.encoder).of(context, actions, index), actions, cost, propensity, told=False)
        self.count(actions[index])

    def learn_text(
        self, text: RowText, actions: Sequence[Action], cost: float, propensity: float, *, told: bool
    ) -> list[float]:
        """The same with the row's text at hand, and without `count`.

        Gives what `explore` takes, from before it, where it is to be `told`; the text must then be whole, as it must
        for whoever `learns_whole_texts`.
        """
        return self._teach([text], [actions], [cost], [propensity], told=told).tolist()

    def learn_rows(self, rows: Sequence[LabelledRow], *, told: bool) -> NDArray[np.float64]:
        """Learn and count rows, in order. Gives, where it is to be `told`, the pmf from before each, row after row."""
        pmfs = [np.empty(0)]
        for part in _parts(rows):
            texts, costs, interactions = zip(*part, strict=True)
            offers = [row.actions for row in interactions]
            numbers = self._teach(texts, offers, costs, [row.propensity for row in interactions], told=told)
            if told:
                pmfs.append(self._explore_and_count(interactions, numbers))
                continue
            for row in interactions:
                self.count(row.actions[row.index])
        return np.concatenate(pmfs)

    def _teach(
        self,
        texts: Sequence[RowText],
        offers: Sequence[Sequence[Action]],
        costs: Sequence[float],
        propensities: Sequence[float],
        *,
        told: bool,
    ) -> array[float]:
        """Learn rows; VW's numbers from before each, row after row, where they are to be told.

        Raises ValueError for what would poison.
        """
        drawn = np.array(propensities, np.float64)
        if not (np.isfinite(costs).all() and ((drawn > 0.0) & (drawn <= 1.0)).all()):
            raise ValueError("a training example needs a finite cost and a propensity in (0, 1]")
        drawn = np.maximum(drawn, self._propensity_min)
        if self._vw.regresses:
            updates = self.updates + np.arange(1, len(texts) + 1)
            offered = self.offered + np.cumsum([len(actions) for actions in offers])
            self.updates, self.offered = int(updates[-1]), int(offered[-1])
            # as VW weighs in its multi-task regression (Bietti, Agarwal, Langford 2021)
            weights = updates / (offered * drawn)
            return self._vw.regress(texts, offers, costs, weights.tolist(), told=told)
        numbers = array("d")
        for text, actions, cost, propensity in zip(texts, offers, costs, drawn.tolist(), strict=True):
            numbers.extend(self._vw.learn(text, actions, cost, propensity))
        return numbers

    def _explore_and_count(self, rows: Sequence[Interaction], numbers: array[float]) -> NDArray[np.float64]:
        """Count rows and make VW's numbers from before each into its pmf: together where that gives the same."""
        pmfs, rows_before = np.array(numbers), self.rows_learnt
        alone: list[tuple[int, list[float]]] = []
        sizes, start = [], 0
        for row in courteously(rows):
            size = len(row.actions)
            if not self._explores_together or self._ramps_of(row.actions) is not None:
                said = numbers[start : start + size].tolist()
                alone.append((start, self.explore(said, self.rows_learnt, row.actions)))
            self.count(row.actions[row.index])
            sizes.append(size)
            start += size
        if self._explores_together:
            pmfs = self._squarecb_rows(pmfs, np.array(sizes), rows_before)
        for start, pmf in alone:
            pmfs[start : start + len(pmf)] = pmf
        return pmfs

    @property
    def learns_whole_texts(self) -> bool:
        """Whether learning a row takes the lines of all its actions."""
        return not self._vw.regresses

    @property
    def counts_questions(self) -> bool:
        """Whether what it was asked shows in the model's bytes, as it does with VW's own explorers."""
        return not self._vw.regresses

    @property
    def arguments(self) -> list[str]:
        """VW's arguments for coming to this model's weights, from nothing, by reading the whole texts of its rows."""
        return list(self._vw.arguments)

    def to_bytes(self) -> bytes:
        """The model's bytes, from which learning continues exactly."""
        return self._vw.to_bytes()

    def close(self) -> None:
        """Free the memory; the policy refuses everything afterwards."""
        self._vw.close()


def _parts(rows: Sequence[LabelledRow]) -> Iterator[Sequence[LabelledRow]]:
    """The rows in parts that offer about `NUMBERS_MAX` actions each."""
    first = offered = 0
    for place, (_, _, row) in enumerate(rows, start=1):
        offered += len(row.actions)
        if offered > NUMBERS_MAX:
            yield rows[first:place]
            first, offered = place, 0
    if first < len(rows):
        yield rows[first:]
