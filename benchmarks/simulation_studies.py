"""What the loop earns in worlds with known answers: exploration, gate, delay, drift, actions, hostile rewards, seeds.

    python -m benchmarks.simulation_studies [--only drift,gate] [--seeds 0-4] [--quick] [--jobs 2]

Every case of a study plays the same seeds, so that cases differ by what is studied and by nothing else. The pictures of
docs/images are drawn by runs of full length alone; those of shorter ones land in a temporary folder, which is named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bandit.settings import ExperimentSettings
from benchmarks.study_worlds import Arriving, Hostile
from serving.cli.compare import LABELS, PANEL_TITLES
from serving.cli.compare import configuration as published_configuration
from serving.cli.simulate import fixed_label
from serving.cli.worlds import statlog_world
from serving.simulation import Job, parse_seeds, run_jobs, simulated_settings
from simulator.channel import Channel, Delay, Lost
from simulator.charts import Panel, Series, comparison_picture
from simulator.curves import Summary, over_seeds, summarise
from simulator.drift import Drifting, Permuted
from simulator.environment import Enumerable, Environment, Referenced, ReferenceLines, reference_lines
from simulator.news import NewsWorld
from simulator.runner import Run, Script
from simulator.style import colours_of
from simulator.synthetic import LinearWorld, NonLinearWorld

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WINDOW_S = 2.0
GATE_ON: dict[str, Any] = {}
GATE_OFF: dict[str, Any] = {"gate": {"enabled": False}}
MODES = (("gate on", GATE_ON), ("gate off", GATE_OFF))


@dataclass(frozen=True, slots=True)
class Case:
    """One line of a study, drawn in the panel of its `world` (or of the name `panel`), where it is called `short`."""

    label: str
    world: Environment
    changes: dict[str, Any] = field(default_factory=dict)
    channel: Channel = field(default_factory=Delay)
    barrier: bool = True
    panel: str = ""
    short: str = ""


@dataclass(frozen=True, slots=True)
class Study:
    """Cases that are compared; `make` builds them for a number of interactions.

    `length` and `seeds` are the usual ones; `after` prints what else the runs say, case by case.
    """

    name: str
    question: str
    make: Callable[[int], list[Case]]
    length: int = 7500
    seeds: str = "0-1"
    after: Callable[[Sequence[Case], Sequence[Sequence[Run]]], None] | None = None


def bar(_: int) -> list[Case]:
    """The demo's own run, seed by seed: what it says over HTTP, since both transports decide the same; and ungated."""
    world = statlog_world()
    return [Case(mode, world, changes) for mode, changes in MODES]


def exploration(_: int) -> list[Case]:
    """The published comparison: recipes and ours, numbers encoded as published and as ours."""
    world = statlog_world()
    cases = []
    for encoder in ("zscore", "bins"):
        for name in LABELS:
            one = published_configuration(name, encoder, None)
            cases.append(
                Case(f"{one.label}, {encoder}", world, one.changes, panel=PANEL_TITLES[encoder], short=one.label)
            )
    return cases


def gate(_: int) -> list[Case]:
    """What the gate costs, or saves, in reward."""
    worlds = [statlog_world(), LinearWorld(5), NonLinearWorld(5), NewsWorld(10)]
    return [Case(f"{world.name}, {mode}", world, changes) for world in worlds for mode, changes in MODES]


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
    linear = LinearWorld(5)
    for inner, shape, at, length in (
        (statlog_world(), "abrupt", half, 1),
        (linear, "abrupt", half, 1),
        (linear, "gradual", 0, interactions),
        (linear, "seasonal", 0, half),
    ):
        world = Drifting(inner, Permuted(inner), shape, at=at, length=length)  # type: ignore[arg-type]
        cases += [Case(f"{world.name}, {mode}", world, changes) for mode, changes in MODES]
    return cases


def recovery(cases: Sequence[Case], runs: Sequence[Sequence[Run]]) -> None:
    """After how many interactions of the new world a stretch of 500 earned 95% of what the old one gave at last."""
    print("\nInteractions after an abrupt change until 500 of them earn 95% of the last 1,000 before it:")
    for case, series in zip(cases, runs, strict=True):
        world = case.world
        if not isinstance(world, Drifting) or world.shape != "abrupt":
            continue
        print(f"- {case.label}: {', '.join(_recovered(run, world.at) for run in series)}")


def _recovered(run: Run, at: int) -> str:
    former = run.expected[max(0, at - 1000) : at].mean()
    later = np.convolve(run.expected[at:], np.full(500, 1 / 500), mode="valid")
    reached = np.flatnonzero(later >= 0.95 * former)
    return f"{reached[0] + 500:,}" if len(reached) else f"not within {len(run.expected) - at:,}"


def catalogue(_: int) -> list[Case]:
    """A shelf of ten articles that lasts shorter and shorter."""
    lives = {"for good": 1_000_000, "4,000 readers": 4000, "1,000 readers": 1000, "250 readers": 250}
    return [
        Case(f"an article stays {words}", NewsWorld(10, lifetime=life), panel=f"an article stays {words}", short="ours")
        for words, life in lives.items()
    ]


def newcomer(interactions: int) -> list[Case]:
    """An action that nobody has seen arrives, and earns 20% more than the best one so far."""
    world = Arriving(at=interactions // 3)
    return [Case(mode, world, changes) for mode, changes in MODES]


def shares(cases: Sequence[Case], runs: Sequence[Sequence[Run]]) -> None:
    """What share of the decisions the newcomer had at first, and when it had half of its optimal share, which is 1."""
    print("\nThe newcomer's share of the 500 decisions after it came (uniform would be 1/6), and how many decisions")
    print("later it had half of 500 in a row:")
    for case, series in zip(cases, runs, strict=True):
        assert isinstance(case.world, Arriving)
        told = []
        for run in series:
            chosen = np.array([action == "newcomer" for action in run.actions[case.world.at :]], dtype=np.float64)
            rolling = np.convolve(chosen, np.full(500, 1 / 500), mode="valid")
            half = np.flatnonzero(rolling >= 0.5)
            told.append(f"{rolling[0]:.3f} and {half[0] + 500 if len(half) else 'never'}")
        print(f"- {case.label}: {'; '.join(told)}")


def hostile(_: int) -> list[Case]:
    """Somebody sends a share of the rewards, turned against the truth."""
    statlog, linear = statlog_world(), LinearWorld(5)
    return [
        Case(f"{world.name}, {share:.0%} hostile", Hostile(world, share), panel=world.name)
        for world in (statlog, linear)
        for share in (0.0, 0.02, 0.1)
    ]


def truth(cases: Sequence[Case], runs: Sequence[Sequence[Run]]) -> None:
    """What the decisions were truly worth, beside the baseline (the first action) and uniform choice."""
    print("\nTrue value of the last 500 decisions, of the first action in the same rounds' world, and of uniform:")
    for case, series in zip(cases, runs, strict=True):
        assert isinstance(case.world, Hostile)
        values = np.array([run.expected[-500:].mean() for run in series])
        rng, first = np.random.default_rng(0), np.empty(4000)
        for number in range(len(first)):
            first[number] = case.world.inner.draw(rng, 0).means[0]
        uniform = np.mean([run.random[-500:].mean() for run in series])
        print(f"- {case.label}: {values.mean():.3f} (worst seed {values.min():.3f}); {first.mean():.3f}; {uniform:.3f}")


def cost(_: int) -> list[Case]:
    """The price of exploring more, and of exploring too little: ours at several widths, and ε-greedy."""
    world = statlog_world()
    widths = [
        Case(f"squarecb, γ scale × {factor:g}", world, {"exploration": {"gamma_scale": scale}})
        for factor in (1.0, 0.25, 4.0)
        for scale in [ExperimentSettings().exploration.gamma_scale * factor]
    ]
    return widths + [
        Case(f"ε-greedy {epsilon:g}", world, {"exploration": {"algorithm": "egreedy", "epsilon": epsilon}})
        for epsilon in (0.001, 0.02, 0.1, 0.3)
    ]


STUDIES = (
    Study("seeds", "Does the demo keep its promise on every seed?", bar, seeds="0-9"),
    Study("exploration", "The published comparison, redone: is it the encoder or the algorithm?", exploration),
    Study("gate", "What does the gate cost or save?", gate, seeds="0-2"),
    Study("delay", "What do late and lost rewards cost?", delay),
    Study("drift", "How does the loop follow a world that changes?", drift, 10_000, after=recovery),
    Study("catalogue", "How does it cope with actions that come and go?", catalogue),
    Study("newcomer", "How soon is a better action found that nobody has seen before?", newcomer, 9000, "0-2", shares),
    Study("hostile", "What can rewards do that are sent against the truth?", hostile, 5000, "0-2", truth),
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


def report(study: Study, script: Script, runs: list[list[Run]], images: Path) -> None:
    """Print the table of a study (Markdown) and draw its picture into the folder `images`."""
    cases = study.make(script.interactions)
    print(f"\n### {study.question}\n")
    if study.name == "seeds":
        _print_seeds([summarise(run) for run in runs[0]], [summarise(run) for run in runs[1]])
    else:
        _print_cases([case.label for case in cases], runs)
    if study.after is not None:
        study.after(cases, runs)
    print(f"picture {draw(study, script, runs, cases, images)}", file=sys.stderr)


def images_of(study: Study, seeds: Sequence[int], interactions: int) -> Path:
    """The folder for the study's picture: that of the docs where none of its seeds and interactions is left out."""
    whole = set(parse_seeds(study.seeds)) <= set(seeds) and interactions >= study.length
    return IMAGES if whole else _aside()


@cache
def _aside() -> Path:
    return Path(tempfile.mkdtemp(prefix="rewardloop-studies-"))


def draw(study: Study, script: Script, runs: Sequence[Sequence[Run]], cases: Sequence[Case], images: Path) -> Path:
    """The study's picture: one panel a world, because each has reference lines of its own."""
    grouped: dict[str, dict[str, Sequence[Run]]] = {}
    for case, series in zip(cases, runs, strict=True):
        title = case.panel or case.world.name
        grouped.setdefault(title, {})[case.short or case.label.removeprefix(f"{title}, ")] = series
    panels = [Panel(title if len(grouped) > 1 else "", _series(study, group)) for title, group in grouped.items()]
    images.mkdir(parents=True, exist_ok=True)
    lines = shared_lines(cases)
    return comparison_picture(
        panels,
        lines,
        images / f"study-{study.name}.png",
        title=study.question,
        subtitle=f"{script.interactions:,} interactions in batches of {script.batch} after {script.warm_start} rows of "
        f"uniform history; mean and range over {len(runs[0])} seed{'s' if len(runs[0]) > 1 else ''}",
        fixed_label=fixed_label(lines),
    )


def _series(study: Study, group: Mapping[str, Sequence[Run]]) -> list[Series]:
    main = LABELS["default"] if study.name == "exploration" else next(iter(group))
    colours = colours_of(list(group), {label: name for name, label in LABELS.items()}, main)
    return [Series(label, runs, colours[label], emphasis=label == main) for label, runs in group.items()]


def shared_lines(cases: Sequence[Case]) -> ReferenceLines | None:
    """The reference lines of a study whose cases all play one world, which stays as it is and knows them; else None."""
    world = cases[0].world
    same = all(case.world is world for case in cases)
    return reference_lines(world) if same and isinstance(world, Referenced | Enumerable) else None


def _print_seeds(gated: Sequence[Summary], ungated: Sequence[Summary]) -> None:
    print("| seed | mean reward | first 500 | last 500 | promoted | held | insufficient | mean without a gate |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for one, free in zip(gated, ungated, strict=True):
        print(
            f"| {one.seed} | {one.mean_reward:.3f} | {one.first_500:.3f} | {one.last_500:.3f} "
            f"| {one.promotions} | {one.holds} | {one.insufficient} | {free.mean_reward:.3f} |"
        )
    (means, errors), (free_means, free_errors) = over_seeds(gated), over_seeds(ungated)
    cells = " | ".join(
        f"{means[name]:.3f} ± {errors[name] or 0:.3f}" for name in ("mean_reward", "first_500", "last_500")
    )
    counts = " | ".join(f"{means[name]:.1f}" for name in ("promotions", "holds", "insufficient"))
    print(f"| mean | {cells} | {counts} | {free_means['mean_reward']:.3f} ± {free_errors['mean_reward'] or 0:.3f} |")


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
    parser.add_argument("--seeds", help="default: each study's own")
    parser.add_argument("--interactions", type=int, help="default: each study's own")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one seed, 1,000 interactions; no picture of the docs")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name]
    unknown = set(names) - {study.name for study in STUDIES}
    if unknown:
        parser.error(f"unknown studies: {', '.join(sorted(unknown))}")
    for study in STUDIES:
        if names and study.name not in names:
            continue
        seeds = parse_seeds("0" if arguments.quick else arguments.seeds or study.seeds)
        script = Script(1000 if arguments.quick else arguments.interactions or study.length)
        started = time.monotonic()
        runs = run_study(study, script, seeds, arguments.jobs)
        report(study, script, runs, images_of(study, seeds, script.interactions))
        took_s, named = time.monotonic() - started, ", ".join(map(str, seeds))
        print(f"\nSeeds {named}; {script.interactions:,} interactions; {took_s:.0f} s.", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
