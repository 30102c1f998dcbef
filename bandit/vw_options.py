"""VW's command line, built from typed settings only.

VW's options can write files and open ports, so no string from outside ever reaches them: algorithm names are
looked up in a table, numbers are formatted as numbers, interactions are letters that the encoder chose.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from bandit.settings import Exploration, Learning

_REGRESSION = ("--cb_adf", "--cb_type", "mtr", "--rank_all")  # all k costs, where VW writes them to a file too
WEIGHT_UNIT = 4.0**10
"""The weight that a probability of 1 stands for where rows are learnt by their chosen action alone."""
FIRST_RATE = 0.5
"""The learning rate while none has been chosen."""
REWARD_MODEL_SHARE, REWARD_MODEL_RATE_MAX = 0.15, 0.075
"""The reward model's learning rate: this share of one that is set, or a chosen one up to this."""


def policy_arguments(
    exploration: Exploration, learning: Learning, interactions: Iterable[str], rate: float | None = None
) -> list[str]:
    """The arguments of a policy; `uniform` and `explore_first` learn as a greedy one does.

    `rate` is the learning rate chosen where the settings leave it open (see `bandit.rates`).
    `squarecb` needs the predicted costs themselves, which only the multi-task regression gives.
    """
    step = _rate(learning, rate)
    if exploration.algorithm == "squarecb":
        return [*_REGRESSION, *_common(learning, interactions, step)]
    arguments = ["--cb_explore_adf", *_EXPLORATIONS[exploration.algorithm](exploration)]
    arguments += ["--cb_type", learning.cb_type]
    if exploration.algorithm in _SEVERAL_MODELS:
        # several models do not go on learning from a saved file exactly as they were where a feature's value is not 1
        # (one model does, and so do several where it is): coarse bins stand in for the numbers' places
        arguments += ["--ignore", "r"]
        interactions = dict.fromkeys(letters.replace("r", "d") for letters in interactions)
    return arguments + _common(learning, interactions, step)


def reward_arguments(learning: Learning, interactions: Iterable[str], rate: float | None = None) -> list[str]:
    """The arguments of the reward model: a regression of the cost on context crossed with action; `rate` as above.

    It learns more slowly than the policy: a policy needs the order of the actions soon, while an estimate that
    jumps to the last reward adds noise to every evaluation (on eight data sets its squared error after 600
    rows was 5 to 60% larger at the policy's rate, on three of them larger than that of a constant).
    """
    step = _rate(learning, rate)
    slower = REWARD_MODEL_SHARE * step if rate is None else min(step, REWARD_MODEL_RATE_MAX)
    return [*_REGRESSION, *_common(learning, interactions, slower)]


def trial_arguments(learning: Learning, interactions: Iterable[str], rate: float) -> list[str]:
    """The arguments of a regression by which a learning rate is tried."""
    return [*_REGRESSION, *_common(learning, interactions, rate)]


def one_action_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments under which a regression comes to the same weights from the chosen actions alone.

    VW takes a row's weight as 1/probability, of at most 1: so weights are told in units of `WEIGHT_UNIT`. A step of its
    adaptive, normalized gradient descent grows by that to the power of 1 − power_t, by which the learning rate is
    divided; the rest is as `arguments` say. At the default power_t of ½ both are powers of 2, and nothing is rounded.
    """
    power_t = float(arguments[arguments.index("--power_t") + 1])
    scales = {"--learning_rate": WEIGHT_UNIT ** (power_t - 1.0), "--l2": WEIGHT_UNIT**-power_t}
    return [
        _number(float(argument) * scales[before]) if before in scales else argument
        for before, argument in pairwise(["", *arguments])
    ]


def _rate(learning: Learning, chosen: float | None) -> float:
    return chosen or (FIRST_RATE if learning.learning_rate == "auto" else learning.learning_rate)


def _common(learning: Learning, interactions: Iterable[str], rate: float) -> list[str]:
    arguments = ["--bit_precision", str(int(learning.bits)), "--random_seed", str(int(learning.seed))]
    arguments += ["--learning_rate", _number(rate), "--power_t", _number(learning.power_t)]
    if learning.l2 > 0:
        arguments += ["--l2", _number(learning.l2)]
    for letters in interactions:
        if not (letters.isascii() and letters.isalpha() and len(letters) <= 4):
            raise ValueError("interactions are two to four letters, each the name of a namespace")
        arguments += ["--interactions", letters]
    return [*arguments, "--quiet"]


def _number(value: float) -> str:
    return repr(float(value))


_SEVERAL_MODELS = ("bag", "cover")
_EXPLORATIONS = {
    "egreedy": lambda e: ["--epsilon", _number(e.epsilon)],
    "bag": lambda e: ["--bag", str(int(e.bags)), "--epsilon", _number(e.epsilon)],
    "cover": lambda e: ["--cover", str(int(e.cover)), "--epsilon", _number(e.epsilon)],
    "softmax": lambda e: ["--softmax", "--lambda", _number(1.0 / e.temperature)],
    "explore_first": lambda e: ["--epsilon", "0.0"],
    "uniform": lambda e: ["--epsilon", "0.0"],
}
