"""The `rewardloop` command: a click group that loads one file per command, and turns errors into exit codes.

A command `x` is the attribute `command` of `serving/cli/x.py` (`x_.py` where `x` is a reserved word), imported
only when it is asked for, so that `rewardloop --help` stays fast. Exit codes: 0 done, 1 the answer is no,
2 misuse (one line on stderr that names the key). Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import importlib
import keyword
import os
import sys
from pathlib import Path

import click

from serving.cli.guard import check_packages
from serving.cli.streams import open_closed_streams

HERE = Path(__file__).parent

GROUPS: dict[str, dict[str, str]] = {
    "Start": {
        "demo": "run the whole loop on Statlog through the real service",
        "init": "write a commented configuration file, and make the first API key",
        "validate": "check a configuration file",
        "up": "run decision API and learner together",
        "serve": "run the decision API alone",
        "learn": "run the learner alone",
    },
    "Look": {
        "status": "say what happens next, and why nothing changed yet",
        "history": "list runs, champions and changed settings, and who asked for them",
        "events": "follow one event through the loop",
        "sql": "query the warehouse, read-only",
        "report": "verify evaluations, and see what champions earned",
        "doctor": "check log, database and models against each other",
    },
    "Decide": {
        "simulate": "run a simulated world against the loop",
        "compare": "compare algorithms on a simulated world",
        "evaluate": "evaluate policies offline",
        "join": "join decisions with rewards over a window",
        "models": "list, show, diff, train, promote, roll back, pin",
    },
    "Operate": {
        "actions": "list, put and remove actions of the catalogue",
        "import": "bring in history or rewards",
        "export": "write decisions, rewards or interactions to a file",
        "rebuild": "make the DuckDB file anew from the log",
        "erase": "delete a person's or an event's data",
        "keys": "create, list and revoke API keys",
        "backup": "copy a data directory while it runs",
        "restore": "bring a backup back",
        "plan": "estimate how long an experiment has to run",
        "bench": "measure this machine",
    },
}


class LazyGroup(click.Group):
    """A group whose commands are files; `--help` lists them by purpose without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for commands in GROUPS.values() for name in commands if _file(name).exists()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"serving.cli.{_file(cmd_name).stem}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in GROUPS.items():
            rows = [(name, text) for name, text in commands.items() if _file(name).exists()]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rewardloop", prog_name="rewardloop")
def cli() -> None:
    """Contextual-bandit recommendations that learn continually and promote only what proves better."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `rewardloop` command; leaves through `sys.exit`."""
    open_closed_streams()
    check_packages()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code (0 done, 1 the answer is no, 2 misuse)."""
    from bandit.errors import InvalidInput, RewardloopError
    from bandit.errors import Refused as RefusedError

    try:
        # a command that ends through ctx.exit(code) hands the code back here; any other result means done
        code = cli.main(args=arguments, prog_name="rewardloop", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except InvalidInput as error:
        return _fail(str(error), 2)
    except RefusedError as error:
        return _fail(str(error), 1)
    except RewardloopError as error:
        return _fail(str(error), 2)
    except UnicodeEncodeError:
        return _fail(f"{_not_text(arguments)}: is not UTF-8 text", 2)
    except RuntimeError as error:
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        return _fail("interrupted", 130)  # in the middle of a query, out of which DuckDB makes an error of its own
    except BrokenPipeError:
        # the reader went away (`| head`): point stdout at nothing so that the interpreter can close it quietly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    click.echo(f"rewardloop: {line}", err=True)
    return code


def _not_text(arguments: list[str]) -> str:
    """What the first argument that holds other bytes than UTF-8 is called."""
    before = ""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            return before if before.startswith("--") else "an argument"
        before = argument
    return "the environment or a file name"


def _file(name: str) -> Path:
    return HERE / (f"{name}_.py" if keyword.iskeyword(name) else f"{name}.py")
