"""The demo's run: the published Statlog protocol through the real service, start to finish.

Nothing is shortened: a fresh data directory, `rewardloop up` as a child process, history through the real
import, every interaction a durable HTTP round trip, every promotion through the gate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rewardloop_client import Client

from bandit.experiment import Experiment
from bandit.settings import ExperimentSettings, merge_settings
from serving.in_process import secret_of
from serving.over_http import Admin, OverHttp, Service
from serving.sabotage import kill_learner, read_log, reversed_challenger, verdict_on
from simulator.channel import Delay
from simulator.client_app import ClientApp
from simulator.console import RunDisplay
from simulator.picture import run_picture
from simulator.runner import Batch, Run, Script, play
from simulator.tables import LabelledTable

EXPERIMENT = "statlog"
REWARD_WINDOW_S = 1.0
REWARD_DELAY_MAX_S = 0.3
TICK_S = 0.1
RETRIES = 8
REPORTERS = 1
"""One user asks, so that the log's order, and with it every decision, depends on the seed alone; another thread reports
what has become due."""
KILL_AFTER_S = 0.2


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What can be chosen: length, seed, algorithm, and whether to do harm on the way."""

    interactions: int = 7500
    batch: int = 500
    warm_start: int = 100
    seed: int = 0
    algorithm: str | None = None
    sabotage: bool = False


@dataclass(frozen=True, slots=True)
class Sabotage:
    """What became of the harm: the verdict on the reversed challenger, and the killed learner's successor."""

    challenger: str
    outcome: str
    reason: str
    lift: float | None
    weighed: float | None
    lower: float | None
    upper: float | None
    learner_killed_in_batch: int
    learner_restarted: bool


@dataclass(slots=True)
class DemoResult:
    """What `--json` prints; counts are of distinct event_ids, history apart."""

    interactions: int
    mean_reward: float
    first_500: float
    last_500: float
    promotions: int
    holds: int
    insufficient: int
    decisions_logged: int
    rewards_logged: int
    interactions_joined: int
    imported: int
    champion: str
    seconds: float
    picture: str
    report: str | None
    data_dir: str
    sabotage: Sabotage | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; `sabotage` only where there was some."""
        plain = asdict(self)
        if self.sabotage is None:
            del plain["sabotage"]
        return plain


@dataclass(slots=True)
class _Harm:
    """The saboteur's notebook while the run goes on."""

    offer_before: int
    kill_in: int
    challenger: str = ""
    verdict: dict[str, Any] = field(default_factory=dict)
    killed: int | None = None


def demo_settings(world: LabelledTable, options: DemoOptions, base: ExperimentSettings) -> ExperimentSettings:
    """The experiment's settings: the defaults (or a configuration) with the demo's haste laid over."""
    changes: dict[str, Any] = {
        "actions": [{"id": action.id} for action in world.catalogue],
        "rewards": {"window_s": REWARD_WINDOW_S, "min": 0.0, "max": 1.0},
        # only full batches start the learner, so that the run is the published protocol and not the clock's
        "schedule": {"interval_s": 3600.0, "interactions": options.batch, "poll_s": TICK_S},
        "serving": {"seal_interval_s": TICK_S},
    }
    if options.algorithm is not None:
        changes["exploration"] = {"algorithm": options.algorithm}
    return merge_settings(base, changes)


def demonstrate(
    world: LabelledTable,
    data_dir: Path,
    options: DemoOptions,
    display: RunDisplay,
    *,
    base: ExperimentSettings | None = None,
    keep_running: Callable[[Service], None] | None = None,
) -> DemoResult:
    """Run the demo on an empty `data_dir`; `keep_running`, when given, holds the service up before the stop."""
    settings = demo_settings(world, options, base or ExperimentSettings())
    # the draws' secret comes from the seed, as in simulations, so that the same seed makes the same decisions
    secret = secret_of(options.seed)
    experiment = Experiment.create(data_dir, EXPERIMENT, settings, now=datetime.now(UTC), secret=secret)
    script = Script(options.interactions, options.batch, options.warm_start, options.seed)
    harm = _plan_harm(script) if options.sabotage else None
    times: dict[str, float] = {}
    with Service(data_dir, log=data_dir / "service.log") as service, Admin(data_dir, EXPERIMENT) as admin:
        with Client(service.url, EXPERIMENT, retries=RETRIES, timeout_s=5.0) as client:
            transport = OverHttp(
                ClientApp(client, users=1, reporters=REPORTERS),
                admin,
                expected_batch=script.batch,
                on_phase=display.phase,
                on_answer=display.on_answer,
            )

            def on_start(run: Run) -> None:
                display.heading(run.initial)
                times["start"] = time.monotonic()

            def before_batch(number: int) -> None:
                if harm is not None:
                    _do_harm(harm, number, experiment, admin, display)

            def on_batch(run: Run, batch: Batch) -> None:
                times["stop"] = time.monotonic()
                display.on_batch(run, batch)
                if harm is not None:
                    _note_harm(harm, transport.last_report, display)

            run = play(
                world,
                transport,
                script,
                channel=Delay(REWARD_DELAY_MAX_S, "uniform"),
                on_start=on_start,
                before_batch=before_batch,
                on_batch=on_batch,
            )
        status = admin.status() or {}
        if keep_running is not None:
            keep_running(service)
    return _result(world, experiment, data_dir, run, status=status, seconds=times["stop"] - times["start"], harm=harm)


def _result(
    world: LabelledTable,
    experiment: Experiment,
    data_dir: Path,
    run: Run,
    *,
    status: dict[str, Any],
    seconds: float,
    harm: _Harm | None,
) -> DemoResult:
    lines = world.references()
    picture = run_picture(
        run,
        lines,
        data_dir / "demo.png",
        title="Statlog, decided by a loop that learns from its rewards",
        fixed_label=f"always class {lines.fixed_action}",
    )
    log = read_log(experiment)
    return DemoResult(
        interactions=run.played,
        mean_reward=float(run.rewards.mean()),
        first_500=float(run.rewards[:500].mean()),
        last_500=float(run.rewards[-500:].mean()),
        promotions=run.count("promote"),
        holds=run.count("hold"),
        insufficient=run.count("insufficient"),
        decisions_logged=len(log.decisions),
        rewards_logged=len(log.rewards),
        interactions_joined=int(status.get("counts", {}).get("interactions", 0)),
        imported=len(log.imported),
        champion=run.batches[-1].settled.champion,
        seconds=seconds,
        picture=str(picture),
        report=_report(experiment, run),
        data_dir=str(data_dir),
        sabotage=_sabotage(harm, experiment) if harm is not None else None,
    )


def _report(experiment: Experiment, run: Run) -> str | None:
    """The HTML report of the last promotion, or of the last verdict where nothing was promoted."""
    verdicts = [batch.settled for batch in run.batches if batch.settled.evaluation_id]
    chosen = [settled for settled in verdicts if settled.outcome == "promote"] or verdicts
    if not chosen:
        return None
    return str(experiment.paths.evaluations / str(chosen[-1].evaluation_id) / "report.html")


def _plan_harm(script: Script) -> _Harm:
    batches = -(-script.interactions // script.batch)
    return _Harm(offer_before=1, kill_in=min(max(2, (batches + 1) // 2), batches))


def _do_harm(harm: _Harm, number: int, experiment: Experiment, admin: Admin, display: RunDisplay) -> None:
    if number == harm.offer_before:
        display.phase("training a challenger on reversed rewards")
        harm.challenger = reversed_challenger(experiment, now=datetime.now(UTC))
        admin.offer(harm.challenger)
        display.note("        sabotage: a challenger trained on reversed rewards is offered", "red")
    if number == harm.kill_in:

        def kill() -> None:
            harm.killed = kill_learner(experiment.paths.root.parent.parent)

        threading.Timer(KILL_AFTER_S, kill).start()
        display.note("        sabotage: the learner is killed (SIGKILL) during this batch", "red")


def _note_harm(harm: _Harm, report: dict[str, Any], display: RunDisplay) -> None:
    verdict = verdict_on(report, harm.challenger) if harm.challenger else None
    if verdict is not None:
        if not harm.verdict:
            display.note(f"        the sabotaged challenger: {verdict['outcome']} — {verdict['reason']}", "red")
        # a later champion explores less, so its log may no longer tell: a verdict on enough evidence stands
        if harm.verdict.get("outcome") in (None, "insufficient"):
            harm.verdict = dict(verdict)


def _sabotage(harm: _Harm, experiment: Experiment) -> Sabotage:
    verdict = harm.verdict
    return Sabotage(
        challenger=harm.challenger,
        outcome=str(verdict.get("outcome", "not judged")),
        reason=str(verdict.get("reason", "")),
        lift=verdict.get("lift"),
        weighed=verdict.get("weighed"),
        lower=verdict.get("lower"),
        upper=verdict.get("upper"),
        learner_killed_in_batch=harm.kill_in if harm.killed is not None else 0,
        learner_restarted=harm.killed is not None,
    )
