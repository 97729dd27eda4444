"""The query that makes examples of a day in DuckDB: a day joined with what lies before it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from ecdctr.examples import transforms
from ecdctr.examples.transforms import DUCKDB, Sql
from ecdctr.memory.columns import never
from ecdctr.memory.join import memory_columns

if TYPE_CHECKING:
    from ecdctr.config import Config, Domain
    from ecdctr.impressions.schema import DaySchema


def examples_query(
    config: Config, domain: Domain, date: dt.date, day: DaySchema, prior: float
) -> str:
    """Return the query of a day's examples, in the order of its rows.

    It reads the relations `day`, `recent_clicks`, `recent_counts`, and per key of memory
    `memory_0` and so on. `prior` is the click-through rate of the days before.
    """
    data = config.data
    features = ",\n".join(_feature_sql(config, feature.name) for feature in config.features)
    mixed = (
        "::VARCHAR" if day.types[0] != day.types[1] else ""
    )  # users and items share a column of counts
    oracle = "d.oracle_ctr::FLOAT" if "oracle_ctr" in day.names else "NULL::FLOAT"
    midnight = dt.datetime.combine(date, dt.time(), dt.UTC)
    horizon = transforms.horizon(int(midnight.timestamp()) * transforms.SECOND, data.lookback_days)
    moment = Sql("epoch_us(d.ts)")
    kept = f"[greatest(p.n - {data.history_length - 1}, 1):p.n]"
    # Clicks are numbered per user in order of time; an ASOF join finds the newest one strictly
    # before an impression (of clicks at one instant, the last), and the history is the slice of the
    # user's list that ends there.
    remembered, joins = "", ""
    for n, key in enumerate(config.memory_keys if config.memory.enabled else ()):
        remembered += ", " + _memory_sql(config, key, date, f"m{n}")
        joins += (
            f'LEFT JOIN memory_{n} m{n} ON m{n}.user_id = d.user_id AND m{n}.value = d."{key}"\n'
        )
    return f"""
    WITH day_rows AS (SELECT *, row_number() OVER (ORDER BY {day.order}) AS _row FROM day),
    numbered AS (
        SELECT c.user_id, c.ts, c.item_id,
            row_number() OVER (PARTITION BY c.user_id ORDER BY c.ts, c.item_id) AS n
        FROM recent_clicks c SEMI JOIN day_rows USING (user_id)
        WHERE epoch_us(c.ts) >= {horizon}
    ),
    lists AS (
        SELECT user_id, list(item_id ORDER BY n) AS items, list(epoch_us(ts) ORDER BY n) AS times
        FROM numbered GROUP BY user_id
    ),
    ends AS (SELECT user_id, ts, max(n) AS n FROM numbered GROUP BY user_id, ts),
    positions AS (
        SELECT d._row, e.n FROM day_rows d ASOF JOIN ends e ON d.user_id = e.user_id AND d.ts > e.ts
    ),
    own AS (
        SELECT side, id, sum(impressions) FILTER (domain = '{domain}') AS impressions,
               sum(clicks) FILTER (domain = '{domain}') AS clicks, sum(impressions) AS seen
        FROM recent_counts GROUP BY side, id
    )
    SELECT d.user_id, d.item_id, d.ts, d.click,
        ({transforms.hour(DUCKDB, moment)})::TINYINT AS hour,
        {features + "," if features else ""}
        coalesce(list_reverse(l.items{kept}), []) AS history,
        coalesce(list_transform(list_reverse(l.times{kept}),
            lambda t: {transforms.gap(moment, Sql("t"))}::FLOAT), []) AS history_gap,
        {_count_sql("user", "u", prior)},
        {_count_sql("item", "i", prior)},
        coalesce(u.seen, 0)::BIGINT AS user_seen, coalesce(i.seen, 0)::BIGINT AS item_seen,
        {transforms.literal(prior)} AS prior_ctr,
        {oracle} AS oracle_ctr{remembered}
    FROM day_rows d
    LEFT JOIN positions p ON p._row = d._row
    LEFT JOIN lists l ON l.user_id = d.user_id
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
