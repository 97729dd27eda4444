"""One file of a log as rows of a mapping: staged as Parquet, then split by domain and day."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import duckdb

from ecdctr.config.terms import IDS
from ecdctr.errors import ContractError, first_line, lacks_room
from ecdctr.files.duck import identifier, literal, parquet
from ecdctr.impressions.damage import damaged
from ecdctr.impressions.declared import undecodable
from ecdctr.impressions.expressions import OF_SMALLER, scalar_kind, with_readers
from ecdctr.impressions.footers import with_remedy
from ecdctr.impressions.tables import PARQUET, TableFile

if TYPE_CHECKING:
    from ecdctr.impressions.mapping import Mapping

# 1, 0 or null: of 1, 0, true and false in any type; anything else is null too, and refused
CLICK = """CASE WHEN lower(trim(_label)) IN ('1', 'true', '1.0') THEN 1
    WHEN lower(trim(_label)) IN ('0', 'false', '0.0') THEN 0 END::TINYINT"""
DOMAINS = "_domain <> 'other'"  # rows of neither domain may be anything
LEAP_SECOND = re.compile(r'"[^"]*:\d\d:60(\.\d*)?[^"\d]*", expected format')


class Staged(NamedTuple):
    """A mapped log file, and how it, or another file of the log, is mapped again."""

    file: TableFile
    stored: Path
    parts: dict[str, str]  # what is selected for each key of the mapping
    source: str  # the view `log` with its joins, for FROM
    later: tuple[TableFile, ...] = ()  # files of the log that come after it

    @property
    def path(self) -> Path:
        """The log file."""
        return self.file.path

    @property
    def select(self) -> str:
        """The mapping's values, a SELECT without FROM."""
        return f"SELECT {', '.join(self.parts.values())}"

    @property
    def rows(self) -> str:
        """Its mapped rows as SQL for FROM."""
        return _judged(parquet([self.stored]))

    def again(self, *others: str) -> str:
        """Write the mapped rows of what the view `log` is now as SQL, with more columns of it."""
        more = "".join(f", log.{other}" for other in others)
        return _judged(f"({self.select}{more} FROM {self.source})")


def _judged(rows: str) -> str:
    """Write mapped rows with their label as 0, 1 or null, their day and their domain."""
    return f"""(SELECT *, {CLICK} AS click, ts::DATE AS _date,
        CASE WHEN _domain_text IN ('natural', 'ads') THEN _domain_text ELSE 'other' END AS _domain
        FROM {rows})"""


def map_file(db: duckdb.DuckDBPyConnection, staged: Staged) -> None:
    """Write every row of a log file as the mapping says into the file `stored`."""
    view_of(db, staged.file)
    db.execute(
        f"COPY ({staged.select} FROM {staged.source}) TO {literal(staged.stored)} "
        "(FORMAT parquet, COMPRESSION zstd)"
    )


def view_of(db: duckdb.DuckDBPyConnection, *files: TableFile) -> None:
    """Let the view `log`, which expressions name, be some of the log's files."""
    db.execute(f"CREATE OR REPLACE VIEW log AS {' UNION ALL '.join(file.query for file in files)}")


def split(db: duckdb.DuckDBPyConnection, staged: Staged, target: Path) -> None:
    """Write the mapped rows into a folder per domain and day under `target`."""
    db.execute(
        f"COPY (SELECT * EXCLUDE (_label, _rounded, _rounds, _cut, _unclear, _domain_text) FROM "
        f"{staged.rows}) TO {literal(target)} "
        "(FORMAT parquet, PARTITION_BY (_domain, _date), COMPRESSION zstd)"
    )
    staged.stored.unlink()


def parts_of(
    mapping: Mapping, types: dict[str, str], ts: str, rounded: str, rounds: str
) -> dict[str, str]:
    """Return what is selected for each key, its expression once.

    `ts` with its columns, `rounded` whether an id may be another one, `rounds` which other value.
    """
    parts = {name: f"{_typed(getattr(mapping, name), types[name])} AS {name}" for name in IDS}
    parts["_rounded"] = rounded
    parts["_rounds"] = rounds
    parts["ts"] = ts
    parts["click"] = f"({mapping.click})::VARCHAR AS _label"
    parts["domain"] = f"({mapping.domain})::VARCHAR AS _domain_text"
    for name, text in mapping.features.items():
        key = f"features.{name}"
        parts[key] = f"{_typed(text, types[key])} AS {identifier(name)}"
    return parts


def _typed(text: str, kind: str) -> str:
    """Return an expression in the type that it is staged as; the import narrows what is wide."""
    if kind in ("FLOAT", "DOUBLE"):
        return f"({text}) + 0.0::{kind}"  # -0 is 0
    lists = "[]" if kind.endswith("[]") else ""
    # wide as text: DuckDB writes HUGEINT to Parquet as DOUBLE, which merges ids above 2^53
    targets = {"whole": "BIGINT", "text": "VARCHAR", "wide": "VARCHAR"}
    target = targets.get(scalar_kind(kind.removesuffix("[]")) or "", "")
    return f"({text})::{target}{lists}" if target else f"({text})"


@contextmanager
def explained(
    db: duckdb.DuckDBPyConnection, file: TableFile, at_fault: Callable[[], str | None]
) -> Iterator[None]:
    """Raise ContractError with the file, and the mapping's key, for whatever DuckDB says."""
    try:
        yield
    except duckdb.Error as error:
        if lacks_room(error):
            raise
        if damage := damage_of(file.path):
            raise ContractError(f"{damage}.") from None
        under = f" under {key}" if (key := at_fault()) else ""
        raise ContractError(
            f"{file.path} cannot be read as the mapping says{under}: {_said(db, file, error)}."
        ) from None


def key_at_fault(db: duckdb.DuckDBPyConnection, staged: Staged) -> str | None:
    """Return the first key whose values alone cannot be made; None where the rows cannot be."""
    if fails(db, "*", staged.source):
        return None
    parts = staged.parts.items()
    return next((key for key, part in parts if fails(db, part, staged.source)), None)


def fails(db: duckdb.DuckDBPyConnection, selected: str, source: str) -> bool:
    """Tell whether rows cannot be made; every value of them is."""
    try:
        db.execute(f"SELECT bit_xor(hash(COLUMNS(*))) FROM (SELECT {selected} FROM {source})")
    except duckdb.Error:
        return True
    return False


def damage_of(path: Path) -> str | None:
    """Say that a file of Parquet is damaged; what is CSV was read to its end."""
    damage = damaged(path) if path.suffix.lower() in PARQUET else None
    return damage and with_remedy(damage)


def _said(db: duckdb.DuckDBPyConnection, file: TableFile, error: duckdb.Error) -> str:
    """Return what DuckDB says, with the column where text is no UTF-8."""
    column = undecodable(db, f"({file.query})")
    if column:
        return f"column {column} holds text that is no UTF-8"
    said = first_line(error).rstrip(".")
    if LEAP_SECOND.search(said):
        return (
            f"{said}; a leap second is none of DuckDB's, write ts: regexp_replace(column, ':60', "
            "':59')::TIMESTAMP"
        )
    if "Unknown TimeZone" in said:
        return (
            f"{said}; say how times are written, such as ts: strptime(column, '%Y-%m-%d %H:%M:%S "
            "%z') for an offset like -0300, %I:%M:%S %p for AM and PM"
        )
    if "Epoch seconds out of range" in said or "Could not convert Timestamp(" in said:
        return f"{said}; the numbers are of a smaller unit: write ts: {OF_SMALLER}"
    if "timestamp field format" in said:
        return f"{said}; say how times are written, such as ts: strptime(column, '%d/%m/%Y %H:%M')"
    return with_readers(said)
