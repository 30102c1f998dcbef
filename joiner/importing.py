"""Files of other systems as rows that `joiner.history` understands: NDJSON, Parquet, CSV, dsjson; rewards alone.

Columns are declared, with our own names as the default. Where a table has no `context` column, every column that
is not otherwise declared is a feature of the context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import duckdb
import msgspec

from bandit.errors import InvalidInput, InvalidRequest, one_of
from bandit.events import Event, RewardEvent
from bandit.experiment import Experiment
from bandit.reported_rewards import reported_number
from bandit.settings import Rewards
from joiner.cells import RefusedRow, is_number, read_name, read_time, too_deep
from joiner.connection import as_pattern, connect_to, parquet_rows, quote, without_zones
from joiner.dsjson import history_rows
from joiner.history import (
    BrokenOff,
    ImportReport,
    Lines,
    LoggingPolicy,
    Row,
    append_rows,
    import_rows,
)
from joiner.tables import UNPACKING, check_rows, csv_options, csv_problem, open_plain, packing_problem

FORMATS = ("ndjson", "parquet", "csv", "dsjson")
_FETCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a table holds what; of `context`, `actions` and `pmf` a text is read as JSON."""

    context: str = "context"
    action: str = "action"
    probability: str = "probability"
    reward: str = "reward"
    time: str = "decided_at"
    event_id: str = "event_id"
    actions: str = "actions"
    pmf: str = "pmf"
    rewarded: str = "rewarded"


def parse_columns(declared: Mapping[str, str]) -> Columns:
    """Columns from `{"reward": "clicked", …}`; raises `InvalidInput` for a role that there is not."""
    roles = [role.name for role in fields(Columns)]
    for role in declared:
        if role not in roles:
            raise InvalidInput("column", "names an unknown role", one_of(roles))
    return Columns(**declared)


def guess_format(path: Path) -> str:
    """The format that a file's ending tells; raises `InvalidInput`."""
    name = path.name.lower().removesuffix(".gz")
    for ending, form in (
        (".ndjson", "ndjson"),
        (".jsonl", "ndjson"),
        (".json", "ndjson"),
        (".parquet", "parquet"),
        (".csv", "csv"),
        (".tsv", "csv"),
        (".dsjson", "dsjson"),
    ):
        if name.endswith(ending):
            return form
    raise InvalidInput("--format", "must be given, the file's ending does not tell it", one_of(FORMATS))


def import_file(
    experiment: Experiment,
    source: Path | IO[bytes],
    *,
    form: str,
    clock: Callable[[], datetime],
    columns: Columns | None = None,
    logging_policy: LoggingPolicy | None = None,
    durable: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Import history from a file (or an open one: text formats only) of one of `FORMATS`.

    Single rows are refused and counted. Raises `InvalidInput` when the file cannot be read, or not to its end, and says
    how many rows were imported until then; of a compressed one that is damaged, none are.
    """
    rows = _rows(source, form, columns or Columns())
    return import_rows(experiment, rows, clock=clock, logging_policy=logging_policy, durable=durable, progress=progress)


def import_rewards(
    experiment: Experiment,
    source: Path | IO[bytes],
    *,
    form: str,
    clock: Callable[[], datetime],
    durable: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Import rewards that were reported elsewhere: `event_id`, `reward` (or `event`, `value`), `time`, ….

    The rows are those of a POST, except that the time given is kept as `received_at`. What decides whether they are
    in time is when they were imported: a late one is kept, counted and changes nothing.
    """
    rules = experiment.settings.rewards

    def events(row: Row, number: int, stamp: datetime) -> Sequence[Event]:
        return [_reward(row, stamp, rules)]

    return append_rows(experiment, _rows(source, form, None), events, clock=clock, durable=durable, progress=progress)


def _reward(row: Row, stamp: datetime, rules: Rewards) -> RewardEvent:
    event_id = read_name(row.get("event_id"), "event_id")
    if event_id is None:
        raise RefusedRow("no_event_id", "event_id", "is missing")
    reward_id, event = read_name(row.get("reward_id"), "reward_id"), read_name(row.get("event"), "event")
    numbers = {"reward": row.get("reward"), "value": row.get("value")}
    for name, number in numbers.items():
        if number is not None and not is_number(number):
            raise RefusedRow("invalid_reward", name, "is not a finite number")
    try:
        reward = reported_number(
            rules, reward=numbers["reward"], event=event, value=numbers["value"], reward_id=reward_id
        )
    except InvalidRequest as error:
        problem = error.problems[0]
        raise RefusedRow("invalid_reward", problem.field, problem.problem, problem.limit) from None
    return RewardEvent(
        event_id=event_id,
        received_at=read_time(row.get("received_at", row.get("time")), "time") or stamp,
        reward=float(reward),
        reward_id=reward_id,
        event=event,
        value=None if event is None else numbers["value"],
        action=read_name(row.get("action"), "action"),
        imported_at=stamp,
    )


# -- reading ---------------------------------------------------------------------------------------------


def _rows(source: Path | IO[bytes], form: str, columns: Columns | None) -> Iterable[Row | RefusedRow]:
    """The rows of a source; `columns` None leaves a table's rows as they are. Reading them may raise `BrokenOff`."""
    if form not in FORMATS:
        raise InvalidInput("--format", "is not known", one_of(FORMATS))
    if isinstance(source, Path) and (problem := packing_problem(source)):
        raise InvalidInput("FILE", f"{source.name} cannot be read ({problem}); nothing was imported")
    if form in ("parquet", "csv"):
        if not isinstance(source, Path):
            raise InvalidInput("FILE", f"{form} is read from a file, not from a stream")
        return _table_rows(source, form, columns)
    text = _text(source) if isinstance(source, Path) else source
    return Lines(text, history_rows) if form == "dsjson" else Lines(text)


def _text(path: Path) -> Iterator[bytes]:
    try:
        with open_plain(path) as file:
            yield from file
    except UNPACKING as error:
        raise BrokenOff(f"{path.name} cannot be read ({error})") from None


def _table_rows(path: Path, form: str, columns: Columns | None) -> Iterator[Row | RefusedRow]:
    if not path.is_file():
        raise InvalidInput("FILE", f"there is no file {path.name}")
    connection = connect_to(path)
    try:
        named = _roles(columns)
        relation = without_zones(connection.sql(f"SELECT * FROM {_source(connection, path, form, named)}"))
        names = relation.columns
        if form == "csv" and len(names) == 1:
            check_rows(connection, path, names[0])
        if columns is not None:
            _check_columns(names, columns)
        cursor = connection.execute(relation.sql_query())
        while batch := cursor.fetchmany(_FETCH_ROWS):
            for values in batch:
                row = dict(zip(names, values, strict=True))
                if form == "csv":
                    row |= {name: _number(row[name]) for name in named.numbers if isinstance(row.get(name), str)}
                yield _read(row, columns)
    except duckdb.Error as error:
        problem = csv_problem(connection, path, error) if form == "csv" else str(error).splitlines()[0]
        raise BrokenOff(f"{path.name} cannot be read ({problem})") from None
    finally:
        connection.close()


def _check_columns(names: Sequence[str], columns: Columns) -> None:
    """Raise `InvalidInput` where a table lacks a column that was declared, or the one that no row can do without."""
    there = ", ".join(names)
    ours = Columns()
    for role in fields(Columns):
        name = getattr(columns, role.name)
        if name not in names and (role.name == "action" or name != getattr(ours, role.name)):
            cure = "" if name != getattr(ours, role.name) else f"; say which it is (--column {role.name}=NAME)"
            raise InvalidInput("column", f"{role.name}: the table has no column {name}{cure}", there)


@dataclass(frozen=True, slots=True)
class _Roles:
    """The columns of a table that are read as text whatever they look like, and those that hold numbers."""

    texts: tuple[str, ...]
    numbers: tuple[str, ...]


def _roles(columns: Columns | None) -> _Roles:
    """Ids that look like numbers or dates stay what they are, and one bad number spoils its own row only."""
    if columns is None:
        return _Roles(
            ("event_id", "reward_id", "event", "action", "reward", "value", "time", "received_at"), ("reward", "value")
        )
    numbers = (columns.reward, columns.probability)
    texts = (columns.event_id, columns.action, columns.actions, columns.context, columns.pmf, columns.time)
    return _Roles(texts + numbers, numbers)


def _source(connection: duckdb.DuckDBPyConnection, path: Path, form: str, roles: _Roles) -> str:
    if form == "parquet":
        return parquet_rows(path)
    name = quote(as_pattern(path))
    options = csv_options(connection, path)
    header = connection.sql(f"SELECT * FROM read_csv({name}, {options}, all_varchar = true)").columns
    texts = ", ".join(f"{quote(column)}: 'VARCHAR'" for column in dict.fromkeys(roles.texts) if column in header)
    types = f", types = {{{texts}}}" if texts else ""
    return f"read_csv({name}, {options}, sample_size = -1{types})"


def _number(text: str) -> float | str:
    """The number that a cell holds; a text that is none stays, to be refused under its name."""
    try:
        return float(text)
    except ValueError:
        return text


def _read(row: dict[str, Any], columns: Columns | None) -> Row | RefusedRow:
    """A row of a table, or its refusal where a cell is nothing that JSON knows."""
    try:
        if columns is not None:
            return _declared(row, columns)
        return {name: _plain(value, name) for name, value in row.items()}
    except RefusedRow as refused:
        return refused
    except RecursionError:
        return too_deep("row")


def _declared(row: dict[str, Any], columns: Columns) -> Row:
    taken = {role.name: getattr(columns, role.name) for role in fields(Columns)}
    found = {role: _plain(row[column], column) for role, column in taken.items() if column in row}
    for role in ("context", "actions", "pmf"):
        text = found.get(role)
        if isinstance(text, str):
            try:
                found[role] = msgspec.json.decode(text)
            except msgspec.DecodeError:
                found[role] = text  # refused later, under the reason of its role
            except RecursionError:
                raise too_deep(role) from None
    if "context" not in found:
        rest = {name: _feature(value, name) for name, value in row.items() if name not in taken.values()}
        found["context"] = {name: value for name, value in rest.items() if value is not None}
    found["decided_at"] = found.pop("time", None)
    for role in ("event_id", "action"):
        if isinstance(found.get(role), int) and not isinstance(found[role], bool):
            found[role] = str(found[role])
    return found


def _feature(value: Any, column: str) -> Any:
    """A cell of a context's column; a time is told as text."""
    return value.isoformat() if isinstance(value, datetime) else _plain(value, column)


def _plain(value: Any, column: str) -> Any:
    """A value of DuckDB as JSON knows it; not-a-number is a missing value in a table.

    Raises `RefusedRow` for a map whose keys are no text.
    """
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise RefusedRow("invalid_features", column, "is a map whose keys are no text")
        return {key: _plain(entry, column) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry, column) for entry in value]
    if value is None or isinstance(value, str | int | bool | datetime):
        return value
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return float(value) if hasattr(value, "as_tuple") else str(value)  # a decimal, else a UUID and the like
