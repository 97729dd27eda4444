"""The time of an impression as SQL: in microseconds, digits below cut, never rounded.

DuckDB cuts text and Parquet's INT96, but rounds seconds (`to_timestamp`) and whatever makes a
coarser type of nanoseconds. So the parts of the expression that would round are written anew by
their types, and a time that is computed with fractions is refused: nobody knows of what a double
was rounded. Casts of text to a type without a time zone drop the zone that the text names: such a
text stops the import. So does a zone that is an abbreviation: BST is Dhaka's to DuckDB, not
London's, and PST in July is an hour off.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.errors import ConfigError
from ecdctr.files.duck import one_row
from ecdctr.impressions.column_types import BELOW_MICROSECONDS
from ecdctr.impressions.syntax import (
    FRACTIONS,
    WHOLE,
    WIDE,
    Node,
    Tables,
    children,
    expression,
    is_number,
    parsed,
    references,
    types_of,
    written,
)

if TYPE_CHECKING:
    import duckdb

COARSE = ("TIMESTAMP_S", "TIMESTAMP_MS")
CUT = {  # nanoseconds, and what holds them cut to microseconds
    "TIMESTAMP_NS": "TIMESTAMP",
    "TIMESTAMPTZ_NS": "TIMESTAMPTZ",
    "TIME_NS": "TIME",
}
ZONELESS = ("TIMESTAMP", "TIMESTAMP_NS", "DATE")
ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
SECOND = 1_000_000  # microseconds
DIGITS = "DECIMAL(38, 18)"  # holds seconds as text with all of their digits
# Microseconds of x, of which each is u. A double is at most half a step from what was written.
CUT_UNITS = """CREATE TEMP MACRO _cut_units(x, u) AS make_timestamptz(
    floor(x)::BIGINT * u + floor((x - floor(x))::DOUBLE * u + _written(x, u))::BIGINT)"""
FILLED_UNITS = """CREATE TEMP MACRO _filled_units(x, u) AS make_timestamptz(
    floor(x)::BIGINT * u + ceil((x - floor(x))::DOUBLE * u - _written(x, u))::BIGINT)"""
WRITTEN = """CREATE TEMP MACRO _written(x, u) AS CASE WHEN typeof(x) IN ('DOUBLE', 'FLOAT')
    THEN least(u * 1.01 * pow(2, floor(log2(greatest(abs(x::DOUBLE), 1))) - 53), 0.5)
    ELSE 0.000001 END"""
WHOLE_UNITS = "CREATE TEMP MACRO _whole_units(x, u) AS make_timestamptz(x::BIGINT * u)"
ALL_OF = """CREATE TEMP MACRO _all_of(x) AS CASE WHEN x = floor(x) THEN x
    ELSE error(x || ' has a fraction, which a cast to whole numbers would round') END"""

IN_UTC = r"""CREATE TEMP MACRO _in_utc(x) AS CASE WHEN TRY_CAST(x AS TIMESTAMP)
    IS NOT DISTINCT FROM (TRY_CAST(x AS TIMESTAMPTZ) AT TIME ZONE 'UTC') THEN x
    WHEN TRY_CAST(x AS TIMESTAMPTZ) IS NOT NULL THEN error(x || ' names a time zone, which a cast '
        || 'to TIMESTAMP or DATE would drop; write column::TIMESTAMPTZ')
    ELSE error(x || ' ends with what is no time zone of DuckDB''s, which a cast to TIMESTAMP or '
        || 'DATE would drop; say how times are written, such as strptime(column, ''%Y-%m-%d '
        || CASE WHEN regexp_matches(x, '(?i)[ap]m\s*$') THEN '%I:%M:%S %p'') for AM and PM'
            ELSE '%H:%M:%S %z'') for an offset like -0300' END) END"""

ABBREVIATIONS = """SELECT string_agg(name, '|') FROM pg_timezone_names()
    WHERE regexp_full_match(name, '[A-Z]{3}') AND name NOT IN ('UTC', 'UCT', 'GMT')"""
ONE_ZONE = """CREATE TEMP MACRO _one_zone(x) AS CASE
    WHEN NOT coalesce(regexp_matches(x, '(?i)(^|[^a-z/_])(NAMES)($|[^a-z0-9/_])'), false) THEN x
    ELSE error(x || ' names a time zone by an abbreviation, which means several; write its offset, '
        || 'such as replace(column, '' BST'', ''+01:00'')::TIMESTAMPTZ, or a name such as '
        || 'Europe/London') END"""

# Whether x, text of the time v, ends with a zone whose clocks show v twice, or not what x says
UNCLEAR_TEXT = r"""CREATE TEMP MACRO _unclear_text(x, v) AS CASE
    WHEN v IS NULL OR NOT coalesce(regexp_matches(x, 'PLACE'), false) THEN false
    ELSE timezone(regexp_extract(x, 'PLACE'), v) IN (
            timezone(regexp_extract(x, 'PLACE'), v - INTERVAL 30 MINUTE),
            timezone(regexp_extract(x, 'PLACE'), v - INTERVAL 60 MINUTE))
        OR coalesce(TRY_CAST(regexp_replace(x, 'PLACE', '') AS TIMESTAMP)
            <> timezone(regexp_extract(x, 'PLACE'), v), false) END"""
PLACE = r"[A-Za-z_]+(/[A-Za-z0-9_+-]+)+$"  # the name of a zone, such as Europe/Paris


def make_macros(db: duckdb.DuckDBPyConnection) -> None:
    """Make the functions that `instant` writes."""
    for macro in (WRITTEN, CUT_UNITS, FILLED_UNITS, WHOLE_UNITS, ALL_OF, IN_UTC):
        db.execute(macro)
    db.execute(UNCLEAR_TEXT.replace("PLACE", PLACE))
    db.execute(ONE_ZONE.replace("NAMES", one_row(db, ABBREVIATIONS)[0]))


def instant(tables: Tables, text: str, columns: list[str]) -> str:
    """Write SQL of `ts`, of `_cut` and of `_unclear`.

    Cut: whether digits below a microsecond were cut. Unclear: whether it is a local time that the
    clocks of its zone show twice or never. `columns` are the columns of text that the expression
    reads, as SQL. Raises ConfigError for a time that is rounded before it can be cut.
    """
    time = _Time(tables, text)
    value = time.written(time.cut(expression(time.tree)))
    cut = [*map(_below, columns), *time.was_cut]
    kind = types_of(tables, time.tree, expression(time.tree))
    if kind == ["VARCHAR"]:
        cut.append(_below(value))
        time.unclear.append(f"_unclear_text({value}, TRY_CAST({value} AS TIMESTAMPTZ))")
        value = f"_one_zone({value})"
    if "_cut_units(" in value:
        cut.append(f"(({value}) <> ({value.replace('_cut_units(', '_filled_units(')})) IS TRUE")
    unclear = " OR ".join(time.unclear) or "false"
    return (
        f"({value})::TIMESTAMPTZ AS ts, {' OR '.join(cut) or 'false'} AS _cut, "
        f"{unclear} AS _unclear"
    )


def _below(text: str) -> str:
    """Write whether a time as text has digits below a microsecond."""
    return f"coalesce(regexp_matches({text}, '{BELOW_MICROSECONDS}'), false)"


def _unclear(zone: str, local: str) -> str:
    """Write whether the clocks of a zone show a local time twice or never.

    DuckDB takes the later of two, and of one that is skipped the one after.
    """
    instant = f"timezone({zone}, ({local})::TIMESTAMP)"
    earlier = [f"timezone({zone}, {instant} - INTERVAL {minutes} MINUTE)" for minutes in (30, 60)]
    return (
        f"coalesce(({local})::TIMESTAMP IN ({', '.join(earlier)}) "
        f"OR timezone({zone}, {instant}) <> ({local})::TIMESTAMP, false)"
    )


class _Time:
    """An expression of a time, written anew where it would round."""

    def __init__(self, tables: Tables, text: str) -> None:
        self.tables, self.text = tables, text
        self.tree = parsed(tables.db, text)
        self.was_cut: list[str] = []  # conditions
        self.unclear: list[str] = []  # conditions

    def written(self, node: Node) -> str:
        return written(self.tables.db, self.tree, node)

    def kind(self, node: Node) -> str:
        return next(iter(types_of(self.tables, self.tree, node)), "")

    def cut(self, node: Node, inside_ns: bool = False) -> Node:
        """Return the same time with what is below a microsecond cut."""
        if not references(node) or (kind := self.kind(node)) == "BOOLEAN" or _is(node, "round"):
            return node
        if node["class"] == "LAMBDA":
            self._refuse("writes a lambda, in which it may be rounded; write it without")
        if node["class"] == "CAST" and kind in COARSE:
            self._refuse(
                "casts to whole seconds or milliseconds, which rounds to the next day; cast to "
                "TIMESTAMP, or write date_trunc('second', …)"
            )
        if _is(node, "to_timestamp"):
            return self._seconds(children(node)[0])
        if _is(node, "timezone") and kind == "TIMESTAMP WITH TIME ZONE":
            self.unclear.append(_unclear(*map(self.written, children(node))))
        if kind in CUT and not inside_ns:
            return self._from_nanoseconds(self._with_parts(node, True), CUT[kind])
        return self._with_parts(node, kind in CUT)

    def _from_nanoseconds(self, node: Node, kind: str) -> Node:
        text = f"({self.written(node)})::VARCHAR"
        self.was_cut.append(_below(text))
        return self._parsed(f"({text})::{kind}")

    def _with_parts(self, node: Node, inside_ns: bool) -> Node:
        """Return the node with each part cut; refused where one is a fraction that may be lost."""
        exact = {id(part): self._exact(node, part, inside_ns) for part in children(node)}
        return {
            name: value if name == "type_expr" else _replaced(value, exact)
            for name, value in node.items()
        }

    def _exact(self, node: Node, part: Node, inside_ns: bool) -> Node:
        to = self.kind(node)
        if self._names_zone(node, part, to):
            if node["class"] == "CAST":
                self.unclear.append(f"_unclear_text({self.written(part)}, {self.written(node)})")
            return self._parsed(f"_one_zone({self.written(self.cut(part, inside_ns))})")
        if not references(part) or not self._is_fraction(part):
            made = self.cut(part, inside_ns)
            if references(part) and self._drops_zone(node, part, to):
                return self._parsed(f"_in_utc({self.written(made)})")
            return made
        if self._is_whole(part):
            return part
        if self._is_column(part):
            if to == "VARCHAR" or _is(node, "floor", "trunc"):
                return part
            if node["class"] == "CAST" and to in (*WHOLE, *WIDE):
                return self._parsed(f"_all_of({self.written(part)})")
        self._refuse_fraction(part)

    def _names_zone(self, node: Node, part: Node, to: str) -> bool:
        """Say whether a part is text that may name the zone of a time."""
        if _is(node, "timezone"):
            return part is children(node)[0]
        zoned = node["class"] == "CAST" or _is(node, "strptime", "try_strptime")
        return zoned and to in ZONED and bool(references(part)) and self.kind(part) == "VARCHAR"

    def _drops_zone(self, node: Node, part: Node, to: str) -> bool:
        return node["class"] == "CAST" and to in ZONELESS and self.kind(part) == "VARCHAR"

    def _seconds(self, node: Node) -> Node:
        """Return what `to_timestamp` would make of seconds, cut instead of rounded."""
        text = self.written(node)
        if node["class"] == "CASE" or node["type"] == "OPERATOR_COALESCE":
            kept = {
                id(check["when_expr"]): check["when_expr"] for check in node.get("case_checks", [])
            }
            parts = {id(part): kept.get(id(part)) or self._seconds(part) for part in children(node)}
            return {name: _replaced(value, parts) for name, value in node.items()}
        if not references(node) or not self._is_fraction(node):
            return self._parsed(f"to_timestamp({self.written(self.cut(node))})")
        if self._is_whole(node):
            return self._parsed(f"to_timestamp({text})")
        value, units = self._per_second(node)
        if (column := self._digits(value)) is None:
            self._refuse_fraction(node)
        if not self._is_fraction(value):
            return self._parsed(f"_whole_units({column}, {units})")
        return self._parsed(f"_cut_units({column}, {units})")

    def _per_second(self, node: Node) -> tuple[Node, int]:
        """Return what is divided by a constant, and how many microseconds each of it is then."""
        if _is(node, "/", "*"):
            value, by = children(node)
            if _is(node, "*") and not references(value):
                value, by = by, value
            if references(value) and not references(by):
                (factor,) = one_row(self.tables.db, f"SELECT TRY(({self.written(by)})::DOUBLE)")
                units = (SECOND / factor if _is(node, "/") else SECOND * factor) if factor else 0
                if any(abs(units - 10**n) < 10 ** (n - 9) for n in range(7)):
                    return value, round(units)
        return node, SECOND

    def _digits(self, node: Node) -> str | None:
        """Write a number as it stands in the log, text as decimals; None for what is computed."""
        if not self._is_fraction(node):
            return self.written(self.cut(node))
        if self._is_column(node) or self._is_whole(node):
            return self.written(node)
        if node["class"] == "CAST":
            (inner,) = children(node)
            if self.kind(inner) == "VARCHAR":
                cast = "TRY_CAST" if node["try_cast"] else "CAST"
                return f"{cast}({self.written(inner)} AS {DIGITS})"
            if self.kind(node) in FRACTIONS and not _is(inner, "/", "*"):
                return self._digits(inner)
        return None

    def _is_fraction(self, node: Node) -> bool:
        kind = self.kind(node)
        return kind in FRACTIONS or (kind.startswith("DECIMAL(") and not kind.endswith(",0)"))

    def _is_column(self, node: Node) -> bool:
        return bool(node["class"] == "COLUMN_REF")

    def _is_whole(self, node: Node) -> bool:
        """Say whether a number has no fraction: rounded by the mapping itself, or of integers."""
        if _is(node, "round") or (is_number(self.kind(node)) and not self._is_fraction(node)):
            return True
        parts = children(node)
        if _is(node, "floor", "trunc"):
            return self._is_column(parts[0]) or self._is_whole(parts[0])
        return bool(node["class"] == "CAST" and self._is_whole(parts[0]))

    def _parsed(self, text: str) -> Node:
        return expression(parsed(self.tables.db, text))

    def _refuse_fraction(self, part: Node) -> NoReturn:
        self._refuse(
            f"computes with fractions ({self.written(part):.60}), which rounds to the next day; "
            "write to_timestamp(column) of seconds as they stand, epoch_ms(column), "
            "make_timestamp(column) or make_timestamp_ns(column) of whole milliseconds, "
            "microseconds or nanoseconds, or round(…) where that is meant"
        )

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigError(f"mapping ts: '{self.text}' {why}.")


def _is(node: Node, *names: str) -> bool:
    return node.get("class") == "FUNCTION" and node["function_name"].lower() in names


def _replaced(value: object, parts: dict[int, Node]) -> object:
    """Return a value of a node with other expressions in the place of its own."""
    if id(value) in parts:
        return parts[id(value)]
    if isinstance(value, dict):
        return {name: _replaced(inner, parts) for name, inner in value.items()}
    return [_replaced(inner, parts) for inner in value] if isinstance(value, list) else value


def words_for_int96(path: Path, columns: list[str]) -> list[str]:
    """Write sentences about columns of a Parquet file as Spark and Impala wrote times.

    INT96 has nanoseconds, which DuckDB cuts.
    """
    said = []
    with pq.ParquetFile(path) as file:
        for i in range(len(file.schema)):
            column = file.schema.column(i)
            if column.path not in columns or column.physical_type != "INT96":
                continue
            count = 0
            for batch in file.iter_batches(columns=[column.path]):
                ticks = batch.column(0).cast(pa.int64())
                whole = pc.multiply(pc.divide(ticks, 1000), 1000)
                count += pc.sum(pc.not_equal(ticks, whole)).as_py() or 0
            if count:
                said.append(
                    f"column {column.path} (INT96) of {count:,} rows has digits below "
                    "a microsecond; they were cut"
                )
    return said
