"""What `up`, `serve` and `learn` share: their options, the experiments they start with, and where they may bind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bandit.errors import InvalidInput
from bandit.experiment import Experiment
from bandit.keys import KeyRing
from bandit.loopback import is_loopback
from bandit.settings import ExperimentSettings, check_experiment_name, merge_settings
from serving.cli.common import DEFAULT_EXPERIMENT, Common, now, say
from serving.cli.config import Configuration, check_all

QUICK: dict[str, Any] = {
    "rewards": {"window_s": 5.0},
    "schedule": {"interval_s": 5.0, "interactions": 50, "poll_s": 0.5},
    "serving": {"seal_interval_s": 0.5},
}
"""What `--quick` lays over the settings."""


def service_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--host`, `--port`, `--admin-port` and `--insecure`."""
    for option in (
        click.option("--insecure", is_flag=True, help="Allow other machines to connect although no key exists."),
        click.option("--admin-port", type=click.IntRange(0, 65535), default=None, help="[default: 8001]"),
        click.option("--port", type=click.IntRange(0, 65535), default=None, help="0 picks one.  [default: 8000]"),
        click.option("--host", default=None, help="Where the decision API listens.  [default: 127.0.0.1]"),
    ):
        function = option(function)
    return function


def plan_experiments(
    common: Common, configuration: Configuration, *, quick: bool = False
) -> dict[str, ExperimentSettings]:
    """The settings that each declared experiment should have; `default` is declared when there is none at all.

    What the configuration declares is laid over the settings in force. Changes nothing; raises `InvalidSettings`.
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
        in_force = Experiment.open(common.data_dir, name).settings if name in present else None
        settings = configuration.settings_for(name, in_force)
        planned[name] = merge_settings(settings, QUICK) if quick else settings
    return planned


def prepare_experiments(common: Common, configuration: Configuration, *, quick: bool = False) -> None:
    """Make or update the declared experiments as planned: all of them, or none where one is refused.

    Settings that differ are a new version. `up` and `learn` call this once they own the directory, `serve` once it has
    its port.
    """
    for name, settings in plan_experiments(common, configuration, quick=quick).items():
        _prepare(common.data_dir, name, settings)


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


def _prepare(data_dir: Path, name: str, settings: ExperimentSettings) -> None:
    if name not in Experiment.names(data_dir):
        Experiment.create(data_dir, name, settings, now=now())
        return
    experiment = Experiment.open(data_dir, name)
    version = experiment.settings_version
    if experiment.change(settings, now=now()) != version:
        say(f"Experiment {name}: settings changed, now version {experiment.settings_version}")
