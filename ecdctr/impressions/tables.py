"""CSV and Parquet files of any shape as typed rows in DuckDB.

Read as they are written, or refused by file and line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from ecdctr.config import Section
from ecdctr.errors import ConfigError, ContractError, lacks_room
from ecdctr.files.duck import identifier, literal, parquet
from ecdctr.impressions import csv_text
from ecdctr.impressions.column_types import Ambiguous, Part, TextType, parquet_types, text_types
from ecdctr.impressions.csv_opening import Dialect, Opening, delimiter_of
from ecdctr.impressions.damage import broken_checksum
from ecdctr.impressions.encodings import encoding_of
from ecdctr.impressions.footers import refuse_too_wide, unread, with_remedy
from ecdctr.impressions.log_files import folder_values, matches, name_in

PARQUET = (".parquet", ".pq", ".parq")
MANY = 200  # columns of CSV, from which on those alone are read that the mapping may name
OF_CSV = {"delimiter", "header", "names", "encoding", "quotes", "nulls", "types"}


class Table(Section):
    """Files of one kind: CSV (.csv, .tsv, .dat and the like, also as .gz and .zst) or Parquet."""

    files: tuple[str, ...] = Field(
        min_length=1, description="names or patterns, relative to the source folder"
    )
    delimiter: str | None = Field(
        None,
        description=r"CSV only, one to four bytes, '\t' and '\x01' as written here; when left out, "
        r"the one that makes "
        "most cells of the first line",
    )
    header: bool | None = Field(
        None, description="CSV only; when left out, there is one unless 'names' is given"
    )
    names: tuple[str, ...] | None = Field(
        None, description="CSV without a header: the columns in order"
    )
    encoding: str = Field(
        "utf-8",
        description="CSV only; any that Python knows, such as utf-16, cp1252 (Windows), shift_jis",
    )
    quotes: bool = Field(
        True, description="CSV only; false where a quote is a letter like others, as in most TSV"
    )
    nulls: tuple[str, ...] = Field(
        (), description=r"CSV only: texts that mean null, such as \N or NULL, beside empty cells"
    )
    types: dict[str, TextType] = Field(
        default_factory=dict,
        description=(
            "CSV only: types of columns, in place of those that follow from all their values"
        ),
    )

    @field_validator("delimiter")
    @classmethod
    def _one_delimiter(cls, value: str | None) -> str | None:
        return None if value is None else delimiter_of(value)

    @field_validator("encoding")
    @classmethod
    def _of_python(cls, value: str) -> str:
        return encoding_of(value)


class TableFile(NamedTuple):
    """One file as a query; all files of a table have the same columns and types."""

    path: Path
    name: str  # in sentences: the path below the source folder
    kind: Literal["csv", "parquet"]
    rows: int
    absent: tuple[str, ...]  # columns that only other files have: null here
    values: tuple[str, ...]  # of the table's columns, SQL for SELECT
    source: str  # with FROM
    unread: frozenset[str] = frozenset()  # columns that no expression can name: null

    @property
    def query(self) -> str:
        """SQL of its rows."""
        return f"SELECT {', '.join(self.values)} {self.source}"


class Opened(NamedTuple):
    """A table's files, and the columns of CSV that stay text although they look like numbers."""

    files: list[TableFile]
    ambiguous: dict[str, Ambiguous]
    kind: Literal["csv", "parquet"]


def open_table(
    db: duckdb.DuckDBPyConnection,
    table: Table,
    source: Path,
    scratch: Path,
    said: str,
    on_file: Callable[[str], None] | None = None,
) -> Opened:
    """Read the files of a table; CSV is copied into the folder `scratch`.

    Of a CSV file of very many columns those alone whose names stand in `said`, all that a mapping
    says; the others are null.

    Raises ConfigError for a pattern without a file or a type of no column, ContractError for what
    cannot be read or does not fit `types`.
    """
    paths = matches(table.files, source)
    kinds = {path.suffix.lower() in PARQUET: path for path in paths}
    if len(kinds) > 1:
        raise ConfigError(
            f"{', '.join(table.files)} match {kinds[True]}, which is Parquet by its name, and "
            f"{kinds[False]}, which is not; name files of one kind, such as '*.parquet'."
        )
    (of_parquet,) = kinds
    scratch.mkdir(parents=True, exist_ok=True)
    parts = []
    for i, path in enumerate(paths):
        if on_file:
            on_file(name_in(source, path))
        if of_parquet:
            parts.append(_parquet_part(db, path, said))
        else:
            parts.append(_csv_part(db, table, path, scratch / f"{i}.parquet", said))
    if of_parquet and any(part.rows for part in parts):  # what has no rows may be of any type
        parts = [part if part.rows else part._replace(types={}) for part in parts]
    names = list(dict.fromkeys(name for part in parts for name in part.types))
    folders = _folders(source, parts, names)
    if not names:
        raise ContractError(
            f"{', '.join(table.files)}: expected columns, found none in {paths[0]}"
            f"{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: nothing, blank lines or "
            "comments alone; look at what wrote the files."
        )
    refuse_alike(names, "the files " + ", ".join(table.files))
    if of_parquet:
        _refuse_of_csv(table)
        of_columns = parquet_types(parts, names)
        files = [_as_query(part, of_columns, source, "parquet", folders) for part in parts]
        return Opened(files, {}, "parquet")
    if unknown := sorted(set(table.types) - set(names)):
        raise ConfigError(f"types: no column '{unknown[0]}' in the log; it has {', '.join(names)}.")
    types, ambiguous = text_types(db, table.types, parts, names)
    files = [_as_query(part, types, source, "csv", folders) for part in parts]
    return Opened(files, ambiguous, "csv")


def refuse_alike(names: list[str], where: str, otherwise: str = "") -> None:
    """Raise ContractError when two columns have one name, or one but for upper and lower case."""
    seen: dict[str, str] = {}
    for name in names:
        if seen.get(name.lower()) == name:
            raise ContractError(
                f"{where}: column {name} is there twice; rename or drop one{otherwise}."
            )
        if name.lower() in seen:
            raise ContractError(
                f"{where}: columns {seen[name.lower()]} and {name} have the same name but for "
                "upper and lower case; rename one."
            )
        seen[name.lower()] = name


def _refuse_of_csv(table: Table) -> None:
    """Raise ConfigError for settings that say how to read CSV where the files are Parquet."""
    if given := sorted(OF_CSV & table.model_fields_set):
        raise ConfigError(
            f"{', '.join(table.files)}: {given[0]} describes CSV, but the files are Parquet; leave "
            "it out."
        )


def _parquet_part(db: duckdb.DuckDBPyConnection, path: Path, said: str) -> Part:
    try:
        with pq.ParquetFile(path) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
        if not (names := schema.names):
            return Part(path, path, 0, {})
        refuse_too_wide(schema, str(path), said)
        refuse_alike(names, str(path))
        described = db.execute(f"DESCRIBE SELECT * FROM {parquet([path])}").fetchall()
        why = broken_checksum(path)
    except (duckdb.Error, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if lacks_room(error):
            raise
        why = unread(path, error)
    if why:
        raise ContractError(f"{path} cannot be read: {with_remedy(why)}.")
    return Part(path, path, rows, {row[0]: row[1] for row in described})


def dialect_of(table: Table) -> Dialect:
    """Return what is said of a table's CSV files."""
    return Dialect(
        table.delimiter,
        table.header,
        table.names,
        table.encoding,
        table.quotes,
        table.nulls,
        "quotes" in table.model_fields_set,
    )


def _csv_part(
    db: duckdb.DuckDBPyConnection, table: Table, path: Path, target: Path, said: str
) -> Part:
    """Make a CSV file a Parquet file of text; one of 0 bytes has no columns."""
    dialect = dialect_of(table)
    in_utf8 = target.with_suffix(".csv.zst")
    text = csv_text.text_of(path, dialect.encoding, in_utf8)
    opening = csv_text.look(text, dialect)
    if opening is None:
        return Part(path, path, 0, {})
    header = f", line {opening.skip + 1}, read as the header" if opening.header else ""
    no_header = ", or name the columns in the mapping (names: [...]) if that line is a row"
    refuse_alike(list(opening.names), f"{path}{header}", no_header if header else "")
    only = read_of(opening, said)
    rows = csv_text.copy(db, text, opening, target, only)
    in_utf8.unlink(missing_ok=True)
    unread = frozenset(opening.names) - set(only) if only else frozenset()
    return Part(path, target, rows, dict.fromkeys(opening.names, "VARCHAR"), unread)


def read_of(opening: Opening, said: str) -> list[str] | None:
    """Return which columns of a CSV file are read; None for all.

    The first one is, since a byte order mark among the rows stands there.
    """
    if len(opening.names) <= MANY:
        return None
    first, *others = opening.names
    words = said.lower()
    return [first, *(n for n in others if n.lower() in words or identifier(n).lower() in words)]


def _folders(source: Path, parts: list[Part], names: list[str]) -> list[str]:
    """List the keys of Hive's folders that are columns: those that no file has as one."""
    keys = dict.fromkeys(key for part in parts for key in folder_values(source, part.path))
    taken = {name.lower() for name in names}
    return [key for key in keys if key.lower() not in taken]


def _as_query(
    part: Part,
    types: dict[str, str],
    source: Path,
    kind: Literal["csv", "parquet"],
    folders: list[str],
) -> TableFile:
    values = []
    for name, declared in types.items():
        column = identifier(name)
        if declared == "NULL":
            values.append(f"NULL AS {column}")
        elif name in part.types and name not in part.unread:
            values.append(f"{column}::{declared} AS {column}")
        else:
            values.append(f"NULL::{declared} AS {column}")
    said = folder_values(source, part.path)
    for key in folders:
        value = said.get(key)
        written = "NULL" if value is None else literal(value)
        values.append(f"{written}::VARCHAR AS {identifier(key)}")
    absent = tuple(name for name in [*types, *folders] if name not in {**part.types, **said})
    rows = f"FROM {parquet([part.stored])}" if part.types else "WHERE false"
    name = name_in(source, part.path)
    return TableFile(part.path, name, kind, part.rows, absent, tuple(values), rows, part.unread)
