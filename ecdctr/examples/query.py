"""The queries that make examples of a day in DuckDB: a day joined with what lies before it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from ecdctr.examples import transforms
from ecdctr.examples.transforms import DUCKDB, Sql
from ecdctr.files import duck
from ecdctr.memory.columns import never
from ecdctr.memory.join import memory_columns

if TYPE_CHECKING:
    from ecdctr.config import Config, Domain
    from ecdctr.impressions.schema import DaySchema


LOOKED_BACK = ("clicks", "positions", "numbered", "day_rows")  # tables, the last one first


def look_back(config: Config, date: dt.date, day: DaySchema) -> list[str]:
    """Return statements that make the tables LOOKED_BACK.

    They read the relations `day` and `recent_clicks`. `day_rows` are the rows in their order,
    `numbered` the clicks of their users in the lookback, oldest first, `positions` says how many of
    them lie before a row, and `clicks` are those from the oldest that a row sees to the newest.
    """
    midnight = dt.datetime.combine(date, dt.time(), dt.UTC)
    first = int(midnight.timestamp()) * transforms.SECOND
    horizon = transforms.horizon(first, config.data.click_days)
    features = [duck.identifier(name) for name in config.data.history_features]
    columns = ", ".join(["user_id", "ts", "item_id", *features])
    order = ", ".join(["ts", "item_id", *(f"{name} NULLS FIRST" for name in features)])
    # Clicks are numbered per user in order of time; an ASOF join finds the newest one strictly
    # before an impression (of clicks at one instant, the last).
    statements = {
        "day_rows": f"SELECT *, row_number() OVER (ORDER BY {day.order}) AS _row FROM day",
        "numbered": f"""
            SELECT {columns},
                row_number() OVER (PARTITION BY user_id ORDER BY {order}) AS _n
            FROM recent_clicks SEMI JOIN day_rows USING (user_id)
            WHERE epoch_us(ts) >= {horizon}
        """,
        "positions": """
            SELECT d._row, d.user_id, e._n FROM day_rows d
            ASOF JOIN (SELECT user_id, ts, max(_n) AS _n FROM numbered GROUP BY user_id, ts) e
            ON d.user_id = e.user_id AND d.ts > e.ts
        """,
        "clicks": f"""
            SELECT c.* FROM numbered c JOIN (
                SELECT user_id, min(_n) AS _oldest, max(_n) AS _newest
                FROM positions GROUP BY user_id
            ) USING (user_id)
            WHERE _n > _oldest - {config.data.history_length} AND _n <= _newest
        """,
    }
    return [f"CREATE OR REPLACE TEMP TABLE {name} AS {text}" for name, text in statements.items()]


# The clicks of a day, as its rows look back on them; where those of a user begin
CLICKS = "SELECT * EXCLUDE (_n) FROM clicks ORDER BY user_id, _n DESC"
BEGINNINGS = """
    SELECT user_id, max(_n) AS newest, coalesce(sum(count(*)) OVER (
        ORDER BY user_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS start
    FROM clicks GROUP BY user_id
"""


def seen_sql(length: int) -> str:
    """Return the columns that say which clicks a row sees, of a position `p` and a beginning `b`.

    They are named as ecdctr/examples/histories.py reads them.
    """
    return (
        "coalesce(b.start + b.newest - p._n, 0)::INTEGER AS history_start, "
        f"least(coalesce(p._n, 0), {length})::INTEGER AS history_length"
    )


def examples_query(
    config: Config, domain: Domain, date: dt.date, day: DaySchema, prior: float
) -> str:
    """Return the query of a day's examples, in the order of its rows.

    It reads the tables of `look_back`, the relation `recent_counts`, and per key of memory
    `memory_0` and so on. `prior` is the click-through rate of the days before.
    """
    features = ",\n".join(_feature_sql(config, feature.name) for feature in config.features)
    mixed = (
        "::VARCHAR" if day.types[0] != day.types[1] else ""
    )  # users and items share a column of counts
    oracle = "d.oracle_ctr::FLOAT" if "oracle_ctr" in day.names else "NULL::FLOAT"
    remembered, joins = "", ""
    for n, key in enumerate(config.memory_keys if config.memory.enabled else ()):
        remembered += ", " + _memory_sql(config, key, date, f"m{n}")
        joins += (
            f'LEFT JOIN memory_{n} m{n} ON m{n}.user_id = d.user_id AND m{n}.value = d."{key}"\n'
        )
    return f"""
    WITH own AS (
        SELECT side, id, sum(impressions) FILTER (domain = '{domain}') AS impressions,
               sum(clicks) FILTER (domain = '{domain}') AS clicks, sum(impressions) AS seen
        FROM recent_counts GROUP BY side, id
    ),
    beginnings AS ({BEGINNINGS})
    SELECT d.user_id, d.item_id, d.ts, d.click,
        ({transforms.hour(DUCKDB, Sql("epoch_us(d.ts)"))})::TINYINT AS hour,
        {features + "," if features else ""}
        {seen_sql(config.data.history_length)},
        {_count_sql("user", "u", prior)},
        {_count_sql("item", "i", prior)},
        coalesce(u.seen, 0)::BIGINT AS user_seen, coalesce(i.seen, 0)::BIGINT AS item_seen,
        {transforms.literal(prior)} AS prior_ctr,
        {oracle} AS oracle_ctr{remembered}
    FROM day_rows d
    LEFT JOIN positions p ON p._row = d._row
    LEFT JOIN beginnings b ON b.user_id = d.user_id
    LEFT JOIN own u ON u.side = 'user' AND u.id = d.user_id{mixed}
    LEFT JOIN own i ON i.side = 'item' AND i.id = d.item_id{mixed}
    {joins}
    ORDER BY d._row
    """


def _count_sql(side: str, alias: str, prior: float) -> str:
    impressions, clicks = (Sql(f"coalesce({alias}.{n}, 0)") for n in ("impressions", "clicks"))
    features = transforms.count_features(
        DUCKDB, side, impressions, clicks, transforms.literal(prior)
    )
    return ", ".join(f"{formula}::FLOAT AS {name}" for name, formula in features.items())


def _memory_sql(config: Config, key: str, date: dt.date, of: str) -> str:
    """Return what is remembered by a key; null where the impression has no value of it."""

    def gap(domain: str) -> Sql:
        days = f"DATE '{date}' - {of}.{domain}_last"
        return Sql(f"coalesce({days}, {never(config.memory.longest)})")

    columns = memory_columns(
        config.memory, key, lambda name: Sql(f"coalesce({of}.{name}, 0)"), gap, DUCKDB.ln
    )
    return ", ".join(
        f'CASE WHEN d."{key}" IS NOT NULL THEN {value} END::FLOAT AS {name}'
        for name, value in columns.items()
    )


def _feature_sql(config: Config, name: str) -> str:
    feature = next(f for f in config.features if f.name == name)
    if feature.kind == "categorical":
        return f'd."{name}"'
    if feature.kind == "multi_valued":
        return f'coalesce(d."{name}"[1:{feature.max_values}], []) AS "{name}"'
    value = Sql(f'coalesce(d."{name}"::DOUBLE, {transforms.literal(config.data.numeric_null)})')
    return f'({transforms.numeric(DUCKDB, feature.transform, value)})::FLOAT AS "{name}"'
