"""Numbers with fractions in a log: what of them an integer loses, and of ids a double.

pandas makes doubles of integers beside a null, and DuckDB of HUGEINT when it writes Parquet. 7.0 is
the id 7; a cast of 7.5 would round, and of integers beyond 2^53 a double has not every one, so that
two users may be one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecdctr.config.terms import IDS
from ecdctr.files.duck import identifier, literal
from ecdctr.impressions.declared import WHOLE
from ecdctr.impressions.expressions import columns_read, scalar_kind
from ecdctr.impressions.syntax import Tables, children, nodes, parsed, references, types_of, written

if TYPE_CHECKING:
    from ecdctr.impressions.mapping import Mapping

LIMITS = {"FLOAT": WHOLE[32], "DOUBLE": WHOLE[64]}  # up to here each integer is one number


def rounded_ids(tables: Tables, mapping: Mapping) -> str:
    """Write the condition, `_rounded`, that an id of a row is, or may be, another one by rounding.

    It is false where no id is made of numbers with fractions.
    """
    conditions = []
    for key in IDS:
        text = getattr(mapping, key)
        for table, name in columns_read(tables, text):
            if limit := LIMITS.get(tables.columns[table][name]):
                column = f"{identifier(table)}.{identifier(name)}"
                conditions.append(f"(NOT isnan({column}) AND abs({column}) > {limit})")
        conditions += _cast_fractions(tables, text)
    return f"coalesce({' OR '.join(conditions) or 'false'}, false) AS _rounded"


def rounded_values(tables: Tables, mapping: Mapping) -> str:
    """Write `_rounds`: the first key but ids whose value a cast to integers rounds; null for none.

    The moment is cut by rules of its own (instants).
    """
    cases = []
    for key, text in mapping.expressions().items():
        if key not in (*IDS, "ts") and (conditions := _cast_fractions(tables, text)):
            cases.append(f"WHEN {' OR '.join(conditions)} THEN {literal(key)}")
    which = f"CASE {' '.join(cases)} END" if cases else "NULL"
    return f"{which}::VARCHAR AS _rounds"


def _cast_fractions(tables: Tables, text: str) -> list[str]:
    """Write the conditions that a cast of an expression to integers rounds."""
    tree = parsed(tables.db, text)
    conditions = []
    for node in nodes(tree):
        if node.get("class") != "CAST" or not references(node):
            continue
        (part,) = children(node)
        from_kind, to_kind = types_of(tables, tree, part), types_of(tables, tree, node)
        if from_kind and to_kind and _has_fractions(from_kind[0]) and _is_whole(to_kind[0]):
            value = written(tables.db, tree, part)
            if from_kind[0].endswith("[]"):
                conditions.append(f"len(list_filter({value}, lambda x: {_rounds('x')})) > 0")
            else:
                conditions.append(_rounds(value))
    return conditions


def _rounds(value: str) -> str:
    """Write the condition that a number, or text of one, has a fraction."""
    return f"TRY_CAST({value} AS DOUBLE) <> trunc(TRY_CAST({value} AS DOUBLE))"


def _has_fractions(kind: str) -> bool:
    kind = kind.removesuffix("[]")
    of_decimals = kind.startswith("DECIMAL(") and not kind.endswith(",0)")
    return kind in LIMITS or kind == "VARCHAR" or of_decimals


def _is_whole(kind: str) -> bool:
    return scalar_kind(kind.removesuffix("[]")) in ("whole", "wide")
