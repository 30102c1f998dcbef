"""A configuration is laid in once: what the API changes afterwards outlives a restart with the same one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from bandit.experiment import Experiment
from bandit.settings import merge_settings, parse_settings
from serving.cli import run
from serving.cli.common import Common, now
from serving.cli.config import load_configuration
from serving.cli.start import all_experiments, prepare_experiments
from serving.cli.up import _announce
from serving.learner.address import ServiceAddress, running_learner
from serving.supervisor import running_service

FILE = '[rewards]\nwindow_s = 5\n\n[[actions]]\nid = "tea"\n\n[[actions]]\nid = "soup"\n'


def start(data_dir: Path, file: str, *, quick: bool = False, **environment: str) -> None:
    """Prepare the experiments as a start with this file does."""
    path = data_dir.parent / "rewardloop.toml"
    path.write_text(file)
    common = Common(data_dir=data_dir, config=path, experiment=None, as_json=False)
    variables = {f"REWARDLOOP_{name}": value for name, value in environment.items()}
    prepare_experiments(common, load_configuration(path, variables), quick=quick)


def change(experiment: Experiment, changes: dict[str, object]) -> None:
    """What a PATCH does."""
    experiment.refresh()
    experiment.change(merge_settings(experiment.settings, changes), now=now())


def names(experiment: Experiment) -> list[str]:
    experiment.refresh()
    return [action.id for action in experiment.catalogue() or ()]


def take_out(experiment: Experiment, key: str) -> None:
    """Leave the versions of the settings as a release wrote them that kept no such key."""
    path = experiment.paths.settings
    file = json.loads(path.read_text())
    for version in file["versions"]:
        version.pop(key, None)
    path.write_text(json.dumps(file))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@contextmanager
def up(data_dir: Path, config: Path) -> Iterator[tuple[str, Path]]:
    """`rewardloop up` with a file; gives the address of the experiment at the admin API, and the log."""
    log = data_dir.parent / "log"
    command = [sys.executable, "-m", "serving.cli", "up", "--data-dir", str(data_dir), "--config", str(config)]
    with log.open("wb") as errors:
        process = subprocess.Popen([*command, "--port", "0", "--admin-port", "0"], stderr=errors)
    try:
        until = time.monotonic() + 60
        while running_service(data_dir) is None:
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        learner = running_learner(data_dir)
        assert learner is not None
        yield f"{learner.url}/v1/experiments/default", log
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_catalogue_changed_over_the_api_is_served_after_a_restart_with_the_same_file(data_dir: Path) -> None:
    config = data_dir.parent / "rewardloop.toml"
    config.write_text(FILE)
    with up(data_dir, config) as (url, _):
        changed = httpx.patch(url, json={"actions": [{"id": "salad"}]}, trust_env=False).raise_for_status().json()
        assert (changed["settings_version"], changed["catalogue_version"]) == (2, 2)
    with up(data_dir, config) as (url, log):
        shown = httpx.get(url, trust_env=False).raise_for_status().json()
        assert (shown["settings_version"], shown["catalogue_version"]) == (2, 2)
        assert [action["id"] for action in shown["settings"]["actions"]] == ["salad"]
        assert (
            "the configuration is unchanged, so what was changed over the API or by command since stays: actions\n"
            in log.read_text()
        )
    config.write_text(FILE + '\n[[actions]]\nid = "rice"\n')
    with up(data_dir, config) as (url, log):
        shown = httpx.get(url, trust_env=False).raise_for_status().json()
        assert [action["id"] for action in shown["settings"]["actions"]] == ["tea", "soup", "rice"]
        assert "settings changed, now version 3 (actions); this overrides what was changed" in log.read_text()


def test_a_start_shows_how_to_ask_the_experiment_that_it_was_given(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Experiment.create(data_dir, "default", parse_settings({}), now=now())
    Experiment.create(data_dir, "shop", parse_settings({"actions": [{"id": "tea"}]}), now=now())
    address = ServiceAddress(1, "http://127.0.0.1:8000", "http://127.0.0.1:8001")
    for asked, name in ((None, "default"), ("shop", "shop")):
        _announce(address, all_experiments(data_dir), asked=asked, access="", key_needed=False, quick=False)
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Ask with:")]
        assert f"/v1/experiments/{name}/recommend " in line
        assert ("news" in line) is (asked is None), "the catalogue has the actions"


def test_a_file_that_changed_puts_in_force_what_it_says_otherwise_than_before_and_nothing_else(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(data_dir, FILE)
    experiment = Experiment.open(data_dir, "default")
    assert capsys.readouterr().err == ""
    change(experiment, {"rewards": {"window_s": 9.0}, "gate": {"alpha": 0.1}, "actions": [{"id": "salad"}]})
    start(data_dir, FILE + "\n[schedule]\ninteractions = 70\n")
    assert capsys.readouterr().err == (
        "Experiment default: settings changed, now version 3 (schedule.interactions); what was changed over the API or "
        "by command stays where the configuration says what it said before: rewards.window_s, actions\n"
    )
    assert names(experiment) == ["salad"]
    start(data_dir, FILE + "\n[schedule]\ninteractions = 70\npoll_s = 2\n")
    assert capsys.readouterr().err.endswith("says what it said before: rewards.window_s, actions\n")
    experiment.refresh()
    settings = experiment.settings
    assert (settings.rewards.window_s, settings.gate.alpha, settings.schedule.interactions) == (9.0, 0.1, 70)


def test_a_file_that_changes_what_the_api_had_changed_overrides_it_and_says_so(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(data_dir, FILE)
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"rewards": {"window_s": 9.0}, "gate": {"alpha": 0.1}})
    start(data_dir, FILE.replace("window_s = 5", "window_s = 6") + "\n[gate]\nalpha = 0.1\n")
    assert capsys.readouterr().err == (
        "Experiment default: settings changed, now version 3 (rewards.window_s); this overrides what was changed over "
        "the API or by command since the last start: rewards.window_s\n"
    )
    experiment.refresh()
    assert (experiment.settings.rewards.window_s, experiment.settings.gate.alpha) == (6.0, 0.1)


def test_another_way_to_write_a_number_changes_nothing(data_dir: Path) -> None:
    start(data_dir, FILE)
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"rewards": {"window_s": 9.0}})
    start(data_dir, FILE.replace("window_s = 5", "window_s = 5.0") + "\n[gate]\nalpha = 0.1\n")
    experiment.refresh()
    assert (experiment.settings.rewards.window_s, experiment.settings.gate.alpha) == (9.0, 0.1)


def test_a_change_that_does_not_go_with_what_the_api_changed_puts_the_whole_file_in_force(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = "[rewards]\nmin = 0\nmax = 1\ndefault = 0\n[gate]\nalpha = 0.1\n"
    start(data_dir, file)
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"rewards": {"min": 5.0, "max": 10.0, "default": 5.0}, "gate": {"alpha": 0.2}})
    start(data_dir, file.replace("max = 1", "max = 2"))
    rewards = "rewards.default, rewards.min, rewards.max, gate.alpha"
    assert "; this overrides what was changed over the API" in (told := capsys.readouterr().err)
    assert set(rewards.split(", ")) == set(told.strip().rpartition(": ")[2].split(", "))
    experiment.refresh()
    settings = experiment.settings
    assert (settings.rewards.min, settings.rewards.max, settings.gate.alpha) == (0.0, 2.0, 0.1)


def test_a_directory_that_kept_the_digest_alone_learns_the_configuration_from_a_start_with_the_same(
    data_dir: Path,
) -> None:
    start(data_dir, FILE)
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"actions": [{"id": "salad"}]})
    take_out(experiment, "configuration")
    start(data_dir, FILE)
    start(data_dir, FILE + "\n[gate]\nalpha = 0.1\n")
    assert names(experiment) == ["salad"] and experiment.settings.gate.alpha == 0.1


def test_validate_tells_what_a_start_would_change(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(data_dir, FILE)
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"rewards": {"window_s": 9.0}})
    config = data_dir.parent / "rewardloop.toml"
    command = ["validate", "--config", str(config), "--data-dir", str(data_dir)]
    for more, told in (
        ("", "would change nothing"),
        ("\n[gate]\nalpha = 0.1\n", "would change gate.alpha"),
        ("\n[learning]\nbits = 17\n", "would change learning.bits, so that challengers learn anew"),
    ):
        config.write_text(FILE + more)
        assert run(command) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"default: a start on {data_dir} {told}"
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == {"default": ["learning.bits"]}


def test_many_changed_settings_are_named_up_to_a_number(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(data_dir, FILE)
    start(data_dir, "[limits]\n" + "".join(f"{key}_max = 9\n" for key in ("actions", "features", "depth", "slots")))
    keys = ("epsilon = 0.2", "bags = 7", "cover = 7", "temperature = 2.0", "gamma_scale = 4.0", "headroom = false")
    start(data_dir, "[exploration]\n" + "\n".join(keys) + "\n[schedule]\ninteractions = 9\npoll_s = 2\ninterval_s = 9")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("(limits.actions_max, limits.features_max, limits.depth_max, limits.slots_max)")
    assert second.endswith("and 1 more)")


def test_comments_and_order_make_no_other_configuration(data_dir: Path) -> None:
    start(data_dir, "[gate]\nalpha = 0.1\nmargin = 0.2\n")
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"gate": {"alpha": 0.2}})
    start(data_dir, "# said better\n[gate]\nmargin = 0.2\nalpha = 0.1\n")
    experiment.refresh()
    assert (experiment.settings_version, experiment.settings.gate.alpha) == (2, 0.2)


def test_environment_and_options_are_part_of_the_configuration(data_dir: Path) -> None:
    start(data_dir, FILE, GATE__ALPHA="0.1")
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"gate": {"alpha": 0.2}, "rewards": {"window_s": 9.0}})
    start(data_dir, FILE, GATE__ALPHA="0.1")
    experiment.refresh()
    assert (experiment.settings.gate.alpha, experiment.settings.rewards.window_s) == (0.2, 9.0)
    start(data_dir, FILE, GATE__ALPHA="0.15")
    experiment.refresh()
    assert (experiment.settings.gate.alpha, experiment.settings.rewards.window_s) == (0.15, 9.0)
    change(experiment, {"rewards": {"window_s": 9.0}})
    start(data_dir, FILE, quick=True, GATE__ALPHA="0.15")
    experiment.refresh()
    assert (experiment.settings.rewards.window_s, experiment.settings.schedule.interactions) == (9.0, 50)


def test_each_experiment_of_a_file_follows_its_own_part(data_dir: Path) -> None:
    file = "[experiments.one.gate]\nalpha = 0.1\n[experiments.two.gate]\nalpha = {}\n"
    start(data_dir, file.format(0.1))
    one, two = (Experiment.open(data_dir, name) for name in ("one", "two"))
    for experiment in (one, two):
        change(experiment, {"gate": {"alpha": 0.2}})
    start(data_dir, file.format(0.15))
    assert one.refresh() is False and two.refresh() is True
    assert (one.settings.gate.alpha, two.settings.gate.alpha) == (0.2, 0.15)


def test_a_start_without_a_configuration_forgets_none(data_dir: Path) -> None:
    start(data_dir, FILE)
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"actions": [{"id": "salad"}]})
    start(data_dir, "")
    start(data_dir, FILE)
    assert names(experiment) == ["salad"]


def test_a_configuration_that_no_longer_goes_with_what_the_api_changed_starts_as_long_as_it_is_unchanged(
    data_dir: Path,
) -> None:
    start(data_dir, "[serving]\ntrial_share = 0.4\n")
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"serving": {"trial_share": 0.1, "trial_share_max": 0.2}})
    start(data_dir, "[serving]\ntrial_share = 0.4\n")
    experiment.refresh()
    assert experiment.settings.serving.trial_share == 0.1


def test_a_directory_of_an_older_release_takes_the_configuration_once(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(data_dir, FILE)
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"actions": [{"id": "salad"}]})
    take_out(experiment, "laid_in")
    start(data_dir, FILE)
    assert names(experiment) == ["tea", "soup"]
    assert capsys.readouterr().err == "Experiment default: settings changed, now version 3 (actions)\n"
    change(experiment, {"actions": [{"id": "salad"}]})
    start(data_dir, FILE)
    assert names(experiment) == ["salad"]


def test_a_value_that_equals_another_only_in_python_is_a_change(data_dir: Path) -> None:
    start(data_dir, FILE)
    experiment = Experiment.open(data_dir, "default")
    change(experiment, {"actions": [{"id": "tea", "features": {"hot": True}}]})
    change(experiment, {"actions": [{"id": "tea", "features": {"hot": 1}}]})
    assert (experiment.settings_version, experiment.catalogue_version) == (3, 3)
