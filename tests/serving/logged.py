"""The tiny world's ads as the requests that a server would have been sent."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
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
    prior = {"prior_ctr": examples["prior_ctr"][0].as_py()}
    users, items = by(log, "user_id"), by(log, "item_id")
    requests = []
    for row in rows:
        user, item = row["user_id"], row["item_id"]
        about = {
            of_day: users[user][of_day]
            + [seen for seen in items[item][of_day] if seen["user_id"] != user]
            for of_day in log
        }
        requests.append(request_of(config, about, row, date) | prior)
    return requests


def by(log: Impressions, name: str) -> dict[Any, Impressions]:
    """Return the log of each user or item, since a request's says nothing of the others."""
    logs: dict[Any, Impressions] = defaultdict(lambda: defaultdict(list))
    for of_day, rows in log.items():
        for row in rows:
            logs[row[name]][of_day].append(row)
    return logs


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
