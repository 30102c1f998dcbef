"""Imported history: rows that another system logged become events of the log, so that a rebuild finds them too.

Each row is checked by itself; one that cannot be learnt from is refused and counted with its reason. A missing or
impossible probability is never filled in, unless the caller states the policy that logged the rows.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec

from bandit.errors import Busy, InvalidInput
from bandit.eventlog import EventLogWriter
from bandit.events import ActionRecord, DecisionEvent, Event, RewardEvent
from bandit.experiment import Experiment, ExperimentPaths
from bandit.files import FileLock, is_locked
from bandit.types import IMPORTED_MODEL_ID, Action
from joiner.cells import (
    PMF_TOLERANCE,
    RefusedRow,
    clean_features,
    read_actions,
    read_decided_at,
    read_index,
    read_name,
    read_pmf,
    read_reward,
    read_rewarded,
    read_slot,
    too_deep,
)

WRITER_ID = "import"
LOCK = ".lock-import"
BATCH_ROWS_MAX = 5_000
EXAMPLES_MAX = 10

LOCK_TRIES = 3
LOCK_PAUSE_S = 0.05
"""Whoever looks whether an import is under way holds its lock for a moment."""

PROBABILITY_MIN = 1e-12
"""One row of a smaller probability would outweigh all others, and its weight's powers are no numbers any more."""

LoggingPolicy = Literal["uniform"]
Row = Mapping[str, Any]


@dataclass
class ImportReport:
    """What became of a file: `rows` = `imported` + the sum of `refused` (reason → count).

    `examples` says of the first refused rows which line (of a table: which row) it was and what was wrong with it.
    `without_event_id` are those of `imported` that got their id from the content of the file. How many were in the log
    already is not known before the log is joined: they count once then.
    """

    rows: int = 0
    imported: int = 0
    rewards: int = 0
    without_event_id: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def refuse(self, place: str, reason: str, problem: str) -> None:
        """Count one refused row, that of `place` in the file."""
        self.refused[reason] += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(f"{place}: {problem}")

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "rows": self.rows,
            "imported": self.imported,
            "rewards": self.rewards,
            "without_event_id": self.without_event_id,
            "refused": dict(self.refused),
            "examples": self.examples,
        }


def import_history(
    experiment: Experiment,
    lines: Iterable[bytes],
    *,
    clock: Callable[[], datetime],
    logging_policy: LoggingPolicy | None = None,
    durable: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Append NDJSON history to the log; afterwards the warehouse ingests it like any other segment.

    A line is `{"context", "action", "probability", "reward", "actions"?, "pmf"?, "decided_at"?, "event_id"?, "slot"?,
    "rewarded"?}`; without `actions` the experiment's catalogue was offered, and actions without features have those of
    the catalogue; without `reward` or with `rewarded` false (as exports say it) there was silence. Rows without
    event_id get one from the content up to them, so that the same file imported twice counts once.
    Raises `Busy` while another import runs, `DurabilityLost` when the disk does not take it.
    """
    return import_rows(
        experiment,
        Lines(lines),
        clock=clock,
        logging_policy=logging_policy,
        durable=durable,
        progress=progress,
    )


class BrokenOff(Exception):
    """The rows of a file come to no proper end; the message says why."""


class Lines:
    """The rows of a text: of each line that is not empty its JSON object, or what `read` makes of that.

    A line that is no object comes as the refusal to count. `number` is the line of the last row, from 1.
    """

    def __init__(
        self, lines: Iterable[bytes], read: Callable[[Row], Iterable[Row | RefusedRow]] = lambda row: (row,)
    ) -> None:
        self._lines = lines
        self._read = read
        self.number = 0

    def __iter__(self) -> Iterator[Row | RefusedRow]:
        for number, line in enumerate(self._lines, start=1):
            self.number = number
            if not line.strip():
                continue
            try:
                row = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                yield RefusedRow("not_json", "line", "is not a JSON object (NaN and Infinity are none)")
                continue
            except RecursionError:
                yield too_deep("line")
                continue
            if not isinstance(row, dict):
                yield RefusedRow("not_json", "line", "is not a JSON object")
                continue
            try:
                yield from self._read(row)
            except RecursionError:
                yield too_deep("line")


def import_rows(
    experiment: Experiment,
    rows: Iterable[Row | RefusedRow],
    *,
    clock: Callable[[], datetime],
    logging_policy: LoggingPolicy | None = None,
    durable: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """`import_history` for rows that are decoded already."""
    reader = _RowReader(experiment, logging_policy)

    def events(row: Row, number: int, stamp: datetime) -> Sequence[Event]:
        return reader.events(row, number, stamp)

    return append_rows(experiment, rows, events, clock=clock, durable=durable, progress=progress)


def append_rows(
    experiment: Experiment,
    rows: Iterable[Row | RefusedRow],
    events: Callable[[Row, int, datetime], Sequence[Event]],
    *,
    clock: Callable[[], datetime],
    durable: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Turn rows into events and append them in batches of one stamp each, one import of an experiment at a time.

    The log's writer lives from when a batch has been read until it is sealed: who waits for rows, however long, must
    not keep the log from being complete. Raises `InvalidInput` where the rows are `BrokenOff`, with how many are in the
    log by then.
    """
    report = ImportReport()
    with _only_import(experiment.paths):
        try:
            for batch in _batches(rows):
                _append_batch(experiment, batch, events, report, clock=clock, durable=durable)
                if progress is not None:
                    progress(report.rows)
        except BrokenOff as error:
            kept = "nothing was imported"
            if report.imported:
                kept = f"{report.imported:,} rows were imported before, and count once when the mended file is imported"
            raise InvalidInput("FILE", f"{error}; {kept}") from None
    return report


_Placed = tuple[str, Row | RefusedRow]


def import_is_under_way(paths: ExperimentPaths) -> bool:
    """Whether an import reads rows for this experiment now, or waits for them."""
    return is_locked(paths.root / LOCK)


@contextmanager
def _only_import(paths: ExperimentPaths) -> Iterator[None]:
    lock = FileLock(paths.root / LOCK)
    for tries_left in reversed(range(LOCK_TRIES)):
        try:
            lock.acquire()
            break
        except Busy:
            if not tries_left:
                raise Busy("another import into this experiment is under way; wait until it has ended") from None
            time.sleep(LOCK_PAUSE_S)
    try:
        yield
    finally:
        lock.release()


def _batches(rows: Iterable[Row | RefusedRow]) -> Iterator[list[_Placed]]:
    """The rows with their places in the file, so many at a time."""
    batch: list[_Placed] = []
    for number, row in enumerate(rows, start=1):
        batch.append((f"line {rows.number}" if isinstance(rows, Lines) else f"row {number}", row))
        if len(batch) == BATCH_ROWS_MAX:
            yield batch
            batch = []
    if batch:
        yield batch


def _append_batch(
    experiment: Experiment,
    batch: Sequence[_Placed],
    events: Callable[[Row, int, datetime], Sequence[Event]],
    report: ImportReport,
    *,
    clock: Callable[[], datetime],
    durable: bool,
) -> None:
    """Append what of a batch can be used, in one commit, and count all of it."""
    writer = EventLogWriter(
        experiment.paths,
        WRITER_ID,
        clock=clock,
        seal_interval_s=3600.0,
        segment_bytes_max=experiment.settings.serving.segment_bytes_max,
        durable=durable,
        kind="importer",
    )
    with closing(writer):
        made: list[Event] = []
        stamp = writer.stamp()
        for place, row in batch:
            report.rows += 1
            try:
                if isinstance(row, RefusedRow):
                    raise row
                of_row = events(row, report.rows, stamp)
            except (RefusedRow, RecursionError) as error:
                refused = error if isinstance(error, RefusedRow) else too_deep("row")
                report.refuse(place, refused.reason, str(refused))
                continue
            report.imported += 1
            report.without_event_id += row.get("event_id") is None
            report.rewards += sum(isinstance(event, RewardEvent) for event in of_row)
            made.extend(of_row)
        if made:
            writer.append(made)


# -- one row ---------------------------------------------------------------------------------------------


class _RowReader:
    """Checks one row after the other; remembers the catalogue and the digest of the content so far."""

    def __init__(self, experiment: Experiment, logging_policy: LoggingPolicy | None) -> None:
        self._settings_version, self._settings, self._catalogue_version = experiment.in_force
        declared = self._catalogue_version is not None
        self._catalogue = experiment.catalogue(self._catalogue_version) if declared else None
        self._listed = {action.id: dict(action.features) for action in self._catalogue or () if action.features}
        self._logging_policy = logging_policy
        self._content = hashlib.sha256()
        self._seen: set[str] = set()

    def events(self, row: Row, number: int, stamp: datetime) -> Sequence[Event]:
        self._content.update(msgspec.json.encode(row, order="deterministic"))
        context = clean_features(row.get("context"), "context")
        records, ids = self._actions(row.get("actions"))
        index = read_index(row.get("action"), ids)
        pmf = read_pmf(row.get("pmf"), len(ids))
        probability = self._probability(row.get("probability"), pmf, index, len(ids))
        if pmf is None and self._logging_policy == "uniform" and row.get("probability") is None:
            pmf = [1.0 / len(ids)] * len(ids)
        reward = self._reward(row.get("reward")) if read_rewarded(row.get("rewarded")) else None
        decided_at = read_decided_at(row.get("decided_at"), stamp)
        event_id = read_name(row.get("event_id"), "event_id")
        if event_id in self._seen:
            raise RefusedRow("repeated_event_id", "event_id", "has come before in this file")
        if event_id is not None:
            self._seen.add(event_id)
        else:
            event_id = f"import-{number:09d}-{self._content.hexdigest()[:12]}"
        decision = DecisionEvent(
            event_id=event_id,
            decided_at=decided_at,
            model_id=IMPORTED_MODEL_ID,
            context=context,
            action=ids[index],
            index=index,
            probability=probability,
            pmf=pmf,
            actions=records,
            catalogue_version=self._catalogue_version if records is None else None,
            settings_version=self._settings_version,
            slot=read_slot(row.get("slot")),
            imported_at=stamp,
        )
        if reward is None:
            return [decision]
        return [decision, RewardEvent(event_id=event_id, received_at=decided_at, reward=reward, imported_at=stamp)]

    def _actions(self, raw: Any) -> tuple[list[ActionRecord] | None, list[str]]:
        if raw is None:
            if self._catalogue is None:
                raise RefusedRow("no_actions", "actions", "are missing, and the experiment declares no catalogue")
            return None, [action.id for action in self._catalogue]
        records = [self._described(record) for record in read_actions(raw)]
        ids = [record.id for record in records]
        if self._catalogue is not None and _same_offer(records, self._catalogue):
            return None, ids
        return records, ids

    def _described(self, record: ActionRecord) -> ActionRecord:
        """An action that is named alone has the features that the catalogue gives it, as in a request."""
        features = None if record.features else self._listed.get(record.id)
        return record if features is None else ActionRecord(record.id, features)

    def _probability(self, raw: Any, pmf: Sequence[float] | None, index: int, k: int) -> float:
        if raw is None and pmf is not None:
            raw = pmf[index]
        if raw is None and self._logging_policy == "uniform":
            return 1.0 / k
        if raw is None:
            raise RefusedRow(
                "no_probability",
                "probability",
                "is missing; where actions were drawn uniformly, state it (--logging-policy uniform)",
            )
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0.0 < raw <= 1.0:
            raise RefusedRow("invalid_probability", "probability", "is not a number in (0, 1]")
        if pmf is not None and abs(pmf[index] - raw) > PMF_TOLERANCE:
            raise RefusedRow("inconsistent_pmf", "pmf", "gives the action another probability than the row does")
        probability = float(raw) if pmf is None else pmf[index]
        if probability < PROBABILITY_MIN:
            raise RefusedRow(
                "invalid_probability", "probability", "is too small to weigh by", f"at least {PROBABILITY_MIN:g}"
            )
        return probability

    def _reward(self, raw: Any) -> float | None:
        if raw is None:
            return None
        return read_reward(raw, self._settings.rewards.min, self._settings.rewards.max)


def _same_offer(records: Sequence[ActionRecord], catalogue: Sequence[Action]) -> bool:
    return len(records) == len(catalogue) and all(
        record.id == action.id and record.features == action.features
        for record, action in zip(records, catalogue, strict=True)
    )
