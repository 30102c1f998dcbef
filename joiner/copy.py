"""A copy of the whole warehouse for people who want to take it away and query it with their own tools."""

from __future__ import annotations

from pathlib import Path

from bandit.registry import ModelRegistry
from joiner.connection import quote
from joiner.export import scratch_file
from joiner.query import registry_tables
from joiner.warehouse import Warehouse


def copy_warehouse(warehouse: Warehouse, registry: ModelRegistry, target: Path) -> None:
    """Copy every table and view into a new DuckDB file at `target`, replacing it; readers and writers go on.

    `runs` and `models` are not in the warehouse; in the copy they are tables, as the registry tells them now.

    Raises OSError when the disk refuses. The copy is consistent: it is made in one transaction.
    """
    warehouse.keep_watermark()
    cursor = warehouse.cursor()
    try:
        source = cursor.execute("SELECT current_database()").fetchone()
        assert source is not None, "there is always a current database"
        with scratch_file(warehouse.scratch, target) as temporary:
            cursor.execute(f"ATTACH {quote(str(temporary))} AS copied")
            try:
                cursor.execute(f'COPY FROM DATABASE "{source[0]}" TO copied')
                for name, frame in registry_tables(registry).items():
                    cursor.register(f"{name}_now", frame)
                    cursor.execute(f"CREATE TABLE copied.{name} AS FROM {name}_now")
            finally:
                cursor.execute("DETACH copied")
    finally:
        cursor.close()
