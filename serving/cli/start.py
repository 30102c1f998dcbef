"""What `up`, `serve` and `learn` share: their options, the experiments they start with, and where they may bind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bandit.errors import InvalidInput
from bandit.experiment import Experiment
from bandit.keys import KeyRing
from bandit.loopback import is_loopback
from bandit.settings import ExperimentSettings, check_experiment_name, lay_over, merge_settings
from serving.cli.common import DEFAULT_EXPERIMENT, Common, now, say
from serving.cli.config import Configuration, check_all

QUICK: dict[str, Any] = {
    "rewards": {"window_s": 5.0},
    "schedule": {"interval_s": 5.0, "interactions": 50, "poll_s": 0.5},
    "serving": {"seal_interval_s": 0.5},
}
"""What `--quick` lays over the settings."""

KEYS_SHOWN = 8
"""A start names so many of the settings that it changed."""

TO_START_WITH = "The experiment to start with, made where it is absent.  [default: those that are there or in --config]"


def service_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--host`, `--port`, `--admin-port`, `--allow-host` and `--insecure`."""
    allowed = "A further Host header to answer for on loopback, while no key exists; may be given several times."
    for option in (
        click.option("--insecure", is_flag=True, help="Allow other machines to connect although no key exists."),
        click.option("--allow-host", "allow_hosts", multiple=True, metavar="NAME", help=allowed),
        click.option("--admin-port", type=click.IntRange(0, 65535), default=None, help="[default: 8001]"),
        click.option("--port", type=click.IntRange(0, 65535), default=None, help="0 picks one.  [default: 8000]"),
        click.option("--host", default=None, help="Where the decision API listens.  [default: 127.0.0.1]"),
    ):
        function = option(function)
    return function


def worker_options(common: Common, *, allow_hosts: Sequence[str], insecure: bool) -> list[str]:
    """What the command line has every decision worker started with."""
    options = [option for name in allow_hosts for option in ("--allow-host", name)]
    if insecure:
        options.append("--insecure")
    if common.experiment is not None:
        options += ["--default-experiment", common.experiment]
    return options


def plan_experiments(
    common: Common, configuration: Configuration, *, quick: bool = False
) -> dict[str, Mapping[str, Any]]:
    """What this start declares for each experiment, by name; `default` is declared when there is none at all.

    Changes nothing; raises `InvalidSettings` where it does not go with the settings that it would be laid over.
    """
    check_all(configuration)
    declared = [name for name in configuration.experiments if name is not None]
    present = Experiment.names(common.data_dir)
    if common.experiment is not None:
        declared = [common.experiment]
    elif not declared and (not present or (len(present) == 1 and configuration.changes_for(present[0]))):
        declared = present or [DEFAULT_EXPERIMENT]
    planned = {}
    for name in sorted({*declared, *(present if quick else [])}):
        check_experiment_name(name)
        changes = configuration.changes_for(name)
        planned[name] = lay_over(changes, QUICK) if quick else changes
        if name not in present:
            merge_settings(ExperimentSettings(), planned[name])
        else:
            Experiment.open(common.data_dir, name).laid_over(planned[name])
    return planned


def prepare_experiments(common: Common, configuration: Configuration, *, quick: bool = False) -> None:
    """Make or update the declared experiments as planned: all of them, or none where one is refused.

    Settings that differ are a new version; what the configuration laid in last declared, too, changes nothing again, so
    that what was changed over the API since stays. `up` and `learn` call this once they own the directory, `serve` once
    it has its port.
    """
    for name, changes in plan_experiments(common, configuration, quick=quick).items():
        _prepare(common.data_dir, name, changes)


def all_experiments(data_dir: Path) -> list[Experiment]:
    """The experiments of a data directory, opened."""
    return [Experiment.open(data_dir, name) for name in Experiment.names(data_dir)]


def check_exposure(data_dir: Path, host: str, *, insecure: bool) -> None:
    """Refuse to listen to other machines while anyone could ask; raises `InvalidInput`."""
    if is_loopback(host) or insecure or not KeyRing(data_dir).empty:
        return
    raise InvalidInput(
        "--host",
        f"{host} lets other machines connect, and no API key exists: create one with `rewardloop keys create`, "
        "or say --insecure",
    )


def access_sentence(data_dir: Path, host: str) -> str:
    """Who may ask, in one line."""
    if not KeyRing(data_dir).empty:
        return "every request needs one (`Authorization: Bearer …`)"
    reach = "to this machine only" if is_loopback(host) else f"to every machine that can reach {host}"
    return f"none exists: open {reach}, and a key sent anyway is ignored (`rewardloop keys create` makes one)"


def defaults_sentence(settings: ExperimentSettings) -> str:
    """The settings that people meet first, in one line."""
    rewards, schedule = settings.rewards, settings.schedule
    return (
        f"cold start {settings.serving.cold_start}, reward window {rewards.window_s:g} s, rewards in "
        f"[{rewards.min:g}, {rewards.max:g}], silence {rewards.default:g}, aggregation {rewards.aggregation}, "
        f"retrain every {schedule.interval_s:g} s or {schedule.interactions:,} matured interactions, "
        f"α {settings.gate.alpha:g}"
    )


def _prepare(data_dir: Path, name: str, changes: Mapping[str, Any]) -> None:
    if name not in Experiment.names(data_dir):
        settings = merge_settings(ExperimentSettings(), changes)
        Experiment.create(data_dir, name, settings, now=now(), configuration=changes)
        return
    experiment = Experiment.open(data_dir, name)
    laid = experiment.lay_in(changes, now=now())
    meanwhile, stays = "changed over the API or by command", _some(laid.unlike)
    if laid.repeated:
        if laid.unlike:
            say(f"Experiment {name}: the configuration is unchanged, so what was {meanwhile} since stays: {stays}")
        return
    told = []
    if laid.changed:
        told.append(f"settings changed, now version {experiment.settings_version} ({_some(laid.changed)})")
    if laid.overridden:
        told.append(f"this overrides what was {meanwhile} since the last start: {_some(laid.overridden)}")
    if laid.unlike:
        told.append(f"what was {meanwhile} stays where the configuration says what it said before: {stays}")
    if told:
        say(f"Experiment {name}: {'; '.join(told)}")


def _some(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:KEYS_SHOWN])
    return shown if len(keys) <= KEYS_SHOWN else f"{shown} and {len(keys) - KEYS_SHOWN} more"
