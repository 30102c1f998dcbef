"""What goes in and comes out of the client: actions, recommendations, and the answer to a reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Action:
    """One candidate: its id, and its own features (often none)."""

    id: str
    features: Mapping[str, Any] = field(default_factory=dict)

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of the API."""
        return {"id": self.id, "features": dict(self.features)} if self.features else {"id": self.id}


Offer = Action | str | Mapping[str, Any]
"""An action as a caller may offer it: `Action("a", {"price": 5})`, its id alone, or `{"id": …, "features": …}`."""


@dataclass(frozen=True, slots=True)
class RankedAction:
    """An action of the ranking, with the probability that it would have been chosen."""

    action: str
    probability: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A decision that is on the service's disk: show `action`, keep `event_id` for the reward."""

    event_id: str
    action: str
    probability: float
    model_id: str
    ranking: tuple[RankedAction, ...] = ()

    @classmethod
    def from_wire(cls, body: Mapping[str, Any]) -> Recommendation:
        """Read the API's JSON object; raises KeyError, TypeError or ValueError when it is not one."""
        return cls(
            event_id=str(body["event_id"]),
            action=str(body["action"]),
            probability=float(body["probability"]),
            model_id=str(body["model_id"]),
            ranking=tuple(
                RankedAction(str(entry["action"]), float(entry["probability"])) for entry in body.get("ranking") or ()
            ),
        )
