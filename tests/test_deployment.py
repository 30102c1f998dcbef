"""What image, unit and proxy take for granted is what the service does: folders, variables, options, ports, limits."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from bandit.settings import ExperimentSettings
from serving.cli import LazyGroup
from serving.cli.config import OPTIONS, PREFIX, Service, load_configuration
from serving.supervisor import DRAIN_S

ROOT = Path(__file__).parent.parent
DEPLOYMENT = ROOT / "examples/deployment"


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")


@pytest.fixture(scope="module")
def unit() -> str:
    return (DEPLOYMENT / "rewardloop.service").read_text("utf-8")


def test_the_image_is_built_from_all_that_the_wheels_are_made_of(dockerfile: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "pyproject.toml", "clients/python"}
    wanted |= {project["project"]["readme"], *project["project"]["license-files"], "requirements.lock"}
    copied = {source for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.M) for source in line.split()[:-1]}
    assert copied == wanted
    left_out = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert not copied & set(left_out)


def test_the_variables_of_the_image_are_settings_under_which_the_service_is_reached_from_outside(
    dockerfile: str,
) -> None:
    variables = dict(re.findall(rf"({PREFIX}\w+)=(\S+)", dockerfile))
    service = load_configuration(None, variables).service
    assert (service.host, service.admin_host) == ("0.0.0.0", "0.0.0.0")
    assert variables[f"{PREFIX}DATA_DIR"] == "/data"
    assert "DATA_DIR" in OPTIONS
    assert re.search(r"^VOLUME /data$", dockerfile, re.M)


def test_the_volume_of_the_image_begins_empty_so_that_a_backup_can_be_restored_into_it(dockerfile: str) -> None:
    assert "--no-create-home" in dockerfile and "--create-home" not in dockerfile.replace("--no-create-home", "")
    assert re.search(r"install --directory --owner rewardloop .* /data$", dockerfile, re.M)


def test_the_ports_of_image_and_composition_are_those_the_service_listens_on(dockerfile: str) -> None:
    ports = {str(Service().port), str(Service().admin_port)}
    exposed = re.search(r"^EXPOSE (.*)$", dockerfile, re.M)
    assert exposed is not None
    assert set(exposed[1].split()) == ports
    assert set(re.findall(r"127\.0\.0\.1:(\d+):\1", (ROOT / "compose.yaml").read_text("utf-8"))) == ports
    assert f"127.0.0.1:{Service().port};" in (DEPLOYMENT / "nginx.conf").read_text("utf-8")


def test_commands_of_image_composition_and_unit_are_understood(dockerfile: str, unit: str) -> None:
    lists = re.findall(
        r"(?:^CMD |command: )\[(\"up\".*)\]", dockerfile + (ROOT / "compose.yaml").read_text("utf-8"), re.M
    )
    commands = [[word.strip().strip('"') for word in words.split(",")] for words in lists]
    started = re.search(r"^ExecStart=/opt/rewardloop/bin/rewardloop (.*)$", unit, re.M)
    assert started is not None
    commands.append(shlex.split(started[1]))
    assert len(commands) == 3
    for name, *arguments in commands:
        command = LazyGroup().get_command(click.Context(LazyGroup()), name)
        assert command is not None
        command.make_context(name, arguments)


def test_who_stops_the_service_waits_longer_than_it_takes_to_drain(unit: str) -> None:
    waits = re.findall(r"TimeoutStopSec=(\d+)", unit)
    waits += re.findall(r"stop_grace_period: (\d+)s", (ROOT / "compose.yaml").read_text("utf-8"))
    assert len(waits) == 2
    assert min(map(int, waits)) >= 2 * DRAIN_S


def test_the_proxy_lets_through_the_largest_body_that_is_accepted() -> None:
    limit = re.search(r"client_max_body_size (\d+)m;", (DEPLOYMENT / "nginx.conf").read_text("utf-8"))
    assert limit is not None
    assert int(limit[1]) * 1024**2 == ExperimentSettings().limits.batch_bytes_max
