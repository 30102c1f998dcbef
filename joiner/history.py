"""Imported history: rows that another system logged become events of the log, so that a rebuild finds them too.

Each row is checked by itself; one that cannot be learnt from is refused and counted with its reason. A missing or
impossible probability is never filled in, unless the caller states the policy that logged the rows.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from bandit.errors import InvalidHistory
from bandit.eventlog import AHEAD_S_MAX, EventLogWriter
from bandit.events import ActionRecord, DecisionEvent, Event, RewardEvent
from bandit.experiment import Experiment
from bandit.types import IMPORTED_MODEL_ID, Action

WRITER_ID = "import"
BATCH_ROWS_MAX = 5_000
EXAMPLES_MAX = 10
NAME_LENGTH_MAX = 256
DEPTH_MAX = 16
SLOT_MAX = 1_000
"""A hundred times what the decision API allows in one answer (`limits.slots_max`)."""

PROBABILITY_MIN = 1e-12
"""One row of a smaller probability would outweigh all others, and its weight's powers are no numbers any more."""

PMF_TOLERANCE = 1e-4

LoggingPolicy = Literal["uniform"]
Row = Mapping[str, Any]

_LARGEST = 1.7976931348623157e308
_BAD_IN_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BAD_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass
class ImportReport:
    """What became of a file: `rows` = `imported` + the sum of `refused` (reason → count).

    `examples` says of the first refused rows which line (of a table: which row) it was and what was wrong with it.
    """

    rows: int = 0
    imported: int = 0
    rewards: int = 0
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
            "refused": dict(self.refused),
            "examples": self.examples,
        }


class RefusedRow(InvalidHistory):
    """One row that is not imported; `reason` is the short name it is counted under."""

    def __init__(self, reason: str, field_name: str, problem: str, limit: str | None = None) -> None:
        self.reason = reason
        super().__init__(field_name, problem, limit)


def import_history(
    experiment: Experiment,
    lines: Iterable[bytes],
    *,
    now: datetime,
    logging_policy: LoggingPolicy | None = None,
    durable: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Append NDJSON history to the log; afterwards the warehouse ingests it like any other segment.

    A line is `{"context", "action", "probability", "reward", "actions"?, "pmf"?, "decided_at"?, "event_id"?, "slot"?,
    "rewarded"?}`; without `actions` the experiment's catalogue was offered, without `reward` or with `rewarded` false
    (as exports say it) there was silence. Rows without
    event_id get one from the content up to them, so that the same file imported twice counts once.
    Raises `Busy` while another import runs, `DurabilityLost` when the disk does not take it.
    """
    return import_rows(
        experiment,
        Lines(lines),
        now=now,
        logging_policy=logging_policy,
        durable=durable,
        progress=progress,
    )


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
    now: datetime,
    logging_policy: LoggingPolicy | None = None,
    durable: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """`import_history` for rows that are decoded already."""
    reader = _RowReader(experiment, logging_policy)

    def events(row: Row, number: int, stamp: datetime) -> Sequence[Event]:
        return reader.events(row, number, stamp)

    return append_rows(experiment, rows, events, now=now, durable=durable, progress=progress)


def append_rows(
    experiment: Experiment,
    rows: Iterable[Row | RefusedRow],
    events: Callable[[Row, int, datetime], Sequence[Event]],
    *,
    now: datetime,
    durable: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Turn rows into events in batches of one stamp and append them under the importer's lock."""
    report = ImportReport()
    serving = experiment.settings.serving
    writer = EventLogWriter(
        experiment.paths,
        WRITER_ID,
        clock=lambda: now,
        seal_interval_s=3600.0,
        segment_bytes_max=serving.segment_bytes_max,
        durable=durable,
        kind="importer",
    )
    try:
        batch: list[Event] = []
        stamp = writer.stamp()
        for row in rows:
            report.rows += 1
            try:
                if isinstance(row, RefusedRow):
                    raise row
                made = events(row, report.rows, stamp)
            except (RefusedRow, RecursionError) as error:
                refused = error if isinstance(error, RefusedRow) else too_deep("row")
                place = f"line {rows.number}" if isinstance(rows, Lines) else f"row {report.rows}"
                report.refuse(place, refused.reason, str(refused))
                continue
            report.imported += 1
            report.rewards += sum(isinstance(event, RewardEvent) for event in made)
            batch.extend(made)
            if len(batch) >= BATCH_ROWS_MAX:
                writer.append(batch)
                batch = []
                stamp = writer.stamp()
                if progress is not None:
                    progress(report.rows)
        if batch:
            writer.append(batch)
    finally:
        writer.close()
    return report


# -- one row ---------------------------------------------------------------------------------------------


class _RowReader:
    """Checks one row after the other; remembers the catalogue and the digest of the content so far."""

    def __init__(self, experiment: Experiment, logging_policy: LoggingPolicy | None) -> None:
        self._settings = experiment.settings
        self._settings_version = experiment.settings_version
        self._catalogue_version = experiment.catalogue_version
        self._catalogue = experiment.catalogue()
        self._logging_policy = logging_policy
        self._content = hashlib.sha256()
        self._seen: set[str] = set()

    def events(self, row: Row, number: int, stamp: datetime) -> Sequence[Event]:
        self._content.update(msgspec.json.encode(row, order="deterministic"))
        context = clean_features(row.get("context"), "context")
        records, ids = self._actions(row.get("actions"))
        index = _index(row.get("action"), ids)
        pmf = _pmf(row.get("pmf"), len(ids))
        probability = self._probability(row.get("probability"), pmf, index, len(ids))
        if pmf is None and self._logging_policy == "uniform" and row.get("probability") is None:
            pmf = [1.0 / len(ids)] * len(ids)
        reward = self._reward(row.get("reward")) if _rewarded(row.get("rewarded")) else None
        decided_at = _decided_at(row.get("decided_at"), stamp)
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
            slot=_slot(row.get("slot")),
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
        records = _action_records(raw)
        ids = [record.id for record in records]
        if self._catalogue is not None and _same_offer(records, self._catalogue):
            return None, ids
        return records, ids

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


def too_deep(path: str) -> RefusedRow:
    """The refusal of what is nested so deeply that it cannot even be read."""
    return RefusedRow("nested_too_deeply", path, "is nested too deeply", f"{DEPTH_MAX} levels")


def is_number(raw: Any) -> bool:
    """Whether `raw` is a number (no boolean) that a double holds; whole numbers of any length are looked at, too."""
    return isinstance(raw, int | float) and not isinstance(raw, bool) and abs(raw) <= _LARGEST


def read_reward(raw: Any, low: float, high: float) -> float:
    """A reward within the declared range; raises `RefusedRow`."""
    if not is_number(raw):
        raise RefusedRow("invalid_reward", "reward", "is not a finite number")
    if not low <= raw <= high:
        raise RefusedRow("reward_out_of_range", "reward", "lies outside rewards.min to rewards.max", f"{low} to {high}")
    return float(raw)


def _rewarded(raw: Any) -> bool:
    """Whether a row's reward was reported; one that says nothing of it was, if it has a reward."""
    if raw is not None and (not isinstance(raw, int) or raw not in (0, 1)):
        raise RefusedRow("invalid_rewarded", "rewarded", "is not true or false")
    return raw is None or bool(raw)


def _decided_at(raw: Any, stamp: datetime) -> datetime:
    """When a row was decided; one that says nothing of it was when it is imported.

    One further ahead of its import than two clocks differ has its time in another zone.
    """
    moment = read_time(raw, "decided_at")
    if moment is not None and moment > stamp + timedelta(seconds=AHEAD_S_MAX):
        raise RefusedRow(
            "time_ahead",
            "decided_at",
            "lies ahead of the import; a time without a zone is read as UTC",
            f"{AHEAD_S_MAX:g} s ahead",
        )
    return moment or stamp


def _slot(raw: Any) -> int | None:
    if raw is not None and (isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= SLOT_MAX):
        raise RefusedRow("invalid_slot", "slot", "is not a place counted from 1", f"1 to {SLOT_MAX}")
    return raw


def read_time(raw: Any, name: str) -> datetime | None:
    """An RFC 3339 time, or a `datetime`; one without a zone is taken as UTC. Raises `RefusedRow`."""
    if raw is None or isinstance(raw, datetime):
        moment = raw
    else:
        try:
            moment = datetime.fromisoformat(raw)
        except (TypeError, ValueError):
            raise RefusedRow("invalid_time", name, "is not an RFC 3339 time") from None
    if moment is None:
        return None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise RefusedRow("invalid_time", name, "is a time that UTC does not have") from None


def read_name(raw: Any, name: str) -> str | None:
    """An id: printable, not empty, at most 256 characters; None stays None. Raises `RefusedRow`."""
    if raw is None:
        return None
    if not isinstance(raw, str) or not raw or len(raw) > NAME_LENGTH_MAX or _BAD_IN_NAME.search(raw):
        raise RefusedRow("invalid_id", name, "is not a printable string", f"1 to {NAME_LENGTH_MAX} characters")
    return raw


def clean_features(raw: Any, path: str) -> dict[str, Any]:
    """A feature object as the log holds it: a list of other things than strings becomes an object by position.

    Raises `RefusedRow` when it is no object, or holds a number that is not finite or a control character.
    """
    if not isinstance(raw, dict):
        raise RefusedRow("invalid_features", path, "is missing or is not an object")
    return {key: _clean(key, value, path, 1) for key, value in raw.items()}


def _clean(name: str, value: Any, path: str, depth: int) -> Any:
    if not name or len(name) > NAME_LENGTH_MAX or _BAD_IN_NAME.search(name):
        raise RefusedRow("invalid_features", path, "has a feature whose name is empty, too long or not printable")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if _BAD_IN_TEXT.search(value):
            raise RefusedRow("invalid_features", path, "has a text with control characters")
        return value
    if isinstance(value, int | float):
        if not is_number(value):
            raise RefusedRow("invalid_features", path, "has a number that is not finite")
        return value
    if depth >= DEPTH_MAX:
        raise RefusedRow("invalid_features", path, "is nested too deeply", f"{DEPTH_MAX} levels")
    if isinstance(value, dict):
        return {key: _clean(key, below, path, depth + 1) for key, below in value.items()}
    if isinstance(value, list):
        if all(isinstance(entry, str) for entry in value):
            return [_clean(name, entry, path, depth + 1) for entry in value]
        return {str(place): _clean(str(place), entry, path, depth + 1) for place, entry in enumerate(value)}
    raise RefusedRow("invalid_features", path, "holds something that JSON does not know")


def _action_records(raw: Any) -> list[ActionRecord]:
    if not isinstance(raw, list) or not raw:
        raise RefusedRow("invalid_actions", "actions", "is not a list of at least one action")
    records = []
    for entry in raw:
        plain = entry if isinstance(entry, dict) else {"id": entry}
        action_id = read_name(_text(plain.get("id")), "actions.id")
        if action_id is None:
            raise RefusedRow("invalid_actions", "actions", "has an action without an id")
        features = plain.get("features")
        records.append(ActionRecord(action_id, clean_features(features, "actions.features") if features else {}))
    if len({record.id for record in records}) != len(records):
        raise RefusedRow("invalid_actions", "actions", "has two actions of the same id")
    return records


def _same_offer(records: Sequence[ActionRecord], catalogue: Sequence[Action]) -> bool:
    return len(records) == len(catalogue) and all(
        record.id == action.id and record.features == action.features
        for record, action in zip(records, catalogue, strict=True)
    )


def _index(raw: Any, ids: Sequence[str]) -> int:
    action = _text(raw)
    if not isinstance(action, str):
        raise RefusedRow("invalid_action", "action", "is missing or is not the id of an action")
    try:
        return ids.index(action)
    except ValueError:
        raise RefusedRow("unknown_action", "action", "is not one of the offered actions") from None


def _text(raw: Any) -> Any:
    """Ids that another system kept as whole numbers, as text."""
    return str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw


def _pmf(raw: Any, k: int) -> list[float] | None:
    if raw is None:
        return None
    if (
        not isinstance(raw, list)
        or len(raw) != k
        or any(isinstance(p, bool) or not isinstance(p, int | float) or not 0.0 <= p <= 1.0 for p in raw)
        or abs(sum(raw) - 1.0) > PMF_TOLERANCE
    ):
        raise RefusedRow("invalid_pmf", "pmf", "is not a distribution over the offered actions")
    return [float(p) for p in raw]
