"""Which cell makes text of a CSV column whose other cells are numbers, and where it stands.

A price of `5%`, `inf` or `1,234.5` among numbers leaves the column text: right where nobody says
that it holds numbers, and told; refused by an import where the configuration declares it numeric.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.errors import ContractError
from ecdctr.files.duck import identifier, literal, one_row
from ecdctr.files.strict_yaml import in_yaml
from ecdctr.impressions.column_types import NOTHING, OddCell, no_number
from ecdctr.impressions.expressions import columns_read, scalar_kind
from ecdctr.impressions.locate import RECORD, numbered
from ecdctr.impressions.mapped_rows import view_of

if TYPE_CHECKING:
    import duckdb

    from ecdctr.impressions.mapping import Mapping
    from ecdctr.impressions.syntax import Tables
    from ecdctr.impressions.tables import Opened, Table, TableFile

THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
PERCENT = re.compile(r"[-+]?[\d.]+\s*%")


class Declared(NamedTuple):
    """What a configuration says of features, and its name in sentences."""

    source: str
    kinds: dict[str, str]  # categorical, numeric or multi_valued, by feature


def finder(
    db: duckdb.DuckDBPyConnection, mapping: Mapping, opened: dict[str, Opened], scratch: Path
) -> Callable[[str, str, int], OddCell | None]:
    """Return what finds the first cell of a CSV table's column that is no number.

    Where more than one in so many is none, none is looked for.
    """

    def find(table: str, column: str, one_in: int) -> OddCell | None:
        files = opened[table].files
        description = mapping.log if table == "log" else mapping.joins[table]
        try:
            return _first(db, description, files, "log", identifier(column), scratch, one_in)
        finally:
            view_of(db, *opened["log"].files)

    return find


def _first(
    db: duckdb.DuckDBPyConnection,
    table: Table,
    files: list[TableFile],
    source: str,
    text: str,
    scratch: Path,
    one_in: int = 1,
) -> OddCell | None:
    """Return the first value of an expression over files that is no number.

    None where more than one in so many is none: to find a line, a file is copied again.
    """
    condition = no_number(text)
    view_of(db, *files)
    odd, count = one_row(db, f"SELECT count(*) FILTER ({condition}), count({text}) FROM {source}")
    if not odd or odd * one_in > count:
        return None
    for file in files:
        view_of(db, file)
        if not one_row(db, f"SELECT count(*) FROM {source} WHERE {condition}")[0]:
            continue
        with numbered(db, table, file, scratch) as where:
            record, value = one_row(
                db,
                f"SELECT min(log.{RECORD}), arg_min({text}, log.{RECORD}) FROM {source} "
                f"WHERE {condition}",
            )
            return OddCell(str(value), f"{file.name}, {where([record])[record]}", odd, count)
    return None


def refuse_kinds(
    tables: Tables,
    mapping: Mapping,
    types: dict[str, str],
    log: Opened,
    source: str,
    declared: Declared,
    scratch: Path,
) -> None:
    """Raise ContractError for features that the configuration declares as another kind.

    Of text where a number is declared the first cell that is none is named. `source` is the log
    with its joins.
    """
    for name, text in mapping.features.items():
        kind, key = types[f"features.{name}"], f"features.{name}"
        expected = declared.kinds.get(name)
        if expected is None or kind in ('"NULL"', "NULL"):
            continue
        says = f"{declared.source} declares it {expected.replace('_', '-')}"
        scalar = scalar_kind(kind)
        if expected == "numeric" and scalar == "text":
            value = f"({text})"
            cell = _first(tables.db, mapping.log, log.files, source, value, scratch)
            if cell:
                raise ContractError(
                    f"{cell.place}: {key} is {cell.shown}, which is no number that a double holds "
                    f"exactly, but {says}; {cell.no_numbers:,} of {cell.cells:,} cells are so. "
                    f"{_remedy(cell, key, text)}"
                )
            raise ContractError(
                f"mapping {key}: '{text}' gives text{_why(tables, text)}, but {says}; write "
                f"({text})::DOUBLE for numbers."
            )
        lists = kind.endswith("[]")
        unlike = {
            "numeric": lists or kind in ("BOOLEAN", "DATE"),
            "categorical": lists,
            "multi_valued": not lists,
        }
        if unlike[expected]:
            what = {"numeric": "a number", "categorical": "one value", "multi_valued": "a list"}
            raise ContractError(
                f"mapping {key}: '{text}' gives {kind}, expected {what[expected]}, since {says}; "
                "change one of them."
            )


def _why(tables: Tables, text: str) -> str:
    """Say which two values of a column would be one number, where that makes it text."""
    for table, column in columns_read(tables, text):
        if why := tables.ambiguous.get(table, {}).get(column):
            return f" ({column} is {why})"
    return ""


def _remedy(cell: OddCell, key: str, text: str) -> str:
    """Say what makes a number, or nothing, of a cell."""
    value = cell.value.strip()
    if THOUSANDS.fullmatch(value):
        rule, means = f"replace({text}, ',', '')::DOUBLE", "commas part thousands"
    elif DECIMAL_COMMA.fullmatch(value):
        rule, means = f"replace({text}, ',', '.')::DOUBLE", "the comma parts the fraction"
    elif PERCENT.fullmatch(value):
        rule, means = f"replace({text}, '%', '')::DOUBLE", "all cells are in per cent"
    elif value.lower() in NOTHING or "inf" in value.lower():
        return f"Write nulls: [{literal(cell.value)}] under the table if it means none."
    else:
        rule, means = f"TRY_CAST({text} AS DOUBLE)", "such cells mean none"
    return f"Mend it, or write {key}: {in_yaml(rule)} if {means}."
