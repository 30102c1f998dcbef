"""The standing challenger in the making: encoder, policy and reward model that grow with the log.

Progressive validation (Blum, Kalai, Langford 1999): every row is scored by candidate, champion and reward
model *before* candidate and reward model learn it, in log order, so that no row is held back and none is
scored by a model that has seen it. The encoder obeys the same rule: when the rows have doubled it is fitted
anew on the rows so far, everything is learnt again with it, and the rows that follow are scored with it.
What comes out depends on the sequence of rows alone, not on how it was cut into steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import msgspec

from bandit.canaries import make_canaries
from bandit.courtesy import courteously
from bandit.encoder import FeatureEncoder
from bandit.example_text import LabelledRow, RowTexts
from bandit.policies import ModelState, policy_from_files, read_state
from bandit.rates import TRIED_ROWS_MAX, choose_rate
from bandit.reward_model import RewardModel
from bandit.scoring import RewardScale, Scores, Scoring, ServingOf
from bandit.settings import ExperimentSettings, encoding_to_dict
from bandit.side_learner import SideLearner, Told
from bandit.tried import Tried
from bandit.types import Interaction, Policy
from bandit.vw_policy import VWPolicy

__all__ = ["Learning", "RewardScale", "Scores"]

FIRST_REFIT_ROWS = 50
"""The encoder is first fitted after so many rows, then each time they have doubled, to `encoding.refit_rows_max`."""
REPEATED_ROWS_MAX = 5_000
"""A log of so many rows is read `learning.passes` times when it is learnt anew; a longer one teaches enough in one."""
SIDE_ROWS_MIN = 10_000
"""Fewer rows are learnt before another process is ready."""
TEXTS_MAX = 2000
"""How many rows are held as text at a time."""

_LearnRewards = Callable[[Sequence[LabelledRow], Sequence[Interaction]], Callable[[], Told]]

History = Callable[[], Iterable[Interaction]]


class Learning:
    """Policy, reward model and encoder in the making; the state of a challenger. Close it when done."""

    def __init__(
        self,
        settings: ExperimentSettings,
        encoder: FeatureEncoder,
        *,
        files: Mapping[str, bytes] | None = None,
        rate: float | None = None,
        keeps_rate: bool = False,
        rows_learnt: int = 0,
        refit_at: int = FIRST_REFIT_ROWS,
        reread_rows: int | None = 0,
    ) -> None:
        self.settings = settings
        self.rate = rate
        self.keeps_rate = keeps_rate
        self.rows_learnt = rows_learnt
        self.reread_rows = reread_rows
        self._scale = RewardScale.of(settings.rewards)
        self._refit_at = refit_at
        self._side: SideLearner | None = None
        self._start(encoder, files)

    @classmethod
    def fresh(
        cls,
        settings: ExperimentSettings,
        rows: Sequence[Interaction],
        *,
        rate: float | None = None,
        passes_over: bool = True,
    ) -> Learning:
        """Nothing learnt yet, the encoder fitted on `rows` (none will do: it then fits itself as rows come).

        `rate` is a learning rate to keep where the settings leave it open; without one it is chosen on the rows,
        `passes_over` being as in `choose_rate`.
        """
        encoder = _fit(settings, rows)
        keeps = rate is not None and settings.learning.learning_rate == "auto"
        chosen = rate if keeps else _rate(settings, encoder, rows, passes_over=passes_over)
        return cls(settings, encoder, rate=chosen, keeps_rate=keeps, refit_at=max(2 * len(rows), FIRST_REFIT_ROWS))

    @classmethod
    def resume(cls, files: Mapping[str, bytes], settings: ExperimentSettings) -> Learning:
        """Go on from `files()`; raises `CorruptModel` when they can't be read.

        Where the settings of learning, exploration or encoding have changed since, or the scale of rewards, the old
        ones stay until the encoder is next fitted anew and everything is learnt again.
        """
        state = read_state(files)
        encoder = FeatureEncoder.from_json(files["encoder.json"])
        kept = msgspec.structs.replace(
            settings, exploration=state.exploration, learning=state.learning, encoding=encoder.encoding
        )
        if state.rewards is not None and RewardScale.of(state.rewards) != RewardScale.of(settings.rewards):
            kept = msgspec.structs.replace(kept, rewards=state.rewards)
        learning = cls(
            kept,
            encoder,
            files=files,
            rate=state.rate,
            keeps_rate=state.keeps_rate,
            rows_learnt=state.rows_learnt,
            refit_at=state.refit_at,
            reread_rows=state.reread_rows,
        )
        if kept != settings:
            learning._wanted = settings
        return learning

    def _start(self, encoder: FeatureEncoder, files: Mapping[str, bytes] | None) -> None:
        settings = self.settings
        self._wanted: ExperimentSettings | None = None
        self.encoder = encoder
        self._texts = RowTexts(encoder)
        state = read_state(files) if files else None
        self.policy = VWPolicy(
            encoder,
            settings.exploration,
            settings.learning,
            rate=self.rate,
            model=files["policy.vw"] if files else None,
            rows_learnt=self.rows_learnt,
            best_cost=self._scale.best_cost,
            action_counts=state.action_counts if state else None,
            updates=state.updates if state else 0,
            offered=state.offered if state else 0,
        )
        self._is_away = False  # the reward model, in another process
        model = files["reward_model.vw"] if files else None
        self._reward_model = RewardModel(encoder, settings.learning, rate=self.rate, model=model)

    # -- storing -----------------------------------------------------------------------------------------

    def files(self) -> dict[str, bytes]:
        """The files of the model as it stands: what is published, and what `resume` goes on from."""
        state = ModelState(
            exploration=self.settings.exploration,
            learning=self.settings.learning,
            rewards=self.settings.rewards,
            rows_learnt=self.rows_learnt,
            best_cost=self._scale.best_cost,
            action_counts=self.policy.action_counts,
            updates=self.policy.updates,
            offered=self.policy.offered,
            rate=self.rate,
            keeps_rate=self.keeps_rate,
            refit_at=self._refit_at,
            reread_rows=self.reread_rows,
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
            "encoding": encoding_to_dict(self.encoder.encoding),
            "exploration": msgspec.to_builtins(self.settings.exploration),
            "learning": msgspec.to_builtins(self.settings.learning),
            "learning_rate": self.rate if self.rate is not None else self.settings.learning.learning_rate,
            "interactions": list(self.encoder.interactions),
        }
        return options

    def canaries(self, rows: Sequence[Interaction], files: Mapping[str, bytes] | None = None) -> list[dict[str, Any]]:
        """A few requests out of `rows` with the policy's pmf for each (call it after the last learning).

        Of a policy that counts questions `files`, its own as they stand, are asked where they are given: then the
        learner's next files are what they would have been.
        """
        requests = [(row.context, row.actions) for row in rows]
        if files is None or not self.policy.counts_questions:
            return make_canaries(self.policy, requests)
        stored = policy_from_files(files)
        try:
            return make_canaries(stored, requests)
        finally:
            stored.close()

    def close(self) -> None:
        """Free VW's memory."""
        self._close_models()
        self._close_side()

    # -- learning ----------------------------------------------------------------------------------------

    def step(
        self,
        rows: Sequence[Interaction],
        *,
        champion: Policy | None,
        champion_id: str | None,
        history: History | None = None,
        score: bool = True,
        tried: Tried | None = None,
        serving_of: ServingOf | None = None,
        passes_over: bool = True,
        answers_count: bool = True,
    ) -> Scores:
        """Score each row, then learn it, in the order given (which must be the log's).

        `history` gives the rows learnt before these, in order; with it the encoder is fitted anew, and
        everything learnt again, when the rows have doubled. Without a champion, uniform stands in for it.
        With `score=False` the rows are only learnt, and the scores are empty. `tried` knows on which rows this
        learner was on trial: the version that had its share stands for it there. `serving_of` and
        `answers_count` are as in `Scoring`, `passes_over` as in `choose_rate`.
        """
        rows = list(rows)
        scored = Scoring(
            champion,
            champion_id,
            self.settings,
            tried=tried,
            serving_of=serving_of,
            answers_count=answers_count,
        )
        past: list[Interaction] | None = None
        position = 0
        while True:
            end = len(rows)
            if history is not None and self.rows_learnt <= self.settings.encoding.refit_rows_max:
                if self.rows_learnt >= self._refit_at:
                    if past is None:
                        past = list(history())
                    wanted = self._wanted or self.settings
                    self._relearn(past + rows[:position], wanted, passes_over=passes_over)
                end = min(end, position + self._refit_at - self.rows_learnt)
            if position == end:
                return scored.scores()
            self._learn_all(rows[position:end], scored if score else None)
            position = end

    def _learn_all(
        self, rows: Sequence[Interaction], scored: Scoring | None, passes: int = 1, first_lines: Sequence[str] = ()
    ) -> None:
        """Learn rows, block by block, in policy and reward model; with `scored` each is scored first.

        `first_lines` are those of the first contexts, no more than a block's, as many as are at hand. The models learn
        a block side by side, or one after the other, as both don't fit a cache.
        """
        size = TEXTS_MAX if passes == 1 else max(len(rows), 1)
        told = scored is not None
        blocks = [rows[first : first + size] for first in range(0, len(rows), size)]
        start = self._way_to_learn_rewards(len(rows), told=told)
        examples = self._examples(blocks[0], first_lines, told=told) if blocks else []
        due: Callable[[], None] | None = None
        for block, following in zip(blocks, [*blocks[1:], []], strict=True):
            for _ in range(1, passes):
                start(examples, [])()
                self.policy.learn_rows(examples, told=False)
                self.policy.count_anew()
            finish = start(examples, following)
            if due is not None:  # the scores of the block before are taken while another process works
                due()
            pmfs = self.policy.learn_rows(examples, told=told)
            self.rows_learnt += len(block)
            costs, lines = finish()
            examples = self._examples(following, lines or (), told=told)
            if scored is not None:
                due = partial(scored.add, block, pmfs, self._scale.rewards(costs))
        if due is not None:
            due()

    def _examples(self, rows: Sequence[Interaction], lines: Sequence[str], *, told: bool) -> list[LabelledRow]:
        """Rows as text; `lines` are those of the first contexts, as many as are at hand."""
        whole = told or self.policy.learns_whole_texts
        text, cost = self._texts.of, self._scale.cost
        shared = chain(lines, map(self.encoder.context_line, (row.context for row in rows[len(lines) :])))
        return [
            (text(line, row.actions, row.index, whole=whole), cost(row.reward), row)
            for line, row in courteously(zip(shared, rows, strict=True))
        ]

    def _way_to_learn_rewards(self, rows: int, *, told: bool) -> _LearnRewards:
        """What learns a block, here or (for many rows) in another process, and gives what waits for its answer.

        That is the predicted costs, and the context lines of the block that follows where the other process has been
        at leisure to encode it.
        """
        if self.settings.training.cores > 1 and rows >= SIDE_ROWS_MIN:
            self._side = self._side or SideLearner()
            if not self._is_away:
                self._side.take(self._reward_model, self.settings.learning)
                self._is_away = True
            return partial(self._side.start, told=told)
        learn = self.reward_model.learn_rows

        def here(examples: Sequence[LabelledRow], _: Sequence[Interaction]) -> Callable[[], Told]:
            texts, costs, rows = zip(*examples, strict=True)
            return lambda: (learn(texts, [row.actions for row in rows], costs, told=told), None)

        return here

    @property
    def reward_model(self) -> RewardModel:
        """The reward model as it stands, back from wherever it has been learning."""
        try:
            if self._is_away and self._side is not None:
                model = self._side.model()
                self._reward_model.close()
                self._reward_model = RewardModel(self.encoder, self.settings.learning, rate=self.rate, model=model)
        finally:
            self._close_side()
        return self._reward_model

    def _close_models(self) -> None:
        self.policy.close()
        self._reward_model.close()

    def _close_side(self) -> None:
        self._is_away = False
        if self._side is not None:
            self._side.close()
            self._side = None

    def _relearn(self, rows: Sequence[Interaction], settings: ExperimentSettings, *, passes_over: bool) -> None:
        self._close_models()
        self.settings = settings
        self._scale = RewardScale.of(settings.rewards)
        self.rows_learnt = 0
        encoder = _fit(settings, rows)
        lines = [encoder.context_line(row.context) for row in courteously(rows[:TRIED_ROWS_MAX])]
        if not (self.keeps_rate and settings.learning.learning_rate == "auto"):
            self.rate, self.keeps_rate = _rate(settings, encoder, rows, lines, passes_over=passes_over), False
        self._start(encoder, None)
        passes = settings.learning.passes if len(rows) <= REPEATED_ROWS_MAX else 1
        self.reread_rows = len(rows) if passes > 1 else 0
        self._learn_all(rows, None, passes, lines)
        self._refit_at = max(2 * len(rows), FIRST_REFIT_ROWS)


def _fit(settings: ExperimentSettings, rows: Sequence[Interaction]) -> FeatureEncoder:
    contexts, offers = (row.context for row in courteously(rows)), (row.actions for row in courteously(rows))
    return FeatureEncoder.fit(contexts, offers, settings.encoding)


def _rate(
    settings: ExperimentSettings,
    encoder: FeatureEncoder,
    rows: Sequence[Interaction],
    lines: Sequence[str] | None = None,
    *,
    passes_over: bool,
) -> float | None:
    """The learning rate that suits the first of `rows`, None where the settings say one or there are no rows.

    `lines` are those of the first contexts, as many as are tried.
    """
    if settings.learning.learning_rate != "auto" or not rows:
        return None
    first, scale = rows[:TRIED_ROWS_MAX], RewardScale.of(settings.rewards)
    costs = [scale.cost(row.reward) for row in first]
    return choose_rate(encoder, settings.learning, first, costs, lines=lines, passes_over=passes_over)
