"""DuckDB as the whole project uses it.

Bounded, in UTC, and with paths that are names, never patterns.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb

from ecdctr.errors import ConfigError
from ecdctr.files import durable
from ecdctr.files.reads import note_read
from ecdctr.files.urls import no_utf8


def connect(
    memory: str | None = None, threads: int | None = None, spill: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a connection in memory, in UTC, with these bounds, e.g. '2GB'.

    What is too much for memory goes to the folder `spill`, which is made when it is needed, in one
    that is there. None is DuckDB's own; for `spill` that is a folder in the current one, which may
    be anybody's. From a Parquet file's statistics DuckDB concludes what holds of all its rows, also
    where they say nothing: of a column with not-a-number, that none is. So it does not look at
    them.
    """
    connection = duckdb.connect()
    if memory:
        connection.execute(f"SET memory_limit = {literal(memory)}")
    if threads:
        connection.execute(f"SET threads = {int(threads)}")
    if spill:
        connection.execute(f"SET temp_directory = {literal(spill.absolute())}")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET disabled_optimizers = 'statistics_propagation'")
    return connection


def spill_folder(place: Path) -> Path:
    """Return where what is too much for memory may lie: in a folder, or the system's temporary one.

    The latter where the folder is not there or cannot be written. It is this machine's alone: by
    the numbers of processes DuckDB tells what those that were killed have left in it, and removes
    that.
    """
    if not os.access(place, os.W_OK | os.X_OK):
        place = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108  # a name of our own in it
    return place / f".spill-{socket.gethostname()}"


def one_row(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: object = None
) -> tuple[Any, ...]:
    """Return the row of a query that has one, such as an aggregate."""
    row = connection.execute(query, parameters).fetchone()
    assert row is not None, query  # noqa: S101  # else the query is not what it should be
    return row


def literal(value: object) -> str:
    """Quote text for SQL; raises ConfigError for a path that is no UTF-8: DuckDB takes none."""
    text = str(value)
    if problem := no_utf8(text):
        raise ConfigError(problem)
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quote a column's or table's name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def parquet(paths: Iterable[Path | str]) -> str:
    """Write the table function that reads exactly these Parquet files.

    DuckDB takes every name for a glob pattern: `[`, `*` and `?` stand in brackets so that each
    means itself; it takes `~` and `file:` at a name's start for more than that, so that names are
    absolute. Columns come from the files alone, never from folders named key=value.
    """
    whole = [str(Path(path).absolute()) for path in paths]
    note_read(map(Path, whole))
    names = ", ".join(literal(re.sub(r"[\[*?]", r"[\g<0>]", path)) for path in whole)
    return f"read_parquet([{names}], hive_partitioning = false)"


def write_parquet(connection: duckdb.DuckDBPyConnection, query: str, target: Path) -> None:
    """Write a query's result as Parquet, whole or not at all; the same bytes for the same rows.

    By a connection of `connect`: with statistics DuckDB would also write down which columns cannot
    be null, as the files that it read happen to say.
    """
    durable.make_dir(target.parent)
    with durable.replacing(target) as temporary:
        place = literal(temporary.absolute())
        connection.execute(f"COPY ({query}) TO {place} (FORMAT parquet, COMPRESSION zstd)")
