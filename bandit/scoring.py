"""Scored rows: what candidate, champion and reward model say of each logged row before it is learnt.

These arrays are all that offline evaluation sees of a model. The champion's probabilities come from the log
wherever the champion itself decided, and a sample of them is checked by asking it again.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.courtesy import courteously
from bandit.errors import TrainingFailed
from bandit.settings import ExperimentSettings, Rewards, Serving
from bandit.tried import Tried
from bandit.types import MODE_ONLINE, SLICE_POLICY, Interaction, Policy

_OF_FIELD = "\x1f"
"""Between the name of a field and a value of it; no field of a context has it in its name."""

OFFERS_MAX, OFFER_BYTES_MAX, ID_BYTES = 4096, 32 * 1024 * 1024, 60
"""So many distinct offers are told apart by name, and what their ids may take in memory, beside so many bytes each."""

SPOT_CHECK_EVERY = 50
SPOT_CHECK_TOLERANCE = 1e-9
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


class Scores(NamedTuple):
    """n scored rows; the per-action values are ragged: row i owns `offsets[i]:offsets[i + 1]`.

    `candidate` and `champion` are the pmfs as served (the candidate's by its version of that time, where it was on
    trial), `q` the predicted rewards of all actions, `pmf` the
    logged one (NaN where the log has none); `action` is the position of the logged action, with its `reward`
    and `propensity`; `cluster` names the rows that hang together (see `clusters`), None where each stands for itself,
    `decided_at` is UTC as datetime64[us], `segment` the value of the context field by which reports show the lift, with
    the field's name (see `segments_of`), `slot` the place in an answer of several decisions. `offers` are the distinct
    offers by the ids of their actions, `offer` the number of each row's own (see `offers_of`).
    """

    event_id: list[str]
    decided_at: NDArray[np.datetime64]
    offsets: NDArray[np.int64]
    candidate: NDArray[np.float64]
    champion: NDArray[np.float64]
    q: NDArray[np.float64]
    pmf: NDArray[np.float64]
    action: NDArray[np.int64]
    reward: NDArray[np.float64]
    propensity: NDArray[np.float64]
    cluster: list[str] | None
    segment: list[str] | None = None
    slot: list[str] | None = None
    offers: list[tuple[str, ...]] | None = None
    offer: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class RewardScale:
    """Rewards to costs and back: silence costs 0, the far end of the declared range costs ∓1.

    Models of equal scales say the same by a cost; of another one, they say something else.
    """

    zero: float
    top: float
    unit: float
    low: float
    high: float

    @classmethod
    def of(cls, rewards: Rewards) -> RewardScale:
        """The scale that declared rewards have."""
        # a sum of rewards may leave the range of a single one, but must stay bounded
        reach = 100.0 if rewards.aggregation == "sum" else 1.0
        return cls(
            zero=rewards.default,
            top=rewards.max,
            unit=max(rewards.max - rewards.default, rewards.default - rewards.min),
            low=rewards.default - reach * (rewards.default - rewards.min),
            high=rewards.default + reach * (rewards.max - rewards.default),
        )

    @property
    def best_cost(self) -> float:
        """The cost of the best single reward."""
        return min((self.zero - self.top) / self.unit, 0.0)

    def cost(self, reward: float) -> float:
        """The cost that VW minimises; raises `TrainingFailed` for what is no number."""
        if not math.isfinite(reward):
            raise TrainingFailed("a reward is not a finite number; it must not reach the learner")
        return (self.zero - min(max(reward, self.low), self.high)) / self.unit

    def rewards(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rewards of predicted costs, within the possible range."""
        return np.clip(self.zero - costs * self.unit, self.low, self.high)


ServingOf = Callable[[int], Serving]
"""Gives how decisions were served under a version of the settings."""


class Scoring:
    """Rows scored so far, growing towards `Scores`; without `serving_of` all rows count as served under `settings`.

    With `answers_count=False` the slots of an answer stand for themselves, as by older rules.
    """

    def __init__(
        self,
        champion: Policy | None,
        champion_id: str | None,
        settings: ExperimentSettings,
        *,
        tried: Tried | None = None,
        serving_of: ServingOf | None = None,
        answers_count: bool = True,
    ) -> None:
        self._serving_of = cache(serving_of or (lambda _: settings.serving))
        self._logged = _LoggedPmfs(champion, champion_id, self._serving_of)
        self._tried = tried
        self._answers_count = answers_count
        self._rows: list[Interaction] = []
        self._offsets = [0]
        # a list of floats would take four times the memory: with many actions, gigabytes
        self._candidate, self._champion, self._q, self._pmf = (array("d") for _ in range(4))

    def add(self, rows: Sequence[Interaction], candidate: NDArray[np.float64], q: NDArray[np.float64]) -> None:
        """Append rows with the candidate's pmf and the predicted rewards of the actions, each row after the other."""
        logged, tried = self._logged.of, self._tried
        begin = end = self._offsets[-1]
        for row in courteously(rows):
            start, end = end, end + len(row.actions)
            champion = logged(row)
            if tried is not None and (served := tried.pmf(row, champion)) is not None:
                candidate[start - begin : end - begin] = served
            self._champion.extend(champion)
            self._pmf.extend(row.pmf if row.pmf is not None else [math.nan] * len(row.actions))
            self._offsets.append(end)
        if not len(candidate) == len(q) == end - begin:
            raise TrainingFailed("a row was scored for other actions than it offered")
        self._rows.extend(rows)
        self._candidate.frombytes(candidate.tobytes())
        self._q.frombytes(q.tobytes())

    def scores(self) -> Scores:
        """The rows so far, as arrays."""
        rows = self._rows
        fields = [self._serving_of(row.settings_version).segment_field for row in rows]
        offers, offer = offers_of(rows)
        return Scores(
            event_id=[row.event_id for row in rows],
            decided_at=_times([row.decided_at for row in rows]),
            offsets=np.asarray(self._offsets, dtype=np.int64),
            candidate=np.array(self._candidate),
            champion=np.array(self._champion),
            q=np.array(self._q),
            pmf=np.array(self._pmf),
            action=np.asarray([row.index for row in rows], dtype=np.int64),
            reward=np.asarray([row.reward for row in rows], dtype=np.float64),
            propensity=np.asarray([row.propensity for row in rows], dtype=np.float64),
            cluster=clusters(
                [row.event_id for row in rows],
                [row.subject for row in rows],
                [row.slot if self._answers_count else None for row in rows],
            ),
            segment=[
                "" if field is None else f"{field}{_OF_FIELD}{_label(row.context.get(field))}"
                for row, field in zip(rows, fields, strict=True)
            ]
            if any(fields)
            else None,
            slot=[_label(row.slot) for row in rows] if any(row.slot is not None for row in rows) else None,
            offers=offers,
            offer=offer,
        )


def offers_of(rows: Sequence[Interaction]) -> tuple[list[tuple[str, ...]] | None, NDArray[np.int32] | None]:
    """The distinct offers of the rows by the ids of their actions, and the number of each row's own.

    None where there are more of them, or their ids take more room, than reports have use for.
    """
    places: dict[tuple[str, ...], int] = {}
    same: dict[int, int] = {}  # a catalogue is the same tuple in each row; the rows keep its id from being another's
    numbers, taken = array("i"), 0
    for row in courteously(rows):
        place = same.get(id(row.actions))
        if place is None:
            ids = tuple([action.id for action in row.actions])
            place = places.get(ids)
            if place is None:
                taken += sum(map(len, ids)) + ID_BYTES * len(ids)
                if len(places) >= OFFERS_MAX or taken > OFFER_BYTES_MAX:
                    return None, None
                place = places[ids] = len(places)
            same[id(row.actions)] = place
        numbers.append(place)
    return list(places), np.array(numbers, dtype=np.int32)


def segments_of(segment: Sequence[str] | None, rows: int, field: str | None) -> list[str] | None:
    """The segments of `rows` scored rows by one field, None for none; those decided under another have no name.

    Rows that an older version scored do not tell their field, and are taken for rows of this one.

    >>> segments_of(["sky\\x1fdawn", "device\\x1fphone", "", "dusk"], 4, "sky")
    ['dawn', '', '', 'dusk']
    """
    if field is None:
        return None
    if segment is None:
        return [""] * rows
    told = (label.partition(_OF_FIELD) for label in segment)
    return [(value if name == field else "") if mark else name for name, mark, value in told]


def segments_of_any(segment: Sequence[str] | None) -> list[str] | None:
    """The segments by whatever field each row was decided under, as older versions had them."""
    return None if segment is None else [label.partition(_OF_FIELD)[2] for label in segment]


def clusters(
    event_ids: Sequence[str], subjects: Sequence[str | None], slots: Sequence[int | str | None]
) -> list[str] | None:
    """Whom each row speaks of, one name per row: its subject, or else its answer of several slots, or else itself.

    None where every row stands for itself.
    """
    named = [
        subject or answer_of(*row) for subject, row in zip(subjects, zip(event_ids, slots, strict=True), strict=True)
    ]
    if not any(named):
        return None
    return [name or event_id for name, event_id in zip(named, event_ids, strict=True)]


def answer_of(event_id: str, slot: int | str | None) -> str | None:
    """The id of the request for several slots that an event answers; None for a decision of its own.

    Only an event that has a `slot` is a part of an answer: a client's own event_id may hold any colons.

    >>> answer_of("page-7:2", 2), answer_of("page-7:2", None), answer_of("row 9", 2)
    ('page-7', None, None)
    """
    if not slot:
        return None
    answer = event_id.removesuffix(f":{slot}")
    return answer if answer != event_id else None


def _times(moments: Sequence[datetime]) -> NDArray[np.datetime64]:
    # whole microseconds, because numpy takes numbers eight times faster than it takes moments
    return np.array([(moment - _EPOCH) // _MICROSECOND for moment in moments], "datetime64[us]")


def _label(value: object) -> str:
    """A context feature as the name of a segment; what is no plain value, or not there, has none."""
    return str(value) if isinstance(value, (str, bool, int, float)) else ""


class _LoggedPmfs:
    """The champion's pmf of each row: as logged where the champion itself decided, else asked again.

    A logged pmf counts only without a mixture, and a sample of them is compared with the champion's answer;
    one difference and all rows from then on are asked again.
    """

    def __init__(self, champion: Policy | None, champion_id: str | None, serving_of: ServingOf) -> None:
        self._champion = champion
        self._champion_id = champion_id
        self._serving_of = serving_of
        self._trusted = True
        self._seen = 0

    def of(self, row: Interaction) -> Sequence[float]:
        if self._champion is None:
            return [1.0 / len(row.actions)] * len(row.actions)
        if (
            not self._trusted
            or row.pmf is None
            or row.model_id != self._champion_id
            or row.slice != SLICE_POLICY
            or row.mode != MODE_ONLINE
            or self._serving_of(row.settings_version).control_fraction > 0.0
        ):
            return self._champion.pmf(row.context, row.actions)
        self._seen += 1
        if self._seen % SPOT_CHECK_EVERY == 1:
            asked = self._champion.pmf(row.context, row.actions)
            if any(abs(a - b) > SPOT_CHECK_TOLERANCE for a, b in zip(asked, row.pmf, strict=True)):
                self._trusted = False
                return asked
        return row.pmf
