"""What features look like to VW, fitted or not, and that nothing can break out of a line."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.encoder import TERMS_MAX, FeatureEncoder, bins_for
from bandit.errors import CorruptModel
from bandit.feature_stats import cut_points
from bandit.settings import Encoding
from bandit.types import Action

PLAIN = (Action("one"), Action("two"))


def fit(contexts: list[dict[str, Any]], actions: tuple[Action, ...] = PLAIN, **encoding: Any) -> FeatureEncoder:
    return FeatureEncoder.fit(contexts, [actions] * len(contexts), Encoding(**encoding))


def tokens(line: str, *namespaces: str) -> set[str]:
    """The tokens of some namespaces of a line."""
    parts = [part.split() for part in line.split("|")[1:]]
    return {token for name, *rest in parts if name in namespaces for token in rest}


def test_a_number_becomes_its_quantile_bin_and_a_coarser_one() -> None:
    encoder = fit([{"x": value} for value in range(800)], bins=8)
    assert tokens(encoder.context_line({"x": 0}), "c", "d") == {"x@b0", "x@c0"}
    assert tokens(encoder.context_line({"x": 799}), "c", "d") == {"x@b7", "x@c3"}
    assert tokens(encoder.context_line({"x": 150}), "c", "d") == {"x@b1", "x@c0"}


@pytest.mark.parametrize("value", [1e300, 10**400, 1.7976931348623157e308, 10**39])
def test_outliers_fall_into_the_outermost_bins(value: float) -> None:
    encoder = fit([{"x": number} for number in range(800)], bins=8)
    assert tokens(encoder.context_line({"x": value}), "c", "d") == {"x@b7", "x@c3"}
    assert tokens(encoder.context_line({"x": -value}), "c", "d") == {"x@b0", "x@c0"}
    assert tokens(encoder.context_line({"new": value}), "n") <= {"new@p997", "new@p1024", "new@p100", "new@p130"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_what_is_no_number_counts_as_missing(value: float | None) -> None:
    encoder = fit([{"x": number} for number in range(100)])
    assert encoder.context_line({"x": value}) == encoder.context_line({})
    assert tokens(encoder.context_line({}), "c") == {"x@missing"}


def test_fitting_survives_poisoned_values() -> None:
    poison = [float("nan"), float("inf"), 10**400, 1e300, -1e300, None, "text", True, ["a"], {"deep": {"er": 1}}]
    encoder = fit([{"x": value} for value in [*range(50), *poison]])
    assert FeatureEncoder.from_json(encoder.to_json()).to_json() == encoder.to_json()
    for value in poison:
        assert "\n" not in encoder.context_line({"x": value})


def test_categories_booleans_sets_and_nested_objects_are_told_apart() -> None:
    context = {"c": "red car", "b": True, "tags": ["x", "y|z"], "user": {"age": 3, "vip": False}}
    line = fit([context, {**context, "user": {"age": 9, "vip": True}}]).context_line(context)
    assert tokens(line, "c") == {"c=red%20car", "b=true", "user.age@b0", "user.vip=false"}
    assert tokens(line, "s") == {"tags~x", "tags~y%7Cz"}


def test_the_text_true_is_not_the_boolean() -> None:
    encoder = fit([{"f": "1"}, {"f": 1}])
    assert encoder.context_line({"f": 1}) != encoder.context_line({"f": "1"})


def test_new_features_and_new_categories_have_a_code_before_the_next_fit() -> None:
    encoder = fit([{"c": "a"}, {"c": "b"}])
    assert tokens(encoder.context_line({"c": "never seen", "later": 12.0}), "c") == {"c=never%20seen"}
    assert tokens(encoder.context_line({"c": "never seen", "later": 12.0}), "n") == {"later@p4"}


def test_only_features_that_are_usually_there_are_missed() -> None:
    contexts: list[dict[str, Any]] = [{"often": 1.0 * row} for row in range(100)]
    contexts[3]["rare"] = 5
    line = fit(contexts).context_line({})
    assert tokens(line, "c") == {"often@missing"}


def test_the_order_of_keys_changes_nothing() -> None:
    encoder = fit([{"a": 1, "b": "x", "t": ["p", "q"]}, {"a": 2, "b": "y", "t": []}])
    assert encoder.context_line({"a": 1, "b": "x", "t": ["q", "p"]}) == encoder.context_line(
        {"t": ["p", "q"], "b": "x", "a": 1}
    )


def test_a_common_value_gets_a_bin_of_its_own() -> None:
    cuts = cut_points([0.0] * 900 + [float(value) for value in range(1, 101)], 8)
    assert cuts[0] == 0.5
    assert len(cuts) == 7


def test_few_distinct_values_are_cut_halfway() -> None:
    assert cut_points([1, 1, 2, 5], 8) == [1.5, 3.5]
    assert cut_points([], 8) == []
    assert cut_points([7.0], 8) == []


@given(st.lists(st.floats(-1e30, 1e30), max_size=80), st.integers(2, 20))
def test_cuts_increase_and_lie_within_the_values(values: list[float], bins: int) -> None:
    cuts = cut_points(values, bins)
    assert all(low < high for low, high in itertools.pairwise(cuts))
    assert all(min(values) < cut <= max(values) for cut in cuts)


def test_bins_grow_with_the_rows_and_are_bounded() -> None:
    assert [bins_for(rows, 32) for rows in (0, 100, 1000, 8000, 10**6)] == [8, 8, 10, 20, 32]


def test_zscores_are_bounded() -> None:
    encoder = fit([{"x": value} for value in (1.0, 2.0, 3.0)], numbers="zscore")
    assert tokens(encoder.context_line({"x": 2.0}), "c") == {"x:0.000000"}
    assert tokens(encoder.context_line({"x": 1e300}), "c") == {"x:1000.000000"}


def test_pairs_are_crossed_only_where_that_is_affordable() -> None:
    few = [{f"x{i}": float(i * row) for i in range(5)} for row in range(200)]
    many = [{f"x{i}": float(i * row) for i in range(200)} for row in range(200)]
    assert "cci" in fit(few).interactions
    assert "cci" not in fit(many).interactions
    assert "cci" not in fit(few, interactions="linear").interactions
    assert "cci" in fit(many, interactions="pairs").interactions


@pytest.mark.parametrize("described", [1, 2, 4, 10])
@pytest.mark.parametrize("numbers", [3, 9, 30])
def test_what_is_crossed_by_default_stays_within_the_declared_number_of_products(numbers: int, described: int) -> None:
    contexts = [{f"x{i}": float(i * row) for i in range(numbers)} for row in range(300)]
    actions = tuple(Action(f"a{n}", {f"f{i}": n % (2 + i) for i in range(described)}) for n in range(10))
    encoder = fit(contexts, actions)
    shared = encoder.context_line(contexts[7])
    pairs = [crossed for crossed in encoder.interactions if len(crossed) == 3]
    products = sum(_products(crossed, shared, encoder.action_line(action)) for crossed in pairs for action in actions)
    assert products <= TERMS_MAX


def _products(crossed: str, shared: str, action: str) -> int:
    """How many features VW makes of one interaction: a namespace with itself gives each pair once."""
    sizes = [len(tokens(action if name in "if" else shared, name)) for name in crossed]
    return sizes[0] * (sizes[0] + 1) // 2 * sizes[2] if crossed[0] == crossed[1] else math.prod(sizes)


def test_pairs_of_fine_bins_wait_until_there_are_rows_to_fill_them() -> None:
    rows = [{"x": float(row), "y": float(-row), "c": "ab"[row % 2]} for row in range(200)]
    assert "rdi" in fit(rows[:199]).interactions and "cci" not in fit(rows[:199]).interactions
    assert {"rdi", "cci"} <= set(fit(rows).interactions)
    assert "cci" in fit([{"c": row["c"], "d": "e"} for row in rows[:20]]).interactions  # nothing coarser is there


def test_a_number_is_also_its_place_among_the_bins() -> None:
    encoder = fit([{"x": float(row), "two": row % 2} for row in range(80)])
    places = [tokens(encoder.context_line({"x": x, "two": 1}), "r") for x in (-1e9, 35.0, 79.0)]
    assert places == [{"x@r:-0.8750"}, {"x@r:-0.1250"}, {"x@r:0.8750"}]
    scaled = fit([{"x": float(row)} for row in range(80)], numbers="zscore")
    assert "|r" not in scaled.context_line({"x": 1.0})


def test_features_of_actions_are_encoded_and_crossed() -> None:
    actions = tuple(Action(f"a{number}", {"price": float(number), "kind": "k"}) for number in range(40))
    encoder = fit([{"x": 1.0}, {"x": 2.0}], actions)
    line = encoder.action_line(Action("quite new", {"price": 1e9}))
    assert tokens(line, "i") == {"id=quite%20new"}
    assert tokens(line, "f") == {"price@b7", "price@c3", "kind@missing"}
    assert {"cf", "ci"} <= set(encoder.interactions)


def test_actions_of_the_fit_go_by_number_and_others_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandit.encoder.NUMBERED_ACTIONS_MAX", 3)
    offers = [tuple(Action(name) for name in names) for names in ("old", "abc", "bca")]
    encoder = FeatureEncoder.fit([{}] * 3, offers, Encoding())
    assert [encoder.action_line(Action(name)) for name in "bca"] == ["|i 0", "|i 1", "|i 2"]
    assert encoder.action_line(Action("old")) == "|i id=old"
    again = FeatureEncoder.from_json(encoder.to_json())
    assert again.action_line(Action("c")) == "|i 1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12),
    lambda inner: st.lists(st.text(max_size=5), max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(st.characters(), max_size=8), json_values, max_size=5), max_size=4), st.text())
def test_every_context_and_action_is_one_line_and_state_survives_json(
    contexts: list[dict[str, Any]], name: str
) -> None:
    encoder = fit(contexts[:2])
    again = FeatureEncoder.from_json(encoder.to_json())
    for context in contexts:
        line = encoder.context_line(context)
        assert line.startswith("shared |c ")
        assert len(line.splitlines()) == 1 and line.isascii()
        assert again.context_line(context) == line
    action_line = encoder.action_line(Action(name, contexts[0] if contexts else {}))
    assert action_line.startswith("|i id=") and len(action_line.splitlines()) == 1


def test_a_deeply_nested_object_is_bounded() -> None:
    deep: dict[str, Any] = {"x": 1}
    for _ in range(500):
        deep = {"n": deep}
    encoder = fit([deep])
    assert encoder.context_line(deep) == "shared |c "


def test_a_damaged_or_foreign_encoder_is_refused() -> None:
    with pytest.raises(CorruptModel):
        FeatureEncoder.from_json(b"{")
    with pytest.raises(CorruptModel, match="version 99"):
        FeatureEncoder.from_json(fit([]).to_json().replace(b'"version": 3', b'"version": 99'))


def test_the_encoding_of_each_feature_is_explained_in_words() -> None:
    contexts = [{"x": float(row), "c": "ab"[row % 2], "t": ["p"], "u": {"b": True}, "same": 1} for row in range(80)]
    actions = (Action("one", {"price": 1.5}), Action("two", {"price": 2.5}))
    explained = {row["feature"]: row for row in fit(contexts, actions).explain()}
    assert set(explained) == {"x", "c", "t", "u.b", "same", "price"}
    assert explained["x"]["encoding"].startswith("number in 8 bins, cut at 9.5")
    assert explained["c"]["encoding"].startswith("category, 2 most common of 2 values: a, b")
    assert "set of 1 values" in explained["t"]["encoding"]
    assert explained["same"]["encoding"].startswith("number that was always the same")
    assert explained["price"]["of"] == "action" and explained["x"]["share"] == 1.0
    scaled = fit(contexts, numbers="zscore").explain()
    assert any("mean 39.5" in row["encoding"] for row in scaled)


def test_what_is_ignored_is_neither_fitted_nor_encoded_known_or_new_present_or_missing() -> None:
    contexts = [{"user": f"u-{row}", "hour": row % 24, "shop": {"id": row, "town": "Ulm"}} for row in range(60)]
    actions = (Action("a", {"price": 1, "sku": "x-1"}), Action("b", {"price": 2, "sku": "x-2"}))
    encoder = fit(contexts, actions, ignore=["user", "shop.id", "sku"])
    without = fit([{"hour": each["hour"], "shop": {"town": "Ulm"}} for each in contexts], (actions[0],), ignore=["sku"])
    assert encoder.context_specs == without.context_specs
    assert [spec.path for spec in encoder.action_specs] == ["price"]
    bare = {"hour": 3, "shop": {"town": "Ulm"}}
    for more in ({"user": "u-1"}, {"user": {"name": "ann"}}, {"user.name": ["ann"]}, {"user": 7, "shop.id": 3}):
        assert encoder.context_line(bare | more) == encoder.context_line(bare)
    assert encoder.context_line(bare | {"users": 1}) != encoder.context_line(bare)
    assert encoder.action_line(actions[0]) == encoder.action_line(Action("a", {"price": 1}))
    assert "u-1" not in encoder.to_json().decode() and "x-1" not in encoder.to_json().decode()
    again = FeatureEncoder.from_json(encoder.to_json())
    assert again.to_json() == encoder.to_json() and again.encoding.ignore == ["user", "shop.id", "sku"]
    assert again.context_line(bare | {"user": "u-1"}) == encoder.context_line(bare)


def test_a_path_covers_all_below_it_however_its_names_are_dotted() -> None:
    encoder = FeatureEncoder(Encoding(ignore=["a.b"]))
    empty = encoder.context_line({})
    for context in ({"a": {"b": 1}}, {"a.b": 1}, {"a": {"b": {"c": {"d": "x"}}}}, {"a.b.c": True}, {"a": {"b.c": 1}}):
        assert encoder.context_line(context) == empty
    for context in ({"a": {"bc": 1}}, {"a": 1}, {"b": 1}, {"a": {"c": {"b": 1}}}):
        assert encoder.context_line(context) != empty


def test_an_encoder_that_ignores_nothing_is_stored_as_before_anything_could_be_ignored() -> None:
    stored = fit([{"x": number} for number in range(60)]).to_json()
    assert b"ignore" not in stored
    assert FeatureEncoder.from_json(stored).encoding == Encoding()


def test_an_action_of_which_only_the_id_is_learnt_is_not_described() -> None:
    encoder = FeatureEncoder(Encoding(ignore=["sku"]))
    told = [encoder.describes(Action("a", features)) for features in ({"sku": 1}, {}, {"sku": 1, "price": 2})]
    assert told == [False, False, True]
    assert FeatureEncoder(Encoding()).describes(Action("a", {"sku": 1}))
