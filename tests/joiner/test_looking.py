"""Looking into the warehouse: joins over a window, the ledger of one event, and SQL that can only read."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from bandit.errors import InvalidInput, NotFound, Refused
from bandit.events import Event
from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from joiner.copy import copy_warehouse
from joiner.ledger import trace
from joiner.parquet import read_parquet
from joiner.query import run_query
from joiner.warehouse import Warehouse
from joiner.window import join, parse_duration, summarise, window, write
from tests.joiner import logs
from tests.joiner.logs import START, activation, at, decision, experiment, reward
from tests.joiner.test_files import metadata_of

NOW = START + timedelta(hours=100)
DOCUMENTED_VIEWS = ("decisions", "rewards", "interactions", "runs", "models", "health", "delays")


@pytest.fixture
def target(tmp_path: Path) -> Experiment:
    """Decisions every half hour over 100 hours, a third of them rewarded; the last two wait."""
    made = experiment(tmp_path, window_s=5400.0)
    hours = [n / 2 for n in range(200)]
    logs.write(made, [decision(f"e{n}", hour * 3600) for n, hour in enumerate(hours)])
    logs.write(made, [reward(f"e{n}", hour * 3600 + 60, 1.0) for n, hour in enumerate(hours) if n % 3 == 0], "w1")
    return made


def opened(target: Experiment) -> Warehouse:
    warehouse = Warehouse(target)
    warehouse.ingest(logs.write(target, []))
    warehouse.join(NOW)
    return warehouse


def test_join_of_the_last_72_hours_equals_an_independent_filter_on_decided_at(target: Experiment) -> None:
    with opened(target) as warehouse:
        rows = window(NOW, last="72h")
        frame, everything = join(warehouse, rows), join(warehouse, window(NOW))
        summary = summarise(warehouse, rows, now=NOW)
    start = NOW - timedelta(hours=72)
    expected = everything[everything["decided_at"] >= start].reset_index(drop=True)
    assert frame.equals(expected)
    assert 0 < len(frame) < len(everything) == 198
    assert summary.decisions == 144 and summary.interactions == len(frame) == 142 and summary.waiting == 2
    assert summary.first_matures_at == START + timedelta(hours=99, seconds=5400)
    assert sum(summary.rewards.values()) == len([n for n in range(200) if n % 3 == 0 and n / 2 >= 28])


def test_a_window_is_stated_in_the_files_metadata(target: Experiment, tmp_path: Path) -> None:
    with opened(target) as warehouse:
        rows = window(NOW, since="2026-03-02", until="2026-03-03T00:00:00Z", model_id="m1")
        summary = summarise(warehouse, rows, now=NOW)
        count = write(warehouse, tmp_path / "w.parquet", rows, summary, form="parquet")
        assert write(warehouse, tmp_path / "w.ndjson", rows, summary, form="ndjson") == count
    metadata = metadata_of(tmp_path / "w.parquet")
    assert metadata["since"] == "2026-03-02T00:00:00+00:00" and metadata["until"] == "2026-03-03T00:00:00+00:00"
    assert metadata["model_id"] == "m1" and metadata["experiment"] == "test" and metadata["interactions"] == "48"
    assert json.loads(metadata["rewards"]) == {"counted": 16}
    assert len(read_parquet(tmp_path / "w.parquet")) == count == 48


def test_filters_restrict_by_mode_slice_model_and_origin(tmp_path: Path) -> None:
    made = experiment(tmp_path)
    logs.write(made, [decision("a", 0), decision("b", 1, slice="control"), decision("c", 2, model_id="m2")])
    with opened(made) as warehouse:
        assert list(join(warehouse, window(NOW, slice="control"))["event_id"]) == ["b"]
        assert list(join(warehouse, window(NOW, model_id="m2"))["event_id"]) == ["c"]
        assert len(join(warehouse, window(NOW, mode="online", origin="live"))) == 3
        assert join(warehouse, window(NOW, origin="import")).empty


@pytest.mark.parametrize("field", ["mode", "slice", "origin"])
def test_a_value_that_no_decision_can_have_is_refused(field: str) -> None:
    with pytest.raises(InvalidInput, match=f"{field}: is not one of the values there are"):
        window(NOW, **{field: "nonsense"})


@pytest.mark.parametrize(
    "options",
    [
        {"last": "soon"},
        {"last": "-3h"},
        {"since": "x"},
        {"last": "1h", "since": "2026-01-01"},
        {"since": "2026-01-02", "until": "2026-01-01"},
        {"mode": "onlin"},
        {"slice": "controls"},
    ],
)
def test_a_window_that_means_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        window(NOW, **options)


def test_lengths_of_time_are_read_with_their_unit() -> None:
    assert parse_duration("72h") == timedelta(hours=72)
    assert parse_duration("1.5 d") == timedelta(hours=36)
    assert parse_duration("90s") == parse_duration("1.5m") == timedelta(seconds=90)


# -- the ledger ------------------------------------------------------------------------------------------


def test_the_ledger_says_of_every_event_where_it_is_and_of_every_reward_what_became_of_it(tmp_path: Path) -> None:
    made = experiment(tmp_path)
    registry = ModelRegistry(made.paths, durable=False)
    records = [
        decision("rewarded", 0),
        reward("rewarded", 1, 0.5),
        reward("rewarded", 2, 0.5),
        reward("rewarded", 3, 1.0, action="b"),
        reward("rewarded", 70, 0.25),
        decision("silent", 0),
        decision("torn", 0, "a"),
        decision("torn", 1, "b"),
        reward("torn", 2, 1.0),
        decision("shy", 0, deferred=True),
        decision("shown", 0, deferred=True),
        activation("shown", 5),
        decision("young", 90),
        reward("young", 91, 1.0),
        reward("nobody", 5, 1.0),
    ]
    logs.write(made, records)
    with Warehouse(made) as warehouse:
        warehouse.ingest(logs.write(made, []))
        warehouse.join(at(100))
        found = {
            name: trace(warehouse, registry, name, now=at(100))
            for name in ("rewarded", "silent", "torn", "shy", "shown", "young", "nobody")
        }
        with pytest.raises(NotFound):
            trace(warehouse, registry, "never heard of", now=at(100))
    assert {name: answer["state"] for name, answer in found.items()} == {
        "rewarded": "rewarded",
        "silent": "defaulted",
        "torn": "conflict",
        "shy": "not_activated",
        "shown": "defaulted",
        "young": "waiting",
        "nobody": "rewarded_only",
    }
    outcomes = [entry["outcome"] for entry in found["rewarded"]["rewards"]]
    assert outcomes == ["counted", "duplicate", "action_mismatch", "late"]
    assert found["rewarded"]["interaction"]["reward"] == 0.5
    assert found["rewarded"]["decision"]["context"] == {"x": 1.5, "Ab": "ü|:", "ab": [1, 2]}
    assert len(found["torn"]["repeated_decisions"]) == 1
    assert "12:02:30" in found["young"]["why"]
    assert [entry["outcome"] for entry in found["nobody"]["rewards"]] == ["unknown"]


def test_the_id_of_a_request_for_several_slots_is_told_with_those_that_rewards_count_for(tmp_path: Path) -> None:
    made = experiment(tmp_path)
    registry = ModelRegistry(made.paths, durable=False)
    records = [decision(f"page:{slot}", 0, slot=slot) for slot in (1, 2, 3, 4)]
    records += [decision(f"silent:{slot}", 0, slot=slot) for slot in (1, 2)]
    records += [reward("page", 1, 1.0), reward("page:2", 1, 1.0), decision("alone:1", 0)]
    with Warehouse(made) as warehouse:
        warehouse.ingest(logs.write(made, records))
        warehouse.join(at(100))
        page, silent, second = (trace(warehouse, registry, name, now=at(100)) for name in ("page", "silent", "page:2"))
        with pytest.raises(NotFound):
            trace(warehouse, registry, "alone", now=at(100))
    assert page["state"] == silent["state"] == "several_slots"
    assert page["slots"] == ["page:1", "page:2", "page:3", "page:4"]
    assert page["why"].endswith(": page:1, page:2, page:3, …. What was reported under this id never counts.")
    assert page["rewards"][0]["why"] == "names no slot: never counts"
    assert silent["why"].endswith("rewarded as such: silent:1, silent:2.")
    assert (second["state"], second["slots"]) == ("rewarded", [])


@pytest.mark.parametrize(
    ("aggregation", "outcomes", "whys", "value", "of"),
    [
        ("first", ["counted", "in_time", "in_time"], ["in time; a reward before it counts"] * 2, 0.5, "the first"),
        ("last", ["in_time", "in_time", "counted"], ["in time; a reward after it counts"] * 2, 0.75, "the last"),
        (
            "min",
            ["in_time", "counted", "in_time"],
            ["in time; a lower reward counts", "in time; a lower reward counts"],
            0.25,
            "the lowest",
        ),
        ("max", ["in_time", "in_time", "counted"], ["in time; a higher reward counts"] * 2, 0.75, "the highest"),
        ("sum", ["counted"] * 3, [], 1.5, "the sum"),
        ("mean", ["counted"] * 3, [], 0.5, "the mean"),
    ],
)
def test_the_ledger_says_which_of_several_rewards_counts_and_why_the_others_do_not(
    tmp_path: Path, aggregation: str, outcomes: list[str], whys: list[str], value: float, of: str
) -> None:
    made = experiment(tmp_path, aggregation=aggregation)
    numbers = [(10, 0.5), (20, 0.25), (30, 0.75)]
    records: list[Event] = [decision("done", 0), decision("open", 90)]
    records += [reward("done", at_s, number, reward_id=f"r{at_s}") for at_s, number in numbers]
    records += [reward("open", 90 + at_s / 10, number, reward_id=f"r{at_s}") for at_s, number in numbers]
    records += [reward("done", 40, 0.25, reward_id="r20"), reward("done", 70, -1.0, reward_id="late")]
    logs.write(made, records)
    with Warehouse(made) as warehouse:
        warehouse.ingest(logs.write(made, []))
        warehouse.join(at(100))
        registry = ModelRegistry(made.paths, durable=False)
        done, still_open = (trace(warehouse, registry, name, now=at(100)) for name in ("done", "open"))
    assert done["decision"]["aggregation"] == aggregation
    assert [entry["outcome"] for entry in done["rewards"]] == [*outcomes, "duplicate", "late"]
    assert [entry["why"] for entry in done["rewards"] if entry["outcome"] == "in_time"] == whys
    assert done["interaction"]["reward"] == value and f"{of} of 3 reports" in done["why"]
    waiting = [outcome.replace("counted", "waiting") for outcome in outcomes]
    assert [entry["outcome"] for entry in still_open["rewards"]] == waiting
    unless = [" unless a " in entry["why"] for entry in still_open["rewards"] if entry["outcome"] == "waiting"]
    assert unless == [aggregation in ("last", "min", "max")] * len(unless)


def test_of_equal_rewards_the_ledger_says_that_an_equal_one_counts(tmp_path: Path) -> None:
    made = experiment(tmp_path, aggregation="max")
    logs.write(made, [decision("e", 0), *(reward("e", at_s, 0.5, reward_id=f"r{at_s}") for at_s in (5, 6))])
    with Warehouse(made) as warehouse:
        warehouse.ingest(logs.write(made, []))
        warehouse.join(at(100))
        told = trace(warehouse, ModelRegistry(made.paths, durable=False), "e", now=at(100))["rewards"]
    assert [(entry["outcome"], entry["why"]) for entry in told] == [
        ("counted", "counted"),
        ("in_time", "in time; an equal reward counts"),
    ]


def test_the_ledger_names_the_models_that_learnt_an_event(tmp_path: Path) -> None:
    made = experiment(tmp_path)
    logs.write(made, [decision("e", 0)])
    registry = ModelRegistry(made.paths, durable=False)
    made_models = [
        registry.publish(
            {"policy.vw": name.encode()},
            now=at(100 + place),
            parent=None,
            kind="initial",
            options={},
            settings_version=1,
            data={"since": since and at(since).isoformat(), "cut": at(cut).isoformat()},
            canaries=[],
        )
        for place, (name, since, cut) in enumerate(
            [("before", None, 59.0), ("after", None, 60.0), ("newer rows only", 60.0, 90.0), ("a window", 59.0, 90.0)]
        )
    ]
    with opened(made) as warehouse:
        learnt = trace(warehouse, registry, "e", now=NOW)["learnt_by"]
        assert [model["model_id"] for model in learnt] == [made_models[1].model_id, made_models[3].model_id]
        shown = run_query(warehouse, registry, "SELECT model_id, is_champion FROM models ORDER BY created_at")
    assert shown.rows == [[manifest.model_id, False] for manifest in made_models]


# -- SQL -------------------------------------------------------------------------------------------------


def test_sql_answers_over_all_documented_views(target: Experiment) -> None:
    registry = ModelRegistry(target.paths, durable=False)
    registry.history.record("run", now=NOW, outcome="hold", trigger="interval", rows=5, lift=0.25)
    with opened(target) as warehouse:
        result = run_query(warehouse, registry, "SELECT count(*) AS n, sum(reward) AS r FROM interactions -- all")
        assert (result.columns, result.rows, result.truncated) == (["n", "r"], [[198, 66.0]], False)
        assert run_query(warehouse, registry, "SELECT outcome, lift FROM runs;").rows == [["hold", 0.25]]
        assert run_query(warehouse, registry, "SELECT * FROM models").rows == []
        rows = run_query(warehouse, registry, "SELECT outcome, count(*) FROM rewards GROUP BY 1 ORDER BY 1").rows
        assert rows == [["counted", 66], ["waiting", 1]]
        assert run_query(warehouse, registry, "SELECT count(*) FROM decisions").rows == [[200]]
        now = run_query(warehouse, registry, 'SELECT TIMESTAMPTZ \'2026-01-01 00:00:00+01\' AS "t""s"').rows
        assert now == [[datetime(2025, 12, 31, 23, tzinfo=UTC).replace(tzinfo=None)]]


def test_sql_shows_a_bounded_number_of_rows(target: Experiment) -> None:
    with opened(target) as warehouse:
        registry = ModelRegistry(target.paths, durable=False)
        result = run_query(warehouse, registry, "SELECT i FROM range(1000000000) t(i)", rows_max=3)
    assert (result.rows, result.truncated) == ([[0], [1], [2]], True)


def test_sql_ends_after_its_time(target: Experiment) -> None:
    with opened(target) as warehouse, pytest.raises(Refused, match="longer than"):
        query = "SELECT count(*) FROM range(1000000000) a, range(1000000) b"
        run_query(warehouse, ModelRegistry(target.paths, durable=False), query, seconds_max=0.2)


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM joined",
        "SELECT 1; SELECT 2",
        "CREATE TABLE x (i INTEGER)",
        "COPY joined TO 'x.csv'",
        "SET threads = 1",
        "ATTACH 'x.duckdb'",
        "PRAGMA database_list",
        "INSERT INTO joined SELECT * FROM joined",
        "EXPLAIN ANALYZE DELETE FROM joined",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM no_such_view",
        "SELECT",
        "",
    ],
)
def test_sql_can_only_read_the_warehouse(target: Experiment, query: str) -> None:
    with opened(target) as warehouse:
        before = warehouse.digest()
        with pytest.raises(InvalidInput):
            run_query(warehouse, ModelRegistry(target.paths, durable=False), query)
        assert warehouse.digest() == before


def test_a_copy_of_the_warehouse_is_a_database_of_its_own(target: Experiment, tmp_path: Path) -> None:
    with opened(target) as warehouse:
        registry = ModelRegistry(target.paths, durable=False)
        registry.history.record("run", now=NOW, outcome="hold", rows=5)
        copy_warehouse(warehouse, registry, tmp_path / "copy.duckdb")
        copy_warehouse(warehouse, registry, tmp_path / "copy.duckdb")
        views = {view: run_query(warehouse, registry, f"DESCRIBE {view}").rows for view in DOCUMENTED_VIEWS}
    with duckdb.connect(str(tmp_path / "copy.duckdb"), read_only=True) as mine:
        row = mine.execute("SELECT count(*), any_value(context) FROM interactions").fetchone()
        runs = mine.execute('SELECT "at", outcome, "rows" FROM runs').fetchall()
        assert {view: [list(row) for row in mine.execute(f"DESCRIBE {view}").fetchall()] for view in views} == views
    assert row is not None
    assert row[0] == 198 and json.loads(row[1])["x"] == 1.5
    assert runs == [(NOW.replace(tzinfo=None), "hold", 5)]


def test_the_watermark_that_people_read_moves_on_while_nothing_matures(target: Experiment, tmp_path: Path) -> None:
    registry, later = ModelRegistry(target.paths, durable=False), NOW + timedelta(minutes=1)
    with opened(target) as warehouse:
        warehouse.join(later)
        shown = run_query(warehouse, registry, "SELECT joined_until FROM health").rows
        warehouse.join(later + timedelta(hours=9))
        assert shown == [[later.replace(tzinfo=None)]]
        assert warehouse.counts()["interactions"] == 200


def test_the_health_of_the_loop_is_one_row_and_the_delays_of_rewards_a_histogram(tmp_path: Path) -> None:
    made = experiment(tmp_path)
    delays = [-5.0, 0.05, 0.5, 1.0, 40.0, 59.0, 61.0, 1000.0]
    logs.write(made, [decision(f"e{n}", 10) for n in range(10)] + [decision("open", 100)])
    logs.write(made, [reward(f"e{n}", 10 + delay, 1.0) for n, delay in enumerate(delays)] + [reward("none", 5, 1.0)])
    logs.write(made, [reward("e4", 50.0, 1.0), reward("e5", 50.0, 1.0, action="b")], "w1")
    with Warehouse(made) as warehouse:
        warehouse.ingest(logs.write(made, []))
        warehouse.join(at(120))
        health = warehouse.cursor().sql("SELECT * FROM health").df().to_dict("records")[0]
        histogram = dict(warehouse.cursor().execute("SELECT * FROM delays").fetchall())
        found, counts = warehouse.delays(), warehouse.counts()
    for name in ("decisions", "rewards", "interactions", "waiting", "defaulted", "late", "unknown", "duplicates"):
        assert health[name] == counts[name]
    assert (health["interactions"], health["waiting"], health["late"], health["unknown"]) == (10, 1, 2, 1)
    assert (health["defaulted"], health["join_rate"], health["action_mismatch"]) == (4, 0.6, 1)
    assert (health["duplicates"], health["joined_until"]) == (1, at(120).replace(tzinfo=None))
    assert (found.count, found.sum_s, found.within) == (
        8,
        pytest.approx(sum(delays)),
        (2, 4, 4, 4, 6, 7, 7, 8, 8, 8, 8),
    )
    assert (health["delay_p50_s"], health["delay_p90_s"]) == (pytest.approx(20.5), pytest.approx(342.7))
    assert found.quantiles == (health["delay_p50_s"], health["delay_p90_s"], health["delay_p99_s"])
    assert list(histogram.values()) == [2, 2, 0, 0, 2, 1, 0, 1, 0, 0, 0, 0]
    assert list(histogram)[-1] is None


def test_the_health_of_an_empty_loop_has_no_rates(tmp_path: Path) -> None:
    with Warehouse(experiment(tmp_path)) as warehouse:
        health = warehouse.cursor().sql("SELECT * FROM health").df().to_dict("records")[0]
        assert (warehouse.delays().count, warehouse.delays().quantiles) == (0, None)
    assert health["decisions"] == 0 and pd.isna(health["join_rate"]) and pd.isna(health["delay_p50_s"])


def test_the_docs_name_every_column_of_every_view(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "joins.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| `([\w, ]+)`[^|]*\|$", text, re.MULTILINE))
    made = experiment(tmp_path)
    with Warehouse(made) as warehouse:
        found = {
            view: [row[0] for row in run_query(warehouse, ModelRegistry(made.paths), f"DESCRIBE {view}").rows]
            for view in DOCUMENTED_VIEWS
        }
    assert {view: told.get(view, "").split(", ") for view in found} == found
