"""The time of an impression as SQL: in microseconds, digits below cut, never rounded.

DuckDB cuts text and Parquet, but rounds seconds (`to_timestamp`) and casts to coarser types.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.errors import ConfigError
from ecdctr.impressions.column_types import BELOW_MICROSECONDS

if TYPE_CHECKING:
    import duckdb

SECONDS = re.compile(r"\bto_timestamp\s*\(", re.IGNORECASE)
BILLIONTH = re.compile(r"/\s*(1e0?9|10{9})\b|\*\s*1e-0?9\b", re.IGNORECASE)
COARSE = re.compile(r"(::|\bAS)\s*TIMESTAMP_(S|MS)\b", re.IGNORECASE)
# A double of today's seconds is at most 0.12 microseconds from the one that was written.
ROUNDED = """CREATE TEMP MACRO {name}(x) AS CASE WHEN {sign} * (
        epoch_us(to_timestamp(x)) - floor(x)::DOUBLE * 1000000 - (x - floor(x))::DOUBLE * 1000000
    ) > CASE WHEN typeof(x) IN ('DOUBLE', 'FLOAT') THEN 0.12 ELSE 0.000001 END
    THEN to_timestamp(x) - {sign} * INTERVAL 1 MICROSECOND ELSE to_timestamp(x) END"""


def make_macros(db: duckdb.DuckDBPyConnection) -> None:
    """Make seconds to microseconds cut, and the same that are filled up: unlike where cut."""
    db.execute(ROUNDED.format(name="_cut_seconds", sign=1))
    db.execute(ROUNDED.format(name="_filled_seconds", sign=-1))


def refuse_rounded(text: str) -> None:
    """Raise ConfigError for a time whose expression rounds before it can be cut."""
    if COARSE.search(text):
        raise ConfigError(
            f"mapping ts: '{text}' casts to whole seconds or milliseconds, which rounds to the "
            "next day; cast to TIMESTAMP, or write date_trunc('second', …)."
        )
    if SECONDS.search(text) and BILLIONTH.search(text):
        raise ConfigError(
            f"mapping ts: '{text}' makes seconds of nanoseconds, which rounds to the next day; "
            "write make_timestamp_ns(column)."
        )


def instant(text: str, kind: str, columns: list[str]) -> str:
    """Write SQL of `ts`, and of `_cut`: whether digits below a microsecond were cut.

    `kind` is the expression's type, `columns` are the columns of text that it reads, as SQL.
    """
    written = [f"({text})::VARCHAR"] if kind.endswith("_NS") or kind == "VARCHAR" else []
    value = written[0] if written else f"({text})"
    cut = [
        f"coalesce(regexp_matches({one}, '{BELOW_MICROSECONDS}'), false)"
        for one in [*written, *columns]
    ]
    if SECONDS.search(text):
        value = SECONDS.sub("_cut_seconds(", value)
        cut.append(f"(({value}) <> ({SECONDS.sub('_filled_seconds(', text)})) IS TRUE")
    return f"{value}::TIMESTAMPTZ AS ts, {' OR '.join(cut) or 'false'} AS _cut"


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
                    f"{path.name}: column {column.path} (INT96) of {count:,} rows has digits below "
                    "a microsecond; they were cut"
                )
    return said
