"""simulate, compare and plan as they are typed: same seed, same bytes; files where they say; misuse in one line."""

from __future__ import annotations

import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click import ClickException
from click.testing import CliRunner, Result

from bandit.errors import InvalidInput
from serving.cli import cli
from serving.cli.plan import parse_traffic
from simulator.planning import Assumptions, ImpossiblePlan, exploration_cost, rows_needed, simulate_log
from simulator.runner import play
from simulator.style import drawable, label

SMALL = ("--interactions", "100", "--batch", "50", "--warm-start", "40", "--jobs", "1")


def rewardloop(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False, catch_exceptions=True)


def said(result: Result) -> dict[str, Any]:
    assert result.exception is None, result.exception
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


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


def test_any_labelled_table_is_a_world(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{i % 7},{'red' if i % 2 else 'blue'},{'a|b: c' if i % 2 else ''}" for i in range(60)]
    table.write_text("\n".join(["size,colour,kind", *rows, "3,,x", ",red,y"]))
    answer = said(
        rewardloop(
            *("simulate", "--env", "table", "--data", str(table), "--label", "kind", *SMALL, "--json"),
            *("--data-dir", str(tmp_path / "out")),
        )
    )
    assert 0 <= answer["mean"]["mean_reward"] <= 1


def refused(command: str, table: Path, *more: str) -> str:
    """What a table is refused with, before a data directory is made for it."""
    out = table.with_name("out")
    result = rewardloop(
        command, "--env", "table", "--data", str(table), "--label", "kind", "--data-dir", str(out), *more
    )
    assert isinstance(result.exception, InvalidInput) and not out.exists()
    return str(result.exception)


@pytest.mark.parametrize("command", ["simulate", "compare"])
def test_a_cell_beyond_a_limit_is_refused_by_its_place_before_anything_is_played(tmp_path: Path, command: str) -> None:
    table = tmp_path / "table.csv"
    lines = [f"{i},short,{'ab'[i % 2]}" for i in range(2000)]
    lines[3] = "1,short,"
    lines[1234] = f"1,{'z' * 1025},a"
    table.write_text("\n".join(["size,t,kind", *lines]))
    assert refused(command, table) == (
        "--data: table.csv: column t, row 1,235, is too long (limit: limits.text_length_max = 1024 characters)"
    )
    table.write_text("\n".join(["size,t,kind", *lines[:3], "1,a\x01b,a"]))
    assert refused(command, table) == (
        "--data: table.csv: column t, row 4, holds a control character or a lone surrogate"
    )
    table.write_text("\n".join([f"size,{'n' * 257},kind", *lines[:3]]))
    assert refused(command, table) == (
        "--data: table.csv: the name of column 2 is too long (limit: limits.name_length_max = 256 characters)"
    )


@pytest.mark.parametrize(
    ("content", "words"), [("", "--data: table.csv is empty"), ("kind\n", "the table has no rows")]
)
def test_a_table_of_nothing_is_said_to_be_one(tmp_path: Path, content: str, words: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(content)
    assert words in refused("simulate", table)


def test_rows_without_a_label_are_counted_in_what_is_said_of_the_run(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["size,kind", *(f"{i},{['a', 'b', ''][i % 3]}" for i in range(60))]))
    command = ("simulate", "--env", "table", "--data", str(table), "--label", "kind", *SMALL, "--json")
    result = rewardloop(*command, "--data-dir", str(tmp_path / "out"))
    assert said(result)["data"] == {"rows": 40, "left_out": {"no label": 20}}
    assert "20 of 60 rows are left out: no label" in result.stderr.splitlines()
    assert "left out: no label" in (tmp_path / "out/simulation.html").read_text("utf-8")


def test_a_row_of_too_many_features_is_refused_and_missing_cells_are_none(tmp_path: Path) -> None:
    table, full, half = tmp_path / "table.csv", ",".join(["1"] * 1200), ",".join(["1"] * 600 + [""] * 600)
    head = ",".join([*(f"c{i}" for i in range(1200)), "kind"])
    table.write_text("\n".join([head, f"{half},a", f"{full},b"]))
    assert refused("simulate", table) == (
        "--data: table.csv: row 2 has 1,200 features, which are too many (limit: limits.features_max = 1000)"
    )
    config = tmp_path / "c.toml"
    config.write_text("[limits]\nfeatures_max = 500\n")
    table.write_text("\n".join([head, f"{half},a", f"{half},b"]))
    assert "row 1 has 600 features" in refused("simulate", table, "--config", str(config))
    said(rewardloop("simulate", "--env", "table", "--data", str(table), "--label", "kind", "--json",
                    "--interactions", "4", "--batch", "4", "--warm-start", "0",
                    "--data-dir", str(tmp_path / "played")))  # fmt: skip


@pytest.mark.parametrize(
    "labels", [("no", "yes"), ("F", "T"), ("2020-01-02", "2020-1-2"), ("10:30", "10:30:00"), ("1", "1.0")]
)
def test_the_labels_of_a_csv_are_the_actions_to_the_letter(tmp_path: Path, labels: tuple[str, str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["size,kind", *(f"{i % 7},{labels[i % 2]}" for i in range(60))]))
    command = ("simulate", "--env", "table", "--data", str(table), "--label", "kind", *SMALL)
    said(rewardloop(*command, "--json", "--data-dir", str(tmp_path / "out")))
    (stored,) = tmp_path.glob("out/experiments/*/catalogues/1.json")
    assert [action["id"] for action in json.loads(stored.read_text())] == list(labels)


def test_compare_tells_encoders_and_algorithms_apart_on_the_same_seeds(tmp_path: Path) -> None:
    result = rewardloop(
        *("compare", "--env", "linear", "--algorithm", "egreedy,default", *SMALL, "--seeds", "0-1", "--json"),
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
        (("simulate", "--url", "nowhere"), "--url"),
        (("simulate", "--env", "linear", "--url", "http://127.0.0.1:1", "--interactions", "1"), "--url"),
        (("simulate", "--url", "http://127.0.0.1:1", "--gate", "off"), "--gate"),
        (("simulate", "--url", "http://127.0.0.1:1", "--algorithm", "bag"), "--algorithm"),
        (("simulate", "--url", "http://127.0.0.1:1", "--continuous"), "--continuous"),
        (("simulate", "--url", "http://127.0.0.1:1", "--jobs", "2"), "--jobs"),
        (("plan", "--value", "0.5"), "--value"),
        (("plan", "--actions", "3", "--traffic", "5/day", "--lift", "1e-300"), "--lift"),
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


def test_on_a_narrow_screen_a_picture_is_moved_sideways_rather_than_made_illegible(tmp_path: Path) -> None:
    said(rewardloop("simulate", "--env", "linear", *SMALL, "--json", "--data-dir", str(tmp_path)))
    page = (tmp_path / "simulation.html").read_text("utf-8")
    width = int.from_bytes((tmp_path / "simulation.png").read_bytes()[16:20], "big")
    assert f'style="min-width: {int(0.4 * width)}px"' in page and width * 0.4 > 390


def test_labels_that_look_like_formulas_and_long_ones_are_drawn_as_they_are(tmp_path: Path) -> None:
    table = tmp_path / "$\\frac$.csv"
    labels = ["$\\bad{$", "<b>", "x" * 300, "😀"]
    table.write_text("\n".join(["size,kind", *(f"{i},{labels[i % 4]}" for i in range(40))]), "utf-8")
    command = ("simulate", "--env", "table", "--data", str(table), "--label", "kind", *SMALL, "--json")
    said(rewardloop(*command, "--data-dir", str(tmp_path / "out")))
    picture = (tmp_path / "out/simulation.png").read_bytes()
    assert int.from_bytes(picture[16:20], "big") < 2000


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("Žluťoučký kůň, العربية", "Žluťoučký kůň, العربية"),
        ("日本語", "\\u65e5\\u672c\\u8a9e"),
        ("hot dog 🌭", "hot dog [hot dog]"),
        ("👩\u200d💻", "[woman][personal computer]"),
        ("𒀀", "\\U00012000"),
    ],
)
def test_what_the_font_lacks_is_written_out_in_pictures(text: str, drawn: str) -> None:
    assert drawable(text).replace("\u200d", "") == drawn
    assert label(text, 4) == (text[:3] + "…" if drawn == text else drawn[:7] + "…")


def test_names_that_the_font_lacks_are_drawn_without_a_warning_and_stay_themselves_in_data(tmp_path: Path) -> None:
    table, names = tmp_path / "表🌭.csv", ["日本語", "한국어", "hot dog 🌭"]
    table.write_text("\n".join(["size,kind", *(f"{i},{names[i % 3]}" for i in range(60))]), "utf-8")
    command = ("simulate", "--env", "table", "--data", str(table), "--label", "kind", *SMALL, "--json")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        said(rewardloop(*command, "--data-dir", str(tmp_path / "out")))
    assert [str(one.message) for one in heard if "Glyph" in str(one.message)] == []
    (stored,) = tmp_path.glob("out/experiments/*/catalogues/1.json")
    assert {action["id"] for action in json.loads(stored.read_text("utf-8"))} == set(names)
    page = (tmp_path / "out/simulation.html").read_text("utf-8")
    assert "rewardloop on 表🌭.csv" in page
    assert "<td>\\u65e5\\u672c\\u8a9e</td><td>日本語</td>" in page


def a_log(path: Path) -> Path:
    """Sixty rows over two actions, half of them rewarded; one more that was too rare and two that are none."""
    rows = [{"context": {"n": i}, "action": "ab"[i % 2], "probability": 0.5, "reward": i % 2} for i in range(60)]
    rows += [rows[0] | {"probability": 0.0005}, {"context": {}}]
    path.write_text("\n".join([*(json.dumps(row) for row in rows), "[]"]))
    return path


def test_a_replay_says_in_summary_json_and_page_how_much_of_it_counts_and_leaves_out_what_nobody_knows(
    tmp_path: Path,
) -> None:
    log = a_log(tmp_path / "log.ndjson")
    command = ("simulate", "--env", "replay", "--data", str(log), *SMALL, "--seeds", "0-2")
    result = rewardloop(*command, "--data-dir", str(tmp_path / "out"))
    assert result.exception is None, result.exception
    assert "nan" not in result.stdout and "–" in result.stdout
    page = (tmp_path / "out/simulation.html").read_text("utf-8")
    assert (
        "of them met the logged action and count" in page and "nan" not in page.replace("base64", "").split("<h2>")[1]
    )
    answer = said(rewardloop(*command, "--json", "--data-dir", str(tmp_path / "told")))
    counts = [one["counted"] for one in answer["seeds"]]
    assert all(one["asked"] == 100 > one["counted"] > 0 for one in answer["seeds"])
    assert answer["mean"]["counted"] == pytest.approx(sum(counts) / 3)
    assert all(f"{count} of 100" in line for count, line in zip(counts, result.stdout.splitlines()[1:], strict=False))


def test_rows_of_a_log_that_cannot_be_replayed_are_counted_by_their_reason(tmp_path: Path) -> None:
    log = a_log(tmp_path / "log.ndjson")
    command = ("simulate", "--env", "replay", "--data", str(log), *SMALL)
    result = rewardloop(*command, "--json", "--data-dir", str(tmp_path / "out"))
    assert said(result)["data"] == {
        "rows": 60,
        "left_out": {
            "a probability below 0.001, too rare to replay by": 1,
            "no object with a context and an action": 2,
        },
    }
    assert "1 of 63 rows are left out: a probability below 0.001, too rare to replay by" in result.stderr
    assert "Rows of the data" in (tmp_path / "out/simulation.html").read_text("utf-8")


def test_a_comparison_by_replay_says_how_much_of_it_counts(tmp_path: Path) -> None:
    log = a_log(tmp_path / "log.ndjson")
    command = ("compare", "--env", "replay", "--data", str(log), "--algorithm", "uniform", "--encoder", "bins", *SMALL)
    result = rewardloop(*command, "--seeds", "0", "--data-dir", str(tmp_path / "out"))
    columns, values = result.stdout.splitlines()[:2]
    assert "counted" in columns.split() and 0 < int(values.split()[columns.split().index("counted") + 1]) < 100


def test_a_replay_of_which_nothing_counts_asks_for_more(tmp_path: Path) -> None:
    rows = [{"context": {}, "action": "a", "probability": p, "reward": 1} for p in [1.0] * 300 + [0.001]]
    log = tmp_path / "log.ndjson"
    log.write_text("\n".join(json.dumps(row) for row in rows))
    result = rewardloop("simulate", "--env", "replay", "--data", str(log), "--interactions", "2", "--warm-start", "0",
                        "--data-dir", str(tmp_path / "out"))  # fmt: skip
    assert "--interactions" in str(result.exception) and "none met" in str(result.exception)


def test_a_missing_label_column_is_answered_with_the_columns_there_are(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("size,kind\n1,a\n2,b\n")
    result = rewardloop("simulate", "--env", "table", "--data", str(table), "--label", "sort")
    assert "--label" in str(result.exception) and "size, kind" in str(result.exception)


def test_a_log_says_what_exploring_costs_too(tmp_path: Path) -> None:
    simulated = ("--env", "statlog", "--interactions", "400", "--batch", "200", "--warm-start", "50", "--jobs", "1")
    said(rewardloop("simulate", *simulated, "--json", "--data-dir", str(tmp_path)))
    answer = said(rewardloop("plan", "--data-dir", str(tmp_path), "--traffic", "1000/day", "--json"))
    assert 0 < answer["cost_per_day"] < 1000 and answer["cost_per_day_se"] > 0
    assert answer["gain_per_day"] == pytest.approx(0.1 * answer["value"] * 1000)


def test_a_plan_rests_on_the_newest_evaluation_that_had_enough_evidence_and_on_no_other(tmp_path: Path) -> None:
    simulated = ("--env", "statlog", "--interactions", "400", "--batch", "200", "--warm-start", "50", "--jobs", "1")
    said(rewardloop("simulate", *simulated, "--json", "--data-dir", str(tmp_path)))
    command = ("plan", "--data-dir", str(tmp_path), "--traffic", "1000/day")
    answer = said(rewardloop(*command, "--json"))
    (chosen,) = tmp_path.glob(f"experiments/*/evaluations/{answer['evaluation']}")
    thin = chosen.with_name("e99991231t000000-00000000")
    shutil.copytree(chosen, thin)
    certificate = json.loads((thin / "certificate.json").read_text())
    certificate["lift"]["se"] = 1e-4
    rows = next(check for check in certificate["checks"] if check["name"] == "rows")
    rows |= {"status": "insufficient", "text": "7 rows, 200 are needed."}
    (thin / "certificate.json").write_text(json.dumps(certificate))
    assert said(rewardloop(*command, "--json")) == answer
    for other in thin.parent.glob("e*"):
        if other != thin:
            shutil.rmtree(other)
    refused = str(rewardloop(*command).exception)
    assert "no evaluation with enough evidence" in refused and "7 rows, 200 are needed" in refused


def test_a_plan_names_no_fewer_rows_than_the_gate_looks_at(tmp_path: Path) -> None:
    simulated = ("--env", "statlog", "--interactions", "400", "--batch", "200", "--warm-start", "50", "--jobs", "1")
    said(rewardloop("simulate", *simulated, "--json", "--data-dir", str(tmp_path)))
    assert said(rewardloop("plan", "--data-dir", str(tmp_path), "--lift", "50", "--json"))["rows"] == 200


def test_a_small_share_of_exploration_is_shown_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.cli.plan.SIMULATED_RUNS", 1)
    result = rewardloop("plan", "--actions", "100", "--traffic", "1000/day", "--exploration", "0.001")
    assert result.stdout.splitlines()[2].startswith("0.1%") and "with 0.1% exploration" in result.stderr


def test_the_cost_of_exploring_is_that_of_the_world_behind_the_log() -> None:
    import numpy as np

    assumed = Assumptions(actions=4, lift=0.5, value=0.3, exploration=0.2)
    log = simulate_log(assumed, 50_000, np.random.default_rng(0))
    cost, error = exploration_cost(log.champion, log.q, log.action, log.reward)
    # where the challenger's favourite is another one, exploring also finds what is better
    found = assumed.differing * (assumed.value / 2 + assumed.advantage) * assumed.exploration / assumed.actions
    assert abs(cost - (assumed.cost - found)) < 3 * error


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    result = rewardloop("simulate", *SMALL, "--data-dir", str(tmp_path))
    assert "not empty" in str(result.exception)


def test_plan_says_rows_time_and_cost_and_what_the_gate_does_with_them() -> None:
    answer = said(rewardloop("plan", "--actions", "3", "--lift", "1", "--traffic", "1000/hour", "--exploration", "0.2",
                             "--json"))  # fmt: skip
    costs = {row["exploration"]: row for row in answer["explorations"]}
    assert costs[0.01]["rows"] > costs[0.2]["rows"] > 0
    assert costs[0.01]["cost_per_day"] < costs[0.2]["cost_per_day"]
    assert costs[0.05]["days"] == pytest.approx(costs[0.05]["rows"] / 24_000)
    gate = answer["gate"]
    assert gate["promoted"] == gate["runs"]
    assert gate["equal_promoted"] <= 2


def test_a_plan_for_many_actions_looks_at_shorter_logs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.cli.plan.SIMULATED_RUNS", 1)
    command = ("plan", "--actions", "1000", "--traffic", "1000/day")
    assert said(rewardloop(*command, "--json"))["gate"]["rows_max"] == 1000
    assert "within 1,000 rows" in rewardloop(*command).stderr


def test_the_planned_deviation_is_that_of_a_simulated_log() -> None:
    import numpy as np

    from evaluation.scored import ScoredRows

    assumed = Assumptions(actions=4, lift=0.5, value=0.3, exploration=0.2, differing=0.4)
    log = simulate_log(assumed, 200_000, np.random.default_rng(0))
    truth = np.full_like(log.q, 0.0)
    truth[:] = 2 * log.q - assumed.value  # the simulated reward model knows half the truth; the plan assumes all of it
    rows = ScoredRows.from_matrices(
        candidate=log.candidate,
        champion=log.champion,
        q=truth,
        action=log.action,
        reward=log.reward,
        propensity=log.propensity,
    )
    lift = rows.reduce().lift
    error = lift.std() / np.sqrt(len(lift))
    assert abs(lift.mean() - assumed.lift * assumed.served) < 4 * error
    assert lift.std() == pytest.approx(assumed.deviation(), rel=0.03)


def test_rows_needed_follow_the_square_of_deviation_over_effect() -> None:
    assert rows_needed(1.0, 0.1) == pytest.approx(6.1826 * 100, rel=0.01)
    assert rows_needed(2.0, 0.1) == pytest.approx(4 * rows_needed(1.0, 0.1), rel=0.01)
    with pytest.raises(ImpossiblePlan):
        Assumptions(actions=2, lift=10.0, value=0.5)


@pytest.mark.parametrize(
    ("text", "per_day"),
    [("50000/day", 50_000), ("20/min", 28_800), ("1,000/hour", 24_000), ("7/week", 1), ("2/s", 172_800)],
)
def test_traffic_is_a_number_per_time(text: str, per_day: float) -> None:
    assert parse_traffic(text) == pytest.approx(per_day)
