"""What the service earned over its control slice: the live lift, from matured interactions."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bandit.experiment import Experiment
from bandit.scoring import clusters
from evaluation.control_slice import control_lift
from joiner.window import window
from serving.learner.catch_up import catch_up
from serving.learner.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


_DRAWS = ("online", "frozen")
"""The modes in which the policy draws, and so a control slice means something."""


def run(
    workspace: Workspace,
    *,
    last: str | None = None,
    since: str | None = None,
    until: str | None = None,
    model_id: str | None = None,
) -> dict[str, Any]:
    """The lift over control of the decisions in the window (default: all), and of each slot, said in a sentence.

    Raises `InvalidInput` for a window that means nothing.
    """
    rows = window(workspace.clock(), last=last, since=since, until=until, model_id=model_id, origin="live")
    catch_up(workspace)
    frame = _declared(workspace.experiment, workspace.warehouse.interactions(rows=rows))
    answer: dict[str, Any] = {"interactions": len(frame), "control_decisions": int((frame["slice"] == "control").sum())}
    if len(frame) < 2:
        declared = workspace.experiment.settings.serving.control_fraction > 0
        missing = "no decision with a control slice has matured in this window yet"
        cure = "no control slice is declared: set serving.control_fraction to measure the lift live"
        return answer | {"lift": None, "sentence": missing if declared else cure}
    slots = sorted(frame["slot"].dropna().unique())
    by_slot = [{"slot": int(slot)} | _lift(frame[frame["slot"] == slot]) for slot in slots]
    return answer | _lift(frame) | {"slots": by_slot}


def _lift(frame: pd.DataFrame) -> dict[str, Any]:
    """The lift over control of these rows, clustered as the gate clusters them: by subject, or else by answer."""
    import pandas as pd

    if len(frame) < 2:
        return {"n": len(frame), "lift": None, "sentence": "too few decisions"}
    subjects = [name if isinstance(name, str) else None for name in frame["subject"]]
    slots = [None if pd.isna(slot) else int(slot) for slot in frame["slot"]]
    lift = control_lift(
        frame["reward"].to_numpy(dtype=np.float64),
        frame["probability"].to_numpy(dtype=np.float64),
        frame["control"].to_numpy(dtype=np.float64),
        frame["fraction"].to_numpy(dtype=np.float64),
        cluster=clusters(list(frame["event_id"]), subjects, slots),
    )
    return asdict(lift) | {"per_1000": 1000 * lift.lift, "sentence": lift.sentence(), "trusted": lift.trusted}


def _declared(experiment: Experiment, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows decided with a control slice, with its `fraction` and its probability `control` of the logged action."""
    fraction, uniform = {}, {}
    for version in experiment.versions():
        serving = experiment.settings_of(version.version).serving
        if serving.control_fraction > 0:
            fraction[version.version] = serving.control_fraction
            uniform[version.version] = serving.control_policy == "uniform"
    frame = frame[frame["settings_version"].isin(list(fraction)) & frame["mode"].isin(_DRAWS) & frame["pmf"].notna()]
    chance = [
        1.0 / len(pmf) if uniform[version] else float(index == 0)
        for pmf, index, version in zip(frame["pmf"], frame["index"], frame["settings_version"], strict=True)
    ]
    return frame.assign(fraction=frame["settings_version"].map(fraction).astype(float), control=chance)
