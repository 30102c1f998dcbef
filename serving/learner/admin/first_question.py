"""The first question to an experiment, as a command to copy: for whoever has just started it and sees an empty page."""

from __future__ import annotations

import json
from typing import Any

from bandit.experiment import Experiment

SOMEWHERE = "http://127.0.0.1:8000"
"""Where the decision API listens unless told otherwise."""

_CONTEXT = {"hour": 20}
_ACTIONS = ["news", "sport"]


def curl(experiment: Experiment, url: str | None, *, key_needed: bool) -> str:
    """A shell command that asks for a decision; `url` is the decision API's, None where it is not known."""
    body: dict[str, Any] = {"context": _CONTEXT}
    if experiment.catalogue() is None:
        body["actions"] = [{"id": name} for name in _ACTIONS]
    key = '-H "authorization: Bearer $KEY" ' if key_needed else ""
    address = f"{url or SOMEWHERE}/v1/experiments/{experiment.name}/recommend"
    return f"curl -s {address} {key}-H 'content-type: application/json' -d '{json.dumps(body)}'"


def python(experiment: Experiment, url: str | None, *, key_needed: bool) -> str:
    """The same with the Python client, reward and all."""
    key = ', api_key=os.environ["KEY"]' if key_needed else ""
    offered = "" if experiment.catalogue() is not None else f", {json.dumps(_ACTIONS)}"
    lines = [
        *(["import os", ""] if key_needed else []),
        "from rewardloop_client import Client",
        "",
        f'with Client("{url or SOMEWHERE}", "{experiment.name}"{key}) as client:',
        f"    shown = client.recommend({json.dumps(_CONTEXT)}{offered})",
        f"    client.reward(shown.event_id, {experiment.settings.rewards.max:g})",
    ]
    return "\n".join(lines)
