"""A catalogue, one action at a time: put, replaced or removed, each as a new version of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bandit.errors import InvalidSettings, NotFound
from bandit.experiment import Experiment
from bandit.features import check_features, check_name
from bandit.settings import ExperimentSettings, merge_settings, settings_to_dict
from bandit.settings.versions import Origin


def put_action(
    experiment: Experiment,
    action_id: str,
    features: Mapping[str, Any],
    *,
    now: datetime,
    origin: Origin | None = None,
    key: str | None = None,
) -> bool:
    """Put an action into the catalogue, in its place or else last; returns whether it is new there.

    One that says the same already makes no new version; a new one states `origin` and the name of the `key`. Raises
    `InvalidSettings`, and `InvalidRequest` for an id or features that no request might give: those that name its id
    alone have them. A whole action in place of its features is refused: they would be nested in one feature, where no
    request has them.
    """
    if not action_id:
        raise InvalidSettings("id", "must be the id of an action, which is not empty")
    if isinstance(features.get("features"), Mapping) and features.keys() <= {"id", "features"}:
        raise InvalidSettings("features", "must be the features themselves, without `features` (and `id`) around them")
    added = False

    def changed(settings: ExperimentSettings) -> ExperimentSettings:
        nonlocal added
        check_name(action_id, "id", settings.limits)
        check_features(features, "features", settings.limits)
        action = {"id": action_id, "features": dict(features)}
        actions = _plain(settings)
        added = all(known["id"] != action_id for known in actions)
        kept = [action if known["id"] == action_id else known for known in actions]
        return merge_settings(settings, {"actions": [*kept, action] if added else kept})

    experiment.update(changed, now=now, origin=origin, key=key)
    return added


def remove_action(
    experiment: Experiment, action_id: str, *, now: datetime, origin: Origin | None = None, key: str | None = None
) -> None:
    """Remove an action from the catalogue; raises `NotFound`, or `InvalidSettings` where it is the last one."""

    def changed(settings: ExperimentSettings) -> ExperimentSettings:
        actions = _plain(settings)
        kept = [action for action in actions if action["id"] != action_id]
        if len(kept) == len(actions):
            raise NotFound("the catalogue holds no action of this id" if actions else "no catalogue is declared")
        if not kept:
            raise InvalidSettings(
                "id",
                "is the last action, and a catalogue needs at least one (`actions` set to null declares none any more)",
            )
        return merge_settings(settings, {"actions": kept})

    experiment.update(changed, now=now, origin=origin, key=key)


def catalogue_of(experiment: Experiment) -> dict[str, Any]:
    """The catalogue in force with its version, and that of the settings; `actions` is null where none is declared."""
    in_force = experiment.in_force
    return {
        "settings_version": in_force.version,
        "catalogue_version": in_force.catalogue_version,
        "actions": settings_to_dict(in_force.settings)["actions"],
    }


def _plain(settings: ExperimentSettings) -> list[dict[str, Any]]:
    return settings_to_dict(settings)["actions"] or []
