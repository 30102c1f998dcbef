"""simulate and compare as they are typed: same seed, same bytes; files where they say; misuse in one line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from click import Abort, ClickException

from bandit.errors import InvalidInput
from bandit.experiment import Experiment
from bandit.settings import ExperimentSettings
from simulator.runner import play
from tests.simulator.command_support import BRIEF, SMALL, rewardloop, said


@pytest.fixture(autouse=True)
def rough_reference_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lines lie is told elsewhere; here they are only drawn."""
    monkeypatch.setattr("serving.cli.simulate.REFERENCE_DRAWS", 500)


def test_the_same_seed_prints_the_same_bytes(tmp_path: Path) -> None:
    command = ("simulate", "--env", "linear", *SMALL, "--seeds", "4", "--json")
    first = rewardloop(*command, "--data-dir", str(tmp_path / "a"))
    again = rewardloop(*command, "--data-dir", str(tmp_path / "b"))
    assert said(first) == said(again)
    assert first.stdout == again.stdout
    assert (tmp_path / "a/simulation.png").read_bytes() == (tmp_path / "b/simulation.png").read_bytes()


def test_simulate_says_each_seed_their_mean_and_its_error_and_draws_them(tmp_path: Path) -> None:
    result = rewardloop("simulate", "--env", "linear", *SMALL, "--seeds", "0-1", "--json", "--data-dir", str(tmp_path))
    answer = said(result)
    assert result.return_value is None and "failed" not in result.stderr
    assert set(answer) == {"seeds", "mean", "se"}
    assert [one["seed"] for one in answer["seeds"]] == [0, 1]
    measures = {
        "counted",
        "mean_reward",
        "first_500",
        "last_500",
        "regret",
        "promotions",
        "holds",
        "insufficient",
        "failed",
    }
    assert set(answer["mean"]) == set(answer["se"]) == measures
    rewards = [one["mean_reward"] for one in answer["seeds"]]
    assert answer["mean"]["mean_reward"] == pytest.approx(sum(rewards) / 2)
    for one in answer["seeds"]:
        assert one["promotions"] + one["holds"] + one["insufficient"] == 2
        assert one["failed"] == 0 and one["failures"] == []
    assert "data:image/png;base64," in (tmp_path / "simulation.html").read_text("utf-8")
    assert (tmp_path / "actions.png").exists()


@pytest.mark.parametrize(
    ("rows", "seeds", "told"),
    [
        ("40", "0-1", "batches of 20 after 40 rows of uniform history; mean and range over seeds 0-1"),
        ("0", "3", "batches of 20; seed 3"),
    ],
)
def test_a_picture_says_after_which_history_it_was_played_and_what_its_band_is(
    rows: str, seeds: str, told: str, tmp_path: Path
) -> None:
    world = ("--env", "linear", *BRIEF, "--warm-start", rows, "--seeds", seeds, "--data-dir", str(tmp_path))
    said(rewardloop("simulate", *world, "--json"))
    page = (tmp_path / "simulation.html").read_text("utf-8")
    assert f"<p>20 interactions in {told}</p>" in page
    assert "expected reward" in page and "of rewards as they came" in page


def damage_models_before_the_second_batch(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """Somebody empties every stored policy while the world is played, so that the learner's second run fails."""

    def damage(number: int) -> None:
        if number == 2:
            for policy in data_dir.glob("experiments/*/models/*/policy.vw"):
                policy.write_bytes(b"")

    monkeypatch.setattr("serving.simulation.play", partial(play, before_batch=damage))


def test_a_run_of_the_learner_that_fails_is_counted_and_named_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("simulate", "--env", "linear", *SMALL)
    damage_models_before_the_second_batch(monkeypatch, tmp_path / "told")
    told = rewardloop(*command, "--json", "--data-dir", str(tmp_path / "told"))
    damage_models_before_the_second_batch(monkeypatch, tmp_path / "shown")
    shown = rewardloop(*command, "--data-dir", str(tmp_path / "shown"))
    assert told.return_value == shown.return_value == 1
    answer = said(told)
    (one,) = answer["seeds"]
    assert answer["mean"]["failed"] == one["failed"] == 1
    assert [failure["batch"] for failure in one["failures"]] == [2]
    reason = one["failures"][0]["reason"]
    assert "policy.vw" in reason
    assert one["promotions"] + one["holds"] + one["insufficient"] == 1
    line = f"rewardloop: seed 0: 1 run of the learner failed, first after batch 2: {reason}"
    assert line in told.stderr.splitlines() and line in shown.stderr.splitlines()
    columns, values = (line.split() for line in shown.stdout.splitlines()[:2])
    assert (columns[-1], values[-1]) == ("failed", "1")
    page = (tmp_path / "shown/simulation.html").read_text("utf-8")
    assert "Failed runs of the learner" in page and "batch 2" in page


def test_a_comparison_names_the_configuration_whose_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage_models_before_the_second_batch(monkeypatch, tmp_path)
    result = rewardloop(
        *("compare", "--env", "linear", "--algorithm", "default", "--encoder", "bins", *SMALL, "--seeds", "1"),
        *("--data-dir", str(tmp_path)),
    )
    assert result.return_value == 1
    assert "rewardloop default, bins, seed 1: 1 run of the learner failed, first after batch 2" in result.stderr
    assert "Failed runs of the learner" in (tmp_path / "comparison.html").read_text("utf-8")


def test_compare_tells_encoders_and_algorithms_apart_on_the_same_seeds(tmp_path: Path) -> None:
    result = rewardloop(
        *("compare", "--env", "linear", "--algorithm", "egreedy,default", *BRIEF, "--seeds", "0-1", "--json"),
        *("--data-dir", str(tmp_path)),
    )
    configurations = said(result)["configurations"]
    assert [(one["name"], one["encoder"]) for one in configurations] == [
        ("egreedy", "zscore"),
        ("default", "zscore"),
        ("egreedy", "bins"),
        ("default", "bins"),
    ]
    assert all([one["seed"] for one in each["seeds"]] == [0, 1] for each in configurations)
    assert configurations[0]["settings"]["gate"] == {"enabled": False}
    assert configurations[0]["settings"]["rollback"] == {"enabled": False}
    assert "rollback" not in configurations[1]["settings"]
    assert configurations[1]["settings"]["gate"] == {"enabled": True}
    assert {"comparison.png", "actions.png", "comparison.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("simulate", "--env", "table"), "--data"),
        (("simulate", "--env", "linear", "--label", "x"), "--label"),
        (("simulate", "--actions", "3"), "--actions"),
        (("simulate", "--seeds", "3-1"), "--seeds"),
        (("simulate", "--seeds", "x"), "--seeds"),
        (("simulate", "--env", "news", "--drift", "abrupt"), "--drift"),
        (("simulate", "--algorithm", "magic"), "--algorithm"),
        (("compare", "--algorithm", "default,magic"), "squarecb"),
        (("compare", "--encoder", "morse"), "--encoder"),
        (("simulate", "--env", "table", "--data", "/nowhere.csv", "--label", "x"), "--data"),
        (("simulate", "--reward-delay", "inf"), "--reward-delay"),
        (("simulate", "--url", "nowhere"), "--url: must begin with http"),
        (("simulate", "--url", "http://"), "--url: names no host"),
        (("simulate", "--url", "http://:8000"), "--url: names no host"),
        (("simulate", "--url", "http://[::1"), "--url: is not an address"),
        (("simulate", "--warm-start", "1000001"), "--warm-start"),
        (("simulate", "--env", "linear", "--url", "http://127.0.0.1:1", "--interactions", "1"), "--url"),
        (("simulate", "--url", "http://127.0.0.1:1", "--gate", "off"), "--gate"),
        (("simulate", "--url", "http://127.0.0.1:1", "--algorithm", "bag"), "--algorithm"),
        (("simulate", "--url", "http://127.0.0.1:1", "--continuous"), "--continuous"),
        (("simulate", "--url", "http://127.0.0.1:1", "--jobs", "2"), "--jobs"),
        (("plan", "--value", "0.5"), "--value"),
        (("plan", "--actions", "3", "--traffic", "5/day", "--lift", "1e-300"), "--lift"),
        (("plan", "--actions", "3", "--traffic", "5/day", "--value", "1e-300"), "--value"),
        (("plan", "--actions", "3", "--traffic", "5/day", "--exploration", "1e-300"), "--exploration"),
        (("plan", "--actions", "3", "--traffic", "5/day", "--differing", "1e-300"), "--differing"),
        (("plan", "--actions", "3", "--traffic", "1,5/day"), "--traffic"),
        (("plan", "--actions", "3", "--traffic", "1,50,000/day"), "--traffic"),
        (("plan", "--actions", "3", "--traffic", "1.5.2/day"), "--traffic"),
        (("plan", "--actions", "3"), "--traffic"),
        (("plan", "--actions", "3", "--traffic", "many"), "--traffic"),
        (("plan", "--actions", "3", "--traffic", "5/day", "--lift", "50"), "--lift"),
    ],
)
def test_misuse_names_the_option(arguments: tuple[str, ...], names: str) -> None:
    result = rewardloop(*arguments)
    error = result.exception
    assert error is not None
    assert names in (error.format_message() if isinstance(error, ClickException) else str(error))


@pytest.mark.parametrize("key", ["clé", "a\nb", "\udce9"])
def test_a_key_that_no_header_can_carry_is_refused_by_the_name_of_its_variable(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARDLOOP_API_KEY", key)
    refused = rewardloop("simulate", "--env", "linear", "--url", "http://127.0.0.1:1").exception
    assert isinstance(refused, InvalidInput) and str(refused).startswith("REWARDLOOP_API_KEY: is no key")


@pytest.fixture
def shops(tmp_path: Path) -> Path:
    """A configuration that declares one experiment by name: without a gate, by uniform choice."""
    config = tmp_path / "shops.toml"
    config.write_text('[experiments.shop]\ngate = { enabled = false }\nexploration = { algorithm = "uniform" }\n')
    return config


def settings_in(data_dir: Path, name: str) -> ExperimentSettings:
    return Experiment.open(data_dir, name).settings


def test_the_configuration_rules_the_gate_unless_the_option_is_typed(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[gate]\nenabled = false\n")
    command = ("simulate", "--env", "linear", *BRIEF, "--config", str(config), "--json")
    said(rewardloop(*command, "--data-dir", str(tmp_path / "left")))
    said(rewardloop(*command, "--gate", "on", "--data-dir", str(tmp_path / "typed")))
    assert not settings_in(tmp_path / "left", "simulation").gate.enabled
    assert settings_in(tmp_path / "typed", "simulation").gate.enabled
    command = ("compare", "--env", "linear", "--algorithm", "default,egreedy", "--encoder", "bins", *BRIEF, "--json",
               "--seeds", "0", "--config", str(config))  # fmt: skip
    left = said(rewardloop(*command, "--data-dir", str(tmp_path / "compared")))
    assert [one["settings"]["gate"]["enabled"] for one in left["configurations"]] == [False, False]
    assert not settings_in(tmp_path / "compared", "default-bins-0").gate.enabled


def test_the_only_experiment_that_a_configuration_declares_is_the_one_that_is_played(
    tmp_path: Path, shops: Path
) -> None:
    said(rewardloop("simulate", "--env", "linear", *BRIEF, "--config", str(shops), "--json",
                    "--data-dir", str(tmp_path / "one")))  # fmt: skip
    settings = settings_in(tmp_path / "one", "shop")
    assert settings.exploration.algorithm == "uniform" and not settings.gate.enabled
    said(rewardloop("compare", "--env", "linear", "--algorithm", "default", "--encoder", "bins", *BRIEF, "--json",
                    "--seeds", "0", "--config", str(shops), "--data-dir", str(tmp_path / "two")))  # fmt: skip
    assert settings_in(tmp_path / "two", "default-bins-0").exploration.algorithm == "uniform"


@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_of_several_declared_experiments_one_has_to_be_named(tmp_path: Path, shops: Path, command: str) -> None:
    shops.write_text(shops.read_text() + "[experiments.kiosk]\n")
    out = ("--env", "linear", *BRIEF, "--config", str(shops), "--data-dir", str(tmp_path / "out"))
    assert "--experiment: must be named, several are declared: shop, kiosk" in str(rewardloop(command, *out).exception)
    other = rewardloop(command, *out, "--experiment", "market")
    assert "--experiment: is not declared in the configuration (one of: shop, kiosk)" in str(other.exception)
    assert not (tmp_path / "out").exists()


def test_a_name_that_leaves_no_room_for_the_seeds_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    command = ("simulate", "--env", "linear", *BRIEF, "--experiment", "n" * 62, "--data-dir", str(tmp_path / "out"))
    refused = str(rewardloop(*command, "--seeds", "0-1").exception)
    assert refused == "--experiment: is too long for several seeds: each run adds its own, such as -0"
    assert not (tmp_path / "out").exists()
    said(rewardloop(*command, "--json"))


def test_on_a_narrow_screen_a_picture_is_moved_sideways_rather_than_made_illegible(tmp_path: Path) -> None:
    said(rewardloop("simulate", "--env", "linear", *BRIEF, "--json", "--data-dir", str(tmp_path)))
    page = (tmp_path / "simulation.html").read_text("utf-8")
    width = int.from_bytes((tmp_path / "simulation.png").read_bytes()[16:20], "big")
    assert f'style="min-width: {int(0.4 * width)}px"' in page and width * 0.4 > 390


@pytest.mark.parametrize(
    ("command", "stays"),
    [
        ("simulate", "of which picture and page stay"),
        ("compare", "of which picture and page stay"),
        ("demo", "which stays"),
    ],
)
def test_help_tells_where_what_is_played_goes(command: str, stays: str) -> None:
    words = " ".join(rewardloop(command, "--help").stdout.split())
    assert f"a folder that is new or empty. [default: a temporary one, {stays}]" in words
    assert "rewardloop-data" not in words


@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_of_a_temporary_folder_only_picture_and_page_stay_and_a_given_one_is_left_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one = ("--algorithm", "uniform", "--encoder", "bins", "--seeds", "0", "--env", "linear", *BRIEF)
    told = rewardloop(command, *one).stderr
    (folder,) = tmp_path.iterdir()
    assert {path.suffix for path in folder.iterdir()} == {".png", ".html"}
    assert f"page    {folder}" in told and "data    removed" in told
    told = rewardloop(command, *one, "--data-dir", str(tmp_path / "given")).stderr
    assert (tmp_path / "given/experiments").is_dir() and f"data    {tmp_path / 'given'}" in told


def test_a_temporary_folder_is_left_whole_where_a_run_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("serving.cli.simulate.tell_failures", lambda summaries: bool(list(summaries)))
    assert rewardloop("simulate", "--env", "linear", *BRIEF).return_value == 1
    (folder,) = tmp_path.iterdir()
    assert (folder / "experiments").is_dir()


@pytest.mark.parametrize("command", ["simulate", "compare"])
@pytest.mark.parametrize(("before", "kept"), [(1, False), (2, True)])
@pytest.mark.parametrize("ending", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_ends_a_command_early_leaves_a_temporary_folder_only_with_batches_in_it_and_names_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    before: int,
    kept: bool,
    ending: BaseException,
) -> None:
    def end(number: int) -> None:
        if number == before:
            raise ending

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("serving.simulation.play", partial(play, before_batch=end))
    one = ("--algorithm", "uniform", "--encoder", "bins", "--seeds", "0", "--env", "linear", *SMALL)
    told = rewardloop(command, *one)
    assert isinstance(told.exception, Abort | OSError)
    folders = list(tmp_path.iterdir())
    assert [f"data    {folder}" for folder in folders] == told.stderr.split("\n")[: len(folders)]
    assert bool(folders) is kept


@pytest.mark.parametrize("command", ["simulate", "compare", "demo"])
def test_no_folder_is_left_by_settings_that_are_refused(tmp_path: Path, command: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[rewards]\nmin = 5.0\n")
    result = rewardloop(command, "--config", str(config), "--data-dir", str(tmp_path / "out"))
    assert isinstance(result.exception, InvalidInput) and not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    result = rewardloop("simulate", *SMALL, "--data-dir", str(tmp_path))
    assert "not empty" in str(result.exception)
