"""The command: its help, its exit codes, its configuration, and its refusal to run with foreign packages."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from bandit.errors import InvalidInput, InvalidSettings
from bandit.experiment import Experiment
from bandit.keys import KeyRing
from bandit.settings import ExperimentSettings, settings_to_dict
from serving.cli import GROUPS, LazyGroup, run
from serving.cli.common import now
from serving.cli.config import load_configuration
from serving.cli.init import template

COMMANDS = LazyGroup().list_commands(click.Context(LazyGroup()))
ROOT = Path(__file__).parent.parent.parent


def test_help_lists_the_commands_in_four_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for title, commands in GROUPS.items():
        assert f"{title}:" in text
        for name in commands.keys() & set(COMMANDS):
            assert f"\n  {name} " in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: rewardloop")


@pytest.mark.parametrize("name", ["report", "models", "keys"])
def test_what_help_says_that_a_command_can_do_is_among_its_commands(name: str) -> None:
    context = click.Context(LazyGroup())
    command = LazyGroup().get_command(context, name)
    (said,) = (commands[name] for commands in GROUPS.values() if name in commands)
    verbs = {"list", "open", "show", "verify", "create", "revoke", "diff", "train", "promote", "pin"}
    named = verbs & set(said.replace(",", "").split())
    assert isinstance(command, click.Group) and named and named <= set(command.list_commands(context))


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["status", "--nonsense"], ["up", "--port", "99999"], ["status", "--experiment", "Bad Name"]],
)
def test_misuse_is_one_line_and_exit_code_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.err.startswith("rewardloop: ")


@pytest.mark.parametrize("arguments", [["status"], ["join"], ["serve"], ["bench"]])
def test_a_data_directory_that_is_none_is_refused_by_the_option(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run([*arguments, "--data-dir", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == "rewardloop: --data-dir: is not a folder\n"
    assert run(["bench", "--data-dir", str(tmp_path / "file" / "below")]) == 2
    assert capsys.readouterr().err == "rewardloop: --data-dir: cannot be made (Not a directory)\n"


def test_bench_leaves_nothing_behind(tmp_path: Path) -> None:
    assert run(["bench", "--seconds", "0.1", "--data-dir", str(tmp_path / "new" / "data"), "--json"]) == 0
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


def test_a_command_that_fails_while_it_plays_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--url", "http://127.0.0.1:1", "--env", "linear", "--interactions", "10"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("rewardloop: --url: the service did not play along") and told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["sql", "SELECT 1", "--seconds", "nan"], "--seconds"),
        (["sql", "SELECT '\udcff'"], "sql"),
        (["events", "show", "\udcff"], "event_id"),
        (["join", "--slice", "\udcff"], "slice"),
        (["join", "--slice", "controls"], "slice"),
        (["join", "--mode", "onlin"], "mode"),
        (["evaluate", "--policy", "uniform", "--slice", "controls"], "slice"),
        (["erase"], "subject: must be given, or else event ids"),
        (["keys", "revoke", "\udcff"], "there is no key"),
        (["join", "--last", "99999999999999d"], "last"),
        (["join", "--last", "999999d"], "last"),
        (["join", "--since", "0001-01-01T00:00:00+14:00"], "since"),
        (["export", "--out", "/proc/nothing"], "out"),
        (["export", "--what", "warehouse", "--format", "parquet", "--out", "copy"], "format"),
        (["export", "--out", "rows.csv"], "format"),
        (["export", "--what", "rewards", "--out", "rows.dsjson"], "format"),
        (["join", "--out", "rows.csv"], "format"),
        (["join", "--out", "rows.dsjson"], "format"),
        (["backup", "--out", "missing/file.tar"], "--out"),
        (["init", "missing/file.toml"], "FILE"),
        (["serve", "--insecure", "--port", "0", "--host", "\udcff"], "--host"),
        (["serve", "--insecure", "--port", "0", "--host", "192.0.2.1"], "--host"),
        (["learn", "--host", "192.0.2.1"], "--host"),
    ],
)
def test_what_an_argument_may_not_be_is_said_in_one_line_that_names_it(
    arguments: list[str], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Experiment.create(Path("rewardloop-data"), "default", ExperimentSettings(), now=datetime(2026, 3, 1, tzinfo=UTC))
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert captured.err.startswith(("rewardloop: " + key, "rewardloop: Invalid value for '" + key))


def test_an_empty_data_directory_says_how_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--data-dir", str(tmp_path)]) == 2
    assert "rewardloop up" in capsys.readouterr().err


def test_an_unknown_key_is_refused_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "bad.toml"
    config.write_text("[rewards]\nwindow = 5\n")
    assert run(["up", "--config", str(config), "--data-dir", str(tmp_path / "data")]) == 2
    assert "rewards.window" in capsys.readouterr().err
    assert run(["validate", "--config", str(config)]) == 1
    assert "rewards.window" in capsys.readouterr().err
    assert run(["validate", "--config", str(config), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["field"] == "rewards.window"


def test_a_cron_expression_that_means_nothing_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[schedule]\ncron = "61 * * * *"\n')
    assert run(["validate", "--config", str(config)]) == 1
    assert run(["up", "--config", str(config), "--data-dir", str(tmp_path / "data")]) == 2
    assert "schedule.cron" in capsys.readouterr().err


def test_validate_needs_a_file_that_is_there(tmp_path: Path) -> None:
    assert run(["validate"]) == 2
    assert run(["validate", "--config", str(tmp_path / "none.toml")]) == 2


def test_init_writes_a_file_that_declares_nothing_until_it_is_edited_and_makes_the_first_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rewardloop.toml"
    data = ["--data-dir", str(tmp_path / "data")]
    assert run(["init", str(file), *data]) == 0
    shown = capsys.readouterr()
    secret = shown.out.strip()
    key = KeyRing(tmp_path / "data").find(secret)
    assert key is not None and key.allows("admin", "default")
    assert f"Bearer {secret}" in shown.err and "/v1/experiments/default/recommend" in shown.err
    assert run(["init", str(file), *data]) == 2
    assert run(["init", str(file), "--force", *data]) == 0
    assert capsys.readouterr().out == ""  # there is a key already
    assert run(["init", str(tmp_path / "other.toml"), "--no-key", "--data-dir", str(tmp_path / "open")]) == 0
    assert KeyRing(tmp_path / "open").empty
    assert run(["validate", "--config", str(file)]) == 0
    configuration = load_configuration(file, {})
    assert configuration.settings_for("default") == load_configuration(None, {}).settings_for("default")
    capsys.readouterr()


def test_every_commented_default_in_the_template_is_the_default() -> None:
    lines = []
    for line in template().splitlines():
        bare = line.removeprefix("# ")
        if line.startswith("# ") and " = " in bare and "    # " in bare:
            value = bare.split("    # ")[0]
            if not value.endswith("= "):
                lines.append(value)
        elif line.startswith("["):
            lines.append(line)
    declared = tomllib.loads("\n".join(lines))
    service = declared.pop("service")
    assert service["port"] == 8000
    defaults = settings_to_dict(load_configuration(None, {}).settings_for("default"))
    for section, values in declared.items():
        for key, value in values.items():
            assert defaults[section][key] == value, f"{section}.{key}"


def test_the_tables_of_the_template_are_the_defaults_when_their_comment_marks_go(tmp_path: Path) -> None:
    lines = template().splitlines()
    start = lines.index("# [challengers.recent]")
    table = [line.removeprefix("# ") for line in lines[start : lines.index("", start)]]
    (tmp_path / "one.toml").write_text("\n".join(table))
    settings = load_configuration(tmp_path / "one.toml", {}).settings_for("default")
    assert settings == load_configuration(None, {}).settings_for("default")
    (tmp_path / "none.toml").write_text("[challengers]\n")
    assert load_configuration(tmp_path / "none.toml", {}).settings_for("default").challengers == {}


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[rewards]\nwindow_s = 60\n[service]\nport = 9000\n")
    environment = {"REWARDLOOP_REWARDS__WINDOW_S": "30", "REWARDLOOP_EXPLORATION__ALGORITHM": "bag", "OTHER": "1"}
    configuration = load_configuration(config, environment)
    settings = configuration.settings_for("default")
    assert (settings.rewards.window_s, settings.exploration.algorithm) == (30, "bag")
    assert configuration.service.port == 9000


@pytest.mark.parametrize(
    ("environment", "field"),
    [
        ({"REWARDLOOP_REWARDS__WINDOW": "3"}, "rewards.window"),
        ({"REWARDLOOP_NONSENSE": "3"}, "REWARDLOOP_NONSENSE"),
        ({"REWARDLOOP_SERVICE__PORTS": "3"}, "service.ports"),
        ({"REWARDLOOP_REWARDS__WINDOW_S": "soon"}, "rewards.window_s"),
    ],
)
def test_the_environment_is_checked_as_strictly_as_the_file(environment: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_configuration(None, environment)
    assert caught.value.problems[0].field == field


def test_one_port_for_both_is_refused_by_its_name_before_anything_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[service]\nport = 8410\nadmin_port = 8410\n")
    assert run(["validate", "--config", str(config)]) == 1
    assert "service.admin_port: is the port of the decision API, too" in capsys.readouterr().err
    assert run(["up", "--port", "8001", "--data-dir", str(tmp_path / "data")]) == 2
    assert "--admin-port: is the port of the decision API, too" in capsys.readouterr().err


@pytest.mark.parametrize("service", ["port = 0\nadmin_port = 0", "port = 9000\nhost = '10.0.0.5'\nadmin_port = 9000"])
def test_one_port_is_enough_where_the_system_picks_or_the_addresses_differ(tmp_path: Path, service: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"[service]\n{service}\n")
    assert run(["validate", "--config", str(config)]) == 0


@pytest.mark.parametrize("command", ["up", "serve"])
def test_ports_of_a_file_count_as_the_options_change_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[service]\nport = 8001\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run([command, "--config", str(config), "--port", port, "--data-dir", str(tmp_path / "data")]) != 0
    told = capsys.readouterr().err
    assert port in told and "is the port of the decision API, too" not in told  # it went on to take the port


def test_several_experiments_are_declared_in_one_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[experiments.one.rewards]\nwindow_s = 1\n[experiments.two.rewards]\nwindow_s = 2\n")
    configuration = load_configuration(config, {})
    assert configuration.settings_for("one").rewards.window_s == 1
    assert configuration.settings_for("two").rewards.window_s == 2
    config.write_text("[experiments.one.rewards]\nwindow = 1\n")
    with pytest.raises(InvalidSettings, match=r"experiments\.one\.rewards\.window"):
        load_configuration(config, {})


def test_broken_toml_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[rewards\n")
    with pytest.raises(InvalidSettings, match="TOML"):
        load_configuration(broken, {})
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_configuration(tmp_path / "none.toml", {})


def test_other_machines_may_not_connect_without_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["up", "--host", "0.0.0.0", "--data-dir", str(tmp_path)]) == 2
    assert "rewardloop keys create" in capsys.readouterr().err


def test_a_key_for_an_experiment_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create = ["keys", "create", "app", "--data-dir", str(tmp_path)]
    for there in ("there is none yet", "there is shop"):
        assert run([*create, "--experiment", "shpo"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("rewardloop: --experiment: shpo does not exist") and there in line
        assert KeyRing(tmp_path).empty
        if there == "there is none yet":
            Experiment.create(tmp_path, "shop", load_configuration(None, {}).settings_for("shop"), now=now())
    assert run([*create, "--experiment", "shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["experiments"] == ["shop"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_standard_streams_are_closed_ends_as_with_open_ones(closed: str, tmp_path: Path) -> None:
    Experiment.create(tmp_path, "shop", ExperimentSettings(), now=now())
    code = "import os, sys\nfrom serving.cli import main\ntry:\n main()\nfinally:\n [os.fstat(n) for n in (0, 1, 2)]"
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", code, "status", "--data-dir"]
    for data_dir, ending in ((tmp_path, 0), (tmp_path / "nowhere", 2)):
        done = subprocess.run([*command, str(data_dir)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == ending and "Traceback" not in done.stderr


def test_a_foreign_package_named_bandit_is_told_in_one_sentence(tmp_path: Path) -> None:
    foreign = tmp_path / "bandit"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; from serving.cli import main; main(['status'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "'bandit'" in done.stderr and "venv" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_models_and_status_work_while_no_learner_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_configuration(None, {}).settings_for("default")
    Experiment.create(tmp_path, "one", settings, now=now())
    assert run(["status", "--data-dir", str(tmp_path), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert state["champion"] is None and "rewardloop up" in state["next"]
    assert run(["models", "list", "--data-dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == []
    assert run(["models", "show", "none", "--data-dir", str(tmp_path)]) == 2
    assert run(["models", "rollback", "--data-dir", str(tmp_path)]) == 1
    assert run(["models", "train", "--data-dir", str(tmp_path)]) == 0
    assert "nothing" in capsys.readouterr().out
    capsys.readouterr()


TAKING_NO_EXPERIMENT = (
    ["backup"],
    ["bench"],
    ["demo"],
    ["validate"],
    ["restore"],
    ["keys", "list"],
    ["keys", "revoke"],
)


@pytest.mark.parametrize("command", TAKING_NO_EXPERIMENT, ids=" ".join)
def test_a_command_to_which_an_experiment_means_nothing_takes_none(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--help"]) == 0
    assert "--experiment" not in capsys.readouterr().out
    assert run([*command, "--experiment", "shop"]) == 2
    assert "--experiment" in capsys.readouterr().err


def test_an_experiment_that_does_not_exist_is_told_with_those_that_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_configuration(None, {}).settings_for("default")
    for name in ("shop", "web"):
        Experiment.create(tmp_path, name, settings, now=now())
    for command in (
        ["status"],
        ["models", "list"],
        ["models", "train"],
        ["events", "show", "e"],
        ["report", "history"],
    ):
        assert run([*command, "--data-dir", str(tmp_path), "--experiment", "shp"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("rewardloop: experiment 'shp' does not exist in ") and line.endswith(
            "there is shop, web"
        )
    for number in range(10, 22):
        Experiment.create(tmp_path, f"a{number}", settings, now=now())
    for arguments in ([], ["--experiment", "shp"]):
        assert run(["status", "--data-dir", str(tmp_path), *arguments]) == 2
        assert capsys.readouterr().err.endswith(" a10, a11, a12, a13, a14, a15, a16, a17, a18, a19 and 4 more\n")


def test_init_writes_the_file_that_config_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "--config", "other.toml", "--no-key"]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["other.toml"]
    assert run(["init", "--config", "other.toml", "--no-key"]) == 2
    assert run(["init", "one.toml", "--config", "another.toml", "--no-key"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("rewardloop: --config: and FILE")
    monkeypatch.setenv("REWARDLOOP_CONFIG", "named.toml")
    assert run(["init", "--no-key"]) == run(["init", "one.toml", "--no-key"]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["named.toml", "one.toml", "other.toml"]


@pytest.mark.parametrize("name", ["demo", "simulate", "compare"])
def test_what_plays_says_that_it_plays_in_a_temporary_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "[default: a temporary one, " in text and "rewardloop-data" not in text
