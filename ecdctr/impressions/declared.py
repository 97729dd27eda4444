"""What a declared type of Arrow is read as.

The one type of a column, the SQL that casts to it, and what does not fit.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import duckdb
import pyarrow as pa

from ecdctr.files.duck import identifier

Name = Literal["integer", "text", "boolean", "number", "instant", "label", "nothing"]
Role = Literal["id", "instant", "label", "category", "categories", "number", "oracle", "key"]

SQL: dict[Name, str] = {
    "integer": "BIGINT",
    "text": "VARCHAR",
    "boolean": "BOOLEAN",
    "number": "DOUBLE",
    "instant": "TIMESTAMPTZ",
    "label": "TINYINT",
}
EXPECTED: dict[Role, str] = {
    "id": "an integer or text",
    "instant": "timestamp[us, tz=UTC]",
    "label": "int8",
    "category": "an integer, text, boolean or date",
    "categories": "a list of integers or text",
    "number": "a number",
    "oracle": "a number",
    "key": "an integer or text",
}
MEND: dict[Role, str] = {
    "instant": (
        "; write it in microseconds and UTC (DuckDB: TIMESTAMPTZ; pyarrow: timestamp('us', "
        "'UTC'); Spark: spark.sql.parquet.outputTimestampType TIMESTAMP_MICROS)"
    ),
    "label": "; write it so (DuckDB: click::TINYINT; Spark: cast('tinyint'))",
}
MOST_DIGITS = 38  # of a decimal in DuckDB, which reads wider ones as doubles, and in Spark
NARROWER = (
    f"; write it with at most {MOST_DIGITS} digits or as text, or as doubles if that is right"
)
BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
WHOLE = {16: 2048, 32: 2**24, 64: 2**53}  # up to here floats of these bits hold every whole number
FLOAT32_MAX = "3.4028234663852886e38"


class ColumnType(NamedTuple):
    """The one type of a column; `many` for lists of it."""

    name: Name
    many: bool = False

    def __str__(self) -> str:
        return f"list of {self.name}" if self.many else self.name

    def agrees(self, other: ColumnType) -> bool:
        """Say whether values of both can stand in one column."""
        return self.many == other.many and (
            self.name == other.name or "nothing" in (self.name, other.name)
        )


def type_of(role: Role, declared: pa.DataType) -> ColumnType | None:
    """Return the type that a declared one is read as; None where it does not fit the role."""
    kind = declared.value_type if pa.types.is_dictionary(declared) else declared
    if role == "instant":
        instant = pa.types.is_timestamp(kind) and kind.unit == "us" and kind.tz is not None
        return ColumnType("instant") if instant else None  # UTC, whatever zone it is shown in
    if role == "label":
        return ColumnType("label") if kind == pa.int8() else None
    if role in ("number", "oracle"):
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        numeric = numeric or (pa.types.is_decimal(kind) and not too_wide(kind))
        return ColumnType("number") if numeric or pa.types.is_null(kind) else None
    if role == "categories":
        if pa.types.is_null(kind):
            return ColumnType("nothing", many=True)
        element = type_of("category", kind.value_type) if _is_list(kind) else None
        return element and ColumnType(element.name, many=True)
    name = _category(kind)
    if role == "id" and (pa.types.is_floating(kind) or pa.types.is_date(kind)):
        name = None
    if role == "id" and name not in ("integer", "text"):
        return None
    if role == "key":
        name = _key(kind)
    return ColumnType(name) if name else None


def too_wide(kind: pa.DataType) -> bool:
    """Tell whether a type is a decimal that DuckDB would round, as it reads it."""
    return bool(pa.types.is_decimal(kind) and kind.precision > MOST_DIGITS)


def mend_of(role: Role, name: str, kind: pa.DataType) -> str:
    """Return how a column that does not fit its role is to be written, as a part of a sentence."""
    if too_wide(kind):
        return NARROWER
    if role in MEND:
        return MEND[role]
    column = identifier(name)
    if role in ("number", "oracle"):
        categorical = ", or declare the feature as categorical" * (role == "number")
        return f"; write it as a number (DuckDB: {column}::DOUBLE){categorical}"
    if role == "categories":
        if type_of("category", kind):  # a value where lists are, whose values may be of its type
            return f"; write it as a list (DuckDB: [{column}])"
        made = f"{column}::VARCHAR[]" if _is_list(kind) else f"[{column}::VARCHAR]"
        return f"; write it as a list of text (DuckDB: {made})"
    if pa.types.is_floating(kind):
        return f"; write it as an integer (DuckDB: {column}::BIGINT; of HUGEINT {column}::VARCHAR)"
    if any(is_kind(kind) for is_kind in BINARY):
        return f"; write it as text (DuckDB: decode({column}), or hex({column}))"
    return f"; write it as text (DuckDB: {column}::VARCHAR; Spark: cast('string'))"


def _category(kind: pa.DataType) -> Name | None:
    if pa.types.is_null(kind):
        return "nothing"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "integer"
    if pa.types.is_decimal(kind) and kind.scale == 0 and not too_wide(kind):
        return "integer"
    return "text" if _is_text(kind) or pa.types.is_date(kind) else None


def _key(kind: pa.DataType) -> Name | None:
    """Return ids of impressions.

    Numbers up to int64 as such, what is wider or something else as text.
    """
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return "integer"
    if pa.types.is_nested(kind) or pa.types.is_floating(kind) or too_wide(kind):
        return None
    return "nothing" if pa.types.is_null(kind) else "text"


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def cast_sql(raw: str, kind: ColumnType, declared: pa.DataType | None) -> str:
    """Return SQL of a column's typed values."""
    if kind.name == "nothing" or declared is None:
        return "NULL" if kind.name == "nothing" else f"NULL::{SQL[kind.name]}"
    if kind.many:
        if pa.types.is_null(declared):
            return f"NULL::{SQL[kind.name]}[]"
        element = cast_sql("x", ColumnType(kind.name), declared.value_type)
        return f"list_transform({raw}, lambda x: {element})"
    if pa.types.is_dictionary(declared):
        declared = declared.value_type
    value = raw
    if pa.types.is_floating(declared):
        value = f"CASE WHEN isnan({raw}) THEN NULL ELSE {raw} END"
    if kind.name == "number":
        return f"CAST({value} AS DOUBLE) + 0.0::DOUBLE"  # -0 is 0
    cast = "TRY_CAST" if kind.name == "integer" else "CAST"
    return f"{cast}({value} AS {SQL[kind.name]})"


def misfit_sql(raw: str, kind: ColumnType, declared: pa.DataType) -> str | None:
    """Return SQL of the condition that a value does not fit its column's type.

    None where every value does.
    """
    if pa.types.is_dictionary(declared):
        declared = declared.value_type
    if pa.types.is_null(declared):
        return None
    if kind.many:
        wrong = misfit_sql("x", ColumnType(kind.name), declared.value_type)
        return wrong and f"len(list_filter({raw}, lambda x: {wrong})) > 0"
    if pa.types.is_floating(declared):
        limit = FLOAT32_MAX if kind.name == "number" else str(WHOLE[declared.bit_width])
        fits = f"abs({raw}::DOUBLE) <= {limit}::DOUBLE"
        if kind.name == "integer":
            fits += f" AND {raw} = trunc({raw})"
        return f"(NOT isnan({raw}) AND NOT ({fits}))"
    if pa.types.is_date(declared):
        return f"NOT isfinite({raw})"  # which Parquet writes as a day of the year 5,881,580
    if kind.name == "integer" and (declared == pa.uint64() or pa.types.is_decimal(declared)):
        return f"({raw} IS NOT NULL AND TRY_CAST({raw} AS BIGINT) IS NULL)"
    return None


def undecodable(connection: duckdb.DuckDBPyConnection, source: str) -> str | None:
    """Return the first column of `source` (SQL for FROM) whose text is no UTF-8.

    None if all of it can be read.
    """
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    for name, kind, *_ in described:
        if kind.startswith(("VARCHAR", "ENUM")):
            try:
                connection.execute(
                    f"SELECT bit_xor(hash({identifier(name)})) FROM {source}"
                ).fetchall()
            except duckdb.Error as error:
                if "utf" in str(error).lower():
                    return str(name)
    return None
