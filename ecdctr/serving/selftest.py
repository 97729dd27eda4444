"""The self-test of a bundle.

A made-up log goes through preparation and the network, and its raw values through the scorer.
Nothing in it was logged. Users are drawn from the vocabulary or invented, and every click, count
and feature is drawn at random, with the cases in which serving most easily differs from training
put in on purpose.
"""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.config import DOMAINS, Config, Domain
from ecdctr.config.terms import IDS
from ecdctr.examples import transforms
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.clean import raw_views
from ecdctr.examples.prepare import build_examples
from ecdctr.examples.remembered import Remembered
from ecdctr.examples.transforms import SECOND
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.impressions import contract
from ecdctr.memory.table import newest_table

Impressions = dict[tuple[Domain, dt.date], list[dict[str, Any]]]  # times in microseconds
Vocabularies = dict[str, Vocabulary]
ROWS = 64  # impressions to score
USERS = ITEMS = 12


class Cases(NamedTuple):
    """Requests and what preparation makes of the same made-up impressions, in one order."""

    requests: list[dict[str, Any]]
    examples: pa.Table  # [ROWS]
    tables: dict[str, Path]  # the memory of the made-up log, by key; none without memory
    until: dt.date  # what the tables know


def prepared_cases(
    config: Config, vocabularies: Vocabularies, date: dt.date, prior: float, folder: Path
) -> Cases:
    """Make a log up and prepare its last day."""
    log = made_up(config, vocabularies, date)
    data = {"root": folder / "log", "prepared": folder / "prepared", "engine": "duckdb"}
    config = config.model_copy(
        update={"data": config.data.model_copy(update=data | {"quarantine": False})}
    )
    write(config, vocabularies, log)
    target = folder / "examples.parquet"
    with contract.connect(config) as connection:
        build_examples(connection, config, "ads", date, target, prior)
    examples = next(read_chunks([Part(target, "ads")], None, len(log["ads", date])))
    before = date - dt.timedelta(days=1)
    until, tables = newest_table(config.memory, before), {}
    if config.memory.enabled:
        with contract.connect(config) as connection:
            views = partial(raw_views, connection, config)
            tables = Remembered(config).tables(connection, views, until)
    requests = {_key(row): request_of(config, log, row, date) for row in log["ads", date]}
    keys = zip(
        *(examples[name].to_pylist() for name in IDS),
        pa.array(examples["ts"].combine_chunks().cast(pa.int64())).to_pylist(),
        strict=True,
    )
    return Cases([requests[key] for key in keys], examples, tables, until)


def request_of(
    config: Config, log: Impressions, row: dict[str, Any], date: dt.date
) -> dict[str, Any]:
    """Return what a server sends for an ads impression of that day.

    Raw values, every click that was logged, counts of the days before.
    """

    def features(side: str) -> dict[str, Any]:
        named = [feature.name for feature in config.features if feature.side == side]
        return {name: row[name] for name in named if row[name] is not None}

    def counts(side: str) -> dict[str, int]:
        first = date - dt.timedelta(days=config.data.lookback_days)
        shown = [
            seen["click"]
            for (domain, day), rows in log.items()
            if domain == "ads" and first <= day < date
            for seen in rows
            if seen[f"{side}_id"] == row[f"{side}_id"]
        ]
        return dict(zip(transforms.COUNTS[side], (len(shown), sum(shown)), strict=True))

    of_click = config.data.history_features
    clicks = [
        {"item_id": seen["item_id"], "ts": seen["ts"] / SECOND}
        | {name: seen[name] for name in of_click if seen[name] is not None}
        for rows in log.values()
        for seen in rows
        if seen["click"] and seen["user_id"] == row["user_id"]
    ]
    recent: dict[str, Any] = {}
    if config.memory.enabled:
        until = newest_table(config.memory, date - dt.timedelta(days=1))
        recent["recent"] = [
            {"ts": seen["ts"] / SECOND, "domain": domain, "click": seen["click"]}
            | {key: seen[key] for key in config.memory_keys if seen[key] is not None}
            for (domain, day), rows in log.items()
            for seen in rows
            if until < day and seen["user_id"] == row["user_id"] and seen["ts"] <= row["ts"]
        ]
    return recent | {
        "ts": row["ts"] / SECOND,
        "user_id": row["user_id"],
        "user": features("user") | counts("user"),
        "context": features("context"),
        "history": clicks,
        "candidates": [{"item_id": row["item_id"]} | features("item") | counts("item")],
    }


def made_up(config: Config, vocabularies: Vocabularies, date: dt.date) -> Impressions:
    """Return impressions of both domains on that day, in its lookback and on the day before it."""
    rng = np.random.default_rng(0)
    users = _ids(rng, vocabularies["user_id"], USERS)
    items = _ids(rng, vocabularies["item_id"], ITEMS)
    reach = config.data.looked_back_days + 2
    days = [date - dt.timedelta(days=back) for back in range(reach)]
    log: Impressions = {(domain, day): [] for domain in DOMAINS for day in days}
    taken = set()

    def show(domain: Domain, user: Any, item: Any, ts: int, click: int) -> None:
        if (user, item, ts) not in taken:
            taken.add((user, item, ts))
            row = {"user_id": user, "item_id": item, "ts": ts, "click": click}
            day = dt.datetime.fromtimestamp(ts // SECOND, dt.UTC).date()
            log[domain, day].append(row | _features(rng, config, vocabularies))

    def some(ids: list[Any]) -> Any:
        return ids[int(rng.integers(len(ids)))]

    today = _midnight(date)
    first = transforms.horizon(today, config.data.click_days)
    rows = vocabularies["item_id"].lookup(pa.array(items, vocabularies["item_id"].values.type))
    clicked = [item for item, row in zip(items, rows, strict=True) if row] or items
    show("natural", users[1], clicked[0], first - 1, 1)  # too old by a microsecond
    show("ads", users[1], clicked[-1], first, 1)  # the oldest click that counts
    noon = today + 12 * transforms.HOUR
    for item in clicked[:3]:  # clicks at one instant, and an impression at that instant
        show("natural", users[2], item, noon, 1)
    show("ads", users[2], items[3], noon, 0)
    show("ads", users[2], items[3], noon + 1, 0)
    show("ads", users[2], items[4], noon + SECOND // 2, 1)  # clicks in one second
    show("ads", users[2], items[5], noon + SECOND - 1, 0)
    for i in range(config.data.history_length + 3):  # more clicks than the history holds
        show("natural", users[3], some(clicked), today - (i + 1) * SECOND, 1)
    for user in users[:2]:  # the first one was never seen before; the day's first and last instant
        show("ads", user, items[-1], today, 0)
        show("ads", user, some(items), today + transforms.DAY - 1, 0)
    while sum(map(len, log.values())) < 6 * ROWS:  # of the last users and items only today
        back = int(rng.integers(1, len(days)))
        ts = today - back * transforms.DAY + int(rng.integers(transforms.DAY))
        domain: Domain = "ads" if rng.random() < 0.5 else "natural"
        show(domain, some(users[2:-2]), some(items[:-3]), ts, int(rng.random() < 0.4))
    while len(log["ads", date]) < ROWS:
        ts = today + int(rng.integers(transforms.DAY))
        show("ads", some(users[2:]), some(items), ts, int(rng.random() < 0.4))
    return {key: rows for key, rows in log.items() if rows}


def write(config: Config, vocabularies: Vocabularies, log: Impressions) -> None:
    """Write the log as files under data.root, as the contract says."""
    types: dict[str, pa.DataType] = {"ts": pa.timestamp("us", tz="UTC"), "click": pa.int8()}
    types |= {name: vocabularies[name].values.type for name in IDS}
    for feature in config.features:
        value = (
            pa.float64() if feature.kind == "numeric" else vocabularies[feature.name].values.type
        )
        types[feature.name] = pa.list_(value) if feature.kind == "multi_valued" else value
    for (domain, date), rows in log.items():
        folder = Path(config.data.root) / f"domain={domain}" / f"date={date}"
        folder.mkdir(parents=True)
        columns = {
            name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()
        }
        pq.write_table(pa.table(columns), folder / "part-0.parquet")


def _key(row: dict[str, Any]) -> tuple[Any, Any, int]:
    return row["user_id"], row["item_id"], row["ts"]


def _midnight(date: dt.date) -> int:
    return int(dt.datetime.combine(date, dt.time(), dt.UTC).timestamp()) * SECOND


def _ids(rng: np.random.Generator, vocabulary: Vocabulary, count: int) -> list[Any]:
    """Return ids, half of them in the vocabulary where it has so many, mixed."""
    size = len(vocabulary.values)
    rows = rng.choice(size, min(count // 2, size), replace=False)
    ids = [vocabulary.values[int(row)].as_py() for row in rows]
    ids += [_unseen(rng, vocabulary) for _ in range(count - len(ids))]
    return [ids[i] for i in rng.permutation(count)]


def _unseen(rng: np.random.Generator, vocabulary: Vocabulary) -> Any:
    """Return a value that the vocabulary lacks; None where it lacks none, or has no type."""
    kind = vocabulary.values.type
    if pa.types.is_null(kind):
        return None
    if pa.types.is_boolean(kind):
        lacking = {True, False}.difference(vocabulary.values.to_pylist())
        return next(iter(lacking), None)
    while True:
        number = int(rng.integers(1 << 40))
        made = number if pa.types.is_integer(kind) else f"made-up-{number}"
        if not vocabulary.lookup(pa.array([made], kind))[0]:
            return made


def _features(
    rng: np.random.Generator, config: Config, vocabularies: Vocabularies
) -> dict[str, Any]:
    """Return a value of every declared feature.

    It is one that training saw, or one that it did not, or none.
    """
    values: dict[str, Any] = {}
    for feature in config.features:
        drawn: Any
        if feature.kind == "numeric":
            drawn = [0.0, float(rng.lognormal(1, 2)), float(rng.normal(0, 3))][rng.integers(3)]
        elif feature.kind == "categorical":
            drawn = _value(rng, vocabularies[feature.name])
        else:
            length = int(rng.integers(feature.max_values + 2))
            several = (_value(rng, vocabularies[feature.name]) for _ in range(length))
            drawn = [value for value in several if value is not None]
        values[feature.name] = drawn if rng.random() < 0.85 else None
    return values


def _value(rng: np.random.Generator, vocabulary: Vocabulary) -> Any:
    if len(vocabulary.values) and rng.random() < 0.8:
        return vocabulary.values[int(rng.integers(len(vocabulary.values)))].as_py()
    return _unseen(rng, vocabulary)
