"""The dsjson that is written: VW reads every line of it and comes to the weights that our training comes to."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from vowpalwabbit import Workspace

from bandit.events import ActionRecord
from bandit.experiment import Experiment
from bandit.rows import read_interactions
from bandit.scoring import RewardScale
from bandit.settings import parse_settings
from bandit.training import Learning
from joiner.dsjson_export import export_dsjson
from joiner.importing import import_file
from joiner.warehouse import Warehouse
from tests.joiner.logs import FAR, START, at, decision, experiment, reward, write
from tests.joiner.test_history import joined


def filled(folder: Path, numbers: str = "bins", *, offered_min: int = 3) -> Experiment:
    """400 decisions with features of every kind, two in three rewarded, among `offered_min` to 3 actions each."""
    rng = random.Random(3)
    settings = parse_settings({"rewards": {"window_s": 60.0}, "encoding": {"numbers": numbers}})
    target = Experiment.create(folder, "test", settings, now=START)
    actions = [ActionRecord("a"), ActionRecord("b|: x", {"f": 1.5}), ActionRecord("c", {"g": ["u", "v w"]})]
    events: list[object] = []
    for n in range(400):
        context: dict[str, object] = {"x": rng.gauss(0, 1), "_slot": str(n % 3), "tags": ["p", "q"], "yes": n % 2 == 0}
        context |= {"land": rng.choice(["de", "fr: |"]), "n": {"y": rng.random()}, "none": None}
        if n > 300:
            context |= {"new": rng.random() * 3, "_hidden": 2.5}
        offered = actions[: 3 - n % (4 - offered_min)]
        index = rng.randrange(len(offered))
        # the first is below 1 / importance_max
        pmf = {1: [1.0], 2: [0.004, 0.996], 3: [0.004, 0.3, 0.696]}[len(offered)]
        fields = {"context": context, "actions": offered, "index": index, "pmf": pmf, "probability": pmf[index]}
        events.append(decision(f"e{n}", n, **fields, action="a") if index == 0 else _chosen(n, index, fields))
        if n % 3:
            events.append(reward(f"e{n}", n + 0.5, rng.choice([0.0, 0.5, 1.0])))
    write(target, events)  # type: ignore[arg-type]
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, []))
        warehouse.join(FAR)
    return target


def _chosen(n: int, index: int, fields: dict[str, object]) -> object:
    import msgspec

    return msgspec.structs.replace(decision(f"e{n}", n, **fields), action=["a", "b|: x", "c"][index])  # type: ignore[arg-type]


def weights_after(arguments: list[str], model: Path) -> dict[int, float]:
    """VW's weights by index, as its readable model tells them."""
    Workspace(arg_list=[*arguments, "--readable_model", str(model), "--no_stdin"]).finish()
    found = {}
    for line in model.read_text().splitlines():
        match = re.match(r"^(\d+):(\S+)( \S+)*$", line)
        if match:
            found[int(match[1])] = float(match[2])
    return found


@pytest.mark.parametrize("numbers", ["bins", "zscore"])
def test_vw_trained_on_the_encoded_export_comes_to_the_weights_of_our_training(tmp_path: Path, numbers: str) -> None:
    target = filled(tmp_path / "data", numbers)
    with Warehouse(target) as warehouse:
        warehouse.write_training_rows(tmp_path / "rows", after=None, until=FAR)
        rows = list(read_interactions(tmp_path / "rows", {}))
        learning = Learning.fresh(target.settings, rows[:200])
        arguments = learning.policy.arguments
        assert export_dsjson(warehouse, tmp_path / "log.dsjson", encoder=learning.encoder) == 400
    scale = RewardScale.of(target.settings.rewards)
    for row in rows:
        learning.policy.learn(row.context, row.actions, row.index, scale.cost(row.reward), row.propensity)
    (tmp_path / "ours.vw").write_bytes(learning.policy.to_bytes())
    learning.close()
    resume = ["--initial_regressor", str(tmp_path / "ours.vw"), "--testonly", "--quiet"]
    ours = weights_after(resume, tmp_path / "ours.txt")
    theirs = weights_after([*arguments, "--dsjson", "-d", str(tmp_path / "log.dsjson")], tmp_path / "theirs.txt")
    assert len(ours) > 100 and ours.keys() == theirs.keys()
    assert max(abs(ours[index] - theirs[index]) for index in ours) < 1e-5


def test_vw_comes_to_the_weights_of_a_model_that_read_rows_of_one_to_three_actions_twice(tmp_path: Path) -> None:
    target = filled(tmp_path / "data", offered_min=1)
    with Warehouse(target) as warehouse:
        warehouse.write_training_rows(tmp_path / "rows", after=None, until=FAR)
        rows = list(read_interactions(tmp_path / "rows", {}))
        learning = Learning.fresh(target.settings, [])
        for cut in (130, 390):  # scored, then learnt anew from 200 rows on, then scored again
            past = rows[: learning.rows_learnt]
            learning.step(rows[len(past) : cut], champion=None, champion_id=None, history=lambda past=past: past)  # type: ignore[misc]
        (tmp_path / "ours.vw").write_bytes(learning.files()["policy.vw"])
        assert learning.reread_rows == 200
        matured = at(389 + 60)
        log = tmp_path / "log.dsjson"
        assert export_dsjson(warehouse, log, encoder=learning.encoder, until=matured, reread_rows=200) == 390
    arguments = learning.policy.arguments
    learning.close()
    ours = weights_after(["--initial_regressor", str(tmp_path / "ours.vw"), "--testonly", "--quiet"], tmp_path / "ours")
    theirs = weights_after([*arguments, "--dsjson", "-d", str(log)], tmp_path / "theirs")
    assert len(log.read_text().splitlines()) == 390 + 200
    assert len(ours) > 100 and ours.keys() == theirs.keys()
    assert max(abs(ours[index] - theirs[index]) for index in ours) < 1e-5


def test_the_plain_export_comes_back_through_our_own_import(tmp_path: Path) -> None:
    source = filled(tmp_path / "data")
    with Warehouse(source) as warehouse:
        assert export_dsjson(warehouse, tmp_path / "log.dsjson") == 400
        before = warehouse.interactions()
    lines = [json.loads(line) for line in (tmp_path / "log.dsjson").read_text().splitlines()]
    assert not any(name.startswith("_") for line in lines for name in line["c"] if name != "_multi")
    copy = experiment(tmp_path / "copy")
    report = import_file(copy, tmp_path / "log.dsjson", form="dsjson", clock=lambda: at(400), durable=False)
    assert report.imported == 400
    after = joined(copy).set_index("event_id").loc[before["event_id"]].reset_index()
    for column in ("action", "index", "probability", "reward"):
        assert (after[column].to_numpy() == before[column].to_numpy()).all()
    assert [list(pmf) for pmf in after["pmf"]] == [list(pmf) for pmf in before["pmf"]]


def test_features_whose_names_would_be_one_are_exported_under_two(tmp_path: Path) -> None:
    line = {
        **{"Timestamp": "2026-03-01T12:00:00Z", "EventId": "e", "VWState": {"m": "x"}},
        "c": {"slot_": 7, "_multi": [{"i": {"x": 1}}], "_slots": [{"pos": {"top": 1}}]},
        "_outcomes": [{"_label_cost": -1, "_a": [0], "_p": [1.0], "_o": []}],
    }
    (tmp_path / "in.dsjson").write_text(json.dumps(line) + "\n")
    target = experiment(tmp_path)
    import_file(target, tmp_path / "in.dsjson", form="dsjson", clock=lambda: START, durable=False)
    context = {"_a": 1, "a": 2, "__a": 3, "_b": None, "b": 4, "tags": ["_t", "t"], "n": {"_y": 5, "y": 6}}
    write(target, [decision("f", 0, context=context), decision("g", 1, context=dict(reversed(context.items())))])
    with Warehouse(target) as warehouse:
        warehouse.ingest(write(target, []))
        warehouse.join(FAR)
        assert export_dsjson(warehouse, tmp_path / "out.dsjson") == 3
    imported, *live = (json.loads(text)["c"] for text in (tmp_path / "out.dsjson").read_text().splitlines())
    assert {name: value for name, value in imported.items() if name != "_multi"} == {
        "slot": {"pos": {"top": 1}},
        "slot_": 7,
        "slot__": "1",
    }
    assert imported["_multi"] == [{"_tag": "1", "i": {"id": "1"}, "i_": {"x": 1}}]
    for features in live:
        assert {name: value for name, value in features.items() if name != "_multi"} == {
            **{"a": 2, "a_": 3, "a__": 1, "b": 4},
            "tags": {"t": 1, "t_": 1},
            "n": {"y": 6, "y_": 5},
        }


def test_an_empty_warehouse_gives_an_empty_file(tmp_path: Path) -> None:
    with Warehouse(experiment(tmp_path)) as warehouse:
        assert export_dsjson(warehouse, tmp_path / "log.dsjson") == 0
    assert (tmp_path / "log.dsjson").read_bytes() == b""
