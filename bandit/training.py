"""The standing challenger in the making: encoder, policy and reward model that grow with the log.

Progressive validation (Blum, Kalai, Langford 1999): every row is scored by candidate, champion and reward
model *before* candidate and reward model learn it, in log order, so that no row is held back and none is
scored by a model that has seen it. The encoder obeys the same rule: when the rows have doubled it is fitted
anew on the rows so far, everything is learnt again with it, and the rows that follow are scored with it.
What comes out depends on the sequence of rows alone, not on how it was cut into steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.canaries import make_canaries
from bandit.encoder import FeatureEncoder
from bandit.errors import TrainingFailed
from bandit.policies import ModelState, load_policy, read_state
from bandit.registry import StoredModel
from bandit.reward_model import RewardModel
from bandit.settings import ExperimentSettings, Rewards
from bandit.types import MODE_ONLINE, SLICE_POLICY, Interaction, Policy
from bandit.vw_policy import VWPolicy

FIRST_REFIT_ROWS = 50
"""The encoder is first fitted after so many rows, then each time the rows have doubled."""
REFIT_ROWS_MAX = 50_000
"""Beyond this many rows quantiles hardly move, and learning everything again would take long."""
SPOT_CHECK_EVERY = 50
SPOT_CHECK_TOLERANCE = 1e-9

History = Callable[[], Iterable[Interaction]]


class Scores(NamedTuple):
    """n scored rows; the per-action values are ragged: row i owns `offsets[i]:offsets[i + 1]`.

    `candidate` and `champion` are the pmfs as served, `q` the predicted rewards of all actions, `pmf` the
    logged one (NaN where the log has none); `action` is the position of the logged action, with its `reward`
    and `propensity`; `cluster` is the subject id, where the experiment has one.
    """

    event_id: list[str]
    decided_at: list[datetime]
    offsets: NDArray[np.int64]
    candidate: NDArray[np.float64]
    champion: NDArray[np.float64]
    q: NDArray[np.float64]
    pmf: NDArray[np.float64]
    action: NDArray[np.int64]
    reward: NDArray[np.float64]
    propensity: NDArray[np.float64]
    cluster: list[str] | None


class RewardScale:
    """Rewards to costs and back: silence costs 0, the far end of the declared range costs ∓1."""

    def __init__(self, rewards: Rewards) -> None:
        self.zero = rewards.default
        self.top = rewards.max
        self.unit = max(rewards.max - rewards.default, rewards.default - rewards.min)
        # a sum of rewards may leave the range of a single one, but must stay bounded
        reach = 100.0 if rewards.aggregation == "sum" else 1.0
        self.low = rewards.default - reach * (rewards.default - rewards.min)
        self.high = rewards.default + reach * (rewards.max - rewards.default)

    @property
    def best_cost(self) -> float:
        """The cost of the best single reward."""
        return min((self.zero - self.top) / self.unit, 0.0)

    def cost(self, reward: float) -> float:
        """The cost that VW minimises; raises `TrainingFailed` for what is no number."""
        if not math.isfinite(reward):
            raise TrainingFailed("a reward is not a finite number; it must not reach the learner")
        return (self.zero - min(max(reward, self.low), self.high)) / self.unit

    def reward(self, cost: float) -> float:
        """The reward of a predicted cost, within the possible range."""
        return min(max(self.zero - cost * self.unit, self.low), self.high)


class Learning:
    """Policy, reward model and encoder in the making; the state of a challenger. Close it when done."""

    def __init__(
        self,
        settings: ExperimentSettings,
        encoder: FeatureEncoder,
        *,
        files: Mapping[str, bytes] | None = None,
        rows_learnt: int = 0,
        refit_at: int = FIRST_REFIT_ROWS,
    ) -> None:
        self.settings = settings
        self.rows_learnt = rows_learnt
        self._scale = RewardScale(settings.rewards)
        self._refit_at = refit_at
        self._start(encoder, files)

    @classmethod
    def fresh(cls, settings: ExperimentSettings, rows: Sequence[Interaction]) -> Learning:
        """Nothing learnt yet, the encoder fitted on `rows` (none will do: it then fits itself as rows come)."""
        refit_at = max(2 * len(rows), FIRST_REFIT_ROWS)
        return cls(settings, _fit(settings, rows), refit_at=refit_at)

    @classmethod
    def resume(cls, files: Mapping[str, bytes], settings: ExperimentSettings) -> Learning:
        """Go on from `files()`; raises `CorruptModel` when they can't be read.

        Where the settings of learning, exploration or encoding have changed since, the next step that is
        given a history learns everything again under the new ones; until then the old ones stay.
        """
        state = read_state(files)
        encoder = FeatureEncoder.from_json(files["encoder.json"])
        kept = msgspec.structs.replace(
            settings, exploration=state.exploration, learning=state.learning, encoding=encoder.encoding
        )
        learning = cls(kept, encoder, files=files, rows_learnt=state.rows_learnt, refit_at=state.refit_at)
        if kept != settings:
            learning._wanted = settings
        return learning

    def _start(self, encoder: FeatureEncoder, files: Mapping[str, bytes] | None) -> None:
        settings = self.settings
        self._wanted: ExperimentSettings | None = None
        self.encoder = encoder
        self.policy = VWPolicy(
            encoder,
            settings.exploration,
            settings.learning,
            model=files["policy.vw"] if files else None,
            rows_learnt=self.rows_learnt,
            best_cost=self._scale.best_cost,
        )
        self.reward_model = RewardModel(encoder, settings.learning, model=files["reward_model.vw"] if files else None)

    # -- storing -----------------------------------------------------------------------------------------

    def files(self) -> dict[str, bytes]:
        """The files of the model as it stands: what is published, and what `resume` goes on from."""
        state = ModelState(
            exploration=self.settings.exploration,
            learning=self.settings.learning,
            rows_learnt=self.rows_learnt,
            best_cost=self._scale.best_cost,
            refit_at=self._refit_at,
        )
        return {
            "policy.vw": self.policy.to_bytes(),
            "encoder.json": self.encoder.to_json(),
            "reward_model.vw": self.reward_model.to_bytes(),
            "state.json": msgspec.json.format(msgspec.json.encode(state), indent=1),
        }

    def options(self) -> dict[str, Any]:
        """What this model was made with, for its manifest."""
        options: dict[str, Any] = {
            "encoding": msgspec.to_builtins(self.encoder.encoding),
            "exploration": msgspec.to_builtins(self.settings.exploration),
            "learning": msgspec.to_builtins(self.settings.learning),
            "interactions": list(self.encoder.interactions),
        }
        return options

    def canaries(self, rows: Sequence[Interaction]) -> list[dict[str, Any]]:
        """A few requests out of `rows` with the policy's pmf for each (call it after the last learning)."""
        return make_canaries(self.policy, [(row.context, row.actions) for row in rows])

    def close(self) -> None:
        """Free VW's memory."""
        self.policy.close()
        self.reward_model.close()

    # -- learning ----------------------------------------------------------------------------------------

    def learn(self, row: Interaction) -> None:
        """Learn one row, in policy and reward model."""
        cost = self._scale.cost(row.reward)
        self.policy.learn(row.context, row.actions, row.index, cost, row.propensity)
        self.reward_model.learn(row.context, row.actions, row.index, cost)
        self.rows_learnt += 1

    def step(
        self,
        rows: Sequence[Interaction],
        *,
        champion: Policy | None,
        champion_id: str | None,
        history: History | None = None,
        score: bool = True,
    ) -> Scores:
        """Score each row, then learn it, in the order given (which must be the log's).

        `history` gives the rows learnt before these, in order; with it the encoder is fitted anew, and
        everything learnt again, when the rows have doubled. Without a champion, uniform stands in for it.
        With `score=False` the rows are only learnt, and the scores are empty.
        """
        rows = list(rows)
        if self._wanted is not None and history is not None:
            self._relearn(list(history()), self._wanted)
        scored = _Scored(champion, champion_id, self.settings)
        past: list[Interaction] | None = None
        for position, row in enumerate(rows):
            if history is not None and self._refit_at <= self.rows_learnt <= REFIT_ROWS_MAX:
                if past is None:
                    past = list(history())
                self._relearn(past + rows[:position], self.settings)
            if score:
                scored.add(row, self.policy, self.reward_model, self._scale)
            self.learn(row)
        return scored.scores()

    def _relearn(self, rows: Sequence[Interaction], settings: ExperimentSettings) -> None:
        self.close()
        self.settings = settings
        self._scale = RewardScale(settings.rewards)
        self.rows_learnt = 0
        self._start(_fit(settings, rows), None)
        for row in rows:
            self.learn(row)
        self._refit_at = max(2 * len(rows), FIRST_REFIT_ROWS)


def score_rows(
    stored: StoredModel,
    settings: ExperimentSettings,
    rows: Iterable[Interaction],
    *,
    champion: Policy | None,
    champion_id: str | None,
) -> Scores:
    """Score a frozen model on rows that it has not learnt, by its own reward model; learns nothing."""
    policy = load_policy(stored)
    try:
        reward_model = RewardModel(policy.encoder, policy.learning, model=stored.files["reward_model.vw"])
        try:
            scored = _Scored(champion, champion_id, settings)
            scale = RewardScale(settings.rewards)
            for row in rows:
                scored.add(row, policy, reward_model, scale)
            return scored.scores()
        finally:
            reward_model.close()
    finally:
        policy.close()


class _Scored:
    """Rows scored so far, growing towards `Scores`."""

    def __init__(self, champion: Policy | None, champion_id: str | None, settings: ExperimentSettings) -> None:
        self._logged = _LoggedPmfs(champion, champion_id, settings)
        self._rows: list[Interaction] = []
        self._offsets = [0]
        self._candidate: list[float] = []
        self._champion: list[float] = []
        self._q: list[float] = []
        self._pmf: list[float] = []

    def add(self, row: Interaction, policy: VWPolicy, reward_model: RewardModel, scale: RewardScale) -> None:
        self._rows.append(row)
        self._candidate += policy.pmf(row.context, row.actions)
        self._q += [scale.reward(cost) for cost in reward_model.costs(row.context, row.actions)]
        self._champion += self._logged.of(row)
        self._pmf += row.pmf if row.pmf is not None else [math.nan] * len(row.actions)
        self._offsets.append(len(self._candidate))

    def scores(self) -> Scores:
        rows = self._rows
        return Scores(
            event_id=[row.event_id for row in rows],
            decided_at=[row.decided_at for row in rows],
            offsets=np.asarray(self._offsets, dtype=np.int64),
            candidate=np.asarray(self._candidate, dtype=np.float64),
            champion=np.asarray(self._champion, dtype=np.float64),
            q=np.asarray(self._q, dtype=np.float64),
            pmf=np.asarray(self._pmf, dtype=np.float64),
            action=np.asarray([row.index for row in rows], dtype=np.int64),
            reward=np.asarray([row.reward for row in rows], dtype=np.float64),
            propensity=np.asarray([row.propensity for row in rows], dtype=np.float64),
            cluster=[row.subject or row.event_id for row in rows] if any(row.subject for row in rows) else None,
        )


class _LoggedPmfs:
    """The champion's pmf of each row: as logged where the champion itself decided, else asked again.

    A logged pmf counts only without a mixture, and a sample of them is compared with the champion's answer;
    one difference and all rows from then on are asked again.
    """

    def __init__(self, champion: Policy | None, champion_id: str | None, settings: ExperimentSettings) -> None:
        self._champion = champion
        self._champion_id = champion_id
        self._trusted = settings.serving.control_fraction == 0.0
        self._seen = 0

    def of(self, row: Interaction) -> Sequence[float]:
        if self._champion is None:
            return [1.0 / len(row.actions)] * len(row.actions)
        if (
            not self._trusted
            or row.pmf is None
            or row.model_id != self._champion_id
            or row.slice != SLICE_POLICY
            or row.mode != MODE_ONLINE
        ):
            return self._champion.pmf(row.context, row.actions)
        self._seen += 1
        if self._seen % SPOT_CHECK_EVERY == 1:
            asked = self._champion.pmf(row.context, row.actions)
            if any(abs(a - b) > SPOT_CHECK_TOLERANCE for a, b in zip(asked, row.pmf, strict=True)):
                self._trusted = False
                return asked
        return row.pmf


def _fit(settings: ExperimentSettings, rows: Sequence[Interaction]) -> FeatureEncoder:
    return FeatureEncoder.fit((row.context for row in rows), (row.actions for row in rows), settings.encoding)
