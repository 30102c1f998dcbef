"""VW's dsjson in every form that Decision Service, RLClientLib and Personalizer write it.

Each line is an interaction, one per slot, or a counted refusal; VW predicts the same from what comes out again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from vowpalwabbit import Workspace

from bandit.experiment import Experiment
from joiner.dsjson_export import export_dsjson
from joiner.warehouse import Warehouse
from tests.joiner.logs import experiment
from tests.joiner.test_history import joined
from tests.joiner.test_importing import bring_in

DSJSON = {
    "_label_cost": -0.5,
    "_label_probability": 0.8,
    "_label_Action": 2,
    "_labelIndex": 1,
    "o": [{"v": 0.5, "EventId": "e1", "ActionTaken": False}],
    "Timestamp": "2019-11-12T14:22:37.2290000Z",
    "Version": "1",
    "EventId": "e1",
    "a": [2, 1, 3],
    "c": {
        "_synthetic": False,
        "User": {"_age": 0, "tier": "pro"},
        "temperature": 3.5,
        "_text": "hello big world",
        "_multi": [
            {"_tag": "news", "i": {"constant": 1}, "j": [{"_title": "x"}, {"Tags": {"a b": 0.5}}]},
            {"_tag": "sports", "i": {"constant": 1}},
            {"_tag": "news", "i": {"constant": 1}},
        ],
    },
    "p": [0.8, 0.15, 0.05],
    "VWState": {"m": "model/1"},
}


def test_a_dsjson_line_becomes_a_decision_with_its_whole_distribution(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    (tmp_path / "log.dsjson").write_text(json.dumps(DSJSON) + "\n")
    assert bring_in(target, tmp_path / "log.dsjson")["imported"] == 1
    [row] = joined(target).to_dict("records")
    assert (row["event_id"], row["action"], row["index"]) == ("e1", "sports", 1)
    assert (row["probability"], list(row["pmf"]), row["reward"]) == (0.8, [0.15, 0.8, 0.05], 0.5)
    assert row["decided_at"] == datetime(2019, 11, 12, 14, 22, 37, 229000, tzinfo=UTC)
    assert json.loads(row["context"]) == {
        "User": {"tier": "pro"},
        "temperature": 3.5,
        "text": ["hello", "big", "world"],
    }
    actions = json.loads(row["actions"])
    assert [action["id"] for action in actions] == ["news#1", "sports", "news#3"]
    assert actions[0]["features"] == {"i": {"constant": 1}, "j": {"Tags": {"a b": 0.5}}}


def test_events_in_a_dsjson_log_are_interactions_or_counted_refusals(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    lines: list[Any] = [
        DSJSON,
        DSJSON | {"EventId": "e2", "_label_cost": 0, "o": []},
        DSJSON | {"EventId": "e1"},
        {"RewardValue": 1.0, "EventId": "lost", "EnqueuedTimeUtc": "2019-11-12T14:22:37Z"},
        DSJSON | {"EventId": "e3", "_skipLearn": True},
        DSJSON | {"EventId": "e4", "pdrop": 0.5},
        {"Timestamp": "2019-09-10T14:43:37Z", "Version": "1", "c": {"_slots": []}},
        DSJSON | {"EventId": "e8", "_outcomes": []},
        {"c": {"_multi": [{"_slot_id": 0}, {"_slot_id": 1}], "_slots": [{}, {}]}, "_outcomes": [{}], "_label_cost": 1},
        {"_label_ca": {"cost": 0.5, "pdf_value": 0.1, "action": 18.5}, "c": {"x": 1}},
        DSJSON | {"EventId": "e9", "_label_cost": None},
        DSJSON | {"EventId": "e10", "_labelIndex": 3},
        DSJSON | {"EventId": "e5", "_label_probability": None, "p": None},
        DSJSON | {"EventId": "e6", "_label_cost": -20},
        DSJSON | {"EventId": "e7", "c": {"x": 1}},
        "torn",
    ]
    (tmp_path / "log.dsjson").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"_label_cost": -1, "c"')
    report = bring_in(target, tmp_path / "log.dsjson")
    assert report["refused"] == {
        "repeated_event_id": 1,
        "dangling_reward": 1,
        "not_activated": 1,
        "thinned": 1,
        "no_reward": 2,
        "not_dsjson": 1,
        "slates": 2,
        "continuous_action": 1,
        "invalid_action": 1,
        "no_probability": 1,
        "reward_out_of_range": 1,
        "invalid_actions": 1,
        "not_json": 2,
    }
    assert report["rows"] == 18 == len(joined(target)) + sum(report["refused"].values())


# two slots for three actions: places count from 0, the second list lacks what the first slot took
SLOTS = {
    "Timestamp": "2021-04-26T17:23:28.1726275",
    "Version": "1",
    "EventId": "s",
    "c": {
        "FromUrl": [{"weather": "sunny"}],
        "_multi": [{"_tag": "tea"}, {"_tag": "milk", "j": [{"fat": 3.5}]}, {"_tag": "juice"}],
        "_slots": [{"_id": "main", "sj": [{"size": "large"}]}, {"_id": "side"}],
    },
    "_outcomes": [
        {"_label_cost": -1.0, "_id": "main", "_a": [1, 2, 0], "_p": [0.5, 0.2, 0.3], "_o": [{"v": 1.0}]},
        {"_label_cost": 0.0, "_id": "side", "_a": [2, 0], "_p": [0.25, 0.75], "_o": []},
    ],
    "_ba": [0, 1],
    "VWState": {"m": "N/A"},
}


def of_file(folder: Path, lines: Sequence[Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The report of importing `lines` as dsjson, and the interactions that come of it in the order of their ids."""
    folder.mkdir(exist_ok=True)
    target = experiment(folder)
    (folder / "log.dsjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = bring_in(target, folder / "log.dsjson")
    return report, sorted(joined(target).to_dict("records"), key=lambda row: str(row["event_id"]))


def test_each_slot_of_a_line_becomes_a_decision_among_what_earlier_slots_left(tmp_path: Path) -> None:
    report, (main, side) = of_file(tmp_path, [SLOTS])
    assert (report["rows"], report["imported"], report["refused"]) == (2, 2, {})
    assert (main["event_id"], main["slot"], main["action"], main["reward"]) == ("s:1", 1, "milk", 1.0)
    assert (side["event_id"], side["slot"], side["action"], side["reward"]) == ("s:2", 2, "juice", 0.0)
    assert (list(main["pmf"]), main["probability"]) == ([0.3, 0.5, 0.2], 0.5)
    assert (list(side["pmf"]), side["probability"]) == ([0.75, 0.25], 0.25)
    assert [action["id"] for action in json.loads(side["actions"])] == ["tea", "juice"]
    shared = {"FromUrl": {"weather": "sunny"}}
    assert json.loads(main["context"]) == shared | {"_slot": "1", "slot": {"sj": {"size": "large"}}}
    assert json.loads(side["context"]) == shared | {"_slot": "2"}
    assert main["decided_at"] == side["decided_at"] == datetime(2021, 4, 26, 17, 23, 28, 172627, tzinfo=UTC)


def test_slots_that_name_their_actions_choose_among_those_and_each_is_judged_by_itself(tmp_path: Path) -> None:
    context = {"_multi": [{"f": "1"}, {"f": "2"}, {"f": "3"}], "_slots": [{"_inc": [0, 1]}, {"_inc": [1, 2]}, {}, {}]}
    outcomes = [
        {"_label_cost": -0.5, "_a": [1, 0], "_p": [0.5, 0.5]},
        {"_label_cost": 0.25, "_a": 2, "_p": 1.0},
        {"_label_cost": 0.0, "_a": [1], "_p": [1.0]},
        {"_a": [0], "_p": [1.0]},
    ]
    report, rows = of_file(tmp_path, [{"c": context, "_outcomes": outcomes}])
    assert (report["rows"], report["refused"]) == (4, {"invalid_action": 1, "no_reward": 1})
    assert sorted((row["slot"], row["action"], row["reward"]) for row in rows) == [(1, "2", 0.5), (2, "3", -0.25)]
    assert {tuple(row["pmf"]) for row in rows} == {(0.5, 0.5), (1.0,)}


@pytest.mark.parametrize(
    ("change", "imported", "refused"),
    [
        ({"pdrop": 0.9}, 0, {"thinned": 2}),
        ({"_skipLearn": True}, 0, {"not_activated": 2}),
        ({"_outcomes": SLOTS["_outcomes"][:1]}, 1, {"no_reward": 1}),
        ({"_outcomes": [SLOTS["_outcomes"][0] | {"_a": [1.0]}, SLOTS["_outcomes"][1]]}, 1, {"invalid_action": 1}),
        ({"_outcomes": None}, 0, {"no_reward": 2}),
        ({"_outcomes": []}, 0, {"not_dsjson": 2}),
    ],
)
def test_no_slot_of_a_line_goes_uncounted(
    tmp_path: Path, change: dict[str, Any], imported: int, refused: dict[str, int]
) -> None:
    line = {name: value for name, value in (SLOTS | change).items() if value is not None}
    report, rows = of_file(tmp_path, [line])
    assert (len(rows), report["imported"], report["refused"]) == (imported, imported, refused)
    assert report["rows"] == 2


def test_a_refusal_names_the_line_of_the_file_whatever_slots_and_empty_lines_came_before(tmp_path: Path) -> None:
    target = experiment(tmp_path)
    lines = [json.dumps(SLOTS), "", json.dumps(SLOTS | {"EventId": "t"}), '{"torn', json.dumps({"c": 1})]
    (tmp_path / "log.dsjson").write_bytes("\r\n".join(lines).encode())
    report = bring_in(target, tmp_path / "log.dsjson")
    assert (report["rows"], report["imported"]) == (6, 4)
    assert [example.split(":")[0] for example in report["examples"]] == ["line 4", "line 5"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"a": [1, 0, 2]}, [0.15, 0.8, 0.05]),
        ({"a": [2, 1], "p": [0.8, 0.2]}, None),
        ({"a": [2]}, None),
        ({"p": [0.8, 0.9, 0.05]}, None),
        ({"_labelIndex": None}, [0.15, 0.8, 0.05]),
        ({"_labelIndex": None, "_label_Action": None}, [0.15, 0.8, 0.05]),
        ({"_label_cost": None, "_label_Cost": -0.5}, [0.15, 0.8, 0.05]),
        ({"_original_label_cost": -1.0, "_skipLearn": False, "pdrop": 0.0}, [0.15, 0.8, 0.05]),
        ({"EventId": None, "Timestamp": None, "VWState": None}, [0.15, 0.8, 0.05]),
    ],
)
def test_lines_that_say_less_or_count_from_0_are_read_as_far_as_they_go(
    tmp_path: Path, change: dict[str, Any], expected: list[float] | None
) -> None:
    line = {name: value for name, value in (DSJSON | change).items() if value is not None}
    _, [row] = of_file(tmp_path, [line])
    assert (row["action"], row["probability"], row["reward"]) == ("sports", 0.8, 0.5)
    assert (row["pmf"] if expected is None else list(row["pmf"])) == expected


def vw_predictions(log: Path, folder: Path) -> list[list[float]]:
    """What VW says to each line of a log as it learns from it."""
    answers = folder / f"{log.stem}.predictions"
    options = ["--cb_explore_adf", "--dsjson", "--quiet", "--random_seed", "1", "-q", "Fj"]
    Workspace(arg_list=[*options, "-d", str(log), "-p", str(answers)]).finish()
    scores = [sorted(line.split(",")) for line in answers.read_text().splitlines() if line]
    return [[float(score.split(":")[1]) for score in line] for line in scores]


def test_vw_predicts_the_same_from_a_log_and_from_its_import_and_export(tmp_path: Path) -> None:
    drinks = [
        ("tea", {"type": "hot", "bio": "yes"}),
        ("milk", {"type": "cold"}),
        ("cocoa", {"type": "hot", "fat": 3.5}),
    ]
    lines = []
    for n in range(60):
        chosen = (n * n) % 3
        order = [chosen, *(place for place in range(3) if place != chosen)]
        multi = [{"_tag": name, "i": {"constant": 1, "id": name}, "j": [own]} for name, own in drinks]
        lines.append(
            {
                "_label_cost": -float(chosen == n % 2),
                "_label_probability": 0.8500000238418579,
                "_label_Action": chosen + 1,
                "_labelIndex": chosen,
                "o": [{"v": float(chosen == n % 2), "EventId": f"e{n}", "ActionTaken": False}],
                "Timestamp": f"2021-02-04T16:31:{n:02}.2460000Z",
                "Version": "1",
                "EventId": f"e{n}",
                "a": [place + 1 for place in order],
                "c": {"FromUrl": [{"day": ["cold", "warm"][n % 2], "name": f"n{n % 4}"}], "_multi": multi},
                "p": [0.85, 0.075, 0.075],
                "VWState": {"m": "a/b"},
                "_original_label_cost": 0.0,
            }
        )
    report, _ = of_file(tmp_path / "in", lines)
    assert report["imported"] == 60
    with Warehouse(Experiment.open(tmp_path / "in", "test")) as warehouse:
        assert export_dsjson(warehouse, tmp_path / "out.dsjson") == 60
    theirs = vw_predictions(tmp_path / "in" / "log.dsjson", tmp_path)
    ours = vw_predictions(tmp_path / "out.dsjson", tmp_path)
    assert len(theirs) == 60 and theirs[0] != theirs[-1]
    assert ours == [pytest.approx(line, abs=1e-5) for line in theirs]
