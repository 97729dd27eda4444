"""A day of impressions in numbers that are small beside it, for comparison with other days."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.files.duck import identifier, literal, one_row
from ecdctr.impressions.shift import Distinct, Sample

if TYPE_CHECKING:
    import duckdb

    from ecdctr.impressions.schema import DaySchema

TOP_VALUES = HASHED_VALUES = 1000
AT_ONCE = 16  # features that are counted by one query, which is planned and reads the files once


class Profile(NamedTuple):
    """What is kept of a day.

    Sizes, nulls per feature, and of each categorical feature: rows of the most frequent `values`;
    of the values with the lowest hashes the rows, and a hash of the user who alone had one
    (`hashed`, by hash); how many users of equal rows those who had any are worth.
    """

    rows: int
    clicks: int
    nulls: dict[str, int]
    values: dict[str, dict[str, int]]
    hashed: dict[str, dict[str, tuple[int, int | None]]]
    effective_users: dict[str, float]

    @property
    def ctr(self) -> float:
        """Click-through rate."""
        return self.clicks / max(self.rows, 1)

    def sample(self, name: str) -> Sample:
        """Return the sample of a categorical feature's values."""
        rows = self.rows - self.nulls.get(name, 0)
        return Sample(self.values.get(name, {}), rows, self.effective_users.get(name, 0))

    def distinct(self, name: str) -> Distinct:
        """Return which values of a categorical feature there are."""
        hashed = {int(text): said for text, said in self.hashed.get(name, {}).items()}
        counts = {value: n for value, (n, _) in hashed.items()}
        users = {value: user for value, (_, user) in hashed.items() if user is not None}
        rows = self.rows - self.nulls.get(name, 0)
        return Distinct.lowest(counts, users, rows, HASHED_VALUES)


def measure(
    connection: duckdb.DuckDBPyConnection, schema: DaySchema, features: Sequence[tuple[str, str]]
) -> Profile:
    """Measure a day as it is read; raises duckdb.Error for a file that is damaged.

    `features` are names with their kinds.
    """
    nulls = "".join(f", count(*) - count({identifier(name)})" for name, _ in features)
    every = f"({schema.select()})"
    row = one_row(connection, f"SELECT count(*), coalesce(sum(click), 0){nulls} FROM {every}")
    values: dict[str, dict[str, int]] = {}
    hashed: dict[str, dict[str, tuple[int, int | None]]] = {}
    users: dict[str, float] = {}
    categorical = [name for name, kind in features if kind == "categorical"]
    for i in range(0, len(categorical), AT_ONCE):
        names = categorical[i : i + AT_ONCE]
        rows = f"({schema.only('user_id', *names).select()})"
        values |= {name: {} for name in names}
        hashed |= {name: {} for name in names}
        for name, value, n, by_hash, user, rank, hash_rank in connection.execute(
            _of_values(rows, names)
        ).fetchall():
            if rank <= TOP_VALUES:
                values[name][value] = n
            if hash_rank <= HASHED_VALUES:
                hashed[name][str(by_hash)] = (n, user)
        users |= zip(names, one_row(connection, _of_users(rows, names)), strict=True)
    nulls_of = dict(zip([name for name, _ in features], map(int, row[2:]), strict=True))
    return Profile(int(row[0]), int(row[1]), nulls_of, values, hashed, users)


def _of_values(rows: str, names: Sequence[str]) -> str:
    """Write the query of the values of some features that are frequent, or of low hashes."""
    columns = [identifier(name) for name in names]
    which = " ".join(
        f"WHEN grouping({column}) = 0 THEN {literal(name)}"
        for name, column in zip(names, columns, strict=True)
    )
    return f"""
    WITH typed AS (
        SELECT hash(user_id) AS _user, {", ".join(f"{c}::VARCHAR AS {c}" for c in columns)}
        FROM {rows}
    ),
    counted AS (
        SELECT CASE {which} END AS feature, coalesce({", ".join(columns)}) AS value,
            count(*) AS n, min(_user) AS first, max(_user) AS last
        FROM typed GROUP BY GROUPING SETS ({", ".join(f"({c})" for c in columns)})
    ),
    hashed AS (
        SELECT *, md5_number_lower(value) AS by_hash FROM counted WHERE value IS NOT NULL
    ),
    ranked AS (
        SELECT feature, value, n, by_hash, CASE WHEN first = last THEN first END AS only_user,
            row_number() OVER (PARTITION BY feature ORDER BY n DESC, value) AS rank,
            row_number() OVER (PARTITION BY feature ORDER BY by_hash) AS hash_rank
        FROM hashed
    )
    SELECT * FROM ranked WHERE rank <= {TOP_VALUES} OR hash_rank <= {HASHED_VALUES} ORDER BY rank
    """


def _of_users(rows: str, names: Sequence[str]) -> str:
    """Write the query of how many users of equal rows those who had any of a feature are worth."""
    columns = [identifier(name) for name in names]
    worth = ", ".join(
        f"coalesce(sum({c}) ** 2 / nullif(sum({c} ** 2), 0), 0)::DOUBLE" for c in columns
    )
    counts = ", ".join(f"count({c}) AS {c}" for c in columns)
    return f"SELECT {worth} FROM (SELECT {counts} FROM {rows} GROUP BY user_id)"
