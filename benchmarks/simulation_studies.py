"""What the loop earns in worlds with known answers: exploration, gate, delay, drift, catalogue change, seeds.

    python -m benchmarks.simulation_studies [--only drift,gate] [--seeds 0-4] [--quick] [--jobs 2]

Every case of a study plays the same seeds, so that cases differ by what is studied and by nothing else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bandit.settings import ExperimentSettings
from serving.cli.compare import LABELS
from serving.cli.compare import configuration as published_configuration
from serving.cli.worlds import statlog_world
from serving.simulation import Job, parse_seeds, run_jobs, simulated_settings
from simulator.channel import Channel, Delay, Lost
from simulator.charts import Panel, Series, comparison_picture
from simulator.curves import Summary, over_seeds, summarise
from simulator.drift import Drifting, Permuted
from simulator.environment import Environment
from simulator.news import NewsWorld
from simulator.runner import Run, Script
from simulator.style import SERIES
from simulator.synthetic import LinearWorld, NonLinearWorld

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WINDOW_S = 2.0
GATE_ON: dict[str, Any] = {}
GATE_OFF: dict[str, Any] = {"gate": {"enabled": False}}


@dataclass(frozen=True, slots=True)
class Case:
    """One line of a study."""

    label: str
    world: Environment
    changes: dict[str, Any] = field(default_factory=dict)
    channel: Channel = field(default_factory=Delay)
    barrier: bool = True


@dataclass(frozen=True, slots=True)
class Study:
    """Cases that are compared; `make` builds them for a number of interactions."""

    name: str
    question: str
    make: Callable[[int], list[Case]]


def bar(_: int) -> list[Case]:
    """The demo's own run, seed by seed: what it says over HTTP, since both transports decide the same."""
    return [Case("Statlog, all defaults", statlog_world())]


def exploration(_: int) -> list[Case]:
    """The published comparison: recipes and ours, numbers encoded as published and as ours."""
    world = statlog_world()
    cases = []
    for encoder in ("zscore", "bins"):
        for name in LABELS:
            one = published_configuration(name, encoder, None)
            cases.append(Case(f"{one.label}, {encoder}", world, one.changes))
    return cases


def gate(_: int) -> list[Case]:
    """What the gate costs, or saves, in reward."""
    worlds = [statlog_world(), LinearWorld(5), NonLinearWorld(5), NewsWorld(10)]
    modes = (("gate on", GATE_ON), ("gate off", GATE_OFF))
    return [Case(f"{world.name}, {mode}", world, changes) for world in worlds for mode, changes in modes]


def delay(_: int) -> list[Case]:
    """Rewards that come late in traffic that never stops (100 decisions a second, window 2 s), or never."""
    world = statlog_world()
    return [
        Case("at once, batch by batch", world),
        *(
            Case(f"mean delay {mean:g} s", world, channel=Delay(mean, "exponential"), barrier=False)
            for mean in (0.1, 0.5, 1.0, 2.0)
        ),
        Case("30% of rewards lost", world, channel=Lost(0.3)),
    ]


def drift(interactions: int) -> list[Case]:
    """Every action suddenly, slowly or periodically means another one."""
    half = interactions // 2
    cases = []
    for shape, at, length in (("abrupt", half, 1), ("gradual", 0, interactions), ("seasonal", 0, half)):
        inner = LinearWorld(5)
        world = Drifting(inner, Permuted(inner), shape, at=at, length=length)  # type: ignore[arg-type]
        cases += [Case(f"{shape}, gate on", world), Case(f"{shape}, gate off", world, GATE_OFF)]
    return cases


def catalogue(_: int) -> list[Case]:
    """A shelf of ten articles that lasts shorter and shorter."""
    return [
        Case(f"an article lasts {lifetime:,} readers", NewsWorld(10, lifetime=lifetime))
        for lifetime in (1_000_000, 4000, 1000, 250)
    ]


def cost(_: int) -> list[Case]:
    """The price of exploring more, and of exploring too little: ours at several widths, and ε-greedy."""
    world = statlog_world()
    widths = [
        Case(f"squarecb, γ scale × {factor:g}", world, {"exploration": {"gamma_scale": scale}})
        for factor in (0.25, 1.0, 4.0)
        for scale in [ExperimentSettings().exploration.gamma_scale * factor]
    ]
    return widths + [
        Case(f"ε-greedy {epsilon:g}", world, {"exploration": {"algorithm": "egreedy", "epsilon": epsilon}})
        for epsilon in (0.001, 0.02, 0.1, 0.3)
    ]


STUDIES = (
    Study("seeds", "Does the demo keep its promise on every seed?", bar),
    Study("exploration", "The published comparison, redone: is it the encoder or the algorithm?", exploration),
    Study("gate", "What does the gate cost or save?", gate),
    Study("delay", "What do late and lost rewards cost?", delay),
    Study("drift", "How does the loop follow a world that changes?", drift),
    Study("catalogue", "How does it cope with actions that come and go?", catalogue),
    Study("cost", "What does exploration cost?", cost),
)


def run_study(study: Study, script: Script, seeds: Sequence[int], processes: int) -> list[list[Run]]:
    """The runs of a study, one list a case, one run a seed."""
    cases = study.make(script.interactions)
    jobs = []
    for number, case in enumerate(cases):
        changes = {"rewards": {"window_s": WINDOW_S}} | case.changes
        settings = simulated_settings(case.world, ExperimentSettings(), changes)
        for seed in seeds:
            one = Script(script.interactions, script.batch, script.warm_start, seed)
            jobs.append(Job(f"case-{number}-{seed}", settings, one, number, case.channel, barrier=case.barrier))
    with tempfile.TemporaryDirectory(prefix="rewardloop-study-") as folder:
        runs = run_jobs([case.world for case in cases], jobs, Path(folder), processes=processes)
    return [runs[i * len(seeds) : (i + 1) * len(seeds)] for i in range(len(cases))]


def report(study: Study, script: Script, runs: list[list[Run]]) -> None:
    """Print the table of a study (Markdown) and draw its picture."""
    cases = study.make(script.interactions)
    print(f"\n### {study.question}\n")
    if len(cases) == 1:
        _print_seeds([summarise(run) for run in runs[0]])
    else:
        _print_cases([case.label for case in cases], runs)
    series = [
        Series(case.label, runs[number], SERIES[number % len(SERIES)], emphasis=number == 0)
        for number, case in enumerate(cases)
    ]
    IMAGES.mkdir(parents=True, exist_ok=True)
    width = max(1, -(-len(series) // 5))
    per_panel = -(-len(series) // width)
    panels = [
        Panel("", [_recoloured(one, i) for i, one in enumerate(series[start : start + per_panel])])
        for start in range(0, len(series), per_panel)
    ]
    comparison_picture(
        panels,
        None,
        IMAGES / f"study-{study.name}.png",
        title=study.question,
        subtitle=f"{script.interactions:,} interactions in batches of {script.batch}; mean and range over seeds",
        fixed_label="",
    )


def _recoloured(series: Series, number: int) -> Series:
    return Series(series.label, series.runs, SERIES[number % len(SERIES)], series.emphasis)


def _print_seeds(summaries: Sequence[Summary]) -> None:
    print("| seed | mean reward | first 500 | last 500 | promoted | held | insufficient |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for one in summaries:
        print(
            f"| {one.seed} | {one.mean_reward:.3f} | {one.first_500:.3f} | {one.last_500:.3f} "
            f"| {one.promotions} | {one.holds} | {one.insufficient} |"
        )
    means, errors = over_seeds(summaries)
    cells = " | ".join(
        f"{means[name]:.3f} ± {errors[name] or 0:.3f}" for name in ("mean_reward", "first_500", "last_500")
    )
    print(f"| mean | {cells} | {means['promotions']:.1f} | {means['holds']:.1f} | {means['insufficient']:.1f} |")


def _print_cases(labels: Sequence[str], runs: Sequence[Sequence[Run]]) -> None:
    print("| | mean reward | last 500 | regret | promoted |")
    print("|---|---:|---:|---:|---:|")
    for label, series in zip(labels, runs, strict=True):
        means, errors = over_seeds([summarise(run) for run in series])
        print(
            f"| {label} | {means['mean_reward']:.3f} ± {errors['mean_reward'] or 0:.3f} "
            f"| {means['last_500']:.3f} ± {errors['last_500'] or 0:.3f} "
            f"| {means['regret']:,.0f} | {means['promotions']:.1f} |"
        )


def main() -> int:
    """Run the studies named, or all; the tables go to stdout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of studies, separated by commas")
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--interactions", type=int, default=7500)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one seed, 1,000 interactions")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name]
    unknown = set(names) - {study.name for study in STUDIES}
    if unknown:
        parser.error(f"unknown studies: {', '.join(sorted(unknown))}")
    seeds = parse_seeds("0" if arguments.quick else arguments.seeds)
    script = Script(1000 if arguments.quick else arguments.interactions)
    for study in STUDIES:
        if names and study.name not in names:
            continue
        started = time.monotonic()
        runs = run_study(study, script, seeds, arguments.jobs)
        report(study, script, runs)
        took_s, named = time.monotonic() - started, ", ".join(map(str, seeds))
        print(f"\nSeeds {named}; {script.interactions:,} interactions; {took_s:.0f} s.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
