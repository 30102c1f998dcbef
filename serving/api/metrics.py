"""Prometheus metrics of all workers, told by whichever worker is asked.

Every worker's counters travel with its heartbeat; the asked worker writes its own heartbeat first and then
reads all of them, so two scrapes answered by different workers never see a counter go back. Where the disk takes no
heartbeat it tells its own from memory, and what the others wrote last, as not ready once that is old. Each worker is a
label of its own: sums over workers are the reader's, and a restarted worker is an ordinary counter reset. Where
several services share a directory the workers of the later ones are `w0-2`, `w0-3` …: no series is told twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from bandit.eventlog import Heartbeat
from serving.api.counters import LATENCY_EDGES_S

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

SILENT_S_MAX = 5.0
"""A living worker whose heartbeat is older than this cannot write one."""

_COUNTERS = {
    "decisions": ("rewardloop_decisions_total", "Decisions that are on disk."),
    "rewards": ("rewardloop_rewards_total", "Rewards that are on disk."),
    "activations": ("rewardloop_activations_total", "Activations that are on disk."),
    "retries": ("rewardloop_retries_total", "Requests answered from the memory of earlier answers."),
    "fallback_decisions": ("rewardloop_fallback_decisions_total", "Decisions made while the champion was unusable."),
    "control_decisions": ("rewardloop_control_decisions_total", "Decisions of the control slice."),
    "apprentice_agreements": (
        "rewardloop_apprentice_agreements_total",
        "Decisions of the apprentice in which the model's favourite was the baseline action.",
    ),
    "policy_errors": (
        "rewardloop_policy_errors_total",
        "Decisions in which the model failed and the cold start stood in.",
    ),
    "trial_errors": ("rewardloop_trial_errors_total", "Decisions in which the challenger on trial failed."),
    "poll_errors": ("rewardloop_poll_errors_total", "Failed looks at settings or champion pointer."),
    "model_swaps": ("rewardloop_model_swaps_total", "Models taken into service."),
    "log_commits": ("rewardloop_log_commits_total", "Group commits of the event log."),
    "log_bytes": ("rewardloop_log_bytes_total", "Bytes written to the event log."),
    "log_segments": ("rewardloop_log_segments_total", "Segments sealed."),
    "log_fsync_s_total": ("rewardloop_log_fsync_seconds_total", "Time spent in syncing the event log."),
}
_GAUGES = {
    "log_queue_depth": ("rewardloop_log_queue_depth", "Events waiting to be written."),
    "log_fsync_s_last": ("rewardloop_log_fsync_seconds_last", "Duration of the last sync."),
    "log_fsync_s_max": ("rewardloop_log_fsync_seconds_max", "Longest sync since the worker started."),
    "memory_ids": ("rewardloop_retry_memory_ids", "Answers kept for retries."),
    "ready": ("rewardloop_ready", "Whether the worker can make decisions durable."),
    "fallback": ("rewardloop_fallback", "Whether the champion is unusable at present."),
    "trial": ("rewardloop_trial", "Whether a challenger has its share of the decisions."),
    "champion_since_s": ("rewardloop_champion_since_seconds", "When the champion was set, in seconds since 1970."),
}


def render(heartbeats: dict[str, Sequence[Heartbeat]], now: datetime) -> bytes:
    """The exposition text out of the live workers' heartbeats by experiment."""
    workers: list[tuple[str, Heartbeat]] = []
    silent_before = now - timedelta(seconds=SILENT_S_MAX)
    for experiment, beats in sorted(heartbeats.items()):
        names: Counter[str] = Counter()
        for beat in beats:
            if beat.kind == "worker":
                name = beat.writer_id.partition("-")[0]
                names[name] += 1
                shown = name if names[name] == 1 else f"{name}-{names[name]}"
                if beat.at < silent_before:
                    beat = msgspec.structs.replace(beat, counters=beat.counters | {"ready": 0.0})
                workers.append((f'experiment="{experiment}",worker="{shown}"', beat))
    lines: list[str] = []
    for key, (name, help_text) in _COUNTERS.items():
        lines += _family(
            name, "counter", help_text, ((labels, beat.counters.get(key, 0.0)) for labels, beat in workers)
        )
    for key, (name, help_text) in _GAUGES.items():
        present = ((labels, beat.counters[key]) for labels, beat in workers if key in beat.counters)
        lines += _family(name, "gauge", help_text, present)
    ages = (
        (labels, max(0.0, now.timestamp() - beat.counters["champion_since_s"]))
        for labels, beat in workers
        if "champion_since_s" in beat.counters
    )
    lines += _family("rewardloop_champion_age_seconds", "gauge", "How long the champion has been champion.", ages)
    models = ((f'{labels},model_id="{beat.model_id or ""}"', 1.0) for labels, beat in workers)
    lines += _family("rewardloop_model_info", "gauge", "The model in service, as a label.", models)
    errors = (
        (f'{labels},kind="{key.partition(":")[2]}"', count)
        for labels, beat in workers
        for key, count in sorted(beat.counters.items())
        if key.startswith("error:")
    )
    lines += _family("rewardloop_errors_total", "counter", "Refused requests and items by kind of problem.", errors)
    lines += _histogram(workers)
    return ("\n".join(lines) + "\n").encode()


def _family(name: str, kind: str, help_text: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    return [
        f"# HELP {name} {help_text}",
        f"# TYPE {name} {kind}",
        *[f"{name}{{{labels}}} {value:.12g}" for labels, value in samples],
    ]


def _histogram(workers: Sequence[tuple[str, Heartbeat]]) -> list[str]:
    name = "rewardloop_request_seconds"
    lines = [f"# HELP {name} Time from request to answer, by route.", f"# TYPE {name} histogram"]
    for labels, beat in workers:
        routes = sorted({key.split(":")[1] for key in beat.counters if key.startswith("latency:")})
        for route in routes:
            total = 0.0
            for index, edge in enumerate([*LATENCY_EDGES_S, float("inf")]):
                total += beat.counters.get(f"latency:{route}:{index}", 0.0)
                bound = "+Inf" if edge == float("inf") else f"{edge:g}"
                lines.append(f'{name}_bucket{{{labels},route="{route}",le="{bound}"}} {total:.12g}')
            seconds = beat.counters.get(f"latency:{route}:sum", 0.0)
            lines.append(f'{name}_sum{{{labels},route="{route}"}} {seconds:.12g}')
            lines.append(f'{name}_count{{{labels},route="{route}"}} {total:.12g}')
    return lines
