"""Settings are checked once, by name, and never silently wrong."""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from bandit.errors import Conflict, InvalidSettings, NotFound
from bandit.experiment import Experiment
from bandit.settings import (
    ExperimentSettings,
    check_experiment_name,
    merge_settings,
    parse_settings,
    patch_settings,
    settings_to_dict,
    stored_settings,
)
from bandit.settings.reference import MEANING, settings_reference

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"gaet": {}}, "gaet"),
        ({"gate": {"alpa": 0.05}}, "gate.alpa"),
        ({"gate": {"alpha": 0.7}}, "gate.alpha"),
        ({"gate": {"alpha": "0.05"}}, "gate.alpha"),
        ({"rewards": {"window_s": 0}}, "rewards.window_s"),
        ({"rewards": {"min": 1.0, "max": 0.0}}, "rewards.min"),
        ({"rewards": {"default": 2.0}}, "rewards.default"),
        ({"rewards": {"aggregation": "median"}}, "rewards.aggregation"),
        ({"rewards": {"events": {"click": {"value": 5}}}}, "rewards.events.click.value"),
        ({"rewards": {"events": {"click": {"value": 0.5}}, "max": 0.4}}, "rewards.events.click.value"),
        ({"rewards": {"events": {"buy": {"min": 2}}}}, "rewards.events.buy.min"),
        ({"rewards": {"events": {"buy": {"max": -2}}}}, "rewards.events.buy.max"),
        ({"rewards": {"events": {"buy": {"min": 0.5, "max": 0.1}}}}, "rewards.events.buy.min"),
        ({"actions": []}, "actions"),
        ({"actions": [{"id": "a"}, {"id": "a"}]}, "actions[1].id"),
        ({"actions": [{"id": "a"}, {"id": "b\n"}, {"id": "b\n"}]}, "actions[2].id"),
        ({"challengers": {"standing": {}}}, "challengers.standing"),
        ({"challengers": {"offered-x": {}}}, "challengers.offered-x"),
        ({"challengers": {"x": {}, "Bold": {}}}, "challengers.Bold"),
        ({"challengers": {"a\n": {}}}, "challengers[...]"),
        ({"exploration": {"algorithm": "regcb"}}, "exploration.algorithm"),
        ({"rewards": {"default": float("nan")}}, "rewards.default"),
        ({"gate": {"margin": float("inf")}}, "gate.margin"),
        ({"challengers": {"plain": {}, "bold": {"window_h": 0}}}, "challengers.bold.window_h"),
        ({"challengers": {"bold": {"learning": {"bitss": 9}}}}, "challengers.bold.learning.bitss"),
        ({"challengers": {"bold": {"exploration": {"algorithm": "none"}}}}, "challengers.bold.exploration.algorithm"),
        ({"challengers": {"bold": 5}}, "challengers.bold"),
        ({"rewards": {"events": {"v. 2": {"value": "x"}}}}, "rewards.events.v. 2.value"),
        ({"rewards": {"window_s": 1e300}}, "rewards.window_s"),
        ({"schedule": {"interval_s": 1e12}}, "schedule.interval_s"),
        ({"schedule": {"interactions": 10**30}}, "schedule.interactions"),
        ({"schedule": {"poll_s": 1e-300}}, "schedule.poll_s"),
        ({"serving": {"seal_interval_s": 1e300}}, "serving.seal_interval_s"),
        ({"training": {"time_s_max": 1e8}}, "training.time_s_max"),
        ({"training": {"memory_bytes_max": 2**64}}, "training.memory_bytes_max"),
        ({"gate": {"alpha": 1e-300}}, "gate.alpha"),
        ({"gate": {"detectable_lift": 1e-300}}, "gate.detectable_lift"),
        ({"learning": {"learning_rate": 1e300}}, "learning.learning_rate"),
        ({"learning": {"l2": 1e300}}, "learning.l2"),
        ({"exploration": {"temperature": 1e-31}}, "exploration.temperature"),
        ({"exploration": {"gamma_scale": 1e300}}, "exploration.gamma_scale"),
        ({"rewards": {"max": 1e300}}, "rewards.max"),
        ({"encoding": {"ignore": "user"}}, "encoding.ignore"),
        ({"encoding": {"ignore": ["user", 5]}}, "encoding.ignore[1]"),
        ({"encoding": {"ignore": ["user", ""]}}, "encoding.ignore[1]"),
        ({"encoding": {"ignore": ["a\nb"]}}, "encoding.ignore[0]"),
        ({"encoding": {"ignore": ["a" * 2501]}}, "encoding.ignore[0]"),
        ({"encoding": {"ignore": [f"f{number}" for number in range(1001)]}}, "encoding.ignore"),
        ({"challengers": {"bold": {"encoding": {"ignore": [""]}}}}, "challengers.bold.encoding.ignore[0]"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(raw: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse_settings(raw)
    assert caught.value.problems[0].field == field


@pytest.mark.parametrize("field", ["subject_field", "segment_field"])
def test_an_empty_name_of_a_field_is_none_since_toml_has_no_other_word_for_it(field: str) -> None:
    named = merge_settings(ExperimentSettings(), {"serving": {field: "user"}})
    assert merge_settings(named, tomllib.loads(f'[serving]\n{field} = ""')) == ExperimentSettings()


def test_what_is_ignored_has_neither_order_nor_repetition() -> None:
    told = {"encoding": {"ignore": ["user", "shop.id", "user"]}}
    settings = parse_settings(told | {"challengers": {"bold": told}})
    assert settings.encoding.ignore == ["shop.id", "user"]
    assert settings.challengers["bold"].encoding == settings.encoding


@pytest.mark.parametrize("value", ["fast", 0, None, True])
def test_a_number_that_may_be_left_to_the_data_says_both(value: object) -> None:
    with pytest.raises(InvalidSettings) as caught:
        parse_settings({"learning": {"learning_rate": value}})
    assert caught.value.problems[0].limit == "> 0, ≤ 1000, or auto"


def test_settings_survive_the_round_trip_through_json() -> None:
    settings = parse_settings(
        {"rewards": {"window_s": 3.0, "events": {"click": {"value": 1.0}}}, "actions": [{"id": "a"}]}
    )
    assert parse_settings(settings_to_dict(settings)) == settings


def test_a_change_keeps_everything_it_does_not_mention() -> None:
    settings = merge_settings(ExperimentSettings(), {"rewards": {"window_s": 9.0}})
    assert settings.rewards.window_s == 9.0
    assert settings.rewards.max == ExperimentSettings().rewards.max
    assert settings.gate == ExperimentSettings().gate


def test_a_file_replaces_named_events_whole_and_a_patch_merges_them() -> None:
    settings = parse_settings({"rewards": {"events": {"click": {"value": 0.1}}}})
    change = {"rewards": {"events": {"share": {"value": 0.2}}}}
    assert set(merge_settings(settings, change).rewards.events) == {"share"}
    assert set(patch_settings(settings, change).rewards.events) == {"click", "share"}


def test_a_patch_of_an_event_is_refused_where_its_fixed_value_would_go_on() -> None:
    settings = parse_settings({"rewards": {"events": {"click": {"value": 0.1}}}})
    with pytest.raises(InvalidSettings, match=r"rewards\.events\.click: has a fixed value"):
        patch_settings(settings, {"rewards": {"events": {"click": {"scale": 0.5}}}})
    scaled = patch_settings(settings, {"rewards": {"events": {"click": {"scale": 0.5, "value": None}}}})
    assert scaled.rewards.events["click"].scale == 0.5 and scaled.rewards.events["click"].value is None


def test_bounds_of_an_event_beyond_the_range_of_rewards_are_kept_where_some_of_its_values_can_be_reported() -> None:
    wide = {"buy": {"scale": 0.01, "min": -9.0, "max": 9.0}, "fixed": {"value": 1.0, "min": 5.0}}
    assert set(parse_settings({"rewards": {"events": wide}}).rewards.events) == {"buy", "fixed"}


def test_an_event_that_an_earlier_release_accepted_hinders_nothing_but_a_change_of_rewards() -> None:
    plain = settings_to_dict(ExperimentSettings())
    plain["rewards"]["events"] = {"click": {"value": 5.0}}
    settings = stored_settings(plain)
    assert merge_settings(settings, {"gate": {"alpha": 0.1}}).gate.alpha == 0.1
    with pytest.raises(InvalidSettings, match=r"rewards\.events\.click\.value"):
        patch_settings(settings, {"rewards": {"window_s": 9.0}})
    assert patch_settings(settings, {"rewards": {"max": 5.0}}).rewards.max == 5.0


def test_a_challenger_may_be_named_as_a_table_of_names_is() -> None:
    settings = parse_settings({"challengers": {"events": {"window_h": 9.0}}})
    kept = patch_settings(settings, {"challengers": {"events": {"window_h": None}}}).challengers
    assert kept["events"].window_h is None
    assert patch_settings(settings, {"challengers": {"events": None}}).challengers == {}


def test_every_version_of_the_settings_stays_readable(tmp_path: Path) -> None:
    experiment = Experiment.create(tmp_path, "shop", ExperimentSettings(), now=NOW)
    assert experiment.settings_version == 1
    assert experiment.change(merge_settings(experiment.settings, {"rewards": {"window_s": 5.0}}), now=NOW) == 2
    again = Experiment.open(tmp_path, "shop")
    assert (again.settings_of(1).rewards.window_s, again.settings_of(2).rewards.window_s) == (600.0, 5.0)
    with pytest.raises(NotFound):
        again.settings_of(3)


def test_equal_settings_are_no_new_version(tmp_path: Path) -> None:
    experiment = Experiment.create(tmp_path, "shop", ExperimentSettings(), now=NOW)
    assert experiment.change(ExperimentSettings(), now=NOW) == 1


def test_another_process_sees_a_change_after_refresh(tmp_path: Path) -> None:
    writer = Experiment.create(tmp_path, "shop", ExperimentSettings(), now=NOW)
    reader = Experiment.open(tmp_path, "shop")
    assert reader.refresh() is False
    writer.change(merge_settings(writer.settings, {"serving": {"mode": "frozen"}}), now=NOW)
    assert reader.refresh() is True
    assert reader.settings.serving.mode == "frozen"


def test_catalogue_versions_are_immutable_and_numbered(tmp_path: Path) -> None:
    first = parse_settings({"actions": [{"id": "a"}, {"id": "b", "features": {"price": 2}}]})
    experiment = Experiment.create(tmp_path, "shop", first, now=NOW)
    experiment.change(parse_settings({"actions": [{"id": "c"}]}), now=NOW)
    old, new = experiment.catalogue(1), experiment.catalogue()
    assert old is not None and [action.id for action in old] == ["a", "b"]
    assert new is not None and [action.id for action in new] == ["c"]


def test_an_experiment_is_never_silently_reset(tmp_path: Path) -> None:
    created = Experiment.create(tmp_path, "shop", parse_settings({"gate": {"alpha": 0.01}}), now=NOW)
    with pytest.raises(Conflict):
        Experiment.create(tmp_path, "shop", ExperimentSettings(), now=NOW)
    opened = Experiment.open(tmp_path, "shop")
    assert opened.settings.gate.alpha == 0.01
    assert opened.secret == created.secret and len(opened.secret) == 32


@pytest.mark.parametrize("since", ["2026-03-01", date(2026, 3, 1), "2026-03-01T00:00:00Z"])
def test_a_date_from_which_to_learn_is_its_midnight_in_utc(since: object) -> None:
    told = {"learning": {"only_since": since}}
    settings = parse_settings(told | {"challengers": {"bold": told}})
    assert settings.learning.only_since == datetime(2026, 3, 1, tzinfo=UTC)
    assert settings.challengers["bold"].learning == settings.learning


def test_a_refused_name_of_an_experiment_is_said_with_what_is_valid() -> None:
    with pytest.raises(
        InvalidSettings, match=r"experiment: 'My Shop' is not a valid name \(limit: up to 63 of a to z, "
    ):
        check_experiment_name("My Shop")
    with pytest.raises(InvalidSettings, match=r"experiment: is not a valid name"):
        check_experiment_name("a\n")


@pytest.mark.parametrize("name", ["", "Shop", "a/b", "..", "-a", "a" * 64, "a b"])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSettings):
        Experiment.create(tmp_path, name, ExperimentSettings(), now=NOW)


def test_the_secret_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    experiment = Experiment.create(tmp_path, "shop", ExperimentSettings(), now=NOW)
    assert experiment.paths.secret.stat().st_mode & 0o077 == 0


def test_every_setting_has_its_meaning_written_down_and_nothing_else_has() -> None:
    assert {setting.key for setting in settings_reference()} == set(MEANING)


@pytest.mark.parametrize(
    ("raw", "field", "limit"),
    [
        ({"exploration": {"algorithm": "regcb"}}, "exploration.algorithm", "squarecb"),
        ({"learning": {"only_mode": "onlin"}}, "learning.only_mode", "apprentice"),
        ({"learning": {"only_slice": "controls"}}, "learning.only_slice", "control, policy, trial"),
        ({"challengers": {"x": {"exploration": {"algorithm": "rnd"}}}}, "algorithm", "egreedy"),
    ],
)
def test_a_value_that_is_none_of_a_few_is_refused_with_those_there_are(
    raw: dict[str, object], field: str, limit: str
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        parse_settings(raw)
    assert field in str(refused.value) and limit in str(refused.value)
    assert not any(value in str(refused.value) for value in ("regcb", "onlin,", "controls", "rnd"))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"rewards": {"window_s": -3}}, "rewards.window_s: is out of range (limit: > 0, ≤ 1000000000)"),
        ({"encoding": {"bins": "many"}}, "encoding.bins: must be an integer, not text (limit: ≥ 2, ≤ 256)"),
        ({"training": {"memory_bytes_max": 1}}, "training.memory_bytes_max: is out of range (limit: ≥ 536870912, "),
        ({"gate": {"enabled": 1}}, "gate.enabled: must be true or false, not an integer"),
        ({"serving": {"subject_field": 4}}, "serving.subject_field: must be text, not an integer"),
        ({"learning": {"only_since": "yesterday"}}, "learning.only_since: is not a time (limit: RFC 3339 "),
        ({"learning": {"only_since": "2026-03-01T00:00:00"}}, "learning.only_since: is not a time (limit: RFC 3339 "),
        ({"actions": ["a"]}, "actions[0]: must be a table, not text"),
        ({"actions": [{"features": {}}]}, "actions[0].id: is required"),
        ({"actions": [{"id": "a", "name": 1}]}, "actions[0].name: is not a known setting (one of: id, features)"),
        ({"rewards": {"events": {"click": 1}}}, "rewards.events.click: must be a table, not an integer"),
        ({"retention": {"compact": 3}}, "(one of: compact_after_days, drop_after_days)"),
        ({"learning": {"only_since": "2026-02-30"}}, "learning.only_since: is not a time (limit: RFC 3339 "),
        ({"challengers": {"former": {}}}, "(limit: any but standing, former and what begins with offered-)"),
        ({"challengers": {"Bold": {}}}, "is not a valid name (limit: up to 63 of a to z, "),
        ({"actions": [{"id": "x"}, {"id": "tea"}, {"id": "tea"}]}, "actions[2].id: 'tea' is the id of actions[1], too"),
    ],
)
def test_a_refusal_speaks_of_settings_not_of_python_and_names_the_limit(raw: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        parse_settings(raw)
    assert told in str(refused.value)


@pytest.mark.parametrize("name", ["x - at `$.rewards.y", "x - at `$.y`", "x - at `$", "`"])
def test_an_unknown_setting_may_be_named_as_a_decoder_names_places(name: str) -> None:
    for raw in ({name: 1}, {"rewards": {name: 1}}, {"challengers": {"a": {name: 1}}}):
        with pytest.raises(InvalidSettings, match="is not a known setting"):
            parse_settings(raw)


def test_limits_are_written_as_a_person_would_type_them() -> None:
    limits = [setting.limit for setting in settings_reference() if setting.limit]
    assert limits and not any("e+" in limit for limit in limits)
