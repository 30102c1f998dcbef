"""The Statlog loop by hand, one step at a time, and then in a loop, with the state checked after every step.

Start a service (`rewardloop up --quick`) and run `python examples/step_by_step.py`. Decisions, rewards, joins,
training, evaluation and deployment are the service's own; this program is the person who walks through them.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from rewardloop_client import ExperimentManager, Refused

from serving.cli.worlds import statlog_world

SETTINGS = {"rewards": {"window_s": 1.0, "min": 0.0, "max": 1.0}, "serving": {"seal_interval_s": 0.1}}
HISTORY = 100
AT_ONCE = 20
"""How many rewards are reported together, well within the window of the first of them."""


def main(
    url: str, admin_url: str, *, experiment: str = "step-by-step", batch: int = 300, rounds: int = 3, seed: int = 0
) -> float:
    """Walk the loop; gives the mean reward of the last round."""
    world, rng = statlog_world(), np.random.default_rng(seed)
    names = [action.id for action in world.catalogue or ()]
    settings = {**SETTINGS, "actions": [{"id": name} for name in names], "schedule": {"poll_s": 0.1}}

    with ExperimentManager(experiment, url=url, admin_url=admin_url, settings=settings) as manager:
        assert manager.status().state == "idle"
        assert manager.status().last_model is None

        # 1. history, logged by choosing uniformly, makes the first model; there is nothing to beat yet
        history = []
        for _ in range(HISTORY):
            drawn, index = world.draw(rng, 0), int(rng.integers(len(names)))
            row = {"context": drawn.context, "action": names[index], "reward": float(drawn.outcomes[index])}
            history.append({**row, "probability": 1 / len(names)})
        first = manager.initialize_first_model(history)
        status = manager.status()
        assert status.last_model == first and status.next_model is None
        assert status.imported == HISTORY and status.schedule_paused
        print(f"first model {first}: {manager.verdict(first).reason}")

        decided = 0

        def play(number: int) -> float:
            """Decide for `number` contexts and report the rewards; gives their mean."""
            earned, unreported = 0.0, []
            for position in range(number):
                drawn = world.draw(rng, 0)
                choice = manager.predictor.get_action(drawn.context)
                reward = float(drawn.outcomes[names.index(choice.action)])
                earned += reward
                unreported.append((choice.event_id, reward))
                if len(unreported) == AT_ONCE or position == number - 1:  # a reward after its window would not count
                    assert manager.ingest_rewards(unreported) == len(unreported)
                    unreported.clear()
            return earned / number

        # 2. decisions with the first model, their rewards, and the join once the reward window has closed
        earned = play(batch)
        decided += batch
        assert manager.wait_until_matured(decided) == decided
        summary = manager.join()
        print(f"first batch earned {earned:.3f}; the join says {summary}")

        # 3. the next model is trained on what has matured; it is stored, but serves nothing
        candidate = manager.train_next_model()
        status = manager.status()
        assert status.next_model == candidate and status.last_model == first
        assert status.new_interactions == 0

        # 4. the gate compares it with the champion, on rows that neither had learnt from
        verdict = manager.evaluate_model(candidate)
        score = manager.get_eval_score(candidate)
        assert manager.status().last_verdict == verdict.outcome
        assert score.lower <= score.value <= score.upper
        print(
            f"candidate {candidate}: {verdict.outcome}, value {score.value:.3f} [{score.lower:.3f}, {score.upper:.3f}]"
        )

        # 5. without a promote verdict a deployment is refused, unless somebody insists
        if verdict.outcome != "promote":
            try:
                manager.deploy_model(candidate)
            except Refused as refusal:
                print(f"not deployed: {refusal.detail}")
            else:
                raise AssertionError("a model without a promote verdict was deployed without override")
        manager.deploy_model(candidate, override=verdict.outcome != "promote")
        status = manager.status()
        assert status.last_model == candidate and status.next_model is None
        assert manager.predictor.get_action(world.draw(rng, 0).context).model_id == candidate

        # 6. and so on, in a loop
        for number in range(rounds):
            earned = play(batch)
            decided += batch
            manager.wait_until_matured(decided)
            candidate = manager.train_next_model()
            verdict = manager.evaluate_model(candidate)
            if verdict.best is not None:
                manager.deploy_model(verdict.best)
                assert manager.status().last_model == verdict.best
            print(f"round {number + 1}: earned {earned:.3f}, {verdict.outcome}: {verdict.reason}")

        manager.resume_schedule()
        assert not manager.status().schedule_paused
    return earned


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--admin-url", default="http://127.0.0.1:8001")
    parser.add_argument("--experiment", default="step-by-step")
    options = parser.parse_args()
    main(options.url, options.admin_url, experiment=options.experiment)
    sys.exit(0)
