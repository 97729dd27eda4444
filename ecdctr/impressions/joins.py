"""The joins of a mapping: one row per key, keys of two types compared without loss, some match."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecdctr.errors import ConfigError, ContractError
from ecdctr.files.duck import identifier
from ecdctr.files.strict_yaml import in_yaml
from ecdctr.impressions.expressions import one
from ecdctr.impressions.syntax import FRACTIONS, Tables, is_number

if TYPE_CHECKING:
    from ecdctr.impressions.mapping import Mapping


def check_joins(tables: Tables, mapping: Mapping) -> None:
    """Raise where a join's key is missing, is given twice, or finds no row of the log at all."""
    db = tables.db
    for name, join in mapping.joins.items():
        for table, where in (
            ("log", "the log"),
            (name, f"its files ({', '.join(tables.columns[name])})"),
        ):
            if join.key not in tables.columns[table]:
                raise ConfigError(f"mapping joins.{name}.key: no column '{join.key}' in {where}.")
        column = identifier(join.key)
        twice = one(
            db, f"SELECT count({column}) - count(DISTINCT {column}) FROM {identifier(name)}"
        )
        if twice:
            raise ContractError(
                f"mapping joins.{name}: expected one row per {join.key}, found {twice} more."
            )
        if not one(db, "SELECT count(*) FROM (FROM log LIMIT 1)"):
            continue
        same = same_key(tables, name, join.key)
        matching = f"SELECT 1 FROM log SEMI JOIN {identifier(name)} ON {same} LIMIT 1"
        if not one(db, f"SELECT count(*) FROM ({matching})"):
            ours, theirs = (
                one(db, f"SELECT min({column})::VARCHAR FROM {identifier(table)}")
                for table in ("log", name)
            )
            if theirs is None:
                raise ContractError(
                    f"mapping joins.{name}: its files have no row with a value of {join.key}; look "
                    "at what wrote them, or leave the join out."
                )
            raise ContractError(
                f"mapping joins.{name}: no row of the log finds its row by {join.key} (the log has "
                f"'{ours}', its files have '{theirs}'); write both alike, or declare types: "
                f"{{{in_yaml(join.key)}: …}} for both."
            )


def same_key(tables: Tables, name: str, key: str) -> str:
    """Write the equality of a join's key with the log's in SQL.

    Numbers of two types are compared as whole numbers, beside text as text.
    """
    kinds = [tables.columns[table][key] for table in ("log", name)]
    columns = [f"{identifier(table)}.{identifier(key)}" for table in ("log", name)]
    if kinds[0] != kinds[1]:
        columns = [_whole(*pair) for pair in zip(columns, kinds, strict=True)]
        if not all(map(is_number, kinds)):
            columns = [f"({column})::VARCHAR" for column in columns]
    return " = ".join(columns)


def _whole(column: str, kind: str) -> str:
    if kind not in FRACTIONS and not kind.startswith("DECIMAL("):
        return column
    return f"CASE WHEN {column} = trunc({column}) THEN TRY_CAST({column} AS HUGEINT) END"
