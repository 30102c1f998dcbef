"""The commands around evaluation, run as a user would: on files, and on the log of a short simulation."""

import json
import re
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from bandit.settings import ExperimentSettings
from evaluation.answer import answer
from evaluation.fast import paired_summary
from evaluation.gathering import Gathered
from evaluation.lift import paired_lift
from evaluation.ranking import rank
from evaluation.scored import ScoredRows
from joiner.parquet import write_parquet
from serving.cli import run
from serving.cli.scored_file import ScoredFile
from serving.learner.operations.evaluate import evaluate
from serving.learner.workspace import Workspace
from tests.evaluation.test_checks import greedy_log
from tests.evaluation.test_gate import classes
from tests.evaluation.worlds import make_world

WHAT_IF = Path("docs/evaluation.md").read_text().partition("## What if?")[2].partition("## Cost")[0]


def rewardloop(*arguments: str) -> tuple[int, str, str]:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = run(list(arguments))
    return code, out.getvalue(), err.getvalue()


def stored(path: Path, rows: ScoredRows) -> str:
    write_parquet(path, rows.to_frame())
    return str(path)


def test_scored_rows_in_numbers_out(tmp_path: Path) -> None:
    rows = classes(3).log(np.random.default_rng(1), 3000)
    code, out, _ = rewardloop("evaluate", "--scored", stored(tmp_path / "rows.parquet", rows), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["verdict"] == "promote"
    assert found["n"] == 3000
    assert set(found["estimators"]) == {"dm", "ips", "snips", "clipped_ips", "dr", "sndr", "switch_dr", "dros"}
    assert set(found["paired"]) >= {"lift", "se", "lower", "upper", "relative"}
    assert set(found["weight_mean_z"]) == {"candidate", "champion", "uniform"}
    lift = paired_lift(rows)
    assert found["paired"]["lift"] == pytest.approx(lift.value, abs=1e-12)
    assert found["paired"]["lower"] == pytest.approx(lift.lower, abs=1e-12)
    dr = found["estimators"]["dr"]
    assert dr["candidate"]["value"] - dr["champion"]["value"] == pytest.approx(lift.value, abs=1e-12)


def test_a_worse_candidate_and_too_few_rows_exit_with_one(tmp_path: Path) -> None:
    rows = classes(3).log(np.random.default_rng(1), 3000)
    worse = stored(tmp_path / "worse.parquet", replace(rows, candidate=rows.champion, champion=rows.candidate))
    assert rewardloop("evaluate", "--scored", worse)[0] == 1
    few = stored(tmp_path / "few.parquet", rows.slice(0, 50))
    code, out, _ = rewardloop("evaluate", "--scored", few, "--json")
    assert (code, json.loads(out)["verdict"]) == (1, "insufficient")


def test_misuse_is_one_line_and_two(tmp_path: Path) -> None:
    bad = make_world(1).log(np.random.default_rng(1), 20).to_frame()
    bad["propensity"] = 0.0
    write_parquet(tmp_path / "bad.parquet", bad)
    for arguments in (
        (),
        ("--scored", str(tmp_path / "none.parquet")),
        ("--scored", str(tmp_path / "bad.parquet")),
        ("--policy", "best", "--data-dir", str(tmp_path / "nothing")),
    ):
        code, out, err = rewardloop("evaluate", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
    assert "propensity" in rewardloop("evaluate", "--scored", str(tmp_path / "bad.parquet"))[2]


def test_the_fast_pass_gives_what_the_plain_one_gives() -> None:
    narrow = make_world(2).log(np.random.default_rng(2), 50_000)
    ragged = ScoredRows.concat([narrow.slice(0, 500), make_world(3, k=3).log(np.random.default_rng(3), 400)])
    wide = make_world(4, k=40, sharp=2.0).log(np.random.default_rng(4), 36_000)
    for rows in (narrow, wide, ragged):
        fast, plain = paired_summary(rows), paired_lift(rows)
        assert fast.lift.value == pytest.approx(plain.value, abs=1e-12)
        assert fast.lift.se == pytest.approx(plain.se, rel=1e-9)
        weights = rows.at_action(rows.candidate) / rows.propensity
        assert fast.ess[0] == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-9)
        assert (fast.mean_weight[0], fast.max_weight[0]) == pytest.approx((weights.mean(), weights.max()), rel=1e-12)
    for rows in (narrow, wide):
        assert paired_summary(replace(rows, candidate=rows.champion)).lift.value == 0.0


def test_a_policy_that_the_log_can_hardly_show_is_refused_and_comes_last() -> None:
    rows = classes(3).log(np.random.default_rng(1), 3000)
    rare = replace(rows, candidate=np.tile([1.0, 0, 0, 0, 0], 3000))
    mu = np.tile([0.0005, 0.4995, 0.2, 0.2, 0.1], 3000)
    rng = np.random.default_rng(2)
    action = 1 + rng.choice(4, size=3000, p=[0.4995 / 0.9995, 0.2 / 0.9995, 0.2 / 0.9995, 0.1 / 0.9995])
    rare = replace(rare, pmf=mu, action=action, propensity=mu[action])
    known, unknown = rank({"rare": rare, "candidate": rows})
    assert (known.policy, known.answered) == ("candidate", True)
    assert known.lower < 0.1 + 0.8 * 0.8 < known.upper
    assert not unknown.answered
    assert "needed" in unknown.answer


def test_an_interval_that_holds_every_reward_is_no_answer() -> None:
    """The candidate's other choice was never drawn, and would be once in 100,000 rows: anything may come of it."""
    rows = classes(3).log(np.random.default_rng(1), 3000)
    n, rng = len(rows), np.random.default_rng(3)
    mu = np.tile([1 - 4e-5, 1e-5, 1e-5, 1e-5, 1e-5], n)
    other = np.where(np.repeat(np.arange(n) % 5 == 0, 5), np.tile([0, 1.0, 0, 0, 0], n), np.tile([1.0, 0, 0, 0, 0], n))
    reward = (rng.random(n) < 0.5).astype(float)
    hidden = replace(
        rows, candidate=other, pmf=mu, action=np.zeros(n, int), propensity=np.full(n, 1 - 4e-5), reward=reward
    )
    (found,) = rank({"hidden": hidden})
    assert (found.answered, "holds every reward there was" in found.answer) == (False, True)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    code, _, err = rewardloop("simulate", "--interactions", "1000", "--data-dir", str(folder), "--json")
    assert code == 0, err
    return folder


def test_policies_are_ranked_on_a_log(loop: Path) -> None:
    asked = ("uniform", "champion", "greedy:champion", "action:1", "train:egreedy")
    options = [part for name in asked for part in ("--policy", name)]
    code, out, err = rewardloop("evaluate", *options, "--data-dir", str(loop), "--json")
    assert code == 0, err
    found = {entry["policy"]: entry for entry in json.loads(out)["policies"]}
    assert set(found) == set(asked)
    assert found["action:1"]["answered"]
    # .784 of all rows are of class 1; 1,000 of them have a share of their own, with a standard error of .013
    assert found["action:1"]["lower"] < 0.784 + 3 * 0.013
    assert found["action:1"]["upper"] > 0.784 - 3 * 0.013
    assert rewardloop("evaluate", "--policy", "action:none", "--data-dir", str(loop))[0] == 2
    # the champion learnt from most of the log, so that few rows may speak about it
    assert found["champion"]["n"] < found["uniform"]["n"]


def test_options_are_trained_on_the_log_and_those_that_vw_may_not_see_are_refused(loop: Path) -> None:
    asked = ("train:egreedy", "train:egreedy,epsilon=0.6", "train:egreedy,epsilon=0.6,learning_rate=1e-9,cb_type=dr")
    options = [part for name in asked for part in ("--policy", name)]
    code, out, err = rewardloop("evaluate", *options, "--data-dir", str(loop), "--json")
    assert code == 0, err
    value = {entry["policy"]: entry["value"] for entry in json.loads(out)["policies"]}
    assert value[asked[0]] > value[asked[1]] + 0.1
    assert value[asked[1]] > value[asked[2]]
    for wrong, said in (
        ("train:egreedy,epsilon=2", "exploration.epsilon: is out of range (limit: ≥ 0, ≤ 1)"),
        ("train:epsilon=much", "exploration.epsilon"),
        ("train:best", "(one of: bag, cover, egreedy, explore_first, softmax, squarecb, uniform)"),
        ("train:final_regressor=x", "NAME=VALUE of algorithm, epsilon"),
        ("train:egreedy,bag", "NAME=VALUE of algorithm, epsilon"),
        ("train:", "train:ALGORITHM,NAME=VALUE"),
    ):
        code, out, err = rewardloop("evaluate", "--policy", wrong, "--data-dir", str(loop))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


def test_what_the_scoring_process_refuses_is_one_line(loop: Path, tmp_path: Path) -> None:
    code, _, err = rewardloop("evaluate", "--policy", "uniform", "--last", "1s", "--data-dir", str(loop))
    assert (code, err) == (2, "rewardloop: evaluate: no interaction has matured in this window\n")
    for pmf, said in (([[0.5, 0.6]], "decision 0"), ([None], "row 0"), ([["much"]], "row 0")):
        write_parquet(tmp_path / "table.parquet", {"event_id": ["h0-0000000"], "pmf": pmf})
        code, _, err = rewardloop(
            "evaluate", "--policy", f"table:{tmp_path / 'table.parquet'}", "--data-dir", str(loop)
        )
        assert (code, err.count("\n"), said in err) == (2, 1, True), err


def test_an_alarm_is_about_the_log_and_takes_all_answers_from_the_same_rows_with_it() -> None:
    log = greedy_log(np.random.default_rng(2), 60_000, 0.1, fault=True, pmf=False)
    uniform = replace(log, candidate=np.full(log.values, 1 / log.lengths[0]))
    later = greedy_log(np.random.default_rng(3), 5_000, 0.1, pmf=False)
    found = {entry.policy: entry for entry in rank({"greedy": log, "uniform": uniform, "later": later})}
    assert [found[name].answered for name in ("greedy", "uniform", "later")] == [False, False, True]
    assert "not those the actions were drawn with" in found["greedy"].answer
    assert found["uniform"].answer.startswith("The same rows raise an alarm with greedy: ")


def test_the_track_record_has_what_a_champion_on_watch_has_earned_so_far(loop: Path) -> None:
    records = json.loads(rewardloop("report", "track-record", "--data-dir", str(loop), "--json")[1])["champions"]
    (history,) = loop.glob("experiments/*/history.jsonl")
    looks = [
        (run["champion"], look)
        for run in map(json.loads, history.read_text().splitlines())
        for look in run.get("verdicts", ())
        if look["challenger"] == "former" and look["lift"] is not None
    ]
    assert looks
    newest = dict(looks)
    for record in records:
        look = newest.get(record["model_id"])
        if look is not None and record["outcome"] == "not decided so far":
            assert record["realised"] == {
                "lift": -look["lift"],
                "weighed": -look["weighed"],
                "lower": -look["upper"],
                "upper": -look["lower"],
                "rows": look["rows"],
            }
    assert any(record["outcome"] == "not decided so far" for record in records)


def test_the_track_record_lists_a_first_promotion_over_the_cold_start_and_says_why_it_is_empty(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    experiment = Experiment.create(tmp_path, "shop", ExperimentSettings(), now=now)
    past = ModelRegistry(experiment.paths).history
    past.record("initial", now=now, model_id="m0")
    code, out, err = rewardloop("report", "track-record", "--data-dir", str(tmp_path))
    assert (code, out) == (0, "") and err.startswith("No model was promoted by the gate so far.")
    figures = {"lift": 0.2, "weighed": 0.25, "lower": 0.1, "upper": 0.4}
    past.record("promotion", now=now, model_id="m1", previous=None, evaluation_id="e1", **figures)
    (record,) = json.loads(rewardloop("report", "track-record", "--data-dir", str(tmp_path), "--json")[1])["champions"]
    assert (record["model_id"], record["previous"], record["predicted"]) == ("m1", None, figures)
    assert (record["realised"], record["outcome"]) == (None, "no champion before")
    assert "+0.2500" in rewardloop("report", "track-record", "--data-dir", str(tmp_path))[1]


def test_from_python_the_ranking_is_a_frame_with_the_documented_columns(loop: Path) -> None:
    (folder,) = (loop / "experiments").iterdir()
    workspace = Workspace(Experiment.open(loop, folder.name), lambda: datetime.now(UTC))
    frame = evaluate(workspace, policies=["uniform", "action:1"])
    workspace.close()
    documented = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", WHAT_IF, re.MULTILINE)))
    assert list(frame.columns) == documented
    assert list(frame["policy"]) == ["action:1", "uniform"]
    assert frame["value"].is_monotonic_decreasing
    assert ((frame["lower"] < frame["value"]) & (frame["value"] < frame["upper"])).all()


def test_an_evaluation_is_restricted_to_a_time_a_mode_a_slice_a_model_or_an_origin_as_a_join_is(loop: Path) -> None:
    common = ("--data-dir", str(loop), "--json")

    def found(command: str, *options: str) -> int:
        code, out, err = rewardloop(command, *options, *common)
        assert code in (0, 1), err  # 1: too few rows to tell what the policy is worth
        return int(json.loads(out)["interactions"])

    everything = found("join")
    (model,) = (row[0] for row in _sql(loop, "SELECT model_id FROM interactions GROUP BY 1 ORDER BY count(*) LIMIT 1"))
    ((median,),) = _sql(loop, "SELECT quantile_disc(decided_at, 0.5) FROM interactions")
    for options in (("--until", median), ("--since", median, "--origin", "live"), ("--model", model)):
        wanted = found("join", *options)
        assert found("evaluate", "--policy", "uniform", *options) == wanted
        assert wanted <= everything
    assert found("evaluate", "--policy", "uniform", "--logged-mode", "online", "--slice", "policy") == found(
        "join", "--mode", "online", "--slice", "policy"
    )
    code, _, err = rewardloop("evaluate", "--policy", "uniform", "--logged-mode", "apprentice", *common)
    assert (code, "no interaction" in err) == (2, True)
    code, _, err = rewardloop("evaluate", "--scored", "any.parquet", "--slice", "policy", *common)
    assert (code, "--slice" in err) == (2, True)


def _sql(data_dir: Path, query: str) -> list[list[str]]:
    answer: dict[str, list[list[str]]] = json.loads(rewardloop("sql", query, "--data-dir", str(data_dir), "--json")[1])
    return [list(row.values()) if isinstance(row, dict) else row for row in answer["rows"]]


def test_a_table_of_probabilities_is_a_policy_too(loop: Path, tmp_path: Path) -> None:
    exported = tmp_path / "interactions.parquet"
    export = ("export", "--what", "interactions", "--format", "parquet", "--out", str(exported))
    assert rewardloop(*export, "--data-dir", str(loop))[0] == 0
    from joiner.parquet import read_parquet

    events = list(read_parquet(exported, columns=["event_id"])["event_id"])
    write_parquet(tmp_path / "table.parquet", {"event_id": events, "pmf": [[1.0, 0, 0, 0, 0, 0, 0]] * len(events)})
    asked = ("--policy", f"table:{tmp_path / 'table.parquet'}", "--policy", "action:1")
    code, out, err = rewardloop("evaluate", *asked, "--data-dir", str(loop), "--json")
    assert code == 0, err
    first, second = json.loads(out)["policies"]
    assert first["value"] == pytest.approx(second["value"], abs=1e-12)


def test_every_evaluation_of_a_loop_verifies_and_a_touched_one_does_not(loop: Path) -> None:
    folders = sorted(loop.glob("experiments/*/evaluations/e*"))
    assert len(folders) >= 2
    assert rewardloop("report", "verify", folders[-1].name, "--data-dir", str(loop), "--from-log")[0] == 0
    assert rewardloop("report", "history", "--data-dir", str(loop), "--json")[0] == 0
    assert rewardloop("report", "track-record", "--data-dir", str(loop), "--json")[0] == 0
    path = folders[-1] / "certificate.json"
    whole = path.read_bytes()
    cert = json.loads(whole)
    cert["rows"]["n"] += 1
    path.write_text(json.dumps(cert))
    code, out, _ = rewardloop("report", "verify", folders[-1].name, "--data-dir", str(loop))
    path.write_bytes(whole)
    assert code == 1
    assert "rows.n" in out
    for name, said in (
        ("certificate.json", "certificate.json cannot be read"),
        ("scored.parquet", "scored"),
        ("report.html", "report.html is not the page"),
    ):
        path = folders[-1] / name
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b'"format"', b'"format', 1) if name.endswith("json") else whole[:-40])
        code, out, err = rewardloop("report", "verify", folders[-1].name, "--data-dir", str(loop))
        path.write_bytes(whole)
        assert (code, said in out, "Traceback" in err) == (1, True, False), (name, out, err)
    assert rewardloop("report", "verify", folders[-1].name, "--data-dir", str(loop))[0] == 0
    assert rewardloop("report", "verify", "e-none", "--data-dir", str(loop))[0] == 2


def _close(one: object, other: object) -> bool:
    """Whether two JSON values are the same, numbers to 1e-12."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-12, abs=1e-12)
    return one == other


@pytest.mark.parametrize("columns", ["all", "few"])
def test_a_file_read_in_pieces_gives_the_numbers_of_the_rows_in_memory(tmp_path: Path, columns: str) -> None:
    narrow = make_world(41).log(np.random.default_rng(1), 2500)
    rows = ScoredRows.concat([narrow, make_world(42, k=3).log(np.random.default_rng(2), 700)])
    sure = np.arange(len(rows)) % 50 == 0
    rows = replace(rows, propensity=np.where(sure, 1.0, rows.propensity))
    if columns == "all":
        times = np.datetime64("2026-01-01") + np.arange(len(rows)).astype("timedelta64[m]")
        names = [f"é{i // 3}" for i in range(len(rows))]
        rows = replace(
            rows,
            cluster=names,
            segment=["a", "b"] * 1600,
            event_id=[f"e{i}" for i in range(len(rows))],
            decided_at=times,
        )
    else:
        rows = replace(rows, pmf=None)
    file = ScoredFile(Path(stored(tmp_path / "rows.parquet", rows)), vectors=1)
    assert [len(chunk) for chunk in file.chunks()] == [2048, 1152]
    assert file.digest() == rows.digest()
    found, whole = (json.loads(json.dumps(answer(source))) for source in (file, rows))
    assert found["excluded"] == {"no_support": 64}
    assert _close(found, whole)
    assert [part["n"] for part in found["segments"]] == ([1600, 1536] if columns == "all" else [])


def test_a_file_takes_no_more_memory_when_it_has_more_rows(tmp_path: Path) -> None:
    """Python's own allocations while a file is evaluated; DuckDB reads it a row group at a time."""
    peaks = []
    for n in (4_000, 12_000):
        path = stored(tmp_path / f"{n}.parquet", make_world(43).log(np.random.default_rng(1), n))
        file = ScoredFile(Path(path), vectors=1)
        tracemalloc.start()
        Gathered.of(file)
        file.digest()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
