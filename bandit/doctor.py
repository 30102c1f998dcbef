"""What can be wrong with an experiment's files, found by reading them: log, models, settings, replays.

Nothing here changes anything. A finding that is *wrong* breaks a promise or soon will; a *note* is worth knowing.
Each says in words what is the matter and what to do about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from bandit.errors import CorruptLog, CorruptModel, CorruptSecret, InvalidSettings, NotFound, RewardloopError
from bandit.eventlog.heartbeat import (
    AHEAD_S_MAX,
    last_heartbeats,
    locked_writers,
    read_clock_floor,
    read_heartbeat,
)
from bandit.eventlog.recovery import DAMAGED_SUFFIX, QUARANTINE, TORN_SUFFIX, open_segments
from bandit.eventlog.segment import SegmentInfo, is_segment_name, parse_segment_name, read_events, verify_segment
from bandit.eventlog.survey import sealed_segments
from bandit.events import DecisionEvent
from bandit.experiment import Experiment, ExperimentPaths
from bandit.policies import load_policy
from bandit.registry import ModelRegistry
from bandit.replay import offered_actions, replay
from bandit.types import Action, Policy
from bandit.vw_policy import VWPolicy

CLOCK_AHEAD_S_MAX = 60.0
MODELS_OPEN_MAX = 8  # one decision asks two of them: the champion and who is on trial


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: `area` (log, models, settings, replay, database), what it is, and the way out."""

    area: str
    wrong: bool
    what: str
    cure: str = ""


@dataclass(slots=True)
class Findings:
    """What was found and how much was looked at (`checked`: segments, events, models, replays, …)."""

    found: list[Finding] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    def wrong(self, area: str, what: str, cure: str) -> None:
        """Add something that breaks a promise."""
        self.found.append(Finding(area, True, what, cure))

    def note(self, area: str, what: str, cure: str = "") -> None:
        """Add something worth knowing."""
        self.found.append(Finding(area, False, what, cure))

    def count(self, what: str, by: int = 1) -> None:
        """Count something that was looked at."""
        self.checked[what] = self.checked.get(what, 0) + by

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.wrong for finding in self.found)


def check_log(
    paths: ExperimentPaths, findings: Findings, *, now: datetime, archived: Collection[str] = ()
) -> list[SegmentInfo]:
    """Verify every sealed segment and look for what was lost, left open or put aside; gives the sound segments.

    `archived` are the names of segments that are archived by now. Writers may go on meanwhile: what they seal and open
    after the look at the folder is not looked at.
    """
    sound: list[SegmentInfo] = []
    sequences: dict[str, list[int]] = defaultdict(list)
    opened = open_segments(paths.events)  # first: one that is sealed between the looks is then in both, not in neither
    segments = sealed_segments(paths.events)
    for segment in segments:
        findings.count("segments")
        writer_id, sequence = parse_segment_name(segment)
        sequences[writer_id].append(sequence)
        try:
            info = verify_segment(segment)
        except (CorruptLog, OSError) as error:
            findings.wrong("log", str(error), "restore it from a backup, or save its whole commits with --repair")
            continue
        sound.append(info)
        findings.count("events", info.events)
    _check_gaps(paths, sequences, opened, findings, archived)
    _check_quarantine(paths, findings)
    _check_writers(paths, opened, findings, now=now)
    for path in sorted(paths.events.iterdir()) if paths.events.is_dir() else []:
        if path.is_file() and not is_segment_name(path.name):  # by its name: some were sealed since the look above
            findings.note("log", f"events/{path.name} is no segment", "it is not read; remove it if nobody needs it")
    return sound


def check_models(registry: ModelRegistry, findings: Findings) -> None:
    """Verify digests and canaries of every stored model, the pointer and the history."""
    broken: set[str] = set()
    for model_id in registry.model_ids():
        findings.count("models")
        try:
            load_policy(registry.load(model_id)).close()
        except (CorruptModel, NotFound) as error:
            broken.add(model_id)
            what = str(error) if model_id in str(error) else f"model {model_id}: {error}"
            findings.note("models", what, "restore its folder from a backup, or remove it")
    try:
        _check_champion(registry, broken, findings)
    except CorruptModel as error:
        what, _, cure = str(error).rpartition("; ")
        findings.wrong("models", what, cure)
    else:
        try:
            registry.trial()
        except CorruptModel as error:
            what, _, cure = str(error).rpartition("; ")
            findings.note("models", f"{what}: no challenger has its share in the decisions", cure)
    for leftover in sorted(registry.paths.models.glob(".incoming-*")) if registry.paths.models.is_dir() else []:
        findings.note("models", f"models/{leftover.name} was not finished", "the next publication removes it")
    for leftover in sorted(registry.paths.models.glob(".outgoing-*")) if registry.paths.models.is_dir() else []:
        findings.note("models", f"models/{leftover.name} was not removed to its end", "the next removal does that")
    try:
        findings.count("history", len(registry.history.entries()))
    except CorruptLog as error:
        findings.wrong("models", str(error), "restore history.jsonl from a backup, or repair the line by hand")
    if unfinished := registry.history.unfinished():
        findings.note(
            "models",
            f"history.jsonl ends with {unfinished} bytes of a line that was not finished",
            "its process died, and nobody was told of that entry; the next one takes its place",
        )


def _check_champion(registry: ModelRegistry, broken: Collection[str], findings: Findings) -> None:
    """Who is champion is known and can be loaded, and so can those before; raises `CorruptModel`."""
    champion, earlier = registry.champion(), registry.champions()
    if champion is not None and (champion.model_id in broken or champion.model_id not in registry.model_ids()):
        findings.wrong(
            "models",
            f"the champion {champion.model_id} cannot be loaded; decisions fall back",
            "restore its folder from a backup, or `rewardloop models rollback`; "
            "after `rewardloop models unset` the next run learns the whole log anew",
        )
    gone = {entry.model_id for entry in earlier} - set(registry.model_ids())
    if gone:
        findings.note(
            "models", f"{len(gone)} earlier champion(s) are no longer stored", "they cannot be rolled back to"
        )


def check_settings(experiment: Experiment, findings: Findings) -> None:
    """Every version of the settings parses, and every catalogue that one refers to is there."""
    for version in experiment.versions():
        findings.count("settings_versions")
        try:
            experiment.settings_of(version.version)
            experiment.catalogue(version.catalogue_version)
        except RewardloopError as error:
            what = str(error).removesuffix("; restore it from a backup")
            findings.wrong("settings", f"settings version {version.version}: {what}", "restore it from a backup")
    try:
        experiment.secret  # noqa: B018 - reading checks it
    except CorruptSecret as error:
        what, _, cure = str(error).partition("; ")
        findings.wrong("settings", f"{what}, so no worker that starts can decide", cure)
        return
    if experiment.paths.secret.stat().st_mode & 0o077:
        findings.note("settings", "the file `secret` can be read by others", f"chmod 600 {experiment.paths.secret}")


def check_replays(experiment: Experiment, registry: ModelRegistry, findings: Findings, *, limit: int) -> None:
    """Make the newest `limit` decisions again: action, probability and pmf must be the logged ones, bit for bit."""
    policies: dict[str, VWPolicy | None] = {}
    different: dict[str, int] = defaultdict(int)
    try:
        secret = experiment.secret
    except CorruptSecret:
        return  # `check_settings` has said so
    try:
        for event in _newest_decisions(experiment.paths, limit):
            actions = offered_actions(event, lambda version: _catalogue(experiment, version))
            policy = _policy(registry, policies, event.model_id)
            if actions is None:
                findings.count("replays_impossible")
                continue
            again = replay(
                event,
                actions=actions,
                policy=policy,
                settings=experiment.settings_of(event.settings_version),
                secret=secret,
                trial=_policy(registry, policies, event.trial_model_id) if event.trial_model_id else None,
            )
            if again is None:
                findings.count("replays_impossible")
                continue
            findings.count("replays")
            if not again.agrees_with(event):
                different[event.model_id] += 1
    finally:
        for opened in policies.values():
            if opened is not None:
                opened.close()
    for model_id, count in different.items():
        findings.wrong(
            "replay",
            f"{count} logged decision(s) of {model_id} come out differently when they are made again",
            "do not learn from them: their probability is not the one they were drawn with; see whether `secret`, "
            "the model's folder or the log was replaced",
        )


def _check_gaps(
    paths: ExperimentPaths,
    sequences: dict[str, list[int]],
    opened: Sequence[Path],
    findings: Findings,
    archived: Collection[str],
) -> None:
    for segment in opened:
        writer_id, sequence = parse_segment_name(segment)
        sequences[writer_id].append(sequence)
    quarantine = paths.events / QUARANTINE
    aside = {path.name.split(".")[0] for path in quarantine.iterdir()} if quarantine.is_dir() else set()
    aside.update(archived)
    for writer_id, numbers in sorted(sequences.items()):
        missing = sorted(set(range(min(numbers), max(numbers))) - set(numbers))
        unexplained = [number for number in missing if f"{writer_id}-{number:08d}" not in aside]
        if unexplained:
            findings.note(
                "log",
                f"{len(unexplained)} segment number(s) of writer {writer_id} are not there, first {unexplained[0]}",
                "nothing is lost if that segment held no whole commit; otherwise the database knows it (see there)",
            )


def _check_quarantine(paths: ExperimentPaths, findings: Findings) -> None:
    quarantine = paths.events / QUARANTINE
    for path in sorted(quarantine.iterdir()) if quarantine.is_dir() else []:
        size = path.stat().st_size
        if path.suffix == DAMAGED_SUFFIX:
            findings.wrong(
                "log",
                f"events/{QUARANTINE}/{path.name} ({size} bytes) may hold acknowledged events that are not in the log",
                "restore the segment from a backup, or save its whole commits with --repair; then remove the file",
            )
        elif path.suffix == TORN_SUFFIX:
            findings.note("log", f"events/{QUARANTINE}/{path.name} ({size} bytes) was cut off a dead writer's segment")


def _check_writers(paths: ExperimentPaths, opened: Sequence[Path], findings: Findings, *, now: datetime) -> None:
    live = locked_writers(paths)
    findings.count("live_writers", len(live))
    for segment in opened:
        if parse_segment_name(segment)[0] not in live and segment.exists():
            findings.note(
                "log",
                f"events/{segment.name} was left open by its writer, which has died or can write no more",
                "the learner recovers it",
            )
    for writer_id in live:
        heartbeat = read_heartbeat(paths, writer_id)
        if heartbeat is None:
            findings.note("log", f"writer {writer_id} lives but has not reported yet")
        elif (silence := heartbeat.silence(now)) is not None:
            findings.wrong("log", silence, "nothing matures as long as it hangs; restart that process")
    _check_time(paths, live, findings, now=now)


def _check_time(paths: ExperimentPaths, live: Collection[str], findings: Findings, *, now: datetime) -> None:
    """Whether stamps, or the time that new writers start from, lie ahead of now."""
    limit = now + timedelta(seconds=CLOCK_AHEAD_S_MAX)
    floor = read_clock_floor(paths)
    ahead = [heartbeat for heartbeat in last_heartbeats(paths) if heartbeat.latest > limit]
    if floor is not None and floor > limit:
        findings.wrong(
            "log",
            f"the log was read by a clock that showed {_when(floor, now)}: who starts to write before then stamps "
            "that time, and those windows do not close before",
            "if the clock of this machine is behind, set it right; if it is right, nothing can be done, and it ends "
            "by itself at that time: restart no worker until then without need",
        )
    if ahead:
        until = max(heartbeat.latest for heartbeat in ahead)
        curable = [
            heartbeat
            for heartbeat in ahead
            if heartbeat.writer_id in live
            and heartbeat.latest > now + timedelta(seconds=AHEAD_S_MAX)
            and (floor is None or floor <= limit)
        ]
        restart = ", ".join(f"{heartbeat.writer_id} (process {heartbeat.pid})" for heartbeat in curable)
        findings.wrong(
            "log",
            f"the log was written until {_when(until, now)}, by {', '.join(beat.writer_id for beat in ahead)}: "
            "windows of what is stamped so do not close before",
            "if the clock of this machine is behind, set it right; if it is right, "
            + (
                f"restart {restart}: a new process goes by the clock again; what it has stamped waits until that time"
                if curable
                else "nothing can be done, and it ends by itself at that time"
            ),
        )


def _when(moment: datetime, now: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}, {(moment - now).total_seconds():.0f} s after now"


def _newest_decisions(paths: ExperimentPaths, limit: int) -> Iterator[DecisionEvent]:
    left = limit
    segments = sorted(sealed_segments(paths.events), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for segment in segments:
        try:
            decisions = [event for event in read_events(segment) if isinstance(event, DecisionEvent)]
        except CorruptLog:
            continue  # `check_log` has said so
        live = [event for event in decisions if event.imported_at is None]
        yield from live[-left:] if left > 0 else []
        left -= min(left, len(live))
        if left <= 0:
            return


def _catalogue(experiment: Experiment, version: int) -> Sequence[Action] | None:
    try:
        return experiment.catalogue(version)
    except (NotFound, InvalidSettings):
        return None


def _policy(registry: ModelRegistry, policies: dict[str, VWPolicy | None], model_id: str) -> Policy | None:
    """A model's policy, None where it cannot be loaded; the one asked longest ago is closed to make room."""
    if model_id in policies:
        policies[model_id] = policies.pop(model_id)
        return policies[model_id]
    if len(policies) >= MODELS_OPEN_MAX:
        oldest = policies.pop(next(iter(policies)))
        if oldest is not None:
            oldest.close()
    try:
        policies[model_id] = load_policy(registry.load(model_id))
    except (CorruptModel, NotFound):
        policies[model_id] = None
    return policies[model_id]


def salvageable(paths: ExperimentPaths) -> list[Path]:
    """Whole segments in quarantine, whose sound commits can still be saved."""
    quarantine = paths.events / QUARANTINE
    if not quarantine.is_dir():
        return []
    return sorted(path for path in quarantine.iterdir() if path.name.endswith(f".jsonl{DAMAGED_SUFFIX}"))
