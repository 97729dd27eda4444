"""Preparation on Spark: the same examples as ecdctr/examples/prepare.py makes in DuckDB.

Row for row, of the same name. A day that either has prepared is prepared for both.
tests/examples/test_spark.py holds the two equal on random impressions.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f

from ecdctr.config import DOMAINS, Config, Domain, Memory
from ecdctr.config.terms import CONTRACT
from ecdctr.errors import ConfigError
from ecdctr.examples import transforms
from ecdctr.examples.clean import raw_views
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
        _write(self.connection, made, schemas[self.domain, date], target)


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


def examples(
    session: SparkSession,
    config: Config,
    domain: Domain,
    date: dt.date,
    schemas: dict[tuple[Domain, dt.date], DaySchema],
    sources: dict[str, Source],
) -> DataFrame:
    """Return the examples of a day, in order of time.

    `sources` says where the memory of each key lies.
    """
    data = config.data
    day = _read(session, schemas[domain, date]).withColumn("_us", f.unix_micros("ts"))
    recent = _recent(session, schemas)
    lists = _click_lists(recent)
    users, items, prior = _counts(recent.where(f.col("date") < f.lit(date)), domain)
    joined = (
        day.join(lists, "user_id", "left")
        .join(users, "user_id", "left")
        .join(items, "item_id", "left")
        .crossJoin(f.broadcast(prior))
    )
    earlier = f.filter("_clicks", lambda click: click["us"] < f.col("_us"))
    last = f.reverse(
        f.slice(
            earlier,
            f.greatest(f.size(earlier) - data.history_length + 1, f.lit(1)),
            data.history_length,
        )
    )
    click_type = dict(day.dtypes)["item_id"]
    # what a join adds starts with an underscore, which no declared feature does
    columns: list[Column] = [f.col(name) for name in CONTRACT]
    columns.append(transforms.hour(SPARK, f.col("_us")).cast("tinyint").alias("hour"))
    columns += [_feature(config, feature.name) for feature in config.features]
    columns += [
        f.coalesce(
            f.transform("_last", lambda click: click["item_id"]),
            f.array().cast(f"array<{click_type}>"),
        ).alias("history"),
        f.coalesce(
            f.transform(
                "_last", lambda click: transforms.gap(f.col("_us"), click["us"]).cast("float")
            ),
            f.array().cast("array<float>"),
        ).alias("history_gap"),
    ]
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
    return joined.withColumn("_last", last).sort(*order).select(*columns)


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


def _recent(session: SparkSession, schemas: dict[tuple[Domain, dt.date], DaySchema]) -> DataFrame:
    """Return both domains of the lookback and of the day itself.

    Domain, date, user_id, item_id, ts, click.
    """
    days = [
        _read(session, schema).select(
            f.lit(domain).alias("domain"),
            f.lit(day).alias("date"),
            "user_id",
            "item_id",
            "ts",
            "click",
        )
        for (domain, day), schema in schemas.items()
    ]
    return reduce(DataFrame.unionByName, days)


def _days(config: Config, date: dt.date) -> list[tuple[Domain, dt.date]]:
    """Return what the examples of a day are made of.

    Itself and the days of the lookback, of both domains.
    """
    days = window(date, config.data.lookback_days + 1)
    impressions = open_impressions(config.data.root)
    return [(domain, day) for domain in DOMAINS for day in days if impressions.has(domain, day)]


def _click_lists(recent: DataFrame) -> DataFrame:
    """Return each user's clicks, oldest first: user_id, clicks."""
    one = f.struct(f.unix_micros("ts").alias("us"), "item_id")
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
    connection: duckdb.DuckDBPyConnection, made: DataFrame, day: DaySchema, target: Path
) -> None:
    """Write one Parquet file, whole or not at all.

    Each of Spark's tasks writes a part, named in the order of the rows. DuckDB joins them, as a
    stream, so that the file is the same to the byte.
    """
    durable.make_dir(target.parent)
    nothing = {
        column.name: "[]" if kind.many else "NULL"
        for column, kind in zip(day.columns, day.types, strict=True)
        if kind.name == "nothing" and column.name in made.columns
    }
    replaced = {"ts": "ts::TIMESTAMPTZ"} | nothing  # Spark writes times without a zone, in UTC
    replace = ", ".join(f"{value} AS {duck.identifier(name)}" for name, value in replaced.items())
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        place = Path(folder) / "spark"
        made.write.parquet(f"file://{place}")
        rows = duck.parquet(sorted(place.glob("*.parquet")))
        write_parquet(connection, f"SELECT * REPLACE ({replace}) FROM {rows}", target)
