"""Many rows at once: written as VW text, learnt by VW from files, scored from what it predicted on the way.

The models that come out are bit for bit those of learning row by row, so it is only a matter of speed which way is
taken. Policy and reward model learn in processes of their own, part by part; meanwhile the next part is written here
and the predictions for the last one are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bandit.example_text import RowTexts
from bandit.reward_model import RewardModel, propensity_of_one
from bandit.scoring import RewardScale, Scoring
from bandit.scratch import scratch_folder
from bandit.types import Interaction
from bandit.vw_file import (
    MODEL_OUT,
    FilePass,
    PassProcess,
    learn_file,
    learnt_model,
    read_predictions,
)
from bandit.vw_policy import VWPolicy

PART_ROWS = 10_000
"""So many rows are written, learnt and scored at a time."""


class BulkLearner:
    """Learns many rows at a time in two processes, which start when they are first needed; `rest` ends them."""

    def __init__(self) -> None:
        self._processes: tuple[PassProcess, PassProcess] | None = None

    def learn(
        self,
        rows: Sequence[Interaction],
        policy: VWPolicy,
        reward_model: RewardModel,
        scale: RewardScale,
        *,
        scored: Scoring | None,
    ) -> None:
        """Learn `rows`, in order, in both models; append their scores to `scored`, each as before it was learnt.

        Raises `TrainingFailed` when VW learnt or predicted another number of examples than there are rows.
        """
        if not rows:
            return
        self._processes = self._processes or (PassProcess(), PassProcess())
        try:
            with scratch_folder() as folder:
                done = self._learn(rows, policy, reward_model, scale, scored, folder=folder)
                policy.replace(learnt_model(done.policy))
                reward_model.replace(learnt_model(done.reward))
        except BaseException:
            self.rest()
            raise

    def rest(self) -> None:
        """End the processes."""
        for process in self._processes or ():
            process.close()
        self._processes = None

    def _learn(
        self,
        rows: Sequence[Interaction],
        policy: VWPolicy,
        reward_model: RewardModel,
        scale: RewardScale,
        scored: Scoring | None,
        *,
        folder: Path,
    ) -> _Part:
        assert self._processes is not None
        under_way: _Part | None = None
        models: tuple[bytes | Path, bytes | Path] = (policy.to_bytes(), reward_model.to_bytes())
        for number, first in enumerate(range(0, len(rows), PART_ROWS)):
            part, place = rows[first : first + PART_ROWS], folder / str(number)
            write_texts(part, policy, scale, place)
            arguments = (policy.arguments, reward_model.arguments)
            jobs = [
                learn_file(
                    given,
                    before,
                    place / f"{what}.txt",
                    examples=len(part),
                    folder=place / what,
                    predictions=scored is not None,
                )
                for what, given, before in zip(("policy", "reward"), arguments, models, strict=True)
            ]
            if under_way is not None:
                self._finish()
            for process, job in zip(self._processes, jobs, strict=True):
                process.start(job)
            if under_way is not None:
                _score(under_way, policy, scale, scored)
            under_way = _Part(part, *jobs)
            models = (Path(jobs[0].folder) / MODEL_OUT, Path(jobs[1].folder) / MODEL_OUT)
        assert under_way is not None
        self._finish()
        _score(under_way, policy, scale, scored)
        return under_way

    def _finish(self) -> None:
        for process in self._processes or ():
            process.finish()


class _Part(NamedTuple):
    rows: Sequence[Interaction]
    policy: FilePass
    reward: FilePass


def _score(part: _Part, policy: VWPolicy, scale: RewardScale, scored: Scoring | None) -> None:
    """Score and count the rows of a part that has been learnt, and remove its text."""
    if scored is None:
        for row in part.rows:
            policy.count(row.actions[row.index])
    else:
        lengths = [len(row.actions) for row in part.rows]
        numbers, costs = (read_predictions(job, lengths) for job in (part.policy, part.reward))
        for row, of_policy, of_reward in zip(part.rows, numbers, costs, strict=True):
            pmf = policy.explore(of_policy, policy.rows_learnt, row.actions)
            scored.add(row, pmf, [scale.reward(cost) for cost in of_reward])
            policy.count(row.actions[row.index])
    for job in (part.policy, part.reward):
        Path(job.text).unlink()


def write_texts(rows: Sequence[Interaction], policy: VWPolicy, scale: RewardScale, folder: Path) -> None:
    """Write the rows as VW text for both models: `policy.txt` and `reward.txt` in `folder`."""
    folder.mkdir(exist_ok=True)
    texts = RowTexts(policy.encoder)
    with (folder / "policy.txt").open("w") as policy_text, (folder / "reward.txt").open("w") as reward_text:
        for row in rows:
            text = texts.of(row.context, row.actions, row.index)
            cost = scale.cost(row.reward)
            policy_text.write(text.labelled(cost, policy.bounded(cost, row.propensity)) + "\n\n")
            reward_text.write(text.labelled(cost, propensity_of_one(row.actions)) + "\n\n")
