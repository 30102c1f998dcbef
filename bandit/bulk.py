"""Many rows at once: written as VW text, learnt by VW from the file, scored from what it predicted on the way.

The models that come out are bit for bit those of learning row by row, so it is only a matter of speed which
way is taken. With enough rows, policy and reward model learn at the same time in two processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bandit.example_text import RowTexts
from bandit.reward_model import RewardModel, propensity_of_one
from bandit.scoring import RewardScale, Scoring
from bandit.types import Interaction
from bandit.vw_file import (
    FilePass,
    finish_pass,
    learn_file,
    learnt_model,
    read_predictions,
    run_pass,
    scratch_folder,
    start_pass,
)
from bandit.vw_policy import VWPolicy

PARALLEL_ROWS_MIN = 20_000
"""From so many rows on a second process is worth its start."""


def learn_in_bulk(
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
    with scratch_folder() as name:
        folder = Path(name)
        write_texts(rows, policy, scale, folder)
        predictions = scored is not None
        for_reward, for_policy = (
            learn_file(
                model.arguments,
                model.to_bytes(),
                folder / f"{name}.txt",
                examples=len(rows),
                folder=folder / name,
                predictions=predictions,
            )
            for name, model in (("reward", reward_model), ("policy", policy))
        )
        _run(for_policy, for_reward, parallel=len(rows) >= PARALLEL_ROWS_MIN and (os.cpu_count() or 1) > 1)
        if scored is None:
            for row in rows:
                policy.count(row.actions[row.index])
        else:
            lengths = [len(row.actions) for row in rows]
            predicted = zip(read_predictions(for_policy, lengths), read_predictions(for_reward, lengths), strict=True)
            for row, (numbers, costs) in zip(rows, predicted, strict=True):
                pmf = policy.explore(numbers, policy.rows_learnt, row.actions)
                scored.add(row, pmf, [scale.reward(cost) for cost in costs])
                policy.count(row.actions[row.index])
        policy.replace(learnt_model(for_policy))
        reward_model.replace(learnt_model(for_reward))


def _run(for_policy: FilePass, for_reward: FilePass, *, parallel: bool) -> None:
    if not parallel:
        run_pass(for_policy)
        run_pass(for_reward)
        return
    process = start_pass(for_reward)
    try:
        run_pass(for_policy)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finish_pass(process)


def write_texts(rows: Sequence[Interaction], policy: VWPolicy, scale: RewardScale, folder: Path) -> None:
    """Write the rows as VW text for both models: `policy.txt` and `reward.txt` in `folder`."""
    texts = RowTexts(policy.encoder)
    with (folder / "policy.txt").open("w") as policy_text, (folder / "reward.txt").open("w") as reward_text:
        for row in rows:
            text = texts.of(row.context, row.actions, row.index)
            cost = scale.cost(row.reward)
            policy_text.write(text.labelled(cost, policy.bounded(cost, row.propensity)) + "\n\n")
            reward_text.write(text.labelled(cost, propensity_of_one(row.actions)) + "\n\n")
