"""The expressions of a mapping, checked before a row is read.

Each fits the log's columns and gives one value per row. An expression sees one row and nothing
else, so that a log gives the same impressions however it is cut into files. Where DuckDB would
compare text with a number by rounding the text, or make text of a number that was written
otherwise, the expression is refused.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

import duckdb

from ecdctr.config.terms import IDS
from ecdctr.errors import ConfigError, first_line
from ecdctr.files.duck import identifier, literal
from ecdctr.files.strict_yaml import in_yaml
from ecdctr.impressions.column_types import NONE, NOTHING, TOLD, OddCell, most_frequent, shown
from ecdctr.impressions.syntax import (
    FRACTIONS,
    WHOLE,
    WIDE,
    Node,
    Tables,
    is_number,
    is_plain,
    nodes,
    parsed,
    references,
    types_of,
)

if TYPE_CHECKING:
    from ecdctr.impressions.mapping import Mapping

UNITS = {  # what reads numbers of a unit as times, and how many of it are a second
    "to_timestamp": ("seconds", 1),
    "epoch_ms": ("milliseconds", 1_000),
    "make_timestamp": ("microseconds", 1_000_000),
    "make_timestamp_ns": ("nanoseconds", 1_000_000_000),
}


def _readers(*names: str) -> str:
    return ", ".join(f"{name}(column) for {UNITS[name][0]}" for name in names)


READERS = _readers(*UNITS)
OF_SMALLER = _readers("make_timestamp", "make_timestamp_ns", "epoch_ms")
CAST_OF_NUMBERS = re.compile(r"Unimplemented type for cast \(\S+ -> (DATE|TIMESTAMP)")
FEW = 10  # cells that are no numbers are told where at most one in so many is none
AS_IT_IS = ("BOOLEAN", "DATE", *FRACTIONS, '"NULL"')


def checked_type(tables: Tables, key: str, text: str) -> str:
    """Bind a key's expression alone; returns its type, or raises ConfigError with the key."""
    kind = _bound(tables, key, text)
    tree = parsed(tables.db, text)
    _refuse_no_column(tables, key, tree)
    _refuse_other_rows(tables, key, text, tree)
    _refuse_chance(key, text, tree)
    _refuse_rounding(tables, key, text, tree)
    if key in IDS:
        _refuse_numbers_as_ids(tables, key, tree)
    _refuse_type(key, text, kind)
    return kind


def columns_read(tables: Tables, text: str) -> list[tuple[str, str]]:
    """Return the tables and columns that an expression reads, each once."""
    return list(dict.fromkeys(tables.used(parsed(tables.db, text))))


def text_columns(tables: Tables, mapping: Mapping) -> list[str]:
    """Return sentences about columns of features and rules that look like numbers and are text."""
    said = {}
    for key, text in mapping.expressions().items():
        for table, column in tables.used(parsed(tables.db, text)):
            named = f"{table}.{column} is text, since"
            why = tables.ambiguous.get(table, {}).get(column)
            if key not in IDS and why:
                mend = f"types: {{{in_yaml(column)}: DOUBLE}}"
                said[f"{table}.{column} is {why}; {mend} makes numbers"] = 1
            elif key not in IDS and (words := _words_among_numbers(tables, table, column)):
                mend = f"nulls: [{', '.join(map(literal, words))}] under {table}"
                said[f"{named} {shown(words)} stand among its numbers; {mend} makes numbers"] = 1
            elif cell := _few_odd(tables, table, column):
                none = f", or write nulls: [{literal(cell.value)}] if it means none"
                said[f"{named} {cell}; mend it{' if ids are numbers' if key in IDS else none}"] = 1
    return list(said)


def _few_odd(tables: Tables, table: str, column: str) -> OddCell | None:
    """Return the first cell that makes text of a CSV's column, where most others are numbers."""
    return tables.odd_cell(table, column, FEW) if _is_text_of_csv(tables, table, column) else None


def _is_text_of_csv(tables: Tables, table: str, column: str) -> bool:
    """Tell whether a column of CSV stayed text."""
    return table in tables.csv and tables.columns[table][column] == "VARCHAR"


def _words_among_numbers(tables: Tables, table: str, column: str) -> list[str]:
    """Return the words for nothing of a CSV's column that is text for them alone; else none."""
    if not _is_text_of_csv(tables, table, column):
        return []
    odd = _no_numbers(tables, table, column, len(NONE) + 1)
    number = f"TRY_CAST({identifier(column)} AS DOUBLE) IS NOT NULL"
    if not odd or len(odd) > len(NONE) or not {word.strip().lower() for word in odd} <= NOTHING:
        return []
    numbers = one(tables.db, f"SELECT count(*) FROM {identifier(table)} WHERE {number}")
    return odd if numbers else []


def _no_numbers(tables: Tables, table: str, column: str, limit: int = TOLD) -> list[str]:
    """Return the most frequent texts of a column that are no numbers."""
    name = identifier(column)
    condition = f"{name} IS NOT NULL AND TRY_CAST({name} AS DOUBLE) IS NULL"
    return most_frequent(tables.db, identifier(table), column, condition, limit)


def scalar_kind(kind: str) -> str | None:
    """Return how a type of DuckDB is written: as int64, by its values, as text, or as it is.

    None: it cannot be.
    """
    if kind in WHOLE:
        return "whole"
    if kind in WIDE or re.fullmatch(r"DECIMAL\(\d+,0\)", kind):
        return "wide"
    if kind in ("VARCHAR", "UUID") or kind.startswith("ENUM("):
        return "text"
    return "as it is" if kind in AS_IT_IS or kind.startswith("DECIMAL(") else None


def _bound(tables: Tables, key: str, text: str) -> str:
    """Return the type of an expression; raises ConfigError where it does not fit the columns."""
    _refuse_bare_name(tables, key, text)
    try:
        kinds = []
        if len(tables.db.extract_statements(f"SELECT ({text})")) == 1:
            kinds = tables.type_of(text)
    except duckdb.Error as error:
        listed = ", ".join(_shown(tables, text, name) for name in tables.columns["log"])
        said = with_readers(first_line(error).rstrip("."))
        raise ConfigError(
            f"mapping {key}: '{text}' does not fit the log: {said}. "
            f"The log's columns: {listed}{_in_quotes(tables, text)}."
        ) from None
    if len(kinds) != 1:
        raise ConfigError(f"mapping {key}: '{text}' is not one expression.")
    return kinds[0]


def with_readers(said: str) -> str:
    """Say what makes times of numbers, too, where DuckDB says that a cast does not."""
    made = f"; numbers are made times by {READERS}" if CAST_OF_NUMBERS.search(said) else ""
    return f"{said}{made}"


def _shown(tables: Tables, text: str, column: str) -> str:
    """Write a column of the log with its type, and why it is text where the expression names it."""
    kind = tables.columns["log"][column]
    why: object = tables.ambiguous.get("log", {}).get(column)
    if why is None and _is_text_of_csv(tables, "log", column) and column in text:
        cell = tables.odd_cell("log", column, 1)
        why = cell and f"text, since {cell}"
    return f"{_short(tables.db, column)} {kind}" + (f" ({why})" if why else "")


def _short(db: duckdb.DuckDBPyConnection, column: str) -> str:
    """Write a column as an expression names it.

    Of a name that another encoding made of a whole line, the start.
    """
    if not column.isprintable():
        return f"{column!a:.40}"
    return column[:40] if len(column) > 40 or is_plain(db, column) else identifier(column)


def _refuse_bare_name(tables: Tables, key: str, text: str) -> None:
    """Raise ConfigError for the name of a column that SQL takes for something else: a:b, null."""
    for table, columns in tables.columns.items():
        for column in columns:
            names = [column, f"{table}.{column}"] if table != "log" else [column]
            if text.strip() in names and not is_plain(tables.db, column):
                prefix = "" if table == "log" else f"{table}."
                raise ConfigError(
                    f"mapping {key}: '{text}' is the name of a column, which SQL takes for "
                    f"something else; write it in double quotes, in YAML "
                    f"{in_yaml(prefix + identifier(column))}."
                )


def _in_quotes(tables: Tables, text: str) -> str:
    """Say how columns that a text names, and that are no plain names, are written."""
    names = [
        identifier(column)
        for columns in tables.columns.values()
        for column in columns
        if column in text and identifier(column) not in text and not is_plain(tables.db, column)
    ]
    if not names:
        return ""
    return (
        f"; write {', '.join(dict.fromkeys(names))} with the double quotes, and the whole "
        "expression in single ones for YAML"
    )


def _refuse_no_column(tables: Tables, key: str, tree: Node) -> None:
    """Raise ConfigError for a name that is no column: `user` is the one who asks, to DuckDB."""
    lambdas = [node["lhs"] for node in nodes(tree) if node.get("class") == "LAMBDA"]
    parameters = {name for lhs in lambdas for (name, *_) in references(lhs)}
    for reference in references(tree):
        if reference[0] not in parameters and not tables.find(reference):
            listed = ", ".join(_short(tables.db, name) for name in tables.columns["log"])
            raise ConfigError(
                f"mapping {key}: there is no column '{'.'.join(reference)}'. "
                f"The log's columns: {listed}."
            )


def _refuse_other_rows(tables: Tables, key: str, text: str, tree: Node) -> None:
    """Raise ConfigError for aggregates, windows, unnest and subqueries.

    What is not one value of one row.
    """
    try:
        if any(node.get("class") in ("SUBQUERY", "STAR") for node in nodes(tree)):
            raise duckdb.BinderException("a subquery, or several columns")
        tables.db.execute(f"EXPLAIN SELECT 1 FROM {tables.source} WHERE ({text}) IS NULL")
    except duckdb.ConversionException:  # of a constant, or of the file's statistics
        raise
    except duckdb.Error:
        raise ConfigError(
            f"mapping {key}: '{text}' does not give one value for each row; write it without "
            "aggregates, window functions, unnest and subqueries."
        ) from None


def _refuse_chance(key: str, text: str, tree: Node) -> None:
    """Raise ConfigError for functions whose value is another one each time.

    Such as random() and now().
    """
    names = {node["function_name"] for node in nodes(tree) if node.get("function_name")}
    if chance := sorted(names & _functions_of_chance()):
        raise ConfigError(
            f"mapping {key}: '{text}': {chance[0]}() gives another value each time; take what the "
            "rows say, for example hash(user) % 2."
        )


@cache
def _functions_of_chance() -> frozenset[str]:
    """List DuckDB's own functions of which two calls may differ; asked once, as it takes long."""
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
        ).fetchall()
    return frozenset(name for (name,) in rows)


def _refuse_rounding(tables: Tables, key: str, text: str, tree: Node) -> None:
    """Raise ConfigError for text compared with a number.

    DuckDB rounds the text to the number's type.
    """
    for node in nodes(tree):
        kinds = {kind for part in _compared(node) for kind in types_of(tables, tree, part)}
        if "VARCHAR" in kinds and any(is_number(kind) for kind in kinds):
            cells = [_few_odd(tables, *used) for used in tables.used(node)]
            why = next((f" ({cell})" for cell in cells if cell), "")
            raise ConfigError(
                f"mapping {key}: '{text}' compares text with a number{why}; write the number in "
                "quotes, or make a number of the text (column::DOUBLE, or types: {column: DOUBLE} "
                "for a CSV)."
            )


def _compared(node: Node) -> list[Node]:
    if node.get("class") == "COMPARISON":
        return [node["left"], node["right"]]
    return node["children"] if node.get("type") in ("COMPARE_IN", "COMPARE_NOT_IN") else []


def _refuse_numbers_as_ids(tables: Tables, key: str, tree: Node) -> None:
    """Raise ConfigError where an id is made of a CSV's column of fractions.

    Such an id would lose the last digit of 1.10 when it becomes text.
    """
    for table, column in tables.used(tree):
        if table in tables.csv and tables.columns[table][column] in FRACTIONS:
            raise ConfigError(
                f"mapping {key}: column {column} holds numbers with fractions or exponents, NaN or "
                f"-0, and an id keeps its digits; write types: {{{in_yaml(column)}: VARCHAR}} "
                f"under '{table}'."
            )


def _refuse_type(key: str, text: str, kind: str) -> None:
    """Raise ConfigError for an expression whose type the contract does not have."""
    element = kind.removesuffix("[]")
    many = kind != element
    scalar = scalar_kind(element)
    if key in IDS and (many or not (scalar in ("whole", "wide", "text") or kind == '"NULL"')):
        raise ConfigError(
            f"mapping {key}: '{text}' gives {kind}, expected an integer or text; "
            f"{_as_id(text, kind)}."
        )
    if key == "ts" and not (kind.startswith("TIMESTAMP") or kind in ("DATE", "VARCHAR", '"NULL"')):
        raise ConfigError(
            f"mapping ts: '{text}' gives {kind}, expected a timestamp: "
            f"{READERS.replace('column', text)} since 1970."
        )
    fraction = many and element.startswith("DECIMAL(") and scalar != "wide"
    if key.startswith("features.") and (not scalar or fraction):
        raise ConfigError(
            f"mapping {key}: '{text}' gives {kind}, which is no feature; expected a number, text, "
            "boolean, date or a list of integers, text, booleans or dates; write an expression "
            f"that gives one, such as ({text})::VARCHAR for text."
        )


def _as_id(text: str, kind: str) -> str:
    """Say how what is neither an integer nor text is made an id."""
    if is_number(kind):
        return f"write ({text})::BIGINT, which stops where that would round a value"
    if kind == "BLOB":
        return f"write decode({text}) if its bytes are text, else hex({text})"
    return f"write an expression that gives one, such as ({text})::VARCHAR"


def one(db: duckdb.DuckDBPyConnection, query: str) -> Any:
    """Return the first value of a query's first row; None without a row."""
    row = db.execute(query).fetchone()
    return row[0] if row else None
