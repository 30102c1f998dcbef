"""Files of other systems: each format gives the same interactions, each refusal is counted."""

from __future__ import annotations

import gzip
import io
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from bandit.errors import InvalidInput
from bandit.eventlog import read_events
from bandit.events import DecisionEvent
from bandit.experiment import Experiment
from bandit.settings import parse_settings
from joiner.importing import Columns, guess_format, import_file, import_rewards, parse_columns
from joiner.parquet import write_parquet
from joiner.tables import read_table
from joiner.warehouse import Warehouse
from tests.joiner.logs import FAR, START, at, decision, experiment, reward, write
from tests.joiner.test_history import ROW, joined
from tests.joiner.test_join import joined as rewards_after


def bring_in(target: Experiment, path: Path, **options: Any) -> dict[str, Any]:
    report = import_file(target, path, form=guess_format(path), clock=lambda: START, durable=False, **options)
    return report.as_dict()


def test_the_same_rows_come_in_from_ndjson_parquet_and_csv(tmp_path: Path) -> None:
    rows = [
        {"context": {"x": n, "name": f"n{n}"}, "action": "ab"[n % 2], "actions": ["a", "b"], "probability": 0.5}
        | {"reward": n / 10, "decided_at": f"2026-01-01T00:00:0{n}Z", "event_id": f"e{n}"}
        for n in range(5)
    ]
    with gzip.open(tmp_path / "h.ndjson.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    flat = pd.DataFrame(
        {
            "x": [row["context"]["x"] for row in rows],  # type: ignore[index]
            "name": [row["context"]["name"] for row in rows],  # type: ignore[index]
            "arm": [row["action"] for row in rows],
            "offer": [json.dumps(row["actions"]) for row in rows],
            "p": [row["probability"] for row in rows],
            "clicked": [row["reward"] for row in rows],
            "when": [row["decided_at"] for row in rows],
            "event_id": [row["event_id"] for row in rows],
        }
    )
    write_parquet(tmp_path / "h.parquet", flat)
    flat.to_csv(tmp_path / "h.csv", index=False)
    columns = Columns(action="arm", actions="offer", probability="p", reward="clicked", time="when")
    frames = []
    for name, declared in (("h.ndjson.gz", None), ("h.parquet", columns), ("h.csv", columns)):
        target = experiment(tmp_path / f"of {name}")
        assert bring_in(target, tmp_path / name, columns=declared)["imported"] == 5
        frame = joined(target)
        frame["context"] = [json.loads(text) for text in frame["context"]]
        frames.append(frame.drop(columns=["matures_at", "rewarded_at"]))
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frames[0], frame)  # for which a missing share is equal to a missing share


def test_the_file_of_the_name_comes_in_though_the_name_is_a_pattern_that_others_match(tmp_path: Path) -> None:
    for name, rows in (("d1.csv", 3), ("d[1].csv", 2)):
        pd.DataFrame([ROW | {"context": "{}", "actions": '["a", "b"]'}] * rows).to_csv(tmp_path / name, index=False)
        write_parquet((tmp_path / name).with_suffix(".parquet"), pd.read_csv(tmp_path / name))
    for name in ("d[1].csv", "d[1].parquet"):
        assert bring_in(experiment(tmp_path / f"of {name}"), tmp_path / name)["imported"] == 2


@pytest.mark.parametrize("folder", ["reward=0", "env=prod", "event_id=7", "x=1"])
def test_a_table_has_its_own_columns_alone_whatever_its_folder_is_called(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    table = pd.DataFrame({"action": ["a"], "probability": [0.5], "reward": [1.0], "actions": ['["a"]'], "x": [3]})
    table.to_csv(tmp_path / folder / "h.csv", index=False)
    write_parquet(tmp_path / folder / "h.parquet", table)
    for name in ("h.csv", "h.parquet"):
        target = experiment(tmp_path / f"of {name}")
        assert bring_in(target, tmp_path / folder / name)["rewards"] == 1
        [row] = joined(target).to_dict("records")
        assert (row["reward"], json.loads(row["context"])) == (1.0, {"x": 3})
        assert row["event_id"].startswith("import-")


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_link_into_another_folder_is_the_file_that_it_leads_to(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "links").mkdir()
    table = pd.DataFrame([ROW | {"context": "{}", "actions": '["a", "b"]'}] * 2)
    if suffix == ".parquet":
        write_parquet(tmp_path / "blobs" / "0", table)
    else:
        text = table.to_csv(index=False).encode()
        (tmp_path / "blobs" / "0").write_bytes(gzip.compress(text) if suffix == ".csv.gz" else text)
    link = tmp_path / "links" / f"h{suffix}"
    link.symlink_to("../blobs/0")
    assert bring_in(experiment(tmp_path), link)["imported"] == 2
    assert len(read_table(link)) == 2


def test_a_parquet_file_whose_columns_cannot_be_told_is_refused_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "h.parquet", pd.DataFrame([ROW]))
    whole = (tmp_path / "h.parquet").read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    (tmp_path / "h.parquet").write_bytes(whole[: -8 - length] + b"\x20" * length + whole[-8:])
    with pytest.raises(InvalidInput, match=r"FILE: h\.parquet cannot be read"):
        bring_in(experiment(tmp_path), tmp_path / "h.parquet")


def damaged(packed: bytes, how: str) -> bytes:
    if how == "cut short":
        return packed[: len(packed) // 2]
    if how == "another checksum":
        return packed[:-8] + bytes(4) + packed[-4:]
    return packed[: len(packed) // 2] + b"\xff" * 400 + packed[len(packed) // 2 + 400 :]


@pytest.mark.parametrize("how", ["cut short", "another checksum", "overwritten"])
@pytest.mark.parametrize("name", ["h.ndjson.gz", "h.csv.gz", "H.NDJSON.GZ"])
def test_of_a_compressed_file_that_is_damaged_nothing_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 10)
    target = experiment(tmp_path)
    rows = [ROW | {"context": {"x": number}, "event_id": f"{number * 7919 % 1009}"} for number in range(1000)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if ".csv" in name:
        cells = [row | {"context": json.dumps(row["context"]), "actions": '["a", "b"]'} for row in rows]
        text = pd.DataFrame(cells).to_csv(index=False).encode()
    (tmp_path / name).write_bytes(damaged(gzip.compress(text), how))
    with pytest.raises(InvalidInput, match=rf"FILE: {name} cannot be read \(.*\); nothing was imported"):
        bring_in(target, tmp_path / name)
    assert write(target, []) == []
    (tmp_path / name).write_bytes(gzip.compress(text))
    assert bring_in(target, tmp_path / name)["imported"] == 1000


def test_a_parquet_file_damaged_within_is_refused_with_how_many_rows_were_imported_and_comes_in_once_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joiner.history.BATCH_ROWS_MAX", 250)
    monkeypatch.setattr("joiner.importing._FETCH_ROWS", 500)
    target, path = experiment(tmp_path), tmp_path / "h.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 'a' AS action, 0.5 AS probability, 1.0 AS reward, '[\"a\"]' AS actions, n AS x, "
            "repeat(md5(n::VARCHAR), 100) AS wide FROM range(8000) rows(n)) "
            f"TO '{path}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048)"
        )
        found = connection.execute(f"SELECT max(data_page_offset) FROM parquet_metadata('{path}')").fetchone()
    whole = path.read_bytes()
    start = (found or (0,))[0] + 100
    path.write_bytes(whole[:start] + b"\xff" * 100 + whole[start + 100 :])
    with pytest.raises(InvalidInput, match="cannot be read") as refusal:
        bring_in(target, path)
    told = re.search(
        r"; (nothing was|[\d,]+ rows were) imported", str(refusal.value)
    )  # by how far DuckDB had read ahead
    decisions = [event for path in write(target, []) for event in read_events(path) if isinstance(event, DecisionEvent)]
    assert told is not None and len(decisions) == int(re.sub(r"\D", "", told[1]) or 0) < 8000
    path.write_bytes(whole)
    assert bring_in(target, path)["imported"] == 8000
    assert sorted(json.loads(context)["x"] for context in joined(target)["context"]) == list(range(8000))


def test_a_line_that_is_cut_at_the_end_of_a_file_spoils_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "h.ndjson").write_text(f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n{json.dumps(ROW)[:-5]}")
    report = bring_in(experiment(tmp_path), tmp_path / "h.ndjson")
    assert (report["imported"], report["refused"]) == (2, {"not_json": 1}) and report["examples"][0][:6] == "line 3"


def test_missing_cells_are_missing_values(tmp_path: Path) -> None:
    target = experiment(tmp_path, default=-0.25)
    (tmp_path / "h.csv").write_text(
        'action,probability,reward,actions,x,y\na,0.5,,"[""a"",""b""]",1,\nb,,1,"[""a"",""b""]",,2\n'
    )
    report = bring_in(target, tmp_path / "h.csv")
    assert report["refused"] == {"no_probability": 1}
    [row] = joined(target).to_dict("records")
    assert (row["reward"], row["rewarded"], json.loads(row["context"])) == (-0.25, False, {"x": 1})


def test_ids_of_a_csv_file_stay_text_and_one_bad_cell_spoils_its_own_row(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    write(target, [decision("007", 0), decision("2026-01-01", 1)])
    (tmp_path / "r.csv").write_text(
        "event_id,reward,reward_id\n007,0.5,01\n007,good,\n007,inf,\n007,nan,\n2026-01-01,1,02\n"
    )
    report = import_rewards(target, tmp_path / "r.csv", form="csv", clock=lambda: at(10), durable=False)
    assert (report.imported, dict(report.refused)) == (2, {"invalid_reward": 3})
    assert rewards_after(target, [], until=4000) == {"007": 0.5, "2026-01-01": 1.0}


@pytest.mark.parametrize("levels", [17, 400, *range(900, 1010, 10), 3000, 100_000])
def test_a_line_nested_however_deeply_spoils_itself_alone(tmp_path: Path, levels: int) -> None:
    target = experiment(tmp_path)
    deep = json.dumps(ROW).replace('{"x": 1}', '{"x":' * levels + "1" + "}" * levels)
    vw = {"c": {"_multi": [{}]}, "_label_cost": 0, "_label_probability": 0.5, "_label_Action": 1}
    lists = json.dumps(vw).replace('"_multi"', '"x":' + "[" * levels + "]" * levels + ', "_multi"')
    for form, whole, bad in (("ndjson", json.dumps(ROW), deep), ("dsjson", json.dumps(vw), lists)):
        (tmp_path / form).write_text(f"{whole}\n{bad}\n{whole}\n")
        report = import_file(target, tmp_path / form, form=form, clock=lambda: START, durable=False)
        assert (report.imported, sum(report.refused.values())) == (2, 1), report
        assert "nested too deeply" in report.examples[0] and report.examples[0].startswith("line 2")


def test_whole_numbers_that_no_double_holds_are_refused_as_rewards(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    write(target, [decision("e1", 0)])
    huge = 10**400
    vw = {"c": {"_multi": [{}]}, "_label_cost": huge, "_label_probability": 0.5, "_label_Action": 1}
    for form, bad in (("ndjson", ROW | {"reward": huge}), ("ndjson", ROW | {"reward": -huge}), ("dsjson", vw)):
        report = import_file(
            target, io.BytesIO(json.dumps(bad).encode()), form=form, clock=lambda: START, durable=False
        )
        assert (report.rows, report.refused) == (1, {"invalid_reward": 1})
    stream = io.BytesIO(json.dumps({"event_id": "e1", "reward": huge}).encode() + b'\n{"event_id":"e1","reward":1}')
    report = import_rewards(target, stream, form="ndjson", clock=lambda: START, durable=False)
    assert (report.imported, report.refused) == (1, {"invalid_reward": 1})


def test_a_cell_that_json_does_not_know_spoils_its_own_row(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    nested = "[" * 5000
    (tmp_path / "h.csv").write_text(
        'action,probability,reward,actions,context\na,0.5,1,"[""a""]","{}"\n' + f'a,0.5,1,"[""a""]","{nested}"\n'
    )
    report = bring_in(target, tmp_path / "h.csv")
    assert (report["imported"], report["refused"]) == (1, {"nested_too_deeply": 1})
    with duckdb.connect() as connection:
        for name, cell in (("text", "map(['k'], [1])"), ("number", "map([1, 2], ['a', 'b'])")):
            connection.execute(
                f"COPY (SELECT 'a' AS action, 0.5 AS probability, 1.0 AS reward, ['a'] AS actions, {cell} AS h) "
                f"TO '{tmp_path / name}.parquet' (FORMAT parquet)"
            )
    assert bring_in(target, tmp_path / "text.parquet")["imported"] == 1
    report = bring_in(target, tmp_path / "number.parquet")
    assert report["refused"] == {"invalid_features": 1} and report["examples"] == [
        "row 1: h: is a map whose keys are no text"
    ]


@pytest.mark.parametrize("form", ["ndjson", "parquet"])
def test_silence_stays_silence_on_the_way_through_an_export(tmp_path: Path, form: str) -> None:
    source = experiment(tmp_path / "source", default=-0.25)
    write(source, [decision("silent", 0), decision("zero", 1), reward("zero", 2, 0.0), decision("one", 3)])
    write(source, [reward("one", 4, 1.0)])
    file = tmp_path / f"rows.{form}"
    with Warehouse(source) as warehouse:
        warehouse.ingest(write(source, []))
        warehouse.join(FAR)
        warehouse.export(file, what="interactions", form=form)
    target = experiment(tmp_path / "target", default=-0.5)
    report = bring_in(target, file)
    assert (report["imported"], report["rewards"], report["refused"]) == (3, 2, {})
    rows = {row["event_id"]: (row["reward"], row["rewarded"]) for row in joined(target).to_dict("records")}
    assert rows == {"silent": (-0.5, False), "zero": (0.0, True), "one": (1.0, True)}


def test_whether_there_was_a_reward_is_said_by_true_or_false_alone(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text(
        'action,probability,reward,actions,rewarded\na,0.5,1,"[""a""]",true\na,0.5,1,"[""a""]",false\n'
    )
    report = bring_in(experiment(tmp_path / "csv"), tmp_path / "h.csv")
    assert (report["imported"], report["rewards"]) == (2, 1)
    lines = "\n".join(json.dumps(ROW | {"rewarded": said}) for said in ("no", 2, 0.0, None, False, True))
    stream = io.BytesIO(lines.encode())
    answer = import_file(experiment(tmp_path / "ndjson"), stream, form="ndjson", clock=lambda: START, durable=False)
    assert (answer.imported, answer.rewards, answer.refused) == (3, 2, {"invalid_rewarded": 3})


def test_a_stream_is_read_line_by_line(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    stream = io.BytesIO(json.dumps(ROW).encode() + b"\n")
    assert import_file(target, stream, form="ndjson", clock=lambda: START, durable=False).imported == 1
    with pytest.raises(InvalidInput, match="from a file"):
        import_file(target, stream, form="parquet", clock=lambda: START, durable=False)


def test_unknown_formats_and_roles_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--format"):
        guess_format(Path("history.xls"))
    with pytest.raises(InvalidInput, match="context, action"):
        parse_columns({"color": "red"})


def test_a_declared_column_that_the_table_has_not_is_named_beside_those_that_it_has(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    (tmp_path / "h.csv").write_text("user,what,probability,reward\nu1,a,0.5,1\n")
    with pytest.raises(InvalidInput, match=r"action: the table has no column done .*user, what"):
        bring_in(target, tmp_path / "h.csv", columns=parse_columns({"action": "done"}))
    with pytest.raises(InvalidInput, match=r"no column action; say which it is \(--column action=NAME\)"):
        bring_in(target, tmp_path / "h.csv")


def test_rows_before_one_of_another_length_are_not_passed_over(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    (tmp_path / "h.csv").write_text("x,action,probability,reward\n1,a,0.5,1\n" + "action,1,probability,2,reward\n" * 3)
    with pytest.raises(InvalidInput, match=r"Line: 3.*Columns: 4 Found: 5"):
        bring_in(target, tmp_path / "h.csv")


def test_a_quote_that_is_not_closed_is_refused_instead_of_leaving_all_quotes_in_their_cells(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    (tmp_path / "h.csv").write_text('x,action,probability,reward\n"5,a,0.5,1\n"6",a,0.5,1\n')
    with pytest.raises(InvalidInput, match=r"Line: 2; Value with unterminated quote found"):
        bring_in(target, tmp_path / "h.csv")


def test_a_time_among_the_columns_of_the_context_is_a_text(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    (tmp_path / "h.csv").write_text(
        'seen_at,action,probability,reward,actions\n2026-01-02 03:04:05,a,0.5,1,"[""a"",""b""]"\n'
    )
    assert bring_in(target, tmp_path / "h.csv")["imported"] == 1
    [row] = joined(target).to_dict("records")
    assert json.loads(row["context"]) == {"seen_at": "2026-01-02T03:04:05"}


REWARDS = [
    {"event_id": "e", "reward": 0.5, "time": "2026-03-01T12:00:20Z"},
    {"event_id": "e", "event": "watched", "value": 30},
    {"event_id": "e", "event": "unheard of"},
    {"event_id": "e", "reward": 5},
    {"event_id": "e"},
    {"reward": 1},
    {"event_id": "e", "reward": "1"},
]


@pytest.mark.parametrize("form", ["ndjson", "parquet"])
def test_rewards_from_a_file_are_the_rewards_of_a_post(tmp_path: Path, form: str) -> None:
    events = {"watched": {"scale": 1 / 60, "max": 1}}
    settings = parse_settings({"rewards": {"window_s": 3600, "aggregation": "max", "events": events}})
    target = Experiment.create(tmp_path, "test", settings, now=START - timedelta(days=1))
    write(target, [decision("e", 0)])
    path = tmp_path / f"rewards.{form}"
    if form == "ndjson":
        path.write_text("".join(json.dumps(row) + "\n" for row in REWARDS))
    else:
        keys = ("event_id", "reward", "event", "value", "time")
        plain = [row if not isinstance(row.get("reward"), str) else row | {"reward": 7} for row in REWARDS]
        write_parquet(path, pd.DataFrame([{key: row.get(key) for key in keys} for row in plain]))
    report = import_rewards(target, path, form=form, clock=lambda: at(100), durable=False)
    assert (report.rows, report.imported, report.rewards) == (7, 2, 2)
    assert sum(report.refused.values()) == 5
    assert report.examples[0].startswith("line 3: " if form == "ndjson" else "row 3: ")
    assert rewards_after(target, [], until=4000) == {"e": 0.5}


def test_rewards_imported_after_the_window_are_late(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    write(target, [decision("e", 0), reward("e", 1, 0.25)])
    (tmp_path / "r.ndjson").write_text('{"event_id": "e", "reward": 1, "time": "2026-03-01T12:00:00.5Z"}\n')
    import_rewards(target, tmp_path / "r.ndjson", form="ndjson", clock=lambda: at(100), durable=False)
    assert rewards_after(target, [], until=4000) == {"e": 0.25}
