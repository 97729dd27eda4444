"""A mapping: how a log of any shape becomes impressions, SQL expressions over the columns of CSV or Parquet files."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import duckdb
from pydantic import Field, ValidationError

from ecdctr.config import RESERVED_COLUMNS, Section
from ecdctr.errors import ConfigError, ContractError, first_line
from ecdctr.files.duck import identifier
from ecdctr.files.strict_yaml import read_yaml
from ecdctr.impressions.tables import Table

FEATURE_NAME = re.compile(r"[a-z][a-z0-9_]*")
WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
WIDE = ("UBIGINT", "HUGEINT")  # int64 where all values of the log fit, else text
AS_IT_IS = ("BOOLEAN", "DATE", "FLOAT", "DOUBLE", '"NULL"')


class Join(Table):
    """A table with one row per key, joined to the log; its columns are written as NAME.column."""

    key: str = Field(description="column of the same name in the log and here")


class Mapping(Section):
    """How a log becomes impressions; every value on the right is a DuckDB SQL expression over its columns."""

    log: Table
    joins: dict[str, Join] = Field(default_factory=dict)
    user_id: str
    item_id: str
    ts: str = Field(
        description="a timestamp in UTC, e.g. epoch_ms(time_ms) or to_timestamp(seconds)"
    )
    click: str = Field(description="the label rule, true or 1 for a click, e.g. rating >= 4")
    domain: str = Field(
        description="'natural' or 'ads'; rows with anything else are left out and counted"
    )
    features: dict[str, str] = Field(default_factory=dict)
    earliest: dt.date | None = Field(None, description="first day that can be; default: 1970-01-01")
    latest: dt.date | None = Field(None, description="last day that can be; default: tomorrow")

    def expressions(self) -> dict[str, str]:
        """Every expression by its key in the mapping."""
        names = ("user_id", "item_id", "ts", "click", "domain")
        columns = {name: str(getattr(self, name)) for name in names}
        return columns | {f"features.{name}": text for name, text in self.features.items()}


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file; raises ConfigError with the key that is wrong."""
    try:
        mapping = Mapping.model_validate(read_yaml(path, "mapping"))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors()
        ]
        raise ConfigError(f"{path} is not a mapping. " + "; ".join(problems)) from None
    refuse_names(mapping)
    return mapping


def refuse_names(mapping: Mapping) -> None:
    """Raise ConfigError for features that no configuration could declare."""
    for name in sorted(mapping.features):
        if name in RESERVED_COLUMNS:
            raise ConfigError(
                f"mapping features.{name}: the contract itself, or preparation, has a column of that name; "
                "choose another."
            )
        if not FEATURE_NAME.fullmatch(name):
            raise ConfigError(
                f"mapping features.{name}: expected a name of a-z, 0-9 and _ that starts with a letter."
            )
    for name in sorted({"log", "impressions"} & set(mapping.joins)):
        raise ConfigError(
            f"mapping joins.{name}: the import uses that name itself; choose another."
        )


def check_expressions(db: duckdb.DuckDBPyConnection, mapping: Mapping) -> dict[str, str]:
    """Bind every expression alone, so that an error names its key; returns their types."""
    columns = columns_of(db, "log")
    for name, join in mapping.joins.items():
        others = columns_of(db, name)
        if join.key not in columns or join.key not in others:
            where = "the log" if join.key not in columns else f"its files ({', '.join(others)})"
            raise ConfigError(f"mapping joins.{name}.key: no column '{join.key}' in {where}.")
        row = db.execute(
            f"SELECT count(*) - count(DISTINCT {identifier(join.key)}) FROM {identifier(name)}"
        ).fetchone()
        if row and row[0]:
            raise ContractError(
                f"mapping joins.{name}: expected one row per {join.key}, found {row[0]} more."
            )
    tables = "".join(f", {identifier(name)}" for name in mapping.joins)
    types = {}
    for key, text in mapping.expressions().items():
        try:
            described = db.execute(f"DESCRIBE SELECT ({text}) AS value FROM log{tables}").fetchone()
        except duckdb.Error as error:
            raise ConfigError(
                f"mapping {key}: '{text}' does not fit the log: {first_line(error)}. "
                f"The log's columns: {', '.join(f'{name} {kind}' for name, kind in columns.items())}."
            ) from None
        types[key] = described[1] if described else ""
        _refuse_type(key, text, types[key])
    return types


def columns_of(db: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Return the type of each column of a table."""
    return {row[0]: row[1] for row in db.execute(f"DESCRIBE {identifier(table)}").fetchall()}


def _refuse_type(key: str, text: str, kind: str) -> None:
    """Raise ConfigError for an expression whose type the contract does not have."""
    whole = scalar_kind(kind.removesuffix("[]")) in ("whole", "wide", "text")
    if key in ("user_id", "item_id") and (kind.endswith("[]") or not (whole or kind == '"NULL"')):
        raise ConfigError(
            f"mapping {key}: '{text}' gives {kind}, expected an integer or text; write it as text where digits "
            f"count ({text}::VARCHAR, or types: {{column: VARCHAR}} for a CSV)."
        )
    element = kind.removesuffix("[]")
    if key.startswith("features.") and not scalar_kind(element):
        raise ConfigError(
            f"mapping {key}: '{text}' gives {kind}, which is no feature; expected a number, text, boolean, date or "
            "a list of them."
        )


def scalar_kind(kind: str) -> str | None:
    """How a type of DuckDB is written: as int64, by its values, as text, or as it is; None: it cannot be."""
    if kind in WHOLE:
        return "whole"
    if kind in WIDE or re.fullmatch(r"DECIMAL\(\d+,0\)", kind):
        return "wide"
    if kind in ("VARCHAR", "UUID") or kind.startswith("ENUM("):
        return "text"
    return "as it is" if kind in AS_IT_IS or kind.startswith("DECIMAL(") else None
