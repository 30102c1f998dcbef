"""`rewardloop init`: a configuration file in which every setting is explained, and a first API key.

The key is printed this once, with a request that works. From then on every port wants a key; without one the ports
are open, to this machine alone (`--no-key` leaves it so).
"""

from __future__ import annotations

import json
from pathlib import Path

import click
from click.core import ParameterSource

from bandit.errors import Conflict, InvalidInput
from bandit.files import write_atomically
from bandit.keys import KeyRing, create_key
from bandit.settings.reference import settings_reference
from serving.cli.common import DEFAULT_EXPERIMENT, Common, common_with, now, print_json, say
from serving.cli.config import Service

HEAD = """\
# rewardloop: configuration of one experiment and of the service that runs it.
# Every line shows a default; take away the "#" to change it. Unknown keys are refused.
# The environment goes before this file: REWARDLOOP_REWARDS__WINDOW_S=60 sets window_s of [rewards].
"""

SERVICE = {
    "host": "where the decision API listens (other than loopback needs an API key)",
    "port": "of the decision API",
    "admin_host": "where the admin API and the console listen",
    "admin_port": "of the admin API and the console",
    "workers": "decision processes; one per core that serving may use",
}

TABLES = """
# The field beside the standing challenger, by name. What is declared takes the place of this one; `[challengers]`
# with nothing below it is none at all. Each may hold window_h = 72 in place of window_interactions, and tables
# exploration, learning and encoding that differ from those above.
# [challengers.recent]
# window_interactions = 2000
# every_interactions = 1000

# A fixed catalogue of actions; then requests may leave `actions` out, or name some of them by id alone.
# [[actions]]
# id = "news"
# features = { length = 3, kind = "text" }
"""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
@click.option("--no-key", is_flag=True, help="Make no API key: the ports stay open to this machine.")
@common_with(
    config="The file to write, instead of FILE.",
    experiment=f"Which experiment the printed request asks.  [default: {DEFAULT_EXPERIMENT}]",
)
def command(common: Common, *, file: Path | None, force: bool, no_key: bool) -> None:
    """Write a commented configuration to FILE (rewardloop.toml) and make the first API key."""
    given = click.get_current_context().get_parameter_source("config") is ParameterSource.COMMANDLINE
    if file is not None and given:
        raise InvalidInput("--config", "and FILE both name the file to write; give one of them")
    file = file or common.config or Path("rewardloop.toml")
    if file.exists() and not force:
        raise Conflict(f"{file} is there already; choose another name or say --force")
    if not file.parent.is_dir():
        raise InvalidInput("FILE", "is not in an existing folder")
    write_atomically(file, template().encode("utf-8"))
    secret = None
    if not no_key and KeyRing(common.make_data_dir()).empty:
        _, secret = create_key(common.data_dir, name="first", scopes=["admin"], now=now())
    if common.as_json:
        print_json({"file": str(file.resolve()), "key": secret})
        return
    where = f" --data-dir {common.data_dir}" if common.data_dir_given else ""
    say(f"Wrote {file}. Start with: rewardloop up --config {file}{where}")
    if secret is not None:
        say("API key, for everything, shown only now (`rewardloop keys` makes narrower ones):")
        click.echo(secret)
        say(f"Ask with:\n{_curl(common.experiment or DEFAULT_EXPERIMENT, secret)}")


def _curl(name: str, secret: str) -> str:
    body = {"context": {"hour": 20}, "actions": [{"id": "news"}, {"id": "sport"}]}
    service = Service()
    return (
        f"curl -s http://{service.host}:{service.port}/v1/experiments/{name}/recommend "
        f"-H 'authorization: Bearer {secret}' -H 'content-type: application/json' -d '{json.dumps(body)}'"
    )


def template() -> str:
    """The commented TOML file; parsed as it is, it declares nothing."""
    lines = [HEAD, "[service]"]
    service = Service()
    for key, meaning in SERVICE.items():
        lines.append(f"# {key} = {_toml(getattr(service, key))}    # {meaning}")
    section = ""
    for setting in settings_reference():
        head, _, key = setting.key.rpartition(".")
        if not head:
            continue
        if head != section:
            section = head
            lines += ["", f"[{section}]"]
        limit = f" ({setting.limit})" if setting.limit else ""
        shown = "" if setting.default is None else _toml(setting.default)
        lines.append(f"# {key} = {shown}    # {setting.meaning}{limit}")
    return "\n".join(lines) + "\n" + TABLES


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        pairs = [f"{key} = {_toml(item)}" for key, item in value.items() if item is not None]
        return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)
