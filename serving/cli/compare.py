"""`rewardloop compare`: several algorithms and encoders in the same world on the same seeds, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.errors import InvalidInput, one_of
from serving.cli.common import Common, common_with, print_json, print_table, say
from serving.cli.demo import FRESH_DATA_DIR, fresh_data_dir, settle_data_dir
from serving.cli.failures import failure_table, tell_failures
from serving.cli.simulate import (
    ENCODERS,
    check_algorithm,
    command_line,
    constant_lines,
    count_replayed,
    declared_settings,
    fixed_label,
    number,
    what_was_played,
)
from serving.cli.sources import names_table, source_json, source_of, source_table, tell_source
from serving.cli.worlds import WorldOptions, world_options

if TYPE_CHECKING:
    from bandit.settings import ExperimentSettings
    from simulator.charts import Panel
    from simulator.curves import Summary
    from simulator.environment import Environment, ReferenceLines, Source
    from simulator.runner import Run

EXPERIMENT = "comparison"

PUBLISHED: dict[str, dict[str, Any]] = {
    "uniform": {"algorithm": "uniform"},
    "egreedy": {"algorithm": "egreedy", "epsilon": 0.001},
    "bag": {"algorithm": "bag", "bags": 3, "epsilon": 0.0},
    "cover": {"algorithm": "cover", "cover": 3, "epsilon": 0.05},
}
"""The published study's recipes; each deploys whatever it has trained."""

PUBLISHED_LEARNING: dict[str, Any] = {"cb_type": "dr", "learning_rate": 0.5, "passes": 1, "importance_max": 10_000.0}
"""How they learn: doubly robust, each row once, with importance weights as they come."""

ENCODINGS: dict[str, dict[str, Any]] = {
    "zscore": {"numbers": "zscore", "interactions": "linear", "refit_rows_max": 50},
    "bins": {"numbers": "bins"},
}
"""How numbers become features: as published (one weight for each action and number, scaled once), and as ours."""

LABELS = {
    "uniform": "uniform random",
    "egreedy": "ε-greedy 0.001",
    "bag": "bag 3",
    "cover": "online cover 3",
    "default": "rewardloop default",
}
PANEL_TITLES = {"zscore": "numbers z-scored, as published", "bins": "numbers in quantile bins, as ours"}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One line of the comparison: how it is called, and the settings it lays over the common ones."""

    name: str
    label: str
    encoder: str
    changes: dict[str, Any] = field(default_factory=dict)


@click.command(name="compare")
@world_options(seeds="0-2")
@click.option(
    "--algorithm",
    "algorithms",
    default=",".join(LABELS),
    show_default=True,
    help="Which to compare: uniform, egreedy, bag, cover as published; default (ours); or any other one.",
)
@click.option("--encoder", "encoders", default="zscore,bins", show_default=True, help="One panel for each.")
@click.option(
    "--gate",
    type=click.Choice(["on", "off"]),
    default=None,
    help="For all.  [default: that of the settings for ours, off for the published recipes]",
)
@common_with(data_dir=FRESH_DATA_DIR, experiment="Whose settings in --config to begin with.")
def command(*, options: WorldOptions, algorithms: str, encoders: str, gate: str | None, common: Common) -> None:
    """Compare algorithms and encoders on the same seeds; by default, the published Statlog study.

    Each panel encodes numbers in one way, so that what the encoder gives and what the algorithm gives can be told
    apart. The published recipes deploy every model they train; ours lets the gate decide. Exit code 1 when a run of
    the learner failed.
    """
    from serving.simulation import parse_seeds, simulated_settings

    seeds = parse_seeds(options.seeds)
    _, base = declared_settings(common, EXPERIMENT)
    chosen = [
        configuration(name, encoder, gate, ours=base.gate.enabled)
        for encoder in _names(encoders, "--encoder", ENCODERS)
        for name in _names(algorithms, "--algorithm", None)
    ]
    base_world = options.base(base.limits)
    world, source = options.changing(base_world), source_of(base_world, options)
    settings = [simulated_settings(world, base, one.changes) for one in chosen]
    tell_source(source)
    with fresh_data_dir(common, "rewardloop-comparison-") as data_dir:
        runs = _play(world, options, seeds, chosen, settings, data_dir)
        summaries = _present(world, options, chosen, runs, data_dir, source, as_json=common.as_json)
    failed = bool(tell_failures(_named(chosen, summaries)))
    settle_data_dir(common, data_dir, ended_well=not failed)
    if failed:
        click.get_current_context().exit(1)


def _names(text: str, option: str, allowed: tuple[str, ...] | None) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise InvalidInput(option, "names nothing, or something twice")
    if allowed is not None and not set(names) <= set(allowed):
        raise InvalidInput(option, "names something unknown", one_of(allowed))
    return names


def configuration(name: str, encoder: str, gate: str | None, *, ours: bool = True) -> Configuration:
    """A recipe by name; an algorithm outside the published study runs with the settings' parameters and our gate.

    `ours` says whether that gate is on where `gate` leaves it open.
    """
    recipe = PUBLISHED.get(name)
    enabled = gate == "on" if gate is not None else recipe is None and ours
    changes: dict[str, Any] = {"encoding": ENCODINGS[encoder], "gate": {"enabled": enabled}}
    if recipe is not None and not enabled:
        changes["rollback"] = {"enabled": False}  # what they deploy stays deployed
    if recipe is not None:
        changes |= {"exploration": recipe, "learning": PUBLISHED_LEARNING}
    elif name != "default":
        check_algorithm(name)
        changes["exploration"] = {"algorithm": name}
    return Configuration(name, LABELS.get(name, name), encoder, changes)


def _play(  # noqa: PLR0917
    world: Environment,
    options: WorldOptions,
    seeds: list[int],
    chosen: list[Configuration],
    settings: list[ExperimentSettings],
    data_dir: Path,
) -> dict[tuple[str, str], list[Run]]:
    from serving.simulation import Job, run_jobs
    from simulator.console import progress_bar

    jobs: list[Job] = []
    for one, its in zip(chosen, settings, strict=True):
        jobs += [options.job(f"{one.name}-{one.encoder}-{seed}", its, seed) for seed in seeds]
    with progress_bar("playing", options.interactions * len(jobs)) as advance:
        runs = run_jobs([world], jobs, data_dir, processes=options.jobs, on_progress=advance)
    every = len(seeds)
    return {(one.name, one.encoder): runs[i * every : (i + 1) * every] for i, one in enumerate(chosen)}


def _present(  # noqa: PLR0917
    world: Environment,
    options: WorldOptions,
    chosen: list[Configuration],
    runs: dict[tuple[str, str], list[Run]],
    data_dir: Path,
    source: Source | None,
    *,
    as_json: bool,
) -> dict[tuple[str, str], list[Summary]]:
    from simulator.charts import comparison_picture, shares_picture
    from simulator.curves import summarise
    from simulator.page import write_page

    counted = count_replayed(options, [run for series in runs.values() for run in series])
    lines = constant_lines(world, options)
    panels = _panels(chosen, runs)
    title = f"Exploration strategies on {world.name}"
    subtitle = what_was_played(options, counted, several=len(next(iter(runs.values()))) > 1)
    picture = comparison_picture(
        panels, lines, data_dir / "comparison.png", title=title, subtitle=subtitle, fixed_label=fixed_label(lines)
    )
    shares = shares_picture(panels, data_dir / "actions.png")
    summaries = {key: [summarise(run) for run in series] for key, series in runs.items()}
    columns, rows = _table(chosen, summaries, counted=bool(counted))
    page = write_page(
        data_dir / "comparison.html",
        title=title,
        subtitle=subtitle,
        figures=[
            (
                picture,
                "Above: expected reward, mean of the last 100; the numbers are means over the whole run. "
                "Below: what the oracle would have earned more; triangles mark promotions of ours.",
            ),
            (shares, "Share of each action over time."),
        ],
        tables=[
            {
                "title": "Over all seeds: mean ± standard error, of rewards as they came",
                "columns": columns,
                "rows": rows,
            },
            *failure_table(_named(chosen, summaries)),
            *source_table(source),
            *names_table([run for series in runs.values() for run in series]),
        ],
        command=command_line(),
    )
    if as_json:
        configurations = _plain(chosen, summaries)
        print_json({"configurations": configurations, "reference": _reference(lines)} | source_json(source))
    else:
        print_table(None, columns, rows)
    say(f"picture {picture}\npage    {page}")
    return summaries


def _named(
    chosen: list[Configuration], summaries: dict[tuple[str, str], list[Summary]]
) -> Iterator[tuple[str, Summary]]:
    for one in chosen:
        for summary in summaries[one.name, one.encoder]:
            yield f"{one.label}, {one.encoder}, seed {summary.seed}", summary


def _panels(chosen: list[Configuration], runs: dict[tuple[str, str], list[Run]]) -> list[Panel]:
    from simulator.charts import Panel, Series
    from simulator.style import ALGORITHMS

    panels = []
    for encoder in dict.fromkeys(one.encoder for one in chosen):
        series = [
            Series(one.label, runs[one.name, encoder], ALGORITHMS[one.name], emphasis=one.name == "default")
            for one in chosen
            if one.encoder == encoder
        ]
        panels.append(Panel(PANEL_TITLES[encoder], series))
    return panels


def _table(
    chosen: list[Configuration], summaries: dict[tuple[str, str], list[Summary]], *, counted: bool
) -> tuple[list[str], list[list[str]]]:
    from simulator.curves import over_seeds

    columns = [
        "algorithm",
        "numbers",
        *(["counted"] if counted else []),
        "mean reward",
        "first 500",
        "last 500",
        "regret",
        "promoted",
        "failed",
    ]
    rows = []
    for one in chosen:
        means, errors = over_seeds(summaries[one.name, one.encoder])

        def cell(measure: str, places: int, means: Any = means, errors: Any = errors) -> str:
            return number(means[measure], places, errors[measure])

        rows.append(
            [
                one.label,
                one.encoder,
                *([cell("counted", 0)] if counted else []),
                *(cell(name, 3) for name in ("mean_reward", "first_500", "last_500")),
                cell("regret", 0),
                cell("promotions", 1),
                cell("failed", 1),
            ]
        )
    return columns, rows


def _plain(chosen: list[Configuration], summaries: dict[tuple[str, str], list[Summary]]) -> list[dict[str, Any]]:
    from simulator.curves import over_seeds

    plain = []
    for one in chosen:
        means, errors = over_seeds(summaries[one.name, one.encoder])
        seeds = [asdict(summary) for summary in summaries[one.name, one.encoder]]
        plain.append(
            {
                "name": one.name,
                "encoder": one.encoder,
                "settings": one.changes,
                "seeds": seeds,
                "mean": means,
                "se": errors,
            }
        )
    return plain


def _reference(lines: ReferenceLines | None) -> dict[str, Any] | None:
    return None if lines is None else asdict(lines)
