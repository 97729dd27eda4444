"""The type of a column over all files of a log.

A CSV column has the type that its values prove, a Parquet column one that holds all of its types.

A value of CSV is text until all values of its column, in all files, prove to be of one type
    without loss: BIGINT, BOOLEAN, DATE, TIMESTAMP  each value is written as the type prints it, so
    that 007 and twenty digits stay text; DOUBLE                            each value is a number,
    and no two of them that are written differently are one number (1.1 and 1.10, 1e5 and 100000),
    so that every number has one text; else text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from ecdctr.errors import ContractError
from ecdctr.files.duck import identifier, literal, one_row, parquet

if TYPE_CHECKING:
    import duckdb

TextType = Literal["VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP"]
NUMBER = r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
WHOLE = r"\s*[+-]?\d+(\.0*)?\s*"  # what `types: {column: BIGINT}` takes; 12.7 is none
BELOW_MICROSECONDS = r"\.\d{6}\d*[1-9]"  # in a time as text
AT_ONCE = 20  # columns in one query: planning grows with the square of them
NONE = (  # what programs write for nothing
    r"\N", "NULL", "null", "None", "nan", "NaN", "NA", "N/A", "<NA>", "(null)", "nil", "undefined",
    "-",
)  # fmt: skip
NOTHING = {word.lower() for word in NONE}
TOLD = 5  # values in one sentence
SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
UNSIGNED = ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")


class Part(NamedTuple):
    """A file as it is read: Parquet, or CSV copied to Parquet as text."""

    path: Path
    stored: Path
    rows: int
    types: dict[str, str]  # DuckDB's, by column
    unread: frozenset[str] = frozenset()  # of them, those that no expression can name


class Ambiguous(NamedTuple):
    """Why a column of numbers stays text.

    Two of its values, written differently, are one number.
    """

    one: str
    other: str

    def __str__(self) -> str:
        return f"text, since {self.one} and {self.other} would be one number"


class OddCell(NamedTuple):
    """The first cell of a column, or of an expression, that is no number."""

    value: str
    place: str  # file and line
    no_numbers: int  # how many cells are none
    cells: int  # of how many

    @property
    def shown(self) -> str:
        """The value in a sentence."""
        return shown([self.value])

    def __str__(self) -> str:
        more = (
            f" and {self.no_numbers - 1:,} more of {self.cells:,} cells"
            if self.no_numbers > 1
            else ""
        )
        return f"{self.shown} ({self.place}){more} {'are' if more else 'is'} no number"


def text_types(
    db: duckdb.DuckDBPyConnection,
    declared: dict[str, TextType],
    parts: list[Part],
    names: list[str],
) -> tuple[dict[str, str], dict[str, Ambiguous]]:
    """Return the type of each CSV column, and those that stay text although they look like numbers.

    Raises ContractError with file, column and value for one that does not fit its declared type.
    """
    parts = [part for part in parts if part.types]
    if not parts:
        return {}, {}
    for name, kind in declared.items():
        for part in parts:
            _refuse_unfit(db, part, name, kind)
    rows = f"{parquet(part.stored for part in parts)[:-1]}, union_by_name = true)"
    unread = frozenset[str]().union(*(part.unread for part in parts))
    proven = _proven(db, rows, [name for name in names if name not in {*declared, *unread}])
    ambiguous = {
        name: example
        for name, kind in proven.items()
        if kind == "DOUBLE" and (example := _one_number(db, rows, identifier(name)))
    }
    types = {name: declared.get(name) or proven.get(name, "VARCHAR") for name in names}
    return types | dict.fromkeys(ambiguous, "VARCHAR"), ambiguous


def _proven(db: duckdb.DuckDBPyConnection, rows: str, names: list[str]) -> dict[str, str]:
    """Return the narrowest type that every value of a column is printed by.

    DOUBLE for what looks like numbers.
    """
    types: dict[str, str] = {}
    for start in range(0, len(names), AT_ONCE):
        types |= _proven_together(db, rows, names[start : start + AT_ONCE])
    return types


def _proven_together(db: duckdb.DuckDBPyConnection, rows: str, names: list[str]) -> dict[str, str]:
    columns, checks = [], []
    for place, name in enumerate(names):
        cell, text, number = f"log.{identifier(name)}", f"text_{place}", f"number_{place}"
        columns.append(f"{cell} AS {text}, {_is_number(cell)} AS {number}")
        checks += _checks(text, number)
    source = f"SELECT {', '.join(columns)} FROM {rows} AS log"
    row = one_row(db, f"SELECT {', '.join(checks)} FROM ({source})")
    types = {}
    for i, name in enumerate(names):
        count, whole, number, some_number, boolean, date, moment = row[7 * i : 7 * i + 7]
        fitting = {
            "BIGINT": whole,
            "DOUBLE": number and some_number,
            "BOOLEAN": boolean,
            "DATE": date,
            "TIMESTAMP": moment,
        }
        inferred = next((kind for kind, fits in fitting.items() if fits), "VARCHAR")
        types[name] = inferred if count else "NULL"
    return types


def _checks(column: str, number: str) -> list[str]:
    """Tell whether a type prints every value of a column of text so, in the order of `_proven`.

    `number` names the column that says of which values `_is_number` is true.
    """

    def every(condition: str) -> str:
        return f"bool_and(coalesce({condition}, false)) FILTER ({column} IS NOT NULL)"

    return [
        f"count({column})",
        every(f"TRY_CAST({column} AS BIGINT)::VARCHAR = {column}"),
        every(f"lower({column}) = 'nan' OR {number}"),
        f"coalesce(bool_or({number}), false)",
        *(
            every(f"TRY_CAST({column} AS {kind})::VARCHAR = {column}")
            for kind in ("BOOLEAN", "DATE", "TIMESTAMP")
        ),
    ]


def _is_number(text: str) -> str:
    """Tell whether a text is a number of which DOUBLE keeps every digit; null if it is null."""
    return f"(regexp_full_match({text}, {literal(NUMBER)}) AND {_exact(text)})"


def _exact(text: str) -> str:
    """Tell whether DOUBLE keeps every digit of a text."""
    digits = f"length(ltrim(regexp_replace({text}, '[eE].*|[^0-9]', '', 'g'), '0')) <= 15"
    printed = f"TRY_CAST({text} AS DOUBLE)::VARCHAR = {text}"
    return f"isfinite(TRY_CAST({text} AS DOUBLE)) AND ({digits} OR {printed})"


def no_number(text: str) -> str:
    """Tell whether a text is none of the numbers that a column of DOUBLE is made of."""
    no_number = f"NOT coalesce({_is_number(text)}, false)"
    return f"({text} IS NOT NULL AND lower({text}) <> 'nan' AND {no_number})"


def _one_number(db: duckdb.DuckDBPyConnection, rows: str, column: str) -> Ambiguous | None:
    """Find two texts of a column that are one number.

    -0 is 0, and what is no number is not compared.
    """
    row = db.execute(
        f"""SELECT min(text), max(text) FROM (
            SELECT {column}::DOUBLE AS number,
                CASE WHEN number = 0 THEN ltrim({column}, '-') ELSE {column} END AS text
            FROM {rows} WHERE {column} IS NOT NULL AND lower({column}) <> 'nan')
        GROUP BY number HAVING min(text) <> max(text) ORDER BY number LIMIT 1"""
    ).fetchone()
    return Ambiguous(*row) if row else None


def _refuse_unfit(db: duckdb.DuckDBPyConnection, part: Part, name: str, kind: TextType) -> None:
    """Raise ContractError for values that a declared type would change or does not have."""
    if name not in part.types or kind == "VARCHAR":
        return
    column = identifier(name)
    fits = f"TRY_CAST({column} AS {kind}) IS NOT NULL AND {_kept(column, kind)}"
    unfit = f"{column} IS NOT NULL AND NOT coalesce({fits}, false)"
    rows = parquet([part.stored])
    (count,) = one_row(db, f"SELECT count(*) FROM {rows} WHERE {unfit}")
    if count:
        values = most_frequent(db, rows, name, unfit)
        raise ContractError(
            f"{part.path}: column {name} is declared as {kind} under 'types', but {count:,} of "
            f"{part.rows:,} values are none, such as {shown(values)}; {as_nulls(values)}declare "
            "another type, or mend the values."
        )


def most_frequent(
    db: duckdb.DuckDBPyConnection, rows: str, name: str, condition: str, limit: int = TOLD
) -> list[str]:
    """Return the most frequent values of a column of text for which a condition holds."""
    query = (
        f"SELECT {identifier(name)} FROM {rows} WHERE {condition} "
        f"GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {limit}"
    )
    return [str(value) for (value,) in db.execute(query).fetchall()]


def shown(values: list[str]) -> str:
    """List values of a column in a sentence."""
    return ", ".join(f"'{value:.40}'" for value in values)


def as_nulls(values: list[str]) -> str:
    """Say how those of some values that mean nothing are read as null; '' where none does."""
    words = [value for value in values if value.strip().lower() in NOTHING]
    return f"write nulls: [{', '.join(map(literal, words))}] if they mean none, else " * bool(words)


def _kept(column: str, kind: TextType) -> str:
    """Tell whether a declared type keeps all that a text says: digits, an hour, an offset."""
    conditions: dict[str, str] = {
        "BIGINT": f"regexp_full_match({column}, {literal(WHOLE)})",
        "DATE": rf"regexp_full_match({column}, '\d{{4}}-\d\d-\d\d')",
        "TIMESTAMP": rf"NOT regexp_matches({column}, '{BELOW_MICROSECONDS}') AND "
        f"TRY_CAST({column} AS TIMESTAMP) = TRY_CAST({column} AS TIMESTAMPTZ) AT TIME ZONE 'UTC'",
    }
    fraction = rf"regexp_replace({column}, '(\.\d*?)0+$', '\1')"
    conditions["DOUBLE"] = f"(lower({column}) = 'nan' OR ({_exact(fraction)}))"
    return conditions.get(kind, "true")


def parquet_types(parts: list[Part], names: list[str]) -> dict[str, str]:
    """Return the type of each column of Parquet files.

    Refused where files differ in more than the width of numbers.
    """
    types: dict[str, str] = {}
    where: dict[str, Path] = {}
    for part in parts:
        for name, kind in part.types.items():
            before = types.setdefault(name, kind)
            where.setdefault(name, part.path)
            if before == kind or "NULL" in (before, kind) or '"NULL"' in (before, kind):
                types[name] = kind if "NULL" in before else before
            elif (wider := _wider(before, kind)) is not None:
                types[name] = wider
            else:
                raise ContractError(
                    f"{part.path}: column {name} is {kind}, but {before} in {where[name]}; "
                    "write all files with one type."
                )
    return {name: types[name].replace('"', "") for name in names}


def _wider(one: str, other: str) -> str | None:
    """Return a type that holds both without loss; None where there is none."""
    for family in (SIGNED, UNSIGNED, ("FLOAT", "DOUBLE")):
        if one in family and other in family:
            return max(one, other, key=family.index)
    if {one, other} <= {*SIGNED, *UNSIGNED}:
        return "HUGEINT"
    return "DOUBLE" if {one, other} <= {*SIGNED[:3], *UNSIGNED[:3], "FLOAT", "DOUBLE"} else None
