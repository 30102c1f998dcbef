"""Changes of the settings in history: each version, which keys it changed, who asked for it, who learns anew by it.

Several processes change settings, and the learner alone writes history: it tells at its next poll what others changed,
or what was laid in before it ran. Each version states where it came from, so that nothing is lost meanwhile. History
names keys, and never what they were set to.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

from bandit.settings import ExperimentSettings, differing, settings_to_dict
from serving.learner.challengers.field import fingerprint, settings_of_challenger
from serving.learner.challengers.plans import made_of
from serving.learner.challengers.store import STANDING
from serving.learner.reports import SETTINGS
from serving.learner.workspace import Workspace


def tell_settings(workspace: Workspace) -> None:
    """Put into history the versions of the settings that it does not tell of yet; raises `OSError` and `CorruptLog`."""
    experiment, history = workspace.experiment, workspace.registry.history
    with workspace.telling:  # not `lock`: whoever changes a setting should not wait for rows to be taken in
        versions = experiment.versions()
        newest = versions[-1].version, versions[-1].since
        if workspace.settings_told == newest:
            return
        # by their time, too: settings of a backup go on from an earlier version than history knows
        told = {(entry["version"], datetime.fromisoformat(entry["at"])) for entry in history.entries(SETTINGS)}
        for before, after in pairwise(versions):
            if (after.version, after.since) in told:
                continue
            was, now = experiment.settings_of(before.version), experiment.settings_of(after.version)
            by = {"origin": after.origin, "key": after.key}
            history.record(
                SETTINGS,
                now=after.since,
                version=after.version,
                changed=differing(settings_to_dict(was), settings_to_dict(now)),
                learns_anew=learning_anew(was, now),
                **{name: value for name, value in by.items() if value is not None},
            )
        workspace.settings_told = newest


def learning_anew(was: ExperimentSettings, now: ExperimentSettings) -> list[str]:
    """The challengers that learn anew because what they are made of changed, by name."""
    names = [STANDING] if made_of(was) != made_of(now) else []
    for name in sorted(was.challengers.keys() & now.challengers.keys()):
        made = [fingerprint(settings_of_challenger(each, name), each.challengers[name]) for each in (was, now)]
        if made[0] != made[1]:
            names.append(name)
    return names
