"""The warehouse: one DuckDB file per experiment, made from the log and owned by one process.

It promises that each segment goes in exactly once, that only decisions whose window has closed become
interactions, and that the rows depend on what the log holds alone, not on when it was read. Delete the file and
`rebuild` makes the same one.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from bandit.errors import Busy, CorruptLog, InvalidSettings, MemoryFull
from bandit.eventlog import SegmentInfo, quarantine_segment, verify_segment
from bandit.eventlog.recovery import set_unreadable_aside
from bandit.experiment import Experiment
from joiner import export, statements
from joiner.connection import DEFAULT_MEMORY_BYTES, Statements, connect, from_utc, shortages, to_utc
from joiner.counts import Delays, count_events, count_outcomes
from joiner.reading import UnreadableSegments, read_segments
from joiner.schema import prepare, refresh_settings

if TYPE_CHECKING:
    import pandas as pd


INGEST_BATCH_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of segments read at once: whole row groups go to disk, so larger batches write less twice."""
Item = TypeVar("Item")

LONG_AGO = datetime(1, 1, 1)  # noqa: DTZ001 - the warehouse's times are UTC without a zone


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingest did; `known` segments were in already, `quarantined` ones were set aside.

    Those failed their checksums, or are in `unreadable`: by name (without suffix), why DuckDB cannot read them.
    """

    segments: int = 0
    events: int = 0
    known: int = 0
    quarantined: list[Path] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JoinReport:
    """What one join did: rows added to interactions, decisions set aside, and the watermark joined up to."""

    interactions: int
    set_aside: int
    until: datetime | None


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Counted outcomes of rewards: for which state of the file, and until when (monotonic clock) they will do."""

    state: tuple[object, ...]
    until_s: float
    counts: dict[str, int]
    delays: Delays


class Warehouse:
    """Ingest, join and read one experiment's warehouse. Threads may share it: writes take turns, reads do not wait.

    `threads`: on how many cores DuckDB works, None for all. Raises `Busy` at construction when another process has the
    file open, OSError when the disk is full.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        read_only: bool = False,
        path: Path | None = None,
        threads: int | None = None,
    ) -> None:
        self.experiment = experiment
        self.path = path or experiment.paths.warehouse
        self.scratch = experiment.paths.scratch
        self.scratch.mkdir(exist_ok=True)
        self._writing = threading.RLock()
        self._statements = Statements()
        self._counting = threading.Lock()
        self._lending = threading.Lock()
        self._lent: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        self._closed = False
        self._outcomes: _Outcomes | None = None
        self._idle_until: datetime | None = None
        self._read_only = read_only
        self._threads = threads
        with shortages(self.path):
            self._connection = self._connect()
            if not read_only:
                if not prepare(self._connection):
                    # made by another version of this program: it is a view, so it is made anew from the log
                    self._connection.close()
                    self.path.unlink()
                    self._connection = self._connect()
                    prepare(self._connection)
                refresh_settings(self._connection, experiment)

    def close(self) -> None:
        """Close the file; the object is of no use afterwards. Whoever reads meanwhile loses his cursor."""
        with self._writing:
            with self._lending:
                self._closed = True
            self._connection.close()

    def wait_for_readers(self, seconds: float) -> bool:
        """Whether nobody reads any more, within so many seconds; the caller sees to it that nobody begins to."""
        until_s = time.monotonic() + seconds
        while True:
            with self._lending:
                if not any(map(_is_open, self._lent)):  # what was raised may keep one in memory that is closed
                    return True
            if time.monotonic() > until_s:
                return False
            time.sleep(0.01)

    def __enter__(self) -> Warehouse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- writing -----------------------------------------------------------------------------------------

    def ingest(self, segments: Sequence[Path]) -> IngestReport:
        """Read sealed segments that are not in yet: rows and segment name in one transaction, so exactly once.

        Each is verified first; one that fails, or that holds what DuckDB cannot read, is moved to quarantine and
        reported. Raises OSError when the disk fails.
        """
        with self._writing:
            known = self.segment_names()
            fresh = list({path.stem: path for path in segments if path.stem not in known}.values())
            verified: list[tuple[Path, SegmentInfo]] = []
            quarantined: list[Path] = []
            unreadable: dict[str, str] = {}
            for path in fresh:
                try:
                    verified.append((path, verify_segment(path)))
                except CorruptLog:
                    quarantined.append(quarantine_segment(path))
            for batch in in_batches(verified, lambda segment: segment[1].bytes, INGEST_BATCH_BYTES_MAX):
                unreadable |= self._ingest(batch)
            events = sum(info.events for path, info in verified if path.stem not in unreadable)
            quarantined += [
                set_unreadable_aside(path, self.experiment.paths.events)
                for path, _ in verified
                if path.stem in unreadable
            ]
        taken = len(verified) - len(unreadable)
        return IngestReport(taken, events, len(segments) - len(fresh), quarantined, unreadable)

    def join(self, watermark: datetime) -> JoinReport:
        """Make interactions of the decisions whose window closed by `watermark` (aware); what is joined stays.

        A watermark at or behind the last one joins nothing but stragglers.
        """
        until = to_utc(watermark)
        with self._writing:
            idle = self._join_nothing(until)
            if idle is not None:
                return idle
        execute = self._statements.execute
        with self._writing, self._transaction() as cursor:
            after, swept = cursor.execute("SELECT joined_until, swept_until FROM state").fetchone() or (None, None)
            until = max(until, after) if after is not None else until
            stragglers = _value(cursor.execute("SELECT count(*) FROM stragglers").fetchone())
            if stragglers:
                for statement in statements.FORGET_STRAGGLERS:
                    execute(cursor, statement)
            swept = self._sweep(cursor, swept, after)
            bounds = {"after": after or LONG_AGO, "until": until}
            oldest, choosy = execute(cursor, statements.REACH, bounds).fetchone() or (None, None)
            reach = min(oldest or until, swept + timedelta(microseconds=1)) if swept else LONG_AGO
            insert = statements.INSERT_INTERACTIONS if choosy else statements.INSERT_ALL_INTERACTIONS
            joined = _value(execute(cursor, insert, bounds | {"reach": reach}).fetchone())
            aside = _value(execute(cursor, statements.INSERT_SET_ASIDE, bounds).fetchone()) if choosy else 0
            cursor.execute("DELETE FROM stragglers")
            cursor.execute(
                "UPDATE state SET joined_until = $until, swept_until = $swept", {"until": until, "swept": swept}
            )
        return JoinReport(joined, aside, from_utc(until))

    def keep_watermark(self) -> None:
        """Write down the watermark that idle joins moved in memory only, for those who read it from the file."""
        with self._writing:
            until = self.joined_until()
            if until is None or self._read_only:
                return
            with self._transaction() as cursor:
                cursor.execute("UPDATE state SET joined_until = $1 WHERE joined_until < $1", [to_utc(until)])

    # -- reading -----------------------------------------------------------------------------------------

    def segment_names(self) -> set[str]:
        """Names (without suffix) of the segments that are in."""
        return {row[0] for row in self._read().execute("SELECT name FROM segments").fetchall()}

    def joined_until(self) -> datetime | None:
        """The watermark up to which interactions are made, None before the first join."""
        stored = from_utc(_value(self._read().execute("SELECT joined_until FROM state").fetchone()))
        return stored if self._idle_until is None or stored is None else max(stored, self._idle_until)

    def count_matured(self, after: datetime | None, until: datetime, rows: export.RowFilter = export.EVERYTHING) -> int:
        """How many interactions of `rows` have after < matures_at ≤ until."""
        start = to_utc(after) if after else LONG_AGO
        return export.count_matured(self._read(), after=start, until=to_utc(until), rows=rows)

    def nth_newest_maturity(
        self, n: int, until: datetime, rows: export.RowFilter = export.EVERYTHING
    ) -> datetime | None:
        """The latest instant after which at least `n` of `rows` matured by `until`; None when there are fewer."""
        newest = export.nth_newest_maturity(self._read(), n, until=to_utc(until), rows=rows)
        return None if newest is None else newest - timedelta(microseconds=1)

    def next_maturity(self) -> tuple[int, datetime | None]:
        """How many decisions wait for their window to close, and when the first of them does."""
        row = self._statements.execute(self._read(), statements.WAITING, {"long_ago": LONG_AGO}).fetchone()
        return (int(row[0]), from_utc(row[1])) if row else (0, None)

    def write_training_rows(
        self,
        path: Path,
        *,
        after: datetime | None,
        until: datetime,
        rows: export.RowFilter = export.EVERYTHING,
    ) -> int:
        """Write the interactions with after < matures_at ≤ until as NDJSON for `bandit.rows.read_interactions`.

        Ordered by (matures_at, decided_at, event_id); returns how many. Raises OSError when `path` cannot be written.
        """
        return export.write_training_rows(
            self._read(),
            self.scratch,
            path,
            after=to_utc(after) if after else LONG_AGO,
            until=to_utc(until),
            rows=rows,
        )

    def interactions(
        self,
        *,
        after: datetime | None = None,
        until: datetime | None = None,
        rows: export.RowFilter = export.EVERYTHING,
    ) -> pd.DataFrame:
        """Interactions as a DataFrame with the columns of the table, times aware (UTC), in the order of maturity."""
        return export.interactions_frame(
            self._read(),
            after=to_utc(after) if after else LONG_AGO,
            until=to_utc(until) if until else None,
            rows=rows,
        )

    def account(self, rows: export.RowFilter) -> dict[str, Any]:
        """What became of the decisions that `rows` selects; see `joiner.window.JoinSummary`."""
        return export.account(self._read(), rows)

    def counts(self, *, exact: bool = False) -> dict[str, int]:
        """How many of everything: see `joiner.counts` for the keys.

        What became of rewards is counted over the whole log; so that polling stays cheap, that part may be as old
        as ten times what it takes, unless `exact`. Decisions and interactions are always counted now.
        """
        found = count_events(self._read()) | self._outcomes_now(exact).counts
        found["duplicates"] = found["repeated_decisions"] + found["duplicate_rewards"]
        return found

    def delays(self) -> Delays:
        """How long rewards took from their decision on; as old as the counts of rewards may be."""
        return self._outcomes_now(exact=False).delays

    def digest(self) -> str:
        """A digest of the interactions as a set: equal rows give equal digests, in whatever order they are stored."""
        row = self._read().execute("SELECT count(*), coalesce(sum(hash(i)::HUGEINT), 0) FROM interactions i").fetchone()
        count, total = row or (0, 0)
        return f"{count}-{int(total):032x}"

    def export(
        self,
        path: Path,
        *,
        what: str,
        form: str,
        rows: export.RowFilter = export.EVERYTHING,
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Write decisions, rewards or interactions to a file with the wire's names; see `joiner.export`."""
        return export.export_table(
            self._read(), self.scratch, path, what=what, form=form, after=LONG_AGO, rows=rows, metadata=metadata
        )

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor of one's own for reading, for as long as the warehouse is open."""
        return self._read()

    def checkpoint(self) -> None:
        """Move everything from the write-ahead log into the file itself."""
        with self._writing, shortages(self.path):
            self._connection.execute("CHECKPOINT")

    # -- inside ------------------------------------------------------------------------------------------

    def _outcomes_now(self, exact: bool) -> _Outcomes:
        cursor = self._read()
        state = cursor.execute("SELECT count(*), max(joined_until) FROM segments, state").fetchone() or ()
        with self._counting:
            known = self._outcomes
            started = time.monotonic()
            if known is None or (known.state != state and (exact or started > known.until_s)):
                counted, delays = count_outcomes(cursor)
                took_s = time.monotonic() - started
                known = self._outcomes = _Outcomes(state, started + 10.0 * took_s, counted, delays)
        return known

    def _connect(self) -> duckdb.DuckDBPyConnection:
        folders = [self.experiment.paths.events, self.scratch]
        return connect(
            self.path,
            folders,
            scratch=self.scratch,
            read_only=self._read_only,
            memory_bytes=self._memory_bytes(),
            threads=self._threads,
        )

    def _memory_bytes(self) -> int:
        try:
            return self.experiment.settings.training.database_bytes_max
        except InvalidSettings:  # as whoever needs them is told; the database can be looked at all the same
            return DEFAULT_MEMORY_BYTES

    def _read(self) -> duckdb.DuckDBPyConnection:
        """A cursor that counts as being read from as long as anybody has it; raises `Busy` on a closed file."""
        with self._lending:
            if self._closed:
                raise Busy("the database has just been closed, to be made anew; ask again")
            cursor = self._connection.cursor()
            self._lent.add(cursor)
            return cursor

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with shortages(self.path):
            cursor = self._connection.cursor()
            cursor.begin()
            try:
                yield cursor
            except BaseException:
                cursor.rollback()
                raise
            cursor.commit()

    def _join_nothing(self, until: datetime) -> JoinReport | None:
        """Whether there is nothing to join up to `until`: then the watermark moves in memory only, at no cost.

        The stored one may lag behind, since no decision matured between the two: a later join starts from it.
        """
        row = self._statements.execute(self._read(), statements.ANYTHING_TO_JOIN, {"until": until}).fetchone()
        if row is None or row[0] is None or row[1]:
            return None
        reached = max(row[0], until).replace(tzinfo=UTC)
        self._idle_until = reached if self._idle_until is None else max(reached, self._idle_until)
        return JoinReport(0, 0, self._idle_until)

    def _sweep(
        self, cursor: duckdb.DuckDBPyConnection, swept: datetime | None, until: datetime | None
    ) -> datetime | None:
        """Note the rewards up to the last watermark that came before their decision, so that joins need not look back.

        Gives the time up to which that is done. The very first join looks at everything anyway.
        """
        if until is None:
            return None
        window = _value(cursor.execute("SELECT max(window_us) FROM settings").fetchone()) or 0
        recent = swept - timedelta(microseconds=window) if swept is not None else LONG_AGO
        self._statements.execute(
            cursor, statements.SWEEP, {"swept_until": swept or LONG_AGO, "recent": recent, "until": until}
        )
        return until

    def _ingest(self, batch: Sequence[tuple[Path, SegmentInfo]]) -> dict[str, str]:
        """Take in a batch as a whole, or else each segment alone; gives those that cannot be read, with the reason."""
        try:
            self._take_in(batch)
        except UnreadableSegments as error:
            if len(batch) == 1:
                return {batch[0][0].stem: str(error)}
            return {name: why for segment in batch for name, why in self._ingest([segment]).items()}
        except MemoryFull:  # every core reads wide rows of a segment of its own
            if len(batch) == 1:
                raise
            return {name: why for segment in batch for name, why in self._ingest([segment]).items()}
        return {}

    def _take_in(self, batch: Sequence[tuple[Path, SegmentInfo]]) -> None:
        paths = [str(path.resolve()) for path, _ in batch]
        whose = {"writers": [info.writer_id for _, info in batch], "sequences": [info.sequence for _, info in batch]}
        execute = self._statements.execute
        with self._transaction() as cursor:
            refresh_settings(cursor, self.experiment)
            read_segments(cursor, paths)
            execute(cursor, statements.PLACE_SEGMENTS, {"files": paths, **whose})
            for statement in statements.INGEST:
                execute(cursor, statement)
            if _value(execute(cursor, statements.INSERT_STRAGGLERS).fetchone()):
                execute(cursor, statements.INSERT_LATE_ARRIVALS)
            execute(
                cursor,
                statements.INSERT_SEGMENTS,
                {
                    "names": [path.stem for path, _ in batch],
                    **whose,
                    "events": [info.events for _, info in batch],
                    "bytes": [info.bytes for _, info in batch],
                    "digests": [info.sha256 for _, info in batch],
                },
            )
            for table in ("incoming", "reading"):
                cursor.execute(f"DROP TABLE {table}")


def in_batches(items: Iterable[Item], size: Callable[[Item], int], bytes_max: int) -> Iterator[list[Item]]:
    """Consecutive items of at most `bytes_max` together; one alone may be larger."""
    batch: list[Item] = []
    total = 0
    for item in items:
        if batch and total + size(item) > bytes_max:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


def _is_open(cursor: duckdb.DuckDBPyConnection) -> bool:
    try:
        cursor.query_progress()  # disturbs no query, and waits for none
    except duckdb.ConnectionException:
        return False
    return True


def _value(row: tuple[Any, ...] | None) -> Any:
    return row[0] if row else None
