"""The tiny world's ads as the requests that a server would have been sent."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.config import DOMAINS, Config
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.impressions import open_impressions
from ecdctr.serving.selftest import Impressions, request_of


def logged_requests(config: Config, date: dt.date) -> list[dict[str, Any]]:
    """Return one for each ads impression of a day, in the order of its examples.

    With its day's prior.
    """
    log = read_log(config)
    rows = sorted(log["ads", date], key=lambda row: (row["ts"], row["user_id"], row["item_id"]))
    examples = pq.read_table(prepare(config, "ads", [date])[0].path, partitioning=None)
    prior = examples["prior_ctr"][0].as_py()
    return [request_of(config, log, row, date) | {"prior_ctr": prior} for row in rows]


def read_log(config: Config) -> Impressions:
    """Return all impressions of both domains, times in microseconds."""
    log: Impressions = {}
    for domain in DOMAINS:
        for day in open_impressions(config.data.root).dates(domain):
            files = open_impressions(config.data.root).files(domain, day)
            table = pa.concat_tables(pq.read_table(path, partitioning=None) for path in files)
            times = table["ts"].cast(pa.int64())
            place = table.schema.get_field_index("ts")
            log[domain, day] = table.set_column(place, "ts", times).to_pylist()
    return log
