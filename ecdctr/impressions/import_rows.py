"""What of an imported log cannot be an impression.

Refused with the file, the number of rows and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from ecdctr.errors import ContractError
from ecdctr.files.duck import identifier, literal, one_row
from ecdctr.files.strict_yaml import in_yaml
from ecdctr.impressions.column_types import NONE
from ecdctr.impressions.declared import Role, misfit_sql, type_of
from ecdctr.impressions.import_times import refuse_times
from ecdctr.impressions.labels import refuse_labels
from ecdctr.impressions.locate import first_place
from ecdctr.impressions.mapped_rows import DOMAINS

if TYPE_CHECKING:
    import duckdb

    from ecdctr.impressions.mapped_rows import Staged
    from ecdctr.impressions.mapping import Mapping

WITHOUT_ID = "user_id IS NULL OR item_id IS NULL"


def refuse_rows(db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged) -> None:
    """Raise ContractError when rows of a domain cannot be impressions.

    Rows of neither may be anything.
    """
    _refuse_nulls(db, mapping, staged)
    _refuse_rounded_ids(db, mapping, staged)
    _refuse_rounded_values(db, mapping, staged)
    refuse_labels(db, mapping, staged)
    _refuse_values(db, mapping, staged)
    refuse_times(db, mapping, staged)


def words_for_none(db: duckdb.DuckDBPyConnection, staged: Staged) -> str | None:
    """Write a sentence about words of ids and features that other programs write for none.

    They are kept, as values like others.
    """
    listed = f"({', '.join(map(literal, NONE))})"
    kept = []
    words: dict[str, int] = {}
    for field in pq.read_schema(staged.stored):
        if field.name.startswith("_") or str(field.type) not in ("string", "large_string"):
            continue
        column = identifier(field.name)
        counted = db.execute(
            f"SELECT {column}, count(*) FROM {staged.rows} "
            f"WHERE {DOMAINS} AND {column} IN {listed} GROUP BY 1 ORDER BY 2 DESC, 1"
        ).fetchall()
        if counted:
            counts = " and ".join(f"'{word}' in {rows:,} rows" for word, rows in counted)
            kept.append(f"{field.name} is {counts}")
            words |= dict(counted)
    if not kept:
        return None
    return (
        f"{'; '.join(kept)}, values like others; if they mean none: nulls: "
        f"[{', '.join(map(literal, words))}]"
    )


def words_for_domains(db: duckdb.DuckDBPyConnection, staged: Staged) -> str | None:
    """Write a sentence about rows that are left out for the case or the blanks of their domain."""
    plain = "lower(trim(_domain_text))"
    most = db.execute(
        f"SELECT _domain_text, count(*), {plain} FROM {staged.rows} WHERE _domain = 'other' "
        f"AND {plain} IN ('natural', 'ads') GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT 1"
    ).fetchone()
    if not most:
        return None
    return (
        f"domain is '{most[0]}' in {most[1]:,} rows, which are left out; if it "
        f"means {most[2]}: domain: lower(trim(…))"
    )


def words_for_cut_times(db: duckdb.DuckDBPyConnection, staged: Staged) -> str | None:
    """Write a sentence about times that were written finer than in microseconds."""
    cut = _count(db, staged, "_cut")
    if not cut:
        return None
    return f"ts of {cut:,} rows has digits below a microsecond; they were cut"


def words_for_unclear_times(db: duckdb.DuckDBPyConnection, staged: Staged) -> str | None:
    """Write a sentence about local times around a change of the clocks."""
    unclear = _count(db, staged, "_unclear")
    if not unclear:
        return None
    return (
        f"ts of {unclear:,} rows is a local time that clocks showed twice or "
        "skipped when they were changed; it is read as the later one. Log times in UTC"
    )


def _count(db: duckdb.DuckDBPyConnection, staged: Staged, flag: str) -> int:
    count: int
    (count,) = one_row(db, f"SELECT count(*) FILTER ({flag}) FROM {staged.rows} WHERE {DOMAINS}")
    return count


def _refuse_nulls(db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged) -> None:
    row = one_row(
        db,
        f"""SELECT count(*), count(*) FILTER ({WITHOUT_ID}), count(*) FILTER (ts IS NULL)
        FROM {staged.rows} WHERE {DOMAINS}""",
    )
    rows, no_id, no_time = row
    if no_id:
        first = first_place(db, mapping.log, staged, f"{DOMAINS} AND ({WITHOUT_ID})")
        raise ContractError(
            f"{staged.path}: {no_id:,} of {rows:,} rows without user or item id, first in {first} "
            f"(mapping user_id: {mapping.user_id}; item_id: {mapping.item_id}). Mend them, or "
            f"leave such rows out: {_only_with(mapping, mapping.user_id, mapping.item_id)}."
        )
    if no_time:
        first = first_place(db, mapping.log, staged, f"{DOMAINS} AND ts IS NULL")
        raise ContractError(
            f"{staged.path}: {no_time:,} of {rows:,} rows have no time, first in {first} (mapping "
            f"ts: {mapping.ts}). Mend them, or leave such rows out: "
            f"{_only_with(mapping, mapping.ts)}."
        )


def _only_with(mapping: Mapping, *needed: str) -> str:
    """Write the mapping's domain of rows alone of which some expressions are not null."""
    conditions = " AND ".join(f"({text}) IS NOT NULL" for text in needed)
    return f"domain: {in_yaml(f'CASE WHEN {conditions} THEN {mapping.domain} END')}"


def _refuse_rounded_ids(db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged) -> None:
    """Raise ContractError where two ids of the log might be one here."""
    if not (rounded := _count(db, staged, "_rounded")):
        return
    first = first_place(db, mapping.log, staged, f"{DOMAINS} AND _rounded")
    raise ContractError(
        f"{staged.path}: {rounded:,} rows, the first in {first}, have an id of a number with a "
        "fraction, which an integer rounds, or beyond 2^53, where a double is several integers "
        f"(mapping user_id: {mapping.user_id}; item_id: {mapping.item_id}); expected ids that "
        "are whole; write them into the log as integers or text (DuckDB writes HUGEINT to Parquet "
        "as doubles: cast it to BIGINT or VARCHAR there)."
    )


def _refuse_rounded_values(db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged) -> None:
    """Raise ContractError where a cast to integers would round a feature, a label or a domain."""
    row = db.execute(
        f"SELECT _rounds, count(*) FROM {staged.rows} WHERE {DOMAINS} AND _rounds IS NOT NULL "
        "GROUP BY 1 ORDER BY 1 LIMIT 1"
    ).fetchone()
    if not row:
        return
    key, count = row
    first = first_place(db, mapping.log, staged, f"{DOMAINS} AND _rounds = {literal(key)}")
    raise ContractError(
        f"{staged.path}: {count:,} rows, the first in {first}, have a fraction that a cast to an "
        f"integer rounds (mapping {key}: {mapping.expressions()[key]}); write round(…), floor(…) "
        "or trunc(…) within the cast where that is meant, else leave the cast out."
    )


def _refuse_values(db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged) -> None:
    """Count values of features that the contract would not take, by its own rules."""
    schema = pq.read_schema(staged.stored)
    for name in mapping.features:
        declared = schema.field(name).type
        kind = type_of(role := _role(str(declared)), declared)
        wrong = misfit_sql(identifier(name), kind, declared) if kind else None
        if not (kind and wrong):
            continue
        row = db.execute(
            f"SELECT count(*), count(*) FILTER ({wrong}) FROM {staged.rows} WHERE {DOMAINS}"
        ).fetchone()
        rows, count = row or (0, 0)
        if count:
            expected = "lists of whole numbers that int64 holds"
            if role == "number":
                expected = "finite numbers within float32"
            elif kind.name == "text":
                expected = "dates that are not infinite"
            raise ContractError(
                f"{staged.path}: features.{name} does not fit in {count:,} of {rows:,} rows; "
                f"expected {expected}, or null."
            )


def _role(declared: str) -> Role:
    """Return what a feature of this type of Arrow can be.

    Fractions are numbers, lists are categories.
    """
    if declared.startswith("list"):
        return "categories"
    return (
        "number"
        if declared in ("float", "double") or declared.startswith("decimal")
        else "category"
    )
