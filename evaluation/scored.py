"""Scored rows: everything offline evaluation needs to know about a log, as flat numpy arrays.

One row is one matured interaction, scored by a model that had not learnt from it: the probabilities that the
candidate and the champion give to each of its k actions, the reward model's prediction for each, and what was
logged. Rows may offer different numbers of actions, so the per-action arrays are ragged: row i owns the
entries `offsets[i]:offsets[i + 1]`. All estimators, checks and certificates start from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.errors import InvalidScores
from evaluation.offers import Numbers, Offer, digest_of, joined_offers, text_of
from evaluation.scored_table import columns_of, refuse

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Times = NDArray[np.datetime64]

CHUNK_VALUES = 1 << 16
"""Values (rows × actions) per array and chunk: about half a megabyte, so that a chunk stays in the cache."""

REWARD_MAX, PROPENSITY_MIN = 1e15, 1e-12
"""A reward is at most 1e12, a sum of them a thousand times that; powers of what is beyond are no numbers any more."""

_SUM_TOLERANCE = 1e-6
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_RAGGED = ("candidate", "champion", "q", "pmf")
_NAMES = ("event_id", "cluster", "segment", "slot")
YOUNGER_THAN_DIGESTS = ("segment", "slot")
"""Columns that enter the digest only where they are there: digests of older certificates know nothing of them."""
BESIDE_THE_DIGEST = ("offers", "offer")
"""The names of actions, which no figure that decides depends on; they have a digest of their own."""


class ScoredEvents(NamedTuple):
    """Scored rows reduced to what the estimators use: six (n,) arrays.

    `w_candidate`, `w_champion`: importance weights π(a|x)/p; `dm_candidate`, `dm_champion`: Σ_k π_k q̂_k;
    `reward`: r; `q_logged`: q̂ of the logged action.
    """

    w_candidate: Floats
    w_champion: Floats
    dm_candidate: Floats
    dm_champion: Floats
    reward: Floats
    q_logged: Floats

    @property
    def residual(self) -> Floats:
        """What the reward model missed: r − q̂_a, shape (n,)."""
        return self.reward - self.q_logged

    @property
    def lift(self) -> Floats:
        """The paired doubly-robust lift of each row: (dm_c − dm_b) + (w_c − w_b)(r − q̂_a), shape (n,)."""
        return (self.dm_candidate - self.dm_champion) + (self.w_candidate - self.w_champion) * self.residual


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """n scored rows; `offsets` has shape (n + 1,), ragged arrays shape (offsets[-1],), the others (n,).

    `candidate`, `champion`: π_c and π_b over the row's actions; `q`: q̂ over them; `pmf`: the logged μ, NaN where
    only the propensity was logged, None where it never was; `action`: position of the logged action;
    `propensity`: μ of the logged action; `cluster`: names of what hangs together, the rows of a subject or the slots
    of an answer; `segment`: names of the parts of the traffic that a report shows apart; `slot`: places in an answer
    of several decisions, likewise; `decided_at`: UTC as datetime64[us]; `offers`: the distinct offers by the ids of
    their actions, `offer`: which of them is a row's own (see `evaluation.offers`).
    """

    offsets: Ints
    candidate: Floats
    champion: Floats
    q: Floats
    action: Ints
    reward: Floats
    propensity: Floats
    pmf: Floats | None = None
    event_id: Sequence[str] | None = None
    decided_at: Times | None = None
    cluster: Sequence[str] | None = None
    segment: Sequence[str] | None = None
    slot: Sequence[str] | None = None
    offers: Sequence[Offer] | None = None
    offer: Numbers | None = None

    # -- making them -------------------------------------------------------------------------------------

    @classmethod
    def of(cls, scores: Any, *, first: int = 0) -> ScoredRows:
        """From any object with these fields, such as the `Scores` that training hands out; checks every row.

        `first` is the number of the first row, for messages.
        """
        given = {field.name: getattr(scores, field.name, None) for field in fields(cls)}
        if given["offsets"] is None:
            raise InvalidScores("offsets", "is missing")
        rows = cls(
            offsets=np.ascontiguousarray(given["offsets"], np.int64),
            action=np.ascontiguousarray(given["action"], np.int64),
            reward=np.ascontiguousarray(given["reward"], np.float64),
            propensity=np.ascontiguousarray(given["propensity"], np.float64),
            candidate=np.ascontiguousarray(given["candidate"], np.float64),
            champion=np.ascontiguousarray(given["champion"], np.float64),
            q=np.ascontiguousarray(given["q"], np.float64),
            pmf=None if given["pmf"] is None else np.ascontiguousarray(given["pmf"], np.float64),
            event_id=None if given["event_id"] is None else list(given["event_id"]),
            decided_at=_times(given["decided_at"]),
            cluster=None if given["cluster"] is None else list(given["cluster"]),
            segment=None if given["segment"] is None else list(given["segment"]),
            slot=None if given["slot"] is None else list(given["slot"]),
            offers=None if given["offers"] is None else list(given["offers"]),
            offer=None if given["offer"] is None else np.ascontiguousarray(given["offer"], np.int32),
        )
        rows.check(first)
        return rows

    @classmethod
    def from_matrices(
        cls,
        *,
        candidate: Floats,
        champion: Floats,
        q: Floats,
        action: Ints,
        reward: Floats,
        propensity: Floats,
        pmf: Floats | None = None,
        cluster: Sequence[str] | None = None,
        segment: Sequence[str] | None = None,
        decided_at: Any = None,
        event_id: Sequence[str] | None = None,
    ) -> ScoredRows:
        """From (n, k) matrices: every row offers the same k actions."""
        n, k = np.shape(candidate)
        ragged = {"candidate": candidate, "champion": champion, "q": q, "pmf": pmf}
        flat = {name: None if value is None else np.ravel(value) for name, value in ragged.items()}
        offsets = np.arange(n + 1, dtype=np.int64) * k
        return cls.of(
            _Given(
                offsets=offsets,
                action=action,
                reward=reward,
                propensity=propensity,
                cluster=cluster,
                segment=segment,
                decided_at=decided_at,
                event_id=event_id,
                **flat,
            )
        )

    @classmethod
    def concat(cls, parts: Sequence[ScoredRows]) -> ScoredRows:
        """The rows of all `parts`, in order; a column that one part lacks is dropped, as are too many offers.

        But a pmf becomes NaN there, a segment or slot has no name, and rows without a subject stand for themselves.
        """
        if len(parts) < 2:
            return parts[0] if parts else cls.empty()
        starts = np.cumsum([0] + [part.values for part in parts[:-1]])
        rows = np.cumsum([0] + [len(part) for part in parts[:-1]]).tolist()
        ends = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=True)]
        offsets = np.concatenate([np.zeros(1, np.int64), *ends])
        pmf = None
        if any(part.pmf is not None for part in parts):
            pmf = np.concatenate([np.full(p.values, np.nan) if p.pmf is None else p.pmf for p in parts])

        def joined(name: str) -> Any:
            columns = [getattr(part, name) for part in parts if len(part)]
            if name in YOUNGER_THAN_DIGESTS and any(column is not None for column in columns):
                lengths = [len(part) for part in parts if len(part)]
                columns = [[""] * n if column is None else column for column, n in zip(columns, lengths, strict=True)]
            if not columns or any(column is None for column in columns):
                return None
            if isinstance(columns[0], np.ndarray):
                return np.concatenate(columns)
            return [value for column in columns for value in column]

        names = ("candidate", "champion", "q", "action", "reward", "propensity")
        dense = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        others = {name: joined(name) for name in ("decided_at", *_NAMES)}
        own = [p.event_id or [f"row {n}" for n in range(s, s + len(p))] for s, p in zip(rows, parts, strict=True)]
        others["cluster"] = joined_subjects([part.cluster for part in parts], own)
        offers, offer = joined_offers([(part.offers, part.offer) for part in parts if len(part)])
        columns: dict[str, Any] = {**dense, **others, "offsets": offsets, "pmf": pmf, "offers": offers, "offer": offer}
        return cls(**columns)

    @classmethod
    def empty(cls) -> ScoredRows:
        """No rows."""
        none = np.zeros(0)
        return cls(np.zeros(1, np.int64), none, none, none, np.zeros(0, np.int64), none, none)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, first: int = 0) -> ScoredRows:
        """From a table with one row per event; raises `InvalidScores` that names the column and the row.

        Columns `reward`, `propensity`, `action`, `candidate`, `champion`, `q`, and optionally `pmf`, `cluster`,
        `segment`, `slot`, `decided_at`, `event_id`, `actions`; `candidate`, `champion`, `q` and `pmf` hold one list per
        row, `actions` the ids as a list or as the JSON of one.
        `first` is the number of the table's first row, where it is a part of a longer one.
        """
        return cls.of(_Given(**columns_of(frame, first=first)), first=first)

    # -- reading them ------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def values(self) -> int:
        """Total number of (row, action) pairs."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> Ints:
        """k of each row, shape (n,)."""
        return np.diff(self.offsets)

    @property
    def width(self) -> int | None:
        """k where every row offers as many actions, else None."""
        n = len(self)
        if n == 0 or self.values % n or not np.array_equal(self.lengths, np.full(n, self.values // n)):
            return None
        return self.values // n

    def slice(self, start: int, stop: int | None = None) -> ScoredRows:
        """Rows start…stop − 1, as views."""
        start, stop, _ = slice(start, stop).indices(len(self))
        stop = max(start, stop)
        low, high = int(self.offsets[start]), int(self.offsets[stop])
        return ScoredRows(
            offsets=self.offsets[start : stop + 1] - low,
            candidate=self.candidate[low:high],
            champion=self.champion[low:high],
            q=self.q[low:high],
            pmf=None if self.pmf is None else self.pmf[low:high],
            action=self.action[start:stop],
            reward=self.reward[start:stop],
            propensity=self.propensity[start:stop],
            event_id=None if self.event_id is None else self.event_id[start:stop],
            decided_at=None if self.decided_at is None else self.decided_at[start:stop],
            cluster=None if self.cluster is None else self.cluster[start:stop],
            segment=None if self.segment is None else self.segment[start:stop],
            slot=None if self.slot is None else self.slot[start:stop],
            offers=self.offers,
            offer=None if self.offer is None else self.offer[start:stop],
        )

    def where(self, keep: NDArray[np.bool_]) -> ScoredRows:
        """The rows where `keep`, shape (n,), is true."""
        if bool(keep.all()):
            return self
        wide = np.repeat(keep, self.lengths)
        index = np.flatnonzero(keep).tolist()
        return ScoredRows(
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths[keep])]),
            candidate=self.candidate[wide],
            champion=self.champion[wide],
            q=self.q[wide],
            pmf=None if self.pmf is None else self.pmf[wide],
            action=self.action[keep],
            reward=self.reward[keep],
            propensity=self.propensity[keep],
            event_id=None if self.event_id is None else [self.event_id[i] for i in index],
            decided_at=None if self.decided_at is None else self.decided_at[keep],
            cluster=None if self.cluster is None else [self.cluster[i] for i in index],
            segment=None if self.segment is None else [self.segment[i] for i in index],
            slot=None if self.slot is None else [self.slot[i] for i in index],
            offers=self.offers,
            offer=None if self.offer is None else self.offer[keep],
        )

    def chunks(self, values: int = CHUNK_VALUES) -> Iterator[ScoredRows]:
        """Consecutive slices of about `values` (row, action) pairs, at least one row each."""
        n, start = len(self), 0
        while start < n:
            stop = int(np.searchsorted(self.offsets, self.offsets[start] + values, side="right")) - 1
            stop = min(max(stop, start + 1), n)
            yield self.slice(start, stop)
            start = stop

    def per_row(self, values: Floats) -> Floats:
        """Sum a ragged array within each row: shape (values,) → (n,)."""
        width = self.width
        if width is not None:
            # a product with ones is several times faster than a sum over a short last axis
            return np.asarray(values.reshape(len(self), width) @ np.ones(width), np.float64)
        if len(self) == 0:
            return np.zeros(0)
        return np.asarray(np.add.reduceat(values, self.offsets[:-1]), np.float64)

    def at_action(self, values: Floats) -> Floats:
        """The entry of the logged action in a ragged array: shape (values,) → (n,)."""
        return np.asarray(values[self.offsets[:-1] + self.action], np.float64)

    def reduce(self) -> ScoredEvents:
        """The six (n,) arrays that every estimator is a function of."""
        dm_candidate = self.per_row(self.candidate * self.q)
        # through the difference, so that equal policies come out equal to the last bit
        dm_champion = dm_candidate - self.per_row((self.candidate - self.champion) * self.q)
        return ScoredEvents(dm_candidate=dm_candidate, dm_champion=dm_champion, **self.logged())

    def logged(self) -> dict[str, Floats]:
        """Those four of the six arrays that follow what was drawn and what came of it."""
        return {
            "w_candidate": self.at_action(self.candidate) / self.propensity,
            "w_champion": self.at_action(self.champion) / self.propensity,
            "reward": self.reward,
            "q_logged": self.at_action(self.q),
        }

    def digest(self) -> str:
        """SHA-256 over every column but names of actions: row sets with the same digest give the same verdict."""
        sha = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in BESIDE_THE_DIGEST or (value is None and field.name in YOUNGER_THAN_DIGESTS):
                continue
            sha.update(field.name.encode() + b"\0")
            if value is not None:
                sha.update(column_bytes(value))
        return sha.hexdigest()

    def offers_digest(self) -> str | None:
        """SHA-256 over the offers of all rows, None where they are not known."""
        return digest_of(self.offers, self.offer) if self.offers and self.offer is not None else None

    def to_columns(self) -> dict[str, Any]:
        """The columns that `from_frame` reads, one entry per event; per-action ones of shape (n, k), or as n arrays."""
        import pandas as pd

        columns: dict[str, Any] = {}
        if self.event_id is not None:
            columns["event_id"] = list(self.event_id)
        if self.decided_at is not None:
            columns["decided_at"] = pd.DatetimeIndex(self.decided_at.astype("datetime64[us]")).tz_localize("UTC")
        columns.update(reward=self.reward, propensity=self.propensity, action=self.action)
        width, cuts = self.width, self.offsets[1:-1]
        for name in _RAGGED:
            flat = getattr(self, name)
            if flat is not None:
                columns[name] = np.split(flat, cuts) if width is None else flat.reshape(len(self), width)
        if self.offers and self.offer is not None:
            texts = pd.Index([text_of(offer) for offer in self.offers])
            columns["actions"] = pd.Categorical.from_codes(self.offer, texts)
        return columns | {name: list(getattr(self, name)) for name in _NAMES[1:] if getattr(self, name)}

    def to_frame(self) -> pd.DataFrame:
        """The table that `from_frame` reads: one row per event, arrays for the per-action columns."""
        import pandas as pd

        return pd.DataFrame({name: list(v) if name in _RAGGED else v for name, v in self.to_columns().items()})

    def check(self, first: int = 0) -> None:
        """Raise `InvalidScores` at the first column that breaks an invariant; `first`: the number of the first row."""
        n = len(self)
        if n < 0 or self.offsets[0] != 0 or (n and int(self.lengths.min()) < 1):
            raise InvalidScores("candidate", "every row needs at least one action")
        for name in ("action", "reward", "propensity"):
            if getattr(self, name).shape != (n,):
                raise InvalidScores(name, "has not one entry per row")
        for name in ("decided_at", *_NAMES):
            column = getattr(self, name)
            if column is not None and len(column) != n:
                raise InvalidScores(name, "has not one entry per row")
        if self.offers is not None and (self.offer is None or self.offer.shape != (n,)):
            raise InvalidScores("actions", "has not one entry per row")
        for name in _RAGGED:
            column = getattr(self, name)
            if column is not None and column.shape != (self.values,):
                raise InvalidScores(name, "has not one entry per action of each row")

        def hold(name: str, good: NDArray[np.bool_], problem: str, limit: str | None = None) -> None:
            if not good.all():
                refuse(name, problem, first + int(np.argmin(good)), limit)

        sure = (self.propensity >= PROPENSITY_MIN) & (self.propensity <= 1)
        span = f"-{REWARD_MAX:g} to {REWARD_MAX:g}"
        places = (self.action >= 0) & (self.action < self.lengths)
        hold("reward", abs(self.reward) <= REWARD_MAX, "must be a number within bounds", span)
        hold("propensity", sure, "must be a probability; a missing one is never made up", f"{PROPENSITY_MIN:g} to 1")
        hold("action", places, "must be a position in the row's list of actions", "0 to k - 1")
        hold("q", self._everywhere(abs(self.q) <= REWARD_MAX), "must be numbers within bounds", span)
        for name in ("candidate", "champion"):
            column = getattr(self, name)
            fair = self._everywhere(column >= 0) & (abs(self.per_row(column) - 1) <= _SUM_TOLERANCE)
            hold(name, fair, "must be probabilities that sum to 1", f"1 ± {_SUM_TOLERANCE}")
        if self.offers is not None and self.offer is not None and n:
            if self.offer.min() < 0 or self.offer.max() >= len(self.offers):
                raise InvalidScores("actions", "must be one of the offers in every row")
            known = np.array([len(offer) for offer in self.offers], np.int64)
            hold("actions", known[self.offer] == self.lengths, "must have as many entries as candidate")
        if self.pmf is not None:
            missing = np.isnan(self.pmf)
            whole = self._everywhere(np.isfinite(self.pmf)) | self._everywhere(missing)
            hold("pmf", whole, "must be given for all of the row's actions, or for none")

    def _everywhere(self, good: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Whether all of a row's entries are good: shape (values,) → (n,)."""
        return np.ones(len(self), bool) if good.all() else self.per_row(good.astype(np.float64)) == self.lengths


def joined_subjects(parts: Sequence[Sequence[str] | None], event_ids: Sequence[Sequence[str]]) -> list[str] | None:
    """The subjects of consecutive parts of the rows as one column, None where no part knows any.

    Rows of a part that knows none stand for themselves, by their event_ids, as single rows without a subject do.
    """
    if all(part is None for part in parts):
        return None
    return [name for part, own in zip(parts, event_ids, strict=True) for name in (own if part is None else part)]


def column_bytes(column: NDArray[Any] | Sequence[str]) -> bytes:
    """What a column adds to the digest: little-endian numbers, times as microseconds, texts between zero bytes."""
    if not isinstance(column, np.ndarray):
        return "\0".join(column).encode("utf-8", "surrogatepass")
    data = column.astype("datetime64[us]").astype("<i8") if column.dtype.kind == "M" else column
    return np.ascontiguousarray(data).astype(data.dtype.newbyteorder("<")).tobytes()


class _Given:
    """A bag of named columns on their way into `ScoredRows.of`."""

    def __init__(self, **columns: Any) -> None:
        self.__dict__.update(columns)


def _times(values: Any) -> Times | None:
    if values is None:
        return None
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        return values.astype("datetime64[us]")
    # whole microseconds, because numpy takes numbers eight times faster than it takes moments
    plain = [(v - _EPOCH) // _MICROSECOND if isinstance(v, datetime) and v.tzinfo else v for v in values]
    return np.array(plain, "datetime64[us]")
