"""How fast a policy answers inside its process, against VW's own predict call in the same run.

The yardstick parses each context and reuses action examples that were parsed once, in a workspace as VW makes it; the
policy does that and everything else besides: encoding the context, exploring, normalising. Run with
`python -m benchmarks.policy_bench`.
"""

from __future__ import annotations

import random
import statistics
import timeit
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

from vowpalwabbit.pyvw import pylibvw

from bandit.encoder import FeatureEncoder
from bandit.settings import Encoding, Exploration, Learning
from bandit.types import Action
from bandit.vw_policy import VWPolicy
from benchmarks.claims import claim

CONTEXTS = 512
REPEATS = 41
CASES: dict[str, tuple[int, bool, Any]] = {
    "7 actions of a catalogue": (7, False, "auto"),
    "10 actions of a catalogue": (10, False, "auto"),
    "10 actions of a catalogue, no pairs": (10, False, "linear"),
    "100 actions with features": (100, True, "auto"),
}


def per_call_us(functions: Sequence[Callable[[], None]], calls: int) -> list[list[float]]:
    """µs per call of each function in each of `REPEATS` rounds, in which they take turns."""
    rounds = [[timeit.timeit(function, number=1) / calls * 1e6 for function in functions] for _ in range(REPEATS)]
    return [list(times) for times in zip(*rounds, strict=True)]


def main() -> None:
    """Print one line per case: VW's time, ours, and the ratio."""
    rng = random.Random(0)
    told = []
    print(f"{'case':40s} {'VW µs':>8s} {'pmf µs':>8s} {'ratio':>6s} {'encode':>7s}")
    for name, (k, featured, interactions) in CASES.items():
        actions = tuple(
            Action(f"a{j}", {"price": rng.random(), "kind": rng.choice("xyz")} if featured else {}) for j in range(k)
        )
        contexts = [{f"x{i}": rng.gauss(0, 1) for i in range(9)} for _ in range(CONTEXTS)]
        encoder = FeatureEncoder.fit(contexts, [actions] * CONTEXTS, Encoding(interactions=interactions))
        policy = VWPolicy(encoder, Exploration(), Learning())
        for context in contexts * 2:
            policy.learn(context, actions, rng.randrange(k), -rng.random(), 1 / k)
        with mock.patch("bandit.vw_workspace._POOL", ()):
            stock = VWPolicy(encoder, Exploration(), Learning(), model=policy.to_bytes())
        vw: Any = stock._vw._vw
        examples = stock._vw._examples(actions)
        lines = [encoder.context_line(context) for context in contexts]

        def yardstick(vw: Any = vw, examples: list[Any] = examples, lines: list[str] = lines) -> None:
            for line in lines:
                shared = pylibvw.vw._parse(vw, line)
                pylibvw.vw.predict_multi(vw, shared + examples)
                shared[0].get_action_scores()
                pylibvw.vw._finish_example_multi_ex(vw, shared)

        def ours(policy: VWPolicy = policy, contexts: list[Any] = contexts, actions: Any = actions) -> None:
            for context in contexts:
                policy.pmf(context, actions)

        def encode(encoder: FeatureEncoder = encoder, contexts: list[Any] = contexts) -> None:
            for context in contexts:
                encoder.context_line(context)

        times = per_call_us((yardstick, ours, encode), CONTEXTS)
        ratio = statistics.median(mine / theirs for theirs, mine in zip(times[0], times[1], strict=True))
        vw_us, our_us, encode_us = map(statistics.median, times)
        print(f"{name:40s} {vw_us:8.1f} {our_us:8.1f} {ratio:6.2f} {encode_us:7.1f}")
        told.append((f"prediction in the process, {name} / VW", ratio, 2.0 if k < 100 else 1.5))
        policy.close()
        stock.close()
    for what, ratio, limit in told:
        claim(what, ratio, at_most=limit)


if __name__ == "__main__":
    main()
