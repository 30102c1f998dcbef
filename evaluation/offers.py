"""Which actions each row offered, by their ids: distinct offers are kept once, and each row has the number of its own.

For reports only: nothing that decides looks at a name. Where offers hardly ever recur they would take more room than
the scores themselves, so beyond declared bounds there are none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Offer = tuple[str, ...]
"""The ids of the actions that a row offered, in their order."""

Numbers = NDArray[np.int32]

OFFERS_MAX, OFFER_BYTES_MAX = 4096, 32 * 1024 * 1024
"""So many distinct offers, and what their ids may take in memory."""

ID_BYTES = 60
"""What an id takes beside its letters."""


class KnownOffers:
    """Distinct offers in the order in which they came, as long as they stay within bounds."""

    def __init__(self) -> None:
        self.offers: list[Offer] = []
        self._places: dict[Offer, int] = {}
        self._bytes = 0

    def places(self, offers: Sequence[Offer]) -> list[int] | None:
        """The number of each of `offers`, None once they are too many to be kept."""
        places = self._places
        for offer in offers:
            if offer not in places:
                self._bytes += sum(map(len, offer)) + ID_BYTES * len(offer)
                if len(places) >= OFFERS_MAX or self._bytes > OFFER_BYTES_MAX:
                    return None
                places[offer] = len(places)
                self.offers.append(offer)
        return [places[offer] for offer in offers]


def joined_offers(
    parts: Sequence[tuple[Sequence[Offer] | None, Numbers | None]],
) -> tuple[list[Offer] | None, Numbers | None]:
    """Offers and numbers of consecutive parts of the rows; none where a part has none, or they are too many."""
    known, numbers = KnownOffers(), []
    for offers, offer in parts:
        places = None if offers is None else known.places(offers)
        if places is None or offer is None:
            return None, None
        numbers.append(np.asarray(places, np.int32)[offer])
    return (known.offers, np.concatenate(numbers)) if numbers else (None, None)


def text_of(offer: Offer) -> str:
    """An offer as a JSON array."""
    return json.dumps(offer, separators=(",", ":"))


def digest_of(offers: Sequence[Offer], offer: Numbers) -> str:
    """SHA-256 over the offers of all rows, in order, however they are numbered."""
    each = np.array([hashlib.sha256(text_of(ids).encode()).digest() for ids in offers], dtype="V32")
    return hashlib.sha256(each[offer].tobytes()).hexdigest()
