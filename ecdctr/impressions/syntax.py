"""An expression of a mapping as DuckDB parses and types it: its parts, their types, their text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb

from ecdctr.files.duck import identifier, one_row

if TYPE_CHECKING:
    from ecdctr.impressions.column_types import Ambiguous, OddCell

WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
WIDE = ("UBIGINT", "HUGEINT")  # int64 where all values of the log fit, else text
FRACTIONS = ("FLOAT", "DOUBLE")
Node = dict[str, Any]


class Tables(NamedTuple):
    """The log and its joins in DuckDB, with what is known of their columns."""

    db: duckdb.DuckDBPyConnection
    columns: dict[str, dict[str, str]]  # by table, 'log' first: DuckDB's types
    csv: frozenset[str]  # tables of CSV
    ambiguous: dict[str, dict[str, Ambiguous]]  # by table
    odd_cell: Callable[[str, str, int], OddCell | None]  # see odd_cells.finder

    @property
    def source(self) -> str:
        """All tables, SQL for FROM; to bind expressions, not to be run."""
        return ", ".join(identifier(name) for name in self.columns)

    def find(self, reference: list[str]) -> tuple[str, str] | None:
        """Return the table and column that an expression names.

        None for a parameter of a lambda.
        """
        first, *rest = reference
        by_table = {table.lower(): table for table in self.columns}
        tables = [by_table[first.lower()]] if rest and first.lower() in by_table else self.columns
        name = rest[0] if rest and first.lower() in by_table else first
        for table in tables:
            for column in self.columns[table]:
                if column.lower() == name.lower():
                    return table, column
        return None

    def used(self, tree: Node) -> list[tuple[str, str]]:
        """Return the tables and columns that an expression reads."""
        return [column for reference in references(tree) if (column := self.find(reference))]

    def type_of(self, *expressions: str) -> list[str]:
        """DuckDB's types of expressions over one row; raises duckdb.Error."""
        listed = ", ".join(f"({text}) AS v{i}" for i, text in enumerate(expressions))
        return [
            str(row[1])
            for row in self.db.execute(f"DESCRIBE SELECT {listed} FROM {self.source}").fetchall()
        ]


def columns_of(db: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Return the columns of a table or view with DuckDB's types."""
    return {row[0]: row[1] for row in db.execute(f"DESCRIBE {identifier(table)}").fetchall()}


def parsed(db: duckdb.DuckDBPyConnection, text: str) -> Node:
    """Return the syntax of an expression that is known to bind."""
    document: Node = json.loads(_said(db, "json_serialize_sql", f"SELECT ({text})"))
    return document


def is_plain(db: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Tell whether an expression that is a column's name, without quotes, names that column."""
    try:
        return references(parsed(db, name)) == [[name]]
    except (duckdb.Error, KeyError):
        return False


def nodes(tree: Any) -> Iterator[Node]:
    """Yield every node of an expression that DuckDB parsed."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from nodes(value)


def references(tree: Node) -> list[list[str]]:
    """Return the names that an expression writes for columns, parameters of lambdas among them."""
    return [node["column_names"] for node in nodes(tree) if node.get("class") == "COLUMN_REF"]


def types_of(tables: Tables, tree: Node, part: Node) -> list[str]:
    """Return the type of a part of an expression; none where it names a parameter of a lambda."""
    try:
        return tables.type_of(written(tables.db, tree, part))
    except duckdb.Error:
        return []


def written(db: duckdb.DuckDBPyConnection, tree: Node, part: Node) -> str:
    """Write a part of an expression as SQL."""
    (statement,) = tree["statements"]
    alone = {**statement, "node": {**statement["node"], "select_list": [part]}}
    text = json.dumps({**tree, "statements": [alone]})
    return _said(db, "json_deserialize_sql", text).removeprefix("SELECT ")


_SAID: dict[tuple[str, str], str] = {}


def _said(db: duckdb.DuckDBPyConnection, function: str, text: str) -> str:
    """Ask DuckDB once what depends on the text alone; an import asks it again and again."""
    if (function, text) not in _SAID:
        _SAID[function, text] = str(one_row(db, f"SELECT {function}(?)", [text])[0])
    return _SAID[function, text]


def expression(tree: Node) -> Node:
    """Return the one expression of what `parsed` returns."""
    part: Node = tree["statements"][0]["node"]["select_list"][0]
    return part


def children(node: Node) -> list[Node]:
    """List the expressions that stand right in one, in order."""
    return [
        part for name, value in node.items() if name != "type_expr" for part in _outermost(value)
    ]


def _outermost(value: Any) -> list[Node]:
    if isinstance(value, dict):
        return [value] if "class" in value else [n for v in value.values() for n in _outermost(v)]
    return [n for v in value for n in _outermost(v)] if isinstance(value, list) else []


def is_number(kind: str) -> bool:
    """Say whether a type of DuckDB is one of numbers."""
    return kind in (*WHOLE, *WIDE, *FRACTIONS) or kind.startswith("DECIMAL(")
