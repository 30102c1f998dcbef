"""A stored model that learns no more: what it would choose, and how it scores on rows that it has not learnt."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bandit.courtesy import courteously
from bandit.errors import CorruptModel
from bandit.policies import load_policy, policy_from_files, read_state
from bandit.registry import StoredModel
from bandit.reward_model import RewardModel
from bandit.scoring import RewardScale, Scores, Scoring, ServingOf
from bandit.settings import ExperimentSettings
from bandit.types import Action, Context, Interaction, Policy
from bandit.vw_policy import VWPolicy

REWARD_MODEL = "reward_model.vw"
"""The file without which a model can be served, but not compared with another."""

ANSWERS_MAX = 5_000


class Frozen:
    """A model in memory that stays as it is. It remembers its answers: several challengers ask the same."""

    def __init__(self, policy: VWPolicy, files: Mapping[str, bytes]) -> None:
        """A policy, and the files it came from."""
        self._policy = policy
        self._learnt_rewards = files.get(REWARD_MODEL)
        self._rewards = read_state(files).rewards
        self._reward_model: RewardModel | None = None
        self._answers: dict[int, tuple[Context, Sequence[Action], list[float]]] = {}

    @classmethod
    def load(cls, stored: StoredModel) -> Frozen:
        """A stored model, its canaries checked; raises `CorruptModel`."""
        return cls(load_policy(stored), stored.files)

    @classmethod
    def of_files(cls, files: Mapping[str, bytes]) -> Frozen:
        """What a learner's files are, before they are published; raises `CorruptModel`."""
        return cls(policy_from_files(files), files)

    def pmf(self, context: Context, actions: Sequence[Action], line: str | None = None) -> list[float]:
        """The policy's pmf, which must not be changed; the very same objects as before give the very same answer."""
        known = self._answers.get(id(context))
        if known is not None and known[0] is context and known[1] is actions:
            return known[2]
        return self._remember(context, actions, self._policy.pmf(context, actions, line))

    def score(
        self,
        rows: Iterable[Interaction],
        settings: ExperimentSettings,
        *,
        champion: Policy | None,
        champion_id: str | None,
        serving_of: ServingOf | None = None,
        answers_count: bool = True,
    ) -> Scores:
        """Score rows that the model has not learnt, by its own reward model; raises `CorruptModel` without one.

        `serving_of` and `answers_count` are as in `Scoring`.
        """
        reward_model = self._reward_model_loaded()
        scale = RewardScale.of(self._rewards or settings.rewards)
        scored = Scoring(champion, champion_id, settings, serving_of=serving_of, answers_count=answers_count)
        rows = list(rows)
        lines = [self._policy.encoder.context_line(row.context) for row in rows]
        pmfs, costs = array("d"), array("d")
        # one model after the other, as both don't fit a cache
        for row, line in courteously(zip(rows, lines, strict=True)):
            pmfs.extend(self.pmf(row.context, row.actions, line))
        for row, line in courteously(zip(rows, lines, strict=True)):
            costs.extend(reward_model.costs(row.context, row.actions, line))
        scored.add(rows, np.array(pmfs), scale.rewards(np.array(costs)))
        return scored.scores()

    def close(self) -> None:
        """Free the memory."""
        self._policy.close()
        if self._reward_model is not None:
            self._reward_model.close()

    def _reward_model_loaded(self) -> RewardModel:
        if self._reward_model is None:
            if not self._learnt_rewards:
                raise CorruptModel(f"the model has no {REWARD_MODEL}, so it cannot be compared with another")
            self._reward_model = RewardModel(
                self._policy.encoder, self._policy.learning, rate=self._policy.rate, model=self._learnt_rewards
            )
            self._learnt_rewards = None
        return self._reward_model

    def _remember(self, context: Context, actions: Sequence[Action], pmf: list[float]) -> list[float]:
        if len(self._answers) >= ANSWERS_MAX:
            self._answers.clear()
        self._answers[id(context)] = (context, actions, pmf)
        return pmf
