"""What a caller hands in, checked before anything is sent: a wrong type is a bug of the caller, and no outage.

A text is a sequence, too, of letters: taken for one, each of them would be an action, and be logged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from rewardloop_client.types import Action, Offer

_MEMBERS = frozenset({"id", "features"})


def check_address(url: str, name: str) -> str:
    """`url` as an address to begin with; raises ValueError where nothing could be asked there."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{name}: is not an address ({error})") from None
    if address.scheme not in ("http", "https"):
        raise ValueError(f"{name}: must begin with http:// or https://, such as http://127.0.0.1:8000")
    if not address.host:
        raise ValueError(f"{name}: names no host, such as http://127.0.0.1:8000 does")
    return url


def listed(items: Iterable[Any], name: str, of: str) -> list[Any]:
    """`items` as a list; raises TypeError for a single text or mapping in place of several."""
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise TypeError(f"{name}: must be a list of {of}, not a single {type(items).__name__}")
    return list(items)


def offered(actions: Iterable[Offer] | None) -> list[Offer] | None:
    """The actions as a list; raises TypeError or ValueError for what is none."""
    if actions is None:
        return None
    found = listed(actions, "actions", "actions")
    for position, action in enumerate(found):
        if not isinstance(action, str):
            _check_action(action, f"actions[{position}]")
    return found


def to_wire(action: Offer) -> dict[str, Any]:
    """The JSON object of the API for an action that `offered` has let through."""
    if isinstance(action, str):
        return {"id": action}
    return (action if isinstance(action, Action) else Action(**action)).to_wire()


def _check_action(action: Any, where: str) -> None:
    if isinstance(action, Action):
        ident, features = action.id, action.features
    elif isinstance(action, Mapping):
        unknown = [name for name in action if name not in _MEMBERS]
        if unknown:
            raise ValueError(f"{where}: has {unknown[0]!r}, which is not known here; an action has id and features")
        if "id" not in action:
            raise ValueError(f"{where}.id: is required")
        ident, features = action["id"], action.get("features", {})
    else:
        raise TypeError(f"{where}: must be an id, an Action or a mapping with an id, not {type(action).__name__}")
    if not isinstance(ident, str):
        raise TypeError(f"{where}.id: must be a text, not {type(ident).__name__}")
    if not isinstance(features, Mapping):
        raise TypeError(f"{where}.features: must be a mapping, not {type(features).__name__}")
