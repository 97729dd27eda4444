"""Preparation on Spark: the same examples as ecdctr/examples/prepare.py makes in DuckDB.

Row for row, of the same name. A day that either has prepared is prepared for both.
tests/examples/test_spark.py holds the two equal on random impressions.
"""

from __future__ import annotations

import datetime as dt
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import pyarrow as pa
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f

from ecdctr.config import DOMAINS, Config, Data, Domain, Memory
from ecdctr.config.terms import CONTRACT
from ecdctr.errors import ConfigError
from ecdctr.examples import histories, transforms
from ecdctr.examples.clean import raw_views
from ecdctr.examples.query import BEGINNINGS, CLICKS, seen_sql
from ecdctr.examples.remembered import Remembered
from ecdctr.files import duck, durable
from ecdctr.files.duck import write_parquet
from ecdctr.impressions import contract
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.memory.columns import counts, never
from ecdctr.memory.join import Source, memory_columns
from ecdctr.memory.pairs import as_counts

if TYPE_CHECKING:
    import duckdb

    from ecdctr.impressions.declared import ColumnType
    from ecdctr.impressions.schema import Column as RawColumn
    from ecdctr.impressions.schema import DaySchema

SPARK = transforms.Functions(
    ln=f.log,
    greatest=lambda one, other: f.greatest(one, f.lit(other)),
    floor_divide=lambda one, other: f.floor(one / other),
)
# The option by which Spark takes a path for a name: it has no public word for it.
LITERAL_PATHS = "__globPaths__"
TYPES = {
    "integer": "bigint",
    "text": "string",
    "boolean": "boolean",
    "number": "double",
    "instant": "timestamp",
    "label": "tinyint",
}


class SparkBuilder:
    """Writes the examples of days, with history and counts; raises ConfigError without Java.

    Days are validated by DuckDB as always, which streams.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, config: Config, domain: Domain
    ) -> None:
        self.connection, self.config, self.domain = connection, config, domain
        self.session = start_spark()
        self.schemas: dict[tuple[Domain, dt.date], DaySchema] = {}

    def __call__(self, date: dt.date, target: Path) -> None:
        """Build one day; raises ContractError for a broken one among those that it is made of."""
        days, types = _days(self.config, date), contract.LogTypes()
        for day in days:
            if day not in self.schemas:
                report = contract.validate_day(self.connection, self.config, *day)
                report.violations.extend(types.add(report))
                self.schemas[day] = contract.raise_for(report, self.config)
        schemas = {day: self.schemas[day] for day in days}
        sources: dict[str, Source] = {}
        if self.config.memory.enabled:  # tables and extracts by DuckDB, which validates anyway
            views = partial(raw_views, self.connection, self.config)
            sources = Remembered(self.config).sources(self.connection, views, date)
        made = examples(self.session, self.config, self.domain, date, schemas, sources)
        of_day, log = schemas[self.domain, date], list(schemas.values())
        replaced = Examples(_replaced(made.rows, [of_day]), _replaced(made.clicks, log))
        _write(self.connection, made, replaced, self.config.data.history_length, target)


def start_spark() -> SparkSession:
    """Return the session; what spark-defaults.conf or spark-submit say stands.

    Otherwise it has this machine's cores, on loopback. Raises ConfigError without Java.
    """
    try:
        SparkContext._ensure_initialized()  # starts Java: before that a SparkConf knows no defaults
        conf = SparkConf().setAppName("ecdctr prepare").set("spark.sql.session.timeZone", "UTC")
        if conf.get("spark.master", "").startswith("local"):
            conf.setIfMissing("spark.driver.bindAddress", "127.0.0.1").setIfMissing(
                "spark.driver.host", "127.0.0.1"
            )
            conf.setIfMissing("spark.sql.shuffle.partitions", "8")
        conf.setIfMissing("spark.ui.enabled", "false").setIfMissing(
            "spark.ui.showConsoleProgress", "false"
        )
        session = SparkSession.builder.config(conf=conf).getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        return session
    except (PySparkRuntimeError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"Spark cannot be started ({error}); install Java 17 or newer and set JAVA_HOME."
        ) from None


T = TypeVar("T")


class Examples(NamedTuple, Generic[T]):
    """What a day is made of.

    Rows have `_n`, the clicks of their user that lie before them. Clicks have `_n`, their number
    among those of the user, oldest first, and go from the oldest that a row sees to the newest.
    """

    rows: T
    clicks: T


def examples(
    session: SparkSession,
    config: Config,
    domain: Domain,
    date: dt.date,
    schemas: dict[tuple[Domain, dt.date], DaySchema],
    sources: dict[str, Source],
) -> Examples[DataFrame]:
    """Return the examples of a day, in order of time.

    `sources` says where the memory of each key lies.
    """
    day = _read(session, schemas[domain, date]).withColumn("_us", f.unix_micros("ts"))
    recent = _recent(session, schemas, config.data.history_features)
    first = window(date, config.data.click_days + 1)[0]
    lists = _click_lists(recent.where(f.col("date") >= f.lit(first)), config.data.history_features)
    counted = window(date - dt.timedelta(days=1), config.data.lookback_days)
    days_before = recent.where(f.col("date").between(f.lit(counted[0]), f.lit(counted[-1])))
    users, items, prior = _counts(days_before, domain)
    joined = (
        day.join(lists, "user_id", "left")
        .join(users, "user_id", "left")
        .join(items, "item_id", "left")
        .crossJoin(f.broadcast(prior))
    )
    earlier = f.filter("_clicks", lambda click: click["_us"] < f.col("_us"))
    # what a join adds starts with an underscore, which no declared feature does
    columns: list[Column] = [f.col(name) for name in CONTRACT]
    columns.append(transforms.hour(SPARK, f.col("_us")).cast("tinyint").alias("hour"))
    columns += [_feature(config, feature.name) for feature in config.features]
    number = f.greatest(f.size(earlier), f.lit(0))  # the size of null is -1
    columns.append(number.cast("bigint").alias("_n"))
    for side in ("user", "item"):
        shown = f.coalesce(f.col(f"_{side}_shown"), f.lit(0))
        clicked = f.coalesce(f.col(f"_{side}_clicked"), f.lit(0))
        made = transforms.count_features(SPARK, side, shown, clicked, f.col("_prior"))
        columns += [value.cast("float").alias(name) for name, value in made.items()]
    columns += [
        f.coalesce(f"_{side}_total", f.lit(0)).cast("bigint").alias(f"{side}_seen")
        for side in ("user", "item")
    ]
    columns.append(f.col("_prior").cast("double").alias("prior_ctr"))
    oracle = f.col("oracle_ctr") if "oracle_ctr" in day.columns else f.lit(None)
    columns.append(oracle.cast("float").alias("oracle_ctr"))
    for key, source in sources.items():
        remembered = _remembered(session, config.memory, key, source)
        if remembered is not None:
            joined = joined.join(remembered, ["user_id", key], "left")
        columns += _memory_columns(config.memory, key, date, remembered is not None)
    order = schemas[domain, date].order.split(", ")
    rows = joined.sort(*order).select(*columns)
    return Examples(rows, _clicks_seen(rows, lists, config.data))


def _clicks_seen(rows: DataFrame, lists: DataFrame, data: Data) -> DataFrame:
    """Return the clicks that rows look back on: user_id, ts, item_id, their features, and _n."""
    seen = rows.where("_n > 0").groupBy("user_id")
    reach = seen.agg(f.min("_n").alias("_first"), f.max("_n").alias("_last"))
    first = f.greatest(f.col("_first") - data.history_length + 1, f.lit(1))
    kept = f.slice("_clicks", first.cast("int"), (f.col("_last") - first + 1).cast("int"))
    each = reach.join(lists, "user_id").select("user_id", first.alias("_from"), f.posexplode(kept))
    click = f.col("col")
    return each.select(
        "user_id",
        f.timestamp_micros(click["_us"]).alias("ts"),
        *(click[name].alias(name) for name in ["item_id", *data.history_features]),
        (f.col("_from") + f.col("pos")).alias("_n"),
    )


def _read(session: SparkSession, day: DaySchema) -> DataFrame:
    """Return the typed rows of a day, as DaySchema.select reads them in DuckDB."""
    parts = []
    for group in day.groups:
        # files by name, without their folders: these would come as columns 'domain' and 'date'
        names = [f"file://{path}" for path in group.files]
        raw = session.read.option(LITERAL_PATHS, "false").parquet(*names)
        columns = zip(day.columns, day.types, group.declared, strict=True)
        parts.append(raw.select(*[_cast(*column) for column in columns]))
    return reduce(DataFrame.unionByName, parts)


def _cast(column: RawColumn, kind: ColumnType, declared: pa.DataType | None) -> Column:
    target = TYPES.get(kind.name, "int")  # of a column that holds nothing; _write names its type
    target = f"array<{target}>" if kind.many else target
    if declared is None or kind.name == "nothing" or pa.types.is_null(declared):
        return f.lit(None).cast(target).alias(column.name)
    value = f.col(f"`{column.name}`")
    if kind.many and pa.types.is_floating(declared.value_type):
        value = f.transform(value, lambda x: f.when(~f.isnan(x), x))
    elif pa.types.is_floating(declared):
        value = f.when(~f.isnan(value), value)
    typed = value.cast(target)
    return (typed + f.lit(0.0) if kind.name == "number" else typed).alias(column.name)  # -0 is 0


def _recent(
    session: SparkSession,
    schemas: dict[tuple[Domain, dt.date], DaySchema],
    features: tuple[str, ...],
) -> DataFrame:
    """Return both domains of the lookback and of the day itself.

    Domain, date, user_id, item_id, ts, click and the features.
    """
    typed: dict[str, str] = {}  # features, which may hold nothing on some of the days
    for schema in schemas.values():
        kinds = dict(zip(schema.names, schema.types, strict=True))
        held = {name: kinds[name].name for name in features if kinds[name].name != "nothing"}
        typed |= {name: TYPES[kind] for name, kind in held.items()}

    def clicked(name: str, schema: DaySchema) -> Column:
        nothing = schema.types[schema.names.index(name)].name == "nothing"
        return f.lit(None).cast(typed.get(name, "int")).alias(name) if nothing else f.col(name)

    days = [
        _read(session, schema).select(
            f.lit(domain).alias("domain"),
            f.lit(day).alias("date"),
            "user_id",
            "item_id",
            "ts",
            "click",
            *(clicked(name, schema) for name in features),
        )
        for (domain, day), schema in schemas.items()
    ]
    return reduce(DataFrame.unionByName, days)


def _days(config: Config, date: dt.date) -> list[tuple[Domain, dt.date]]:
    """Return what the examples of a day are made of.

    Itself and the days of the lookback, of both domains.
    """
    days = window(date, config.data.looked_back_days + 1)
    impressions = open_impressions(config.data.root)
    return [(domain, day) for domain in DOMAINS for day in days if impressions.has(domain, day)]


def _click_lists(recent: DataFrame, features: tuple[str, ...]) -> DataFrame:
    """Return each user's clicks, oldest first: user_id, clicks."""
    one = f.struct(f.unix_micros("ts").alias("_us"), "item_id", *features)
    return (
        recent.where("click = 1")
        .groupBy("user_id")
        .agg(f.sort_array(f.collect_list(one)).alias("_clicks"))
    )


def _counts(before: DataFrame, domain: Domain) -> tuple[DataFrame, DataFrame, DataFrame]:
    """Count the days before, by user and by item.

    Impressions and clicks in the domain, impressions in both, CTR.
    """
    in_domain = f.col("domain") == domain
    shown, clicked = (
        f.sum(f.when(in_domain, 1)),
        f.sum(f.when(in_domain, f.col("click").cast("bigint"))),
    )

    def by(side: str) -> DataFrame:
        return before.groupBy(f"{side}_id").agg(
            shown.alias(f"_{side}_shown"),
            clicked.alias(f"_{side}_clicked"),
            f.count(f.lit(1)).alias(f"_{side}_total"),
        )

    ratio = f.when(shown > 0, clicked / shown)
    return (
        by("user"),
        by("item"),
        before.agg(f.coalesce(ratio, f.lit(transforms.NO_PRIOR)).alias("_prior")),
    )


def _remembered(
    session: SparkSession, memory: Memory, key: str, source: Source
) -> DataFrame | None:
    """Return per user and value of a key the counts of the weekly table and the days since it."""
    parts = []
    if source.table:
        table = session.read.option(LITERAL_PATHS, "false").parquet(f"file://{source.table}")
        parts.append(table.where(f.col("place") <= memory.max_pairs).drop("place"))
    if source.since:
        names = [f"file://{path}" for path in source.since]
        since = session.read.option(LITERAL_PATHS, "false").parquet(*names)
        parts.append(since.selectExpr(*as_counts(memory.windows).split(", ")))
    if not parts:
        return None
    union = reduce(partial(DataFrame.unionByName, allowMissingColumns=True), parts)
    totals = [f.sum(name).alias(f"{key}.{name}") for name in counts(memory.windows)]
    lasts = [f.max(f"{domain}_last").alias(f"{key}.{domain}_last") for domain in DOMAINS]
    return union.withColumnRenamed("value", key).groupBy("user_id", key).agg(*totals, *lasts)


def _memory_columns(memory: Memory, key: str, date: dt.date, joined: bool) -> list[Column]:
    """Return what is remembered by a key; null where the impression has no value of it."""

    def value(name: str) -> Column:
        stored = f.col(f"`{key}.{name}`") if joined else f.lit(None)
        return f.coalesce(stored, f.lit(0))

    def gap(domain: str) -> Column:
        last = f.col(f"`{key}.{domain}_last`") if joined else f.lit(None).cast("date")
        return f.coalesce(f.datediff(f.lit(date), last), f.lit(never(memory.longest)))

    made = memory_columns(memory, key, value, gap, SPARK.ln)
    return [f.when(f.col(key).isNotNull(), v).cast("float").alias(name) for name, v in made.items()]


def _feature(config: Config, name: str) -> Column:
    feature = next(one for one in config.features if one.name == name)
    if feature.kind == "categorical":
        return f.col(name)
    if feature.kind == "multi_valued":
        return f.coalesce(f.slice(name, 1, feature.max_values), f.array()).alias(name)
    value = f.coalesce(f.col(name).cast("double"), f.lit(config.data.numeric_null))
    made: Column = transforms.numeric(SPARK, feature.transform, value).cast("float")
    return made.alias(name)


def _write(
    connection: duckdb.DuckDBPyConnection,
    made: Examples[DataFrame],
    replaced: Examples[str],
    length: int,
    target: Path,
) -> None:
    """Write the rows and their clicks, each a Parquet file, whole or not at all.

    Each of Spark's tasks writes a part, named in the order of the rows. DuckDB joins them, as a
    stream, so that the files are the same to the byte.
    """
    with durable.scratch(target.parent, ".spark-") as folder:
        for name, frame, replace in zip(made._fields, made, replaced, strict=True):
            place = folder / name
            frame.write.parquet(f"file://{place}")
            parts = duck.parquet(sorted(place.glob("*.parquet")))
            query = f"SELECT * REPLACE ({replace}) FROM {parts}"
            connection.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {query}")
        write_parquet(connection, CLICKS, histories.clicks_path(target))
        write_parquet(connection, _with_places(made.rows.columns, length), target)


def _with_places(columns: list[str], length: int) -> str:
    """Return a query of `rows` in their order, which say where in `clicks` theirs lie."""
    seen = seen_sql(length)
    selected = ", ".join(seen if name == "_n" else f"r.{duck.identifier(name)}" for name in columns)
    return f"""
        WITH numbered_rows AS (SELECT *, row_number() OVER () AS _row FROM rows),
        beginnings AS ({BEGINNINGS})
        SELECT {selected} FROM numbered_rows r
        LEFT JOIN (SELECT _row, _n FROM numbered_rows WHERE _n > 0) p ON p._row = r._row
        LEFT JOIN beginnings b ON b.user_id = r.user_id
        ORDER BY r._row
    """


def _replaced(frame: DataFrame, days: list[DaySchema]) -> str:
    """Return what DuckDB reads in place of some columns that Spark wrote of these days."""
    replaced = {"ts": "ts::TIMESTAMPTZ"}  # Spark writes times without a zone, in UTC
    for name in frame.columns:
        kinds = [day.types[day.names.index(name)] for day in days if name in day.names]
        if kinds and all(kind.name == "nothing" for kind in kinds):
            replaced[name] = "[]" if kinds[0].many else "NULL"
    return ", ".join(f"{value} AS {duck.identifier(name)}" for name, value in replaced.items())
