"""What each setting means, in one sentence per key: read by `rewardloop init`, by the docs and by people.

The types, defaults and limits come from `bandit.settings` itself, so only the meaning is written here; a
test fails when a key has no meaning or a meaning has no key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from bandit.settings.checks import settings_to_dict
from bandit.settings.declared import ExperimentSettings
from bandit.settings.words import in_words

MEANING: dict[str, str] = {
    "rewards.window_s": "seconds after a decision during which its rewards count",
    "rewards.default": "the reward of a decision whose window closed without one",
    "rewards.aggregation": "how several rewards of one decision become one",
    "rewards.min": "smallest reward accepted",
    "rewards.max": "largest reward accepted",
    "rollback.enabled": "undo a promotion when the former champion proves better, or when serving suffers",
    "rollback.alpha": "chance of bringing back a former champion that is not better, over a tenure",
    "rollback.error_rate_max": "largest share of failed requests after a promotion",
    "rollback.latency_p99_ms_max": "largest 99th percentile of recommend's latency after a promotion",
    "rollback.decisions_min": "requests after a promotion before errors and latency are judged",
    "challengers": "the field beside the standing challenger, by name (standing, former and offered-… are taken); "
    "each relearns the newest window on a schedule",
    "retention.compact_after_days": "days after which sealed segments become Parquet archives",
    "retention.drop_after_days": "days after which archives are removed for good, with what was joined from them",
    "rewards.events": "named events and their worth: { click = { value = 1 }, watched = { scale = 0.02, max = 1 } }",
    "encoding.numbers": "quantile bins fitted on logged rows, or z-scores as the published recipes use",
    "encoding.bins": "quantile bins per number, at most",
    "encoding.refit_rows_max": "up to so many rows, bins are fitted anew (and all is learnt again) as rows double",
    "encoding.ignore": 'features of contexts and actions not to learn from, with all below them: ["user", "shop.id"]',
    "encoding.interactions": "what the policy crosses with the action: pairs of context features, or single ones",
    "exploration.algorithm": "how the policy explores",
    "exploration.epsilon": "egreedy: share of uniform exploration",
    "exploration.bags": "bag: number of bootstrapped policies",
    "exploration.cover": "cover: number of policies",
    "exploration.gamma_scale": "squarecb: greediness (larger explores less)",
    "exploration.gamma_exponent": "squarecb: how greediness grows with the number of examples",
    "exploration.headroom": "squarecb: explore less where the best action is near the best possible reward",
    "exploration.temperature": "softmax: reward difference that makes an action e times as likely",
    "exploration.explore_first": "explore_first: interactions decided uniformly before the best action is always taken",
    "exploration.probability_floor": "smallest probability of any offered action, shared out uniformly",
    "learning.learning_rate": "step size of the policy's learner; auto: what foretells the first rows best",
    "learning.power_t": "decay of the step size",
    "learning.l2": "L2 regularisation",
    "learning.bits": "log2 of the number of weights",
    "learning.cb_type": "how logged rewards become regression targets",
    "learning.passes": "how often a log of up to 5,000 rows is read when it is learnt anew",
    "learning.importance_max": "bound on 1/probability as an example's weight (squarecb: at most 10)",
    "learning.propensity_min": "smallest probability that a row is weighted by; a smaller one counts as this",
    "learning.seed": "seed of the learner's own randomness",
    "learning.only_since": "learn from, and evaluate on, decisions from this time on (2026-03-01T12:00:00Z, or a date: "
    "from its midnight, UTC)",
    "learning.only_mode": "… decisions made in this mode only (see serving.mode)",
    "learning.only_slice": "… decisions of this slice only: policy, trial or control",
    "learning.only_model": "… decisions of the model of this id only",
    "training.time_s_max": "seconds after which a training job is ended (the next run tries again), or an evaluation",
    "training.cores": "with 2, a long log is learnt by policy and reward model at once; with 1, the other cores decide",
    "training.memory_bytes_max": "address space of a process that trains or evaluates; a job that needs more fails",
    "training.database_bytes_max": "memory of the experiment's database; it counts from the learner's next start",
    "schedule.interval_s": "train after so many seconds, when something new matured",
    "schedule.interactions": "train after so many newly matured interactions, if that comes first",
    "schedule.cron": "five cron fields in UTC (30 4 * * *, weekdays 0-7 from Sunday) in place of the interval",
    "schedule.poll_s": "how often the learner looks for sealed segments",
    "gate.enabled": "promote only what offline evaluation proves better; false promotes every retrained policy",
    "gate.mode": "prove the challenger better, or only not worse than `margin`",
    "gate.alpha": "chance of promoting an equal challenger over a champion's whole tenure",
    "gate.margin": "superiority: the lift to exceed; noninferiority: the relative loss to tolerate",
    "gate.looks": "planned spends alpha over looks and finds lifts sooner; anytime is a confidence sequence",
    "gate.horizon_rows": "rows over which alpha is laid out; after them fresh rows get a fresh alpha",
    "gate.detectable_lift": "the relative lift worth finding; verdicts foretell how many more rows would show it",
    "gate.rows_min": "rows below which the verdict is insufficient data",
    "gate.ess_min": "effective rows of each policy below which the verdict is insufficient data",
    "serving.mode": "online; apprentice (answer the baseline and watch); logging_only; frozen (serve, never promote)",
    "serving.cold_start": "what answers before the first model",
    "serving.cold_start_exploration": "cold_start baseline: share of uniform exploration",
    "serving.control_fraction": "share of traffic decided by the control policy, to measure lift live",
    "serving.control_policy": "what decides the control slice",
    "serving.trial_share": "share of each pmf for an undecided challenger, so that the log can tell; 0 for none",
    "serving.trial_share_max": "largest share it may grow to while the evidence speaks for it",
    "serving.seal_interval_s": "seconds after which a segment with events is sealed, so that the learner may read it",
    "serving.segment_bytes_max": "size at which a segment is sealed, in bytes",
    "serving.segment_field": 'context field by which reports show the lift of rows decided under it; "" for none',
    "serving.subject_field": 'context field that names the person, for clustered errors and erasure ("" for none); it '
    'is learnt like any other unless encoding.ignore = ["…"] names it, too',
    "limits.body_bytes_max": "largest body of one request, in bytes, counted while reading",
    "limits.batch_bytes_max": "largest body of a batch of decisions or rewards, in bytes",
    "limits.batch_items_max": "most decisions or rewards in one batch",
    "limits.actions_max": "most actions in one request",
    "limits.features_max": "most features of one context, or of one action",
    "limits.depth_max": "deepest nesting of feature objects",
    "limits.name_length_max": "longest feature name, action id, event_id or reward_id, in characters",
    "limits.text_length_max": "longest text value of a feature, in characters",
    "limits.slots_max": "most slots in one request",
    "actions": 'a fixed catalogue, [{ id = "a", features = { } }, …]; leave out where each request brings its own',
}


@dataclass(frozen=True, slots=True)
class SettingReference:
    """One setting: dotted key, kind in words, default (plain JSON value), limit in words (or None), meaning."""

    key: str
    kind: str
    default: Any
    limit: str | None
    meaning: str


def settings_reference() -> list[SettingReference]:
    """Every setting of an experiment, in the order of `ExperimentSettings`."""
    defaults = settings_to_dict(ExperimentSettings())
    return [
        SettingReference(key, kind, _lookup(defaults, key), limit, MEANING[key])
        for key, kind, limit in _walk(ExperimentSettings, "")
    ]


def _walk(section: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, str, str | None]]:
    described = inspect.type_info(section)
    assert isinstance(described, inspect.StructType)
    for field in described.fields:
        key = f"{prefix}{field.name}"
        kind = field.type
        if isinstance(kind, inspect.StructType):
            yield from _walk(kind.cls, f"{key}.")
        else:
            words, limit = in_words(kind)
            yield key, words, limit


def _lookup(plain: dict[str, Any], key: str) -> Any:
    value: Any = plain
    for part in key.split("."):
        value = value[part]
    return value
