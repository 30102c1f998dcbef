"""The learner's own metrics in Prometheus' text format: runs, verdicts, lifts, and the health of the join."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from bandit.errors import CorruptModel
from joiner.counts import DELAY_BOUNDS_S, DELAY_QUANTILES
from serving.learner.cycle import Cycle
from serving.learner.reports import OUTCOMES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

COUNTED = {
    "decisions": "live decisions in the warehouse",
    "rewards": "live reward records without retries",
    "interactions": "live interactions joined",
    "imported": "interactions out of imported history",
    "waiting": "decisions whose reward window is open",
    "defaulted": "interactions without a reward",
    "late": "rewards that came after the window",
    "unknown": "rewards without a decision",
    "duplicates": "records that repeat another",
    "conflicts": "event_ids kept out because their records contradict each other",
    "conflicting_rewards": "rewards of a known reward_id with other content",
    "action_mismatch": "rewards for another action than the one decided",
    "not_activated": "deferred decisions that were not activated in time",
}


def learner_metrics(cycles: Mapping[str, Cycle]) -> str:
    """All experiments' metrics as text."""
    lines: list[str] = []
    for name, kind, text, samples in _families(cycles):
        lines += [f"# HELP rewardloop_learner_{name} {text}", f"# TYPE rewardloop_learner_{name} {kind}"]
        lines += [f"rewardloop_learner_{name}{{{labels}}} {value:.12g}" for labels, value in samples]
    lines += _delays(cycles)
    return "\n".join(lines) + "\n"


def _families(cycles: Mapping[str, Cycle]) -> Iterator[tuple[str, str, str, list[tuple[str, float]]]]:
    everything = [(f'experiment="{name}"', cycle) for name, cycle in sorted(cycles.items())]
    counts = [(label, cycle.workspace.warehouse.counts()) for label, cycle in everything]
    for key, text in COUNTED.items():
        yield key, "gauge", text, [(label, float(counted.get(key, 0))) for label, counted in counts]
    rates = [
        (label, 1.0 - counted["defaulted"] / counted["interactions"])
        for label, counted in counts
        if counted["interactions"]
    ]
    yield "join_rate", "gauge", "share of the live interactions that got a reward", rates
    verdicts = []
    for label, cycle in everything:
        outcomes = dict.fromkeys(OUTCOMES, 0) | cycle.outcomes  # an increase is seen only where there was a 0 before
        verdicts += [(f'{label},outcome="{outcome}"', float(number)) for outcome, number in sorted(outcomes.items())]
    yield "runs_total", "counter", "runs by outcome", verdicts
    falls = [(label, float(cycle.falls)) for label, cycle in everything]
    yield "falls_total", "counter", "runs that found that what the champion earns has fallen", falls
    last = [(label, cycle.last_run) for label, cycle in everything if cycle.last_run is not None]
    for key, text in (
        ("lift", "paired lift of the last run's challenger, every row weighing the same"),
        ("weighed", "its lift weighed by what each stretch of the log tells, to which the bounds belong"),
        ("lower", "lower bound of its weighed lift"),
        ("upper", "upper bound of its weighed lift"),
    ):
        samples = [(label, float(value)) for label, run in last if (value := getattr(run, key)) is not None]
        yield key, "gauge", text, samples
    looks = [
        (f'{label},challenger="{judgement.challenger}"', judgement)
        for label, cycle in everything
        for judgement in cycle.last_looks
    ]
    values = [
        (f'{label},role="{role}"', float(value))
        for label, judgement in looks
        for role, value in (("challenger", judgement.value), ("champion", judgement.champion_value))
        if value is not None
    ]
    yield "value", "gauge", "reward per decision of both policies at the last look, doubly robust", values
    for key, text in (
        ("lift", "paired lift of each challenger, every row weighing the same"),
        ("weighed", "its lift weighed by what each stretch of the log tells, to which the bounds belong"),
        ("lower", "lower bound of its weighed lift"),
        ("upper", "upper bound of its weighed lift"),
    ):
        of_each = [(label, float(value)) for label, each in looks if (value := getattr(each, key)) is not None]
        yield f"challenger_{key}", "gauge", text, of_each
    yield "run_seconds", "gauge", "how long the last run took", [(label, run.seconds) for label, run in last]
    lag = [
        (label, (cycle.workspace.clock() - cycle.intake.watermark).total_seconds())
        for label, cycle in everything
        if cycle.intake.watermark is not None
    ]
    yield "log_lag_seconds", "gauge", "how far the log known to be complete is behind now", lag
    aside = [(label, float(len(cycle.intake.set_aside))) for label, cycle in everything]
    yield "segments_set_aside", "gauge", "damaged or unreadable parts of the log, which nothing is learnt from", aside
    generations = []
    for label, cycle in everything:
        with suppress(CorruptModel):  # it is not known then, which `/readyz` and the log tell
            champion = cycle.workspace.registry.champion()
            generations.append((label, float(champion.generation if champion else 0)))
    yield "champion_generation", "gauge", "how many times the champion was set", generations


def _delays(cycles: Mapping[str, Cycle]) -> Iterator[str]:
    """How long rewards took: a histogram to add up over time and experiments, and the quantiles over the whole log."""
    name, text = "rewardloop_learner_reward_delay", "from a decision to its rewards, late ones too"
    found = [(f'experiment="{e}"', cycle.workspace.warehouse.delays()) for e, cycle in sorted(cycles.items())]
    yield f"# HELP {name}_seconds {text}"
    yield f"# TYPE {name}_seconds histogram"
    for label, delays in found:
        for bound, count in zip(DELAY_BOUNDS_S, delays.within, strict=True):
            yield f'{name}_seconds_bucket{{{label},le="{bound:.12g}"}} {count}'
        yield f'{name}_seconds_bucket{{{label},le="+Inf"}} {delays.count}'
        yield f"{name}_seconds_sum{{{label}}} {delays.sum_s:.12g}"
        yield f"{name}_seconds_count{{{label}}} {delays.count}"
    yield f"# HELP {name}_quantile_seconds {text}: quantiles"
    yield f"# TYPE {name}_quantile_seconds gauge"
    for label, delays in found:
        for quantile, value in zip(DELAY_QUANTILES, delays.quantiles or (), strict=delays.quantiles is not None):
            yield f'{name}_quantile_seconds{{{label},quantile="{quantile:g}"}} {value:.12g}'
