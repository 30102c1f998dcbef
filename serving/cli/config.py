"""The configuration: one TOML file, laid under `REWARDLOOP_*` environment variables, checked key by key.

The file holds the settings of one experiment at its top level (`[rewards]`, `[schedule]`, …), or of several under
`[experiments.<name>]`, and how the service runs under `[service]`. `REWARDLOOP_REWARDS__WINDOW_S=60` sets
`rewards.window_s`; two underscores part the levels. Unknown keys are refused, in the file and the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from bandit.errors import InvalidInput, InvalidSettings
from bandit.loopback import is_loopback
from bandit.settings import ExperimentSettings, check_experiment_name, merge_settings, parse_settings
from bandit.settings.words import explain

PREFIX = "REWARDLOOP_"
OPTIONS = ("DATA_DIR", "CONFIG", "EXPERIMENT", "API_KEY")
"""Variables that stand for command-line options; the others are settings."""

Port = Annotated[int, Meta(ge=0, le=65535)]


class Service(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the processes run: addresses, ports (0 picks a free one) and the number of decision workers."""

    host: str = "127.0.0.1"
    port: Port = 8000
    admin_host: str = "127.0.0.1"
    admin_port: Port = 8001
    workers: Annotated[int, Meta(ge=1, le=64)] = 1


@dataclass(frozen=True, slots=True)
class Configuration:
    """A checked configuration: the service's section and, for each experiment named in it, its raw settings.

    `experiments` maps a name to the settings given for it; the key None holds the top-level settings, meant for
    the only (or the asked for) experiment.
    """

    service: Service = field(default_factory=Service)
    experiments: Mapping[str | None, Mapping[str, Any]] = field(default_factory=dict)

    def changes_for(self, name: str) -> Mapping[str, Any]:
        """What was declared for experiment `name`: the keys given, not the defaults."""
        return self.experiments.get(name, self.experiments.get(None, {}))

    def settings_for(self, name: str, base: ExperimentSettings | None = None) -> ExperimentSettings:
        """`base` (or the defaults) with what was declared for `name` laid over; raises `InvalidSettings`."""
        return merge_settings(base or ExperimentSettings(), self.changes_for(name))


def load_configuration(path: Path | None, environment: Mapping[str, str] | None = None) -> Configuration:
    """Read and check the file at `path` (None: no file) under the environment.

    Raises `InvalidInput` when the file cannot be read and `InvalidSettings` naming the key otherwise.
    """
    raw = _read(path) if path is not None else {}
    for keys, value in _from_environment(os.environ if environment is None else environment):
        _set(raw, keys, value)
    service = _service(raw.pop("service", {}))
    named = raw.pop("experiments", {})
    if not isinstance(named, dict):
        raise InvalidSettings("experiments", "must be a table of experiments by name")
    experiments: dict[str | None, Mapping[str, Any]] = {}
    if raw or not named:
        parse_settings(raw)
        experiments[None] = raw
    for name, settings in named.items():
        check_experiment_name(name)
        if not isinstance(settings, dict):
            raise InvalidSettings(f"experiments.{name}", "must be a table of settings")
        try:
            parse_settings(settings)
        except InvalidSettings as error:
            problem = error.problems[0]
            raise InvalidSettings(f"experiments.{name}.{problem.field}", problem.problem, problem.limit) from None
        experiments[name] = settings
    return Configuration(service, experiments)


def check_all(configuration: Configuration) -> None:
    """Check what only the processes know about: cron expressions. Raises `InvalidSettings`."""
    from serving.learner.cron import check_schedule

    for name in configuration.experiments:
        check_schedule(configuration.settings_for(name or "default"))


def check_ports(service: Service, field: str = "service.admin_port") -> None:
    """Raise `InvalidSettings` where the admin API would listen where the decision API does already."""
    hosts = {service.host, service.admin_host}
    together = len(hosts) == 1 or hosts & {"0.0.0.0", "::"} or all(map(is_loopback, hosts))
    if service.port and service.port == service.admin_port and together:
        raise InvalidSettings(field, "is the port of the decision API, too: each needs its own")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput("--config", f"{path} cannot be read ({error.strerror})") from None
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidSettings(str(path), "is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(str(path), f"is not valid TOML: {error}") from None


def _service(raw: Any) -> Service:
    try:
        service = msgspec.convert(raw, Service)
    except msgspec.ValidationError as error:
        key, problem, limit = explain(str(error), Service)
        raise InvalidSettings("service" if key == "settings" else f"service.{key}", problem, limit) from None
    return service


def _from_environment(environment: Mapping[str, str]) -> list[tuple[list[str], Any]]:
    found = []
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable.removeprefix(PREFIX) in OPTIONS:
            continue
        keys = variable.removeprefix(PREFIX).lower().split("__")
        if len(keys) < 2 or not all(keys):
            raise InvalidSettings(variable, "is not a known setting (write REWARDLOOP_<SECTION>__<KEY>)")
        found.append((keys, _value(text)))
    return found


def _value(text: str) -> Any:
    """A TOML value (number, boolean, list…) where the text is one, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        below = raw.setdefault(key, {})
        if not isinstance(below, dict):
            raise InvalidSettings(".".join(keys), "has no such section in the configuration file")
        raw = below
    raw[keys[-1]] = value
