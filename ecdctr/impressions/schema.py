"""One typed reading of impressions: the type of a column is the same in every file, day and engine.

The type follows from what a file declares alone, so it depends on no other day: integers of any
width are `integer` (int64), text, dictionaries of text and dates `text`, and so on; a file whose
column holds nothing at all (Arrow's type null) fits every type. Files that disagree are refused.
Values that do not fit their type, such as an unsigned number beyond int64, are bad rows (`misfit`)
that the contract counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.config.terms import CONTRACT, IDS
from ecdctr.errors import ContractError
from ecdctr.files.duck import identifier, literal, parquet
from ecdctr.impressions.declared import (
    EXPECTED,
    ColumnType,
    Role,
    cast_sql,
    mend_of,
    misfit_sql,
    type_of,
)
from ecdctr.impressions.footers import Violation, read_footer

if TYPE_CHECKING:
    import pyarrow as pa

    from ecdctr.config import Feature

NO_ROWS = (
    "expected at least one row, found 0; deliver the day's rows, or, where there were none, take "
    "its folder away and allow for that in data.allowed_missing_days"
)
OR_NULLS = "write it, as nulls on days that have no values of it, or take it out of 'features'"


class Column(NamedTuple):
    """A column that is read, and what for."""

    name: str
    role: Role

    @property
    def optional(self) -> bool:
        """Whether a day may do without it."""
        return self.role in ("key", "oracle")


class Group(NamedTuple):
    """Files of a day that declare the columns alike; a type of None: the column is not there."""

    files: tuple[Path, ...]
    declared: tuple[pa.DataType | None, ...]


class DaySchema(NamedTuple):
    """How a day is read: each column with its type, in order, from groups of files."""

    columns: tuple[Column, ...]
    types: tuple[ColumnType, ...]
    groups: tuple[Group, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """What makes an impression one: its id where there is one, else who saw what when."""
        has_id = "impression_id" in self.names
        return ("impression_id",) if has_id else (*IDS, "ts")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are there."""
        return tuple(column.name for column in self.columns)

    @property
    def order(self) -> str:
        """The order of a day's rows, total since `key` is unique: SQL for ORDER BY."""
        has_id = "impression_id" in self.names
        return ", ".join(("ts", *IDS, *(("impression_id",) if has_id else ())))

    @property
    def preference(self) -> str:
        """Which of several rows with one key stays, SQL for ORDER BY.

        A click, then the least by all columns.
        """
        rest = (identifier(name) for name in self.names if name != "click")
        return ", ".join(("click DESC", *rest))

    def fits(self, name: str) -> str:
        """Say what is expected of a column's values, for a message about those that do not fit."""
        i = self.names.index(name)
        declared = sorted({str(group.declared[i]) for group in self.groups})
        if self.types[i].name == "number":
            return "expected finite numbers within float32, or null"
        if self.types[i].name == "text":
            return "expected dates that are not infinite, or null"
        limits = (
            "whole numbers" if "float" in declared[0] or "double" in declared[0] else "integers"
        )
        return (
            f"expected {limits} that int64 holds, declared as {', '.join(declared)}; write "
            "others as text"
        )

    def only(self, *names: str) -> DaySchema:
        """Return how some of the columns are read: a query is planned sooner the fewer it has."""
        kept = [i for i, name in enumerate(self.names) if name in names]
        return DaySchema(
            tuple(self.columns[i] for i in kept),
            tuple(self.types[i] for i in kept),
            tuple(
                Group(group.files, tuple(group.declared[i] for i in kept)) for group in self.groups
            ),
        )

    def select(self) -> str:
        """Write the query of the day's typed rows.

        `_misfit` names the first column whose value does not fit.
        """
        return " UNION ALL ".join(self._select(group) for group in self.groups)

    def _select(self, group: Group) -> str:
        values, misfits = [], []
        for column, kind, declared in zip(self.columns, self.types, group.declared, strict=True):
            raw = identifier(column.name)
            values.append(f"{cast_sql(raw, kind, declared)} AS {raw}")
            if declared is not None and (wrong := misfit_sql(raw, kind, declared)):
                misfits.append(f"WHEN {wrong} THEN {literal(column.name)}")
        misfit = f"CASE {' '.join(misfits)} END" if misfits else "NULL::VARCHAR"
        return f"SELECT {', '.join(values)}, {misfit} AS _misfit FROM {parquet(group.files)}"


def columns_of(features: Iterable[Feature]) -> tuple[Column, ...]:
    """List what is read of impressions.

    The contract's columns, the declared features, the optional ones.
    """
    roles: dict[str, Role] = {
        "categorical": "category",
        "multi_valued": "categories",
        "numeric": "number",
    }
    return (
        Column("user_id", "id"),
        Column("item_id", "id"),
        Column("ts", "instant"),
        Column("click", "label"),
        *(Column(feature.name, roles[feature.kind]) for feature in features),
        Column("impression_id", "key"),
        Column("oracle_ctr", "oracle"),
    )


def read_schema(
    files: list[Path], features: Iterable[Feature]
) -> tuple[DaySchema | None, list[Violation]]:
    """Read the footers of a day's files.

    The schema, None when there is a violation, and the violations. Files without rows are left out,
    whatever they declare.
    """
    columns = columns_of(features)
    violations: list[Violation] = []
    declared: dict[Path, tuple[pa.DataType | None, ...]] = {}
    for path in files:
        footer = read_footer(path)
        if isinstance(footer, Violation):
            violations.append(footer)
        elif footer.rows:
            declared[path], breaches = _declared(path, footer.schema, columns)
            violations += breaches
    if not declared and not violations:
        where = str(files[0] if len(files) == 1 else files[0].parent)
        violations.append(Violation("empty_file", where, NO_ROWS))
    types, breaches = _agree(columns, declared) if not violations else ([], [])
    violations += breaches
    if violations:
        return None, violations
    there = [i for i, kind in enumerate(types) if kind is not None]
    groups: dict[tuple[pa.DataType | None, ...], list[Path]] = {}
    for path, kinds in declared.items():
        groups.setdefault(tuple(kinds[i] for i in there), []).append(path)
    return (
        DaySchema(
            tuple(columns[i] for i in there),
            tuple(kind for kind in types if kind is not None),
            tuple(Group(tuple(paths), kinds) for kinds, paths in groups.items()),
        ),
        [],
    )


def sound_schema(files: list[Path], features: Iterable[Feature]) -> DaySchema:
    """Read the footers of a day's files; raises ContractError for what read_schema says of them."""
    schema, violations = read_schema(files, features)
    if schema is None:
        raise ContractError(". ".join(map(str, violations)) + ".")
    return schema


def _declared(
    path: Path, schema: pa.Schema, columns: tuple[Column, ...]
) -> tuple[tuple[pa.DataType | None, ...], list[Violation]]:
    """Return what a file declares for each column, by exact name, and what is wrong with it."""
    kinds: list[pa.DataType | None] = []
    violations = []
    by_lower: dict[str, list[str]] = {}
    for name in schema.names:
        by_lower.setdefault(name.lower(), []).append(name)
    for column in columns:
        alike = by_lower.get(column.name.lower(), [])
        problem = None
        if len(alike) > 1:
            problem = ("ambiguous_column", "expected once, found "
                                           f"{' and '.join(alike)}; names must "
                                           "differ by more than upper and lower case")  # fmt: skip
        elif column.name not in alike:
            kinds.append(None)
            if not column.optional:
                violations.append(_missing(path, column, schema, alike))
            continue
        else:
            kind = schema.field(column.name).type
            kinds.append(kind)
            if type_of(column.role, kind) is None:
                mend = mend_of(column.role, column.name, kind)
                problem = ("wrong_type", f"expected {EXPECTED[column.role]}, found {kind}{mend}")
        if problem:
            violations.append(
                Violation(problem[0], str(path), f"column {column.name}: {problem[1]}")
            )
    return tuple(kinds), violations


def _missing(path: Path, column: Column, schema: pa.Schema, alike: list[str]) -> Violation:
    contract = column.name in CONTRACT
    declared = "" if contract else " declared in the configuration under 'features'"
    mend = "write it" if contract else OR_NULLS
    among = (
        f"{alike[0]}, which differs in case; rename it"
        if alike
        else f"{', '.join(schema.names)}; {mend}"
    )
    return Violation(
        "missing_column" if contract else "unknown_feature",
        str(path),
        f"column {column.name}{declared}: expected, not found among: {among}",
    )


def _agree(
    columns: tuple[Column, ...], declared: dict[Path, tuple[pa.DataType | None, ...]]
) -> tuple[list[ColumnType | None], list[Violation]]:
    """Return one type per column over all files (None: none has it), and files that disagree."""
    types: list[ColumnType | None] = []
    violations = []
    for i, column in enumerate(columns):
        agreed, first = None, None
        for path, kinds in declared.items():
            kind = kinds[i]
            kind_here = None if kind is None else type_of(column.role, kind)
            if kind_here is None:
                continue
            if agreed and not agreed.agrees(kind_here):
                assert first is not None  # noqa: S101  # set together with the agreed type
                violations.append(disagreement(column.name, path, f"{kind_here} ({kind})", first[0],
                                                f"{agreed} ({first[1]})"))  # fmt: skip
            elif agreed is None or agreed.name == "nothing":
                agreed, first = kind_here, (path, kind)
        types.append(agreed)
    return types, violations


def disagreement(name: str, path: Path, type_here: str, other: Path, others: str) -> Violation:
    """Return word that a column has a type in one file and another in a file before it."""
    return Violation(
        "wrong_type",
        str(path),
        f"column {name}: expected {others} as in {other}, found {type_here}; a column has one type "
        "in the whole log",
    )
