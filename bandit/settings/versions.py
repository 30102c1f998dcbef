"""The versions that an experiment's settings have had, and how a start lays its configuration over the last one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from bandit.errors import InvalidSettings
from bandit.settings.changes import added, differing, lay_over, merge_settings
from bandit.settings.checks import settings_to_dict, stored_settings
from bandit.settings.declared import ExperimentSettings

Origin = Literal["api", "command", "configuration"]
"""Where a version of the settings came from."""


class SettingsVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """Settings with the version that decisions carry, and the time since when they hold.

    `laid_in` is the digest of the configuration that a start laid over them last, None where none did, and
    `configuration` what it declared; only the last one is kept, and earlier releases kept none. `origin` is where the
    version came from, `key` the name of the API key that was shown for it; None where that is not known.
    """

    version: int
    since: datetime
    settings: dict[str, Any]
    catalogue_version: int | None = None
    laid_in: str | None = None
    configuration: dict[str, Any] | None = None
    origin: Origin | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class LaidIn:
    """The settings that a start's configuration changed, and those that differed from what the last one had left.

    `since` are the settings changed between the last start that laid in a configuration and this one: over the API.
    `unlike` are those that stay although the configuration says something else: it did so before. `repeated` says that
    it is the same configuration.
    """

    repeated: bool = False
    changed: tuple[str, ...] = ()
    since: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()

    @property
    def overridden(self) -> tuple[str, ...]:
        """Those changed over the API that this start changed again."""
        return tuple(key for key in self.changed if key in self.since)


def digest_of(configuration: Mapping[str, Any]) -> str | None:
    """The digest of what a configuration declares for an experiment, None where it declares nothing."""
    if not configuration:
        return None
    return hashlib.sha256(msgspec.json.encode(configuration, order="deterministic")).hexdigest()


def laid_in_last(versions: list[SettingsVersion]) -> SettingsVersion | None:
    """The version that was in force when a start last laid its configuration in."""
    return next((version for version in reversed(versions) if version.laid_in is not None), None)


def is_new(configuration: Mapping[str, Any], laid: SettingsVersion | None) -> bool:
    """Whether a configuration declares anything, and is another than the one laid in with that version."""
    return bool(configuration) and (laid is None or laid.laid_in != digest_of(configuration))


def laid_over(versions: list[SettingsVersion], configuration: Mapping[str, Any]) -> ExperimentSettings:
    """The settings in force with that of a configuration laid over them which the one laid in last did not declare.

    All of it where that does not go with the rest of the settings.
    """
    laid, current = laid_in_last(versions), stored_settings(versions[-1].settings)
    if not is_new(configuration, laid):
        return current
    before = laid.configuration if laid is not None else None
    try:
        return merge_settings(current, added(configuration, before or {}))
    except InvalidSettings:
        return merge_settings(current, configuration)


def remember(versions: list[SettingsVersion], laid: SettingsVersion, configuration: Mapping[str, Any]) -> None:
    """Note a configuration with the version that it was laid in with, and with no other one."""
    for place, version in enumerate(versions):
        kept = (digest_of(configuration), dict(configuration)) if version == laid else (version.laid_in, None)
        versions[place] = msgspec.structs.replace(version, laid_in=kept[0], configuration=kept[1])


def unlike(settings: ExperimentSettings, configuration: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings of which a configuration says something else than what is in force."""
    plain = settings_to_dict(settings)
    try:
        declared = settings_to_dict(merge_settings(settings, configuration))
    except InvalidSettings:  # it does not go with the settings as they are
        declared = lay_over(plain, configuration)
    return differing(plain, declared)
