"""Rows know their actions by name: shares follow the ids, whatever was offered where, and however rows are stored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandit import scoring
from bandit.errors import InvalidScores
from evaluation import offers
from evaluation.certificate import certificate, verify_certificate
from evaluation.diagnostics import action_shares, named_shares
from evaluation.gate import GateRules, judge
from evaluation.report import render_report
from evaluation.scored import ScoredRows
from joiner.parquet import read_parquet, write_parquet
from serving.cli.scored_file import ScoredFile
from tests.evaluation.worlds import make_world

NAMES = ("ant", "bee", "cat", "dog", "emu")


def shuffled(n: int = 600) -> tuple[ScoredRows, ScoredRows]:
    """Rows that offer five actions always in one order, and the same rows in three orders, with their names."""
    rng = np.random.default_rng(1)
    plain = make_world(3, k=5).log(rng, n)
    orders = [np.arange(5), np.array([4, 2, 0, 1, 3]), np.array([1, 0, 3, 4, 2])]
    which = rng.integers(3, size=n)
    order = np.array(orders)[which]
    flat = (order + 5 * np.arange(n)[:, None]).ravel()
    assert plain.pmf is not None
    moved = replace(
        plain,
        **{name: getattr(plain, name)[flat] for name in ("candidate", "champion", "q", "pmf")},
        action=np.argmax(order == plain.action[:, None], axis=1),
        offers=[tuple(NAMES[place] for place in each) for each in orders],
        offer=which.astype(np.int32),
        event_id=[f"e{place}" for place in range(n)],
    )
    return plain, moved


def certified(rows: ScoredRows) -> dict:
    return certificate(rows, judge(rows, GateRules()), GateRules())


def test_shares_rewards_and_draws_follow_the_names_whatever_the_order_of_the_offers() -> None:
    plain, moved = shuffled()
    found = named_shares(moved)
    assert found is not None and found["count"] == 5
    expected = {NAMES[entry["action"]]: entry for entry in action_shares(plain)}
    assert [entry["id"] for entry in found["shares"]] == [NAMES[e["action"]] for e in action_shares(plain)]
    for entry in found["shares"]:
        by_place = expected[entry["id"]]
        for name in ("candidate", "champion", "logged", "mean_reward"):
            assert entry[name] == pytest.approx(by_place[name])
        assert entry["draws"] == round(600 * by_place["logged"]) and entry["offered"] == 600


def test_an_action_that_few_rows_offer_has_its_share_of_all_rows() -> None:
    few, many = (
        make_world(1, k=3).log(np.random.default_rng(1), 10),
        make_world(2, k=2).log(np.random.default_rng(2), 30),
    )
    rows = ScoredRows.concat(
        [
            replace(few, offers=[("a", "b", "c")], offer=np.zeros(10, np.int32)),
            replace(many, offers=[("x", "y"), ("c", "a")], offer=np.ones(30, np.int32)),
        ]
    )
    found = named_shares(rows)
    assert found is not None
    assert {entry["id"]: entry["offered"] for entry in found["shares"]} == {"a": 40, "b": 10, "c": 40}
    (b,) = (entry for entry in found["shares"] if entry["id"] == "b")
    assert b["candidate"] == pytest.approx(few.candidate.reshape(10, 3)[:, 1].sum() / 40)
    assert sum(entry["champion"] for entry in found["shares"]) == pytest.approx(1.0)


def test_names_survive_slices_joins_tables_and_files(tmp_path: Path) -> None:
    _, rows = shuffled()
    odd = np.arange(600) % 2 == 1
    assert rows.where(odd).offers_digest() != rows.offers_digest() is not None
    joined = ScoredRows.concat([rows.slice(0, 7), rows.slice(7, 7), rows.slice(7)])
    assert joined.offers_digest() == rows.offers_digest()
    assert named_shares(joined) == named_shares(rows)
    assert ScoredRows.from_frame(rows.to_frame()).offers_digest() == rows.offers_digest()
    lists = rows.to_frame().assign(actions=[list(rows.offers[place]) for place in rows.offer])
    assert ScoredRows.from_frame(lists).offers_digest() == rows.offers_digest()
    write_parquet(tmp_path / "rows.parquet", rows.to_columns())
    stored = ScoredRows.from_frame(read_parquet(tmp_path / "rows.parquet"))
    assert stored.offers_digest() == rows.offers_digest()
    assert json.loads(read_parquet(tmp_path / "rows.parquet")["actions"][0]) == list(rows.offers[rows.offer[0]])
    assert ScoredFile(tmp_path / "rows.parquet").digest() == rows.digest()


def test_the_digest_of_the_rows_is_what_it_was_without_names() -> None:
    _, rows = shuffled()
    nameless = replace(rows, offers=None, offer=None)
    assert nameless.digest() == rows.digest() and nameless.offers_digest() is None
    assert certified(nameless)["lift"] == certified(rows)["lift"]


def test_one_changed_name_is_found() -> None:
    _, rows = shuffled()
    cert = certified(rows)
    assert verify_certificate(cert, rows) == []
    offer = rows.offer.copy()
    offer[17] = (offer[17] + 1) % 3
    assert any(line.startswith("rows.offers_digest") for line in verify_certificate(cert, replace(rows, offer=offer)))
    assert any(line.startswith("rows.offers_digest") for line in verify_certificate(cert, replace(rows, offers=None)))


@pytest.mark.parametrize("cell", [None, 7, "ant", '{"ant": 1}', '["ant", 1, 2, 3, 4]', '["ant"]', ["ant"] * 4])
def test_what_is_no_list_of_an_id_for_each_action_is_refused_with_its_row(cell: object) -> None:
    frame = shuffled()[1].to_frame().astype({"actions": object})
    frame.at[3, "actions"] = cell
    with pytest.raises(InvalidScores, match=r"actions: .*row 3, counted from 0"):
        ScoredRows.from_frame(frame)


def test_rows_of_which_some_have_no_names_have_none() -> None:
    plain, rows = shuffled()
    nameless = replace(plain, event_id=rows.event_id)
    assert ScoredRows.concat([rows, nameless]).offers is None
    assert ScoredRows.concat([rows, ScoredRows.empty()]).offers_digest() == rows.offers_digest()


def test_offers_that_hardly_recur_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = shuffled()
    monkeypatch.setattr(offers, "OFFERS_MAX", 3)
    assert ScoredRows.concat([rows, rows]).offers == rows.offers
    other = replace(rows, offers=[("v", "w", "x", "y", "z")], offer=np.zeros(600, np.int32))
    assert ScoredRows.concat([rows, other]).offers is None
    monkeypatch.setattr(offers, "OFFER_BYTES_MAX", 2 * 5 * (3 + offers.ID_BYTES))
    assert ScoredRows.concat([rows, rows]).offers is None


def test_scoring_and_evaluation_have_the_same_bounds() -> None:
    for name in ("OFFERS_MAX", "OFFER_BYTES_MAX", "ID_BYTES"):
        assert getattr(scoring, name) == getattr(offers, name)


def test_a_report_names_actions_or_says_that_it_cannot() -> None:
    _, rows = shuffled()
    named = render_report(certified(rows))
    assert all(f">{name}</text>" in named and f">{name}</td>" in named for name in NAMES)
    assert "position" not in named
    nameless = certified(replace(rows, offers=None, offer=None))
    page = render_report(nameless)
    assert "These rows do not tell their actions by name" in page and "position 0" not in page
    assert "position 0" in render_report({**nameless, "rules_version": 6})
